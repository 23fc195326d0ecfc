"""Laws of merge methods, on one tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.blocks import Operand, TensorWork, measure_model, merge_into
from evomerge.merge.methods import METHODS, method
from evomerge.merge.plan import Plan, TensorJob

SIZE = 400
NAMES = ("a", "b", "c")


def job_of(name: str, sources: tuple[str, ...], asked: dict[str, Any]) -> TensorJob:
    """Defaults, overridden: `weight={"a": 2.0}` for one source, `weight=2.0` for all."""
    found = method(name)
    shared = {p.name: asked.get(p.name, p.default) for p in found.parameters if not p.per_source}
    per_source = {
        s: {
            p.name: asked[p.name].get(s, p.default)
            if isinstance(asked.get(p.name), dict)
            else asked.get(p.name, p.default)
            for p in found.parameters
            if p.per_source
        }
        for s in sources
    }
    if found.check is not None:
        found.check(shared, per_source)
    return TensorJob("w", torch.float32, False, False, shared, per_source, sources)


def merge(name: str, base: Tensor, models: dict[str, Tensor], **asked: Any) -> Tensor:
    """One tensor of float32 checkpoints through a method."""
    job = job_of(name, tuple(sorted(models)), asked)
    plan = Plan(method(name), tuple(sorted(models)), (job,), seed=asked.get("seed", 0))
    work = TensorWork(job, base, {s: Operand("weights", m) for s, m in sorted(models.items())})
    out = torch.empty_like(base)
    measured = measure_model(plan, lambda: [work], torch.device("cpu")) if plan.measures == "model" else None
    merge_into(out, plan, work, measured)
    return out


def zoo(seed: int, names: tuple[str, ...] = NAMES) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(SIZE, generator=generator)
    return base, {n: base + 0.1 * torch.randn(SIZE, generator=generator) for n in names}


def names_of(name: str) -> tuple[str, ...]:
    return NAMES[: METHODS[name].num_sources[1] or 3]


@pytest.mark.parametrize("name", sorted(name for name, m in METHODS.items() if not m.requires))
def test_sources_that_equal_the_base_give_the_base(name: str) -> None:
    base, _ = zoo(0)

    assert torch.equal(merge(name, base, {n: base.clone() for n in names_of(name)}), base)


@pytest.mark.parametrize("name", ["linear", "slerp", "nuslerp", "passthrough"])
def test_equal_sources_give_exactly_that_model(name: str) -> None:
    base, models = zoo(1)

    asked = {"t": 0.3} if name == "slerp" else {}
    assert torch.equal(merge(name, base, {n: models["a"].clone() for n in names_of(name)}, **asked), models["a"])


@pytest.mark.parametrize("name", ["ties", "dare_ties"])
def test_equal_sources_give_that_model_under_a_disjoint_mean_at_density_one(name: str) -> None:
    base, models = zoo(1)
    found = merge(name, base, {n: models["a"].clone() for n in NAMES}, density=1.0)

    assert torch.allclose(found, models["a"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_one_source_at_weight_and_density_one_is_that_source(name: str) -> None:
    base, models = zoo(2, ("a",))
    found = merge(name, base, models, weight=1.0, density=1.0)

    assert torch.allclose(found, models["a"], rtol=1e-6, atol=1e-6)


def test_linear_with_all_weight_on_one_source_is_exactly_that_source() -> None:
    base, models = zoo(3)

    assert torch.equal(merge("linear", base, models, weight={"a": 0.0, "b": 2.5, "c": 0.0}), models["b"])


@pytest.mark.proves("slerp", by="property")
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_slerp_ends_at_its_two_models(t: float) -> None:
    base, models = zoo(4, ("a", "b"))

    assert torch.equal(merge("slerp", base, models, t=t), models["b" if t else "a"])
    assert torch.equal(merge("slerp", base, {"a": models["a"]}, t=t), models["a"] if t else base)


def test_slerp_keeps_the_norm_of_unit_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(SIZE, generator=generator), dim=0) for _ in "ab")
    found = merge("slerp", a, {"a": a, "b": b}, t=0.3)

    assert found.norm().item() == pytest.approx(1, abs=1e-5)
    angle = torch.acos(a @ b).item()
    assert torch.acos(a @ found).item() == pytest.approx(0.3 * angle, abs=1e-3)


def test_nuslerp_is_slerp_at_the_share_of_the_weights() -> None:
    base, models = zoo(5, ("a", "b"))

    by_weight = merge("nuslerp", base, models, weight={"a": 1.5, "b": 0.5})
    assert torch.equal(by_weight, merge("slerp", base, models, t=0.25))


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "dare_linear"])
def test_weights_that_sum_to_zero_cannot_be_normalised(name: str) -> None:
    base, models = zoo(6, ("a", "b"))

    with pytest.raises(InvalidInputError, match="sum is not 0"):
        merge(name, base, models, weight={"a": 0.5, "b": -0.5}, normalize=True)


@pytest.mark.parametrize("name", ["ties", "dare_ties"])
def test_disjoint_means_take_weights_of_both_signs_but_not_all_zero(name: str) -> None:
    base, models = zoo(6, ("a", "b"))

    assert torch.isfinite(merge(name, base, models, weight={"a": 0.5, "b": -0.5}, density=0.5)).all()
    with pytest.raises(InvalidInputError, match="sum is not 0"):
        merge(name, base, models, weight=0.0)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
def test_a_negative_weight_subtracts_what_a_source_learnt(name: str) -> None:
    base, models = zoo(7, ("a",))
    plus = merge(name, base, models, weight=1.0, density=0.5) - base
    minus = merge(name, base, models, weight=-1.0, density=0.5) - base

    assert torch.allclose(plus, -minus, atol=1e-6)
    assert plus.abs().sum() > 0


@pytest.mark.proves("ties", by="property")
@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_ties_is_what_the_paper_computes(seed: int, density: float) -> None:
    """The three steps written out on whole vectors, with exact ties among the votes."""
    base, models = zoo(seed % 97)
    base = (base * 8).round() / 8
    models = {n: base + ((m - base) * 8).round() / 8 for n, m in models.items()}
    found = merge("ties", base, models, density=density, **{"lambda": 0.5})

    deltas = torch.stack([m - base for m in models.values()])
    kept = max(1, int(density * SIZE))
    threshold = deltas.abs().sort(dim=1, descending=True).values[:, kept - 1 : kept]
    deltas = torch.where(deltas.abs() >= threshold, deltas, 0.0)
    signs = deltas.sum(0).sign()
    signs = torch.where(signs == 0, signs.sum().sign(), signs)
    agree = (deltas.sign() == signs) & (deltas != 0)
    mean = (deltas * agree).sum(0) / agree.sum(0).clamp(min=1)
    assert torch.allclose(found, base + 0.5 * mean, atol=1e-6)


def test_the_two_rules_for_even_votes_differ_where_sources_cancel() -> None:
    base = torch.zeros(4)
    models = {"a": torch.tensor([1.0, -2.0, -2.0, 0.0]), "b": torch.tensor([-1.0, -2.0, -2.0, 0.0])}
    asked = {"density": 1.0, "scope": "tensor"}

    assert merge("ties", base, models, **asked).tolist() == [-1.0, -2.0, -2.0, 0.0]
    assert merge("ties", base, models, sign_ties="positive", **asked).tolist() == [1.0, -2.0, -2.0, 0.0]


@pytest.mark.proves("dare_linear", by="property")
def test_dare_rescaled_by_the_inverse_keeps_the_mean() -> None:
    base = torch.zeros(200_000)
    found = merge("dare_linear", base, {"a": torch.ones(200_000)}, density=0.25)

    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert found.mean().item() == pytest.approx(1, abs=5 * (3 / 200_000) ** 0.5)


def test_dare_depends_on_seed_and_source_name_only() -> None:
    base, models = zoo(8, ("a", "b"))
    first = merge("dare_linear", base, models, seed=1)

    assert torch.equal(first, merge("dare_linear", base, dict(reversed(models.items())), seed=1))
    assert not torch.equal(first, merge("dare_linear", base, models, seed=2))


def test_an_unknown_method_is_refused_with_the_known_names() -> None:
    with pytest.raises(InvalidInputError, match="linear, task_arithmetic"):
        method("magic")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_declared_parameters_make_sense(name: str) -> None:
    for p in METHODS[name].parameters:
        assert p.text
        if p.choices:
            assert p.default in p.choices
        elif not isinstance(p.default, bool):
            assert p.low is not None
            assert p.high is not None
            assert p.low < p.high
            low, high = p.legal or (-float("inf"), float("inf"))
            assert low <= p.low <= p.high <= high
            automatic = p.default == 0 and "0: " in p.text  # a number found from the sources, not one to search around
            assert automatic or p.low <= float(p.default) <= p.high
