"""DELLA."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from evomerge.errors import InvalidInputError
from evomerge.merge import stage
from evomerge.merge.methods import METHODS, pipeline
from evomerge.merge.primitives.sparsify import probabilities_by_rank
from evomerge.testing.merging import MethodContract, merge_tensor

DELLA, DELLA_LINEAR = METHODS["della"], METHODS["della_linear"]


class TestDella(MethodContract):
    method = DELLA


class TestDellaByNorm(MethodContract):
    method = DELLA
    parameters: ClassVar = {"rescale": "l1", "sign_ties": "positive"}


class TestDellaLinear(MethodContract):
    method = DELLA_LINEAR


class TestDellaOverTheTensor(MethodContract):
    method = DELLA_LINEAR
    parameters: ClassVar = {"scope": "tensor", "rescale": "l2"}


def models(seed: int = 0, shape: tuple[int, ...] = (23, 31)) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, {s: base + 0.1 * torch.randn(shape, generator=generator) for s in "ab"}


def test_probabilities_rise_linearly_with_the_rank_in_the_row() -> None:
    rows = torch.tensor([[0.3, -5.0, 1.0], [2.0, 2.0, -1.0]])

    expected = torch.tensor([[0.25, 0.75, 0.5], [0.5, 0.75, 0.25]], dtype=torch.float64)
    assert torch.equal(probabilities_by_rank(rows, 0.5, 0.25), expected)
    assert probabilities_by_rank(torch.ones(2, 1), 0.5, 0.25).tolist() == [[0.5], [0.5]]


@pytest.mark.proves("della_linear", by="property")
@pytest.mark.parametrize("shape", [(23, 31), (700,), (1, 1), (5, 4, 3)])
def test_without_a_window_it_is_dare(shape: tuple[int, ...]) -> None:
    """The two papers' operators coincide at epsilon 0: the same masks, to the byte."""
    base, found = models(shape=shape)
    asked = {"density": 0.5, "weight": 2.0, "seed": 5}
    della = merge_tensor(DELLA_LINEAR, base, found, epsilon=0.0, **asked, **{"lambda": 1.0})

    assert torch.equal(della, merge_tensor(METHODS["dare_linear"], base, found, **asked))


@pytest.mark.proves("della", "della_linear", by="property")
def test_dividing_by_the_probability_keeps_the_expectation_and_large_entries_survive_more_often() -> None:
    size, density, epsilon = 40_000, 0.4, 0.3
    model = torch.rand(size, generator=torch.Generator().manual_seed(1)) + 0.5
    merged = merge_tensor(
        DELLA_LINEAR, torch.zeros(size), {"a": model}, density=density, epsilon=epsilon, **{"lambda": 1.0}
    )

    rank = model.argsort().argsort() / (size - 1)
    probability = density - epsilon + 2 * epsilon * rank
    deviation = (model.square() * (1 / probability - 1)).sum().sqrt()
    assert abs((merged - model).sum()) < 5 * deviation
    for low, high in ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)):
        part = (rank >= low) & (rank <= high)
        expected = probability[part].mean().item()
        kept = (merged[part] != 0).float().mean().item()
        assert abs(kept - expected) < 5 * (expected * (1 - expected) / part.sum().item()) ** 0.5
    survivors = merged != 0
    torch.testing.assert_close(merged[survivors], (model / probability)[survivors], rtol=1e-4, atol=0)


def test_a_vector_is_one_row_and_a_matrix_can_be_one() -> None:
    base, found = models()
    flat = {s: m.flatten() for s, m in found.items()}
    asked = {"density": 0.5, "epsilon": 0.3}

    whole = merge_tensor(DELLA, base, found, scope="tensor", **asked).flatten()
    assert torch.equal(whole, merge_tensor(DELLA, base.flatten(), flat, **asked))
    assert not torch.equal(whole, merge_tensor(DELLA, base, found, **asked).flatten())


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.15), (0.5, 0.5)])
def test_a_window_that_leaves_the_probabilities_is_refused(density: float, epsilon: float) -> None:
    base, found = models()

    with pytest.raises(InvalidInputError, match=r"density ± epsilon lies inside \(0, 1\)"):
        merge_tensor(DELLA, base, found, density=density, epsilon=epsilon)


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_densities_of_none_and_all_need_no_window(density: float) -> None:
    base, found = models()
    merged = merge_tensor(DELLA_LINEAR, base, {"a": found["a"]}, density=density, **{"lambda": 1.0})

    torch.testing.assert_close(merged, found["a"] if density else base)


@pytest.mark.parametrize("rescale", ["inverse", "l1", "linf"])
def test_the_rows_shown_at_a_time_do_not_change_the_bytes(rescale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, found = models()
    whole = merge_tensor(DELLA, base, found, rescale=rescale)
    monkeypatch.setattr(stage, "_ENTRIES", 100)

    assert torch.equal(merge_tensor(DELLA, base, found, rescale=rescale), whole)


def test_one_vector_of_many_rows_by_an_l1_rule_has_that_norm() -> None:
    base, found = models()
    merged = merge_tensor(pipeline(("magprune", "sum")), base, {"a": found["a"]}, density=0.5, rescale="l1")

    assert (merged - base).abs().sum().item() == pytest.approx((found["a"] - base).abs().sum().item(), rel=1e-5)
