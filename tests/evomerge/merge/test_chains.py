"""Presets and the pipelines that spell them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import blocks
from evomerge.merge.blocks import Operand, TensorWork, measure_model
from evomerge.merge.method import Values
from evomerge.merge.methods import METHODS, pipeline
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.stage import Stage, States, by_scope, compose
from evomerge.merge.stages.rescale import CLIP
from evomerge.merge.stages.sums import SUM
from evomerge.testing.merging import merge_tensor, merge_tensors

CONSENSUS = ("weigh", "elect", "disjoint_mean", "scale")
CHAINS = {
    "ties": ("trim", "rescale", *CONSENSUS),
    "dare_linear": ("bernoulli", "weigh", "sum", "scale"),
    "dare_ties": ("bernoulli", *CONSENSUS),
    "breadcrumbs": ("band", "rescale", "weigh", "sum", "scale"),
    "breadcrumbs_ties": ("band", "rescale", *CONSENSUS),
    "della": ("magprune", *CONSENSUS),
    "della_linear": ("magprune", "weigh", "sum", "scale"),
    "sce": ("select", "energy_mean"),
    "ram": ("changed", "disjoint_mean"),
    "ram_plus": ("changed", "amplify", "disjoint_mean"),
    "nearswap": ("clip", "sum"),
}


def zoo(*shape: int, names: str = "abc") -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    return base, {s: base + 0.1 * torch.randn(shape, generator=generator) for s in names}


def asked_of(name: str) -> dict[str, Any]:
    return {p.name: p.default for p in METHODS[name].parameters}


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_a_preset_is_the_pipeline_of_its_stages(name: str) -> None:
    base, models = zoo(40, 30, names="a" if name == "nearswap" else "abc")
    preset = merge_tensor(METHODS[name], base, models, **asked_of(name))

    assert torch.equal(preset, merge_tensor(pipeline(CHAINS[name]), base, models, **asked_of(name)))
    assert not torch.equal(preset, base)


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("name", ["ties", "breadcrumbs_ties", "ram_plus"])
def test_the_block_size_does_not_matter_to_chains_that_measure_several_things(
    name: str, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, models = zoo(40, 30)
    more = {s: {"w": m, "v": m[0].clone()} for s, m in models.items()}
    asked = {"scope": scope} | ({"rescale": "linf"} if name != "ram_plus" else {"epsilon": 0.1})
    whole = merge_tensors(METHODS[name], {"w": base, "v": base[0].clone()}, more, **asked)
    monkeypatch.setattr(blocks, "BLOCK", 64)
    parts = merge_tensors(METHODS[name], {"w": base, "v": base[0].clone()}, more, **asked)

    assert METHODS[name].grain == "entry"
    assert all(torch.equal(whole[at], parts[at]) for at in whole)


@pytest.mark.parametrize("name", ["ties", "breadcrumbs"])
def test_one_threshold_over_the_model_needs_one_density(name: str) -> None:
    method = METHODS[name]
    base, models = zoo(10)

    def job(density: float) -> TensorJob:
        shared: dict[str, Any] = {p.name: p.default for p in method.parameters if not p.per_source}
        own: dict[str, Any] = {p.name: p.default for p in method.parameters if p.per_source} | {"density": density}
        return TensorJob(str(density), torch.float32, False, False, shared | {"scope": "global"}, {"a": own}, ("a",))

    works = [TensorWork(job(d), base, {"a": Operand("weights", models["a"])}) for d in (0.2, 0.3)]
    plan = Plan(method, ("a",), tuple(w.job for w in works), 0)

    with pytest.raises(InvalidInputError, match="one density a source with scope: global"):
        measure_model(plan, lambda: works, torch.device("cpu"))


def test_a_stage_that_needs_no_measurement_sees_none() -> None:
    """Also after one that measured something under the same names."""
    seen: list[Mapping[str, float]] = []

    def measure(states: States) -> Mapping[str, float]:
        return {"a": float(sum(state.block.base.numel() for state in states()))}

    def stage(name: str, *, needed: bool) -> Stage:
        def always(shared: Values) -> bool:
            return needed

        def apply(state: Any) -> Any:
            seen.append(state.measured)
            return state

        return Stage(name, "weight", "looks", apply, measure=measure, measures=by_scope, needed=always)

    method = compose("m", "M", "none", (stage("one", needed=True), stage("two", needed=False), CLIP, SUM))
    base, models = zoo(5, names="a")
    merge_tensor(method, base, models)

    assert seen == [{"a": 5.0}, {}]
    assert method.measures({"normalize": False, "t": 1.0}) == "tensor"


def test_weights_that_cancel_divide_by_one_in_mergekits_mean_and_by_their_size_in_ours() -> None:
    base = torch.zeros(3)
    models = {"a": torch.tensor([1.0, 1.0, 0.0]), "b": torch.tensor([-1.0, 1.0, 2.0])}
    asked = {"weight": {"a": 1.0, "b": -1.0}, "density": 1.0, "sign_ties": "positive", "scope": "tensor"}

    assert merge_tensor(METHODS["ties"], base, models, **asked).tolist() == [1.0, 1.0, -2.0]
    assert merge_tensor(METHODS["ties"], base, models, divisor="signed", **asked).tolist() == [2.0, 1.0, 2.0]


@pytest.mark.proves("dare_ties", by="property")
def test_dare_with_election_is_ties_of_what_dare_leaves() -> None:
    """Each source through DARE alone, then the steps of TIES written out."""
    base, models = zoo(500)
    found = merge_tensor(METHODS["dare_ties"], base, models, density=0.5, seed=4, weight=0.8, **{"lambda": 0.7})

    kept = [
        merge_tensor(METHODS["dare_linear"], torch.zeros(500), {s: m - base}, density=0.5, seed=4)
        for s, m in models.items()
    ]
    votes = 0.8 * torch.stack(kept)
    signs = votes.sum(0).sign()
    signs = torch.where(signs == 0, signs.sum().sign(), signs)
    agree = (votes.sign() == signs) & (votes != 0)
    mean = (votes * agree).sum(0) / (0.8 * agree.sum(0)).clamp(min=0.8)
    torch.testing.assert_close(found, base + 0.7 * mean, rtol=1e-5, atol=1e-6)
