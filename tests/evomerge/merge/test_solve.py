"""Least squares over Gram matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import Tensor

from evomerge.merge.primitives.solve import (
    above_noise,
    exponential,
    gram_solve,
    landweber,
    largest,
    noise_factor,
    participating,
    tikhonov,
)


def system(samples: int = 40, out: int = 5, inputs: int = 12, num: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(samples, inputs, generator=generator, dtype=torch.float64) for _ in range(num)]
    return [x.t() @ x for x in features], [torch.randn(out, inputs, generator=generator) for _ in range(num)]


def gradient(x: Tensor, grams: list[Tensor], targets: list[Tensor]) -> Tensor:
    parts = [(x.double() - m.double()) @ g for g, m in zip(grams, targets, strict=True)]
    return torch.stack(parts).sum(dim=0)


def test_it_equals_least_squares_on_the_stacked_outputs() -> None:
    generator = np.random.default_rng(1)
    features = [generator.normal(size=(30, 8)) for _ in range(3)]
    targets = [generator.normal(size=(4, 8)) for _ in range(3)]
    stacked = np.concatenate(features)
    outputs = np.concatenate([x @ m.T for x, m in zip(features, targets, strict=True)])

    found = gram_solve([torch.from_numpy(x.T @ x) for x in features], [torch.from_numpy(m) for m in targets])

    expected = np.linalg.lstsq(stacked, outputs, rcond=None)[0].T
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_zero_and_generators_will_do() -> None:
    grams, targets = system()
    found = gram_solve(iter(grams), (m for m in targets))

    assert float(gradient(found, grams, targets).norm()) < 1e-5 * float(gradient(found * 0, grams, targets).norm())


def test_equal_targets_are_the_solution() -> None:
    grams, targets = system()

    torch.testing.assert_close(gram_solve(grams, [targets[0]] * 3), targets[0])


def test_directions_that_nothing_determines_keep_the_initial_value() -> None:
    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(3, 12, generator=generator, dtype=torch.float64) for _ in range(2)]
    targets = [torch.randn(5, 12, generator=generator) for _ in range(2)]
    initial = torch.randn(5, 12, generator=generator)
    found = gram_solve([x.t() @ x for x in features], targets, initial=initial)

    free = torch.linalg.svd(torch.cat(features))[2][6:]
    torch.testing.assert_close(found @ free.t().float(), initial @ free.t().float(), rtol=1e-5, atol=1e-5)
    plain = gram_solve([x.t() @ x for x in features], targets)
    assert float((plain @ free.t().float()).norm()) < 1e-5


def test_float32_grams_are_not_trusted_below_their_precision() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(4, 30, generator=generator)
    target = torch.randn(6, 30, generator=generator)

    found = gram_solve([features.t() @ features], [target])

    assert float(found.norm()) <= float(target.norm())


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_landweber_is_gradient_descent(steps: int) -> None:
    grams, targets = system()
    rate = 0.5 / float(torch.linalg.eigvalsh(torch.stack(grams).sum(dim=0)).max())
    initial = torch.stack(targets).mean(dim=0)
    x = initial.double()
    for _ in range(steps):
        x = x - rate * gradient(x, grams, targets)

    found = gram_solve(grams, targets, initial=initial, degree=landweber(rate, steps))

    torch.testing.assert_close(found, x.float())


def test_exponential_is_the_limit_of_small_steps() -> None:
    grams, targets = system()
    initial = targets[0]
    time = 1.0 / float(torch.stack(grams).sum(dim=0).trace())

    flow = gram_solve(grams, targets, initial=initial, degree=exponential(time))
    steps = gram_solve(grams, targets, initial=initial, degree=landweber(time / 100_000, 100_000))

    torch.testing.assert_close(flow, steps, rtol=1e-4, atol=1e-5)


def test_tikhonov_is_ridge_around_the_initial_value() -> None:
    grams, targets = system()
    initial = targets[1]
    found = gram_solve(grams, targets, initial=initial, degree=tikhonov(7.0))

    ridge = gradient(found, grams, targets) + 7.0 * (found.double() - initial.double())
    assert float(ridge.norm()) < 1e-4


def test_largest_keeps_a_share_of_the_directions() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)

    assert largest(0.4)(values).tolist() == [0, 0, 0, 1, 1]
    assert largest(0.5)(values).tolist() == [0, 0, 1, 1, 1]
    assert largest(1.0)(values).tolist() == [1] * 5
    assert largest(0.2, exponential(1.0))(values).tolist() == [0, 0, 0, 0, pytest.approx(1 - np.exp(-4))]


def test_participation_counts_equal_eigenvalues() -> None:
    values = torch.tensor([0.0] * 6 + [2.0] * 4, dtype=torch.float64)

    assert participating()(values).tolist() == [0] * 6 + [1] * 4
    assert participating()(torch.zeros(3, dtype=torch.float64)).tolist() == [0, 0, 1]


@pytest.mark.parametrize("aspect", [0.05, 0.2, 0.5, 0.9, 1.0])
def test_the_noise_factor_is_gavish_and_donohos(aspect: float) -> None:
    low, high = (1 - np.sqrt(aspect)) ** 2, (1 + np.sqrt(aspect)) ** 2

    def density(x: float) -> float:
        return float(np.sqrt((high - x) * (x - low)) / (2 * np.pi * aspect * x))

    median = brentq(lambda x: quad(density, x, high)[0] - 0.5, low + 1e-9, high)
    cubic = 0.56 * aspect**3 - 0.95 * aspect**2 + 1.82 * aspect + 1.43  # their own approximation

    best = np.sqrt(2 * (aspect + 1) + 8 * aspect / (aspect + 1 + np.sqrt(aspect**2 + 14 * aspect + 1)))
    assert noise_factor(aspect) == pytest.approx(best / np.sqrt(median), rel=1e-6)
    assert noise_factor(aspect) == pytest.approx(cubic, abs=0.03)


def test_a_planted_rank_is_found_in_noise() -> None:
    generator = torch.Generator().manual_seed(4)
    signal = torch.randn(200, 3, generator=generator, dtype=torch.float64) @ torch.randn(
        3, 100, generator=generator, dtype=torch.float64
    )
    matrix = signal + 0.3 * torch.randn(200, 100, generator=generator, dtype=torch.float64)
    values = torch.linalg.eigvalsh(matrix.t() @ matrix)

    assert int(above_noise(0.5)(values).sum()) == 3


def test_conjugate_gradient_solves_with_output_weights() -> None:
    generator = torch.Generator().manual_seed(5)
    grams, targets = system()
    roots = [torch.randn(9, 5, generator=generator, dtype=torch.float64) for _ in grams]
    outs = [r.t() @ r for r in roots]
    found = gram_solve(grams, targets, outs=outs, steps=200)

    operator = sum(torch.kron(h, g) for h, g in zip(outs, grams, strict=True))
    pull = sum((h @ m.double() @ g).reshape(-1) for h, m, g in zip(outs, targets, grams, strict=True))
    expected = torch.linalg.solve(operator, pull).reshape(5, 12)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_conjugate_gradient_with_identities_is_the_closed_form() -> None:
    grams, targets = system()
    eye = [torch.eye(5)] * 3

    torch.testing.assert_close(
        gram_solve(grams, targets, outs=eye, steps=100), gram_solve(grams, targets), rtol=1e-4, atol=1e-5
    )


def test_no_steps_leave_the_initial_value_and_steps_lower_the_objective() -> None:
    grams, targets = system()
    outs = [torch.eye(5)] * 3

    def objective(x: Tensor) -> float:
        parts = [(x.double() - m.double()) for m in targets]
        return sum(float((d @ g * d).sum()) for d, g in zip(parts, grams, strict=True))

    results = [gram_solve(grams, targets, outs=outs, initial=targets[0], steps=k) for k in (0, 1, 2, 4, 8)]

    assert torch.equal(results[0], targets[0])
    costs = [objective(x) for x in results]
    assert costs == sorted(costs, reverse=True)


def test_a_system_of_zeros_keeps_the_initial_value() -> None:
    zero, initial = torch.zeros(4, 4), torch.randn(3, 4)

    assert torch.equal(gram_solve([zero], [initial * 2], initial=initial), initial)
    assert torch.equal(gram_solve([zero], [initial], outs=[torch.zeros(3, 3)], initial=initial), initial)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected G"):
        gram_solve([torch.eye(3)], [torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="H \\(3, 3\\)"):
        gram_solve([torch.eye(4)], [torch.zeros(2, 4)], outs=[torch.eye(3)])
    with pytest.raises(ValueError, match="at least one"):
        gram_solve([], [])


@pytest.mark.parametrize(("grams", "targets"), [(1, 2), (2, 1)])
def test_as_many_targets_as_gram_matrices_are_expected(grams: int, targets: int) -> None:
    with pytest.raises(ValueError, match="expected as many"):
        gram_solve([torch.eye(3)] * grams, [torch.ones(2, 3)] * targets)


def test_what_is_given_is_not_written_to() -> None:
    gram, target, start = torch.eye(3, dtype=torch.float64), torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.float64)
    gram_solve([gram, gram], [target, target], initial=start)

    assert torch.equal(gram, torch.eye(3, dtype=torch.float64))
    assert torch.equal(target, torch.ones(2, 3))
    assert torch.equal(start, torch.zeros(2, 3, dtype=torch.float64))
