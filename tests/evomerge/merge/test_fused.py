"""Compiled loops against the torch path: the same bytes. They run where numba is installed (the extra `fast`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import NonFiniteError
from evomerge.merge import blocks
from evomerge.merge.blocks import Operand, TensorWork, measure_model, merge_into
from evomerge.merge.fused import measure as fused_measure
from evomerge.merge.fused import run, thresholds
from evomerge.merge.fused.form import chain_of
from evomerge.merge.methods import METHODS, method_of
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives import philox
from evomerge.recipe.schema import Merge

pytest.importorskip("numba")

CPU = torch.device("cpu")


def merged(
    method: str,
    base: Tensor,
    models: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    compiled: bool,
    block: int = 3001,
    threads: int = 2,
) -> tuple[Tensor, Mapping[str, float]]:
    """One tensor in bfloat16 through a method, and what was measured."""
    found = METHODS[method]
    values = {p.name: shared.get(p.name, p.default) for p in found.parameters if not p.per_source}
    per_source = {
        s: {p.name: own.get(s, {}).get(p.name, p.default) for p in found.parameters if p.per_source} for s in models
    }
    jobs = [TensorJob("w", torch.bfloat16, False, False, values, per_source, tuple(models))]
    plan = Plan(found, tuple(models), tuple(jobs), 5)
    work = TensorWork(jobs[0], base, {s: Operand("weights", m) for s, m in models.items()})
    with pytest.MonkeyPatch.context() as patch:
        for module in (run, fused_measure):
            patch.setattr(module, "worth_it", lambda num_entries: compiled)
        patch.setattr(blocks, "BLOCK", block)
        over_model = measure_model(plan, lambda: [work], CPU, threads) if plan.measures == "model" else None
        measured = over_model if over_model is not None else blocks.measure_tensor(plan, work, CPU)
        ran = run.fused(plan, work, measured, torch.bfloat16) is not None
        assert ran == compiled
        out = torch.empty_like(base)
        merge_into(out, plan, work, over_model)
    return out, measured


def tensors(seed: int, shape: tuple[int, ...], number: int, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """A base and models near it; `coarse` ones cancel exactly now and then, and hold zeros of both signs; `tiny` ones
    differ by denormal numbers; `same` ones hardly anywhere; `wide` ones by all powers of ten."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(scale: float) -> Tensor:
        found = scale * torch.randn(shape, generator=generator)
        return (found / 0.01).round() * 0.01 if kind == "coarse" else found

    base = numbers(0.03)
    if kind == "tiny":
        base = torch.zeros(shape)
        return base.bfloat16(), {name: (numbers(1.0) * 1e-39).bfloat16() for name in "abcd"[:number]}
    models = {name: base + numbers(0.01) for name in "abcd"[:number]}
    if kind == "same":
        models = {name: torch.where(numbers(1.0) > 2.0, model, base) for name, model in models.items()}
    if kind == "wide":
        base = base * 10.0 ** (10 * numbers(1.0)).clamp(-37, 37)
        models = {name: base * (1 + numbers(1.0)) for name in models}
    return base.bfloat16(), {name: model.bfloat16() for name, model in models.items()}


WEIGHTS = st.sampled_from([0.0, 1.0, 0.5, 0.3, -0.4, 1.7])
DENSITIES = st.sampled_from([0.0, 0.0004, 0.001, 0.2, 0.5, 0.999, 1.0])
SCOPE = st.sampled_from(["tensor", "global"])
PLAIN = st.sampled_from(["inverse", "none"])
ELECTED: dict[str, st.SearchStrategy[Any]] = {
    "sign_ties": st.sampled_from(["majority", "positive"]),
    "normalize": st.booleans(),
    "divisor": st.sampled_from(["absolute", "signed"]),
    "lambda": WEIGHTS,
}
SHARED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "ties": {"scope": SCOPE, "rescale": PLAIN, **ELECTED},
    "dare_linear": {"rescale": PLAIN, "lambda": WEIGHTS},
    "dare_ties": {"rescale": PLAIN, **ELECTED},
    "breadcrumbs": {"scope": SCOPE, "rescale": PLAIN, "lambda": WEIGHTS},
    "breadcrumbs_ties": {"scope": SCOPE, "rescale": PLAIN, **ELECTED},
    "della": {"rescale": PLAIN, **ELECTED},
    "della_linear": {"rescale": PLAIN, "lambda": WEIGHTS},
}
SHAPES = st.sampled_from([(1,), (7,), (512,), (513,), (9000,), (3, 5), (1, 9000), (9000, 1), (40, 233), (6, 2, 700)])
KINDS = st.sampled_from(["fine", "coarse", "tiny", "same", "wide"])


@st.composite
def merges(draw: st.DrawFn) -> dict[str, Any]:
    method = draw(st.sampled_from(sorted(SHARED)))
    number = draw(st.integers(1, 4))
    own = {name: {"weight": draw(WEIGHTS), "density": draw(DENSITIES)} for name in "abcd"[:number]}
    if abs(sum(values["weight"] for values in own.values())) < 0.05 or draw(st.booleans()):
        own["a"]["weight"] += 1.0
    for values in own.values():
        if method.startswith("breadcrumbs"):
            values["gamma"] = draw(st.sampled_from([0.0, 0.001, 0.006, 0.3, 0.9]))
        if method.startswith("della"):
            values["density"] = draw(st.sampled_from([0.0, 0.001, 0.5, 0.7, 1.0]))
            values["epsilon"] = draw(st.sampled_from([0.0, 0.4])) * min(values["density"], 1 - values["density"])
    return {
        "method": method,
        "number": number,
        "own": own,
        "shared": {name: draw(values) for name, values in SHARED[method].items()},
        "seed": draw(st.integers(0, 99)),
        "shape": draw(SHAPES),
        "kind": draw(KINDS),
    }


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=merges())
def test_compiled_loops_give_the_bytes_of_the_torch_path(asked: dict[str, Any]) -> None:
    base, models = tensors(asked["seed"], asked["shape"], asked["number"], asked["kind"])
    fast, fast_measured = merged(asked["method"], base, models, asked["shared"], asked["own"], compiled=True)
    slow, slow_measured = merged(asked["method"], base, models, asked["shared"], asked["own"], compiled=False)

    assert fast_measured == slow_measured
    assert torch.equal(fast.view(torch.int16), slow.view(torch.int16))


@pytest.mark.parametrize("kind", ["fine", "coarse"])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.6])
def test_thresholds_are_exact_where_a_bracket_misses(
    monkeypatch: pytest.MonkeyPatch, kind: str, density: float
) -> None:
    """The sample is one chunk at the begin, where nothing differs from the base."""
    base, models = tensors(1, (70_000,), 2, kind)
    for model in models.values():
        model[:64] = base[:64]
    monkeypatch.setattr(thresholds, "LEAST_CHUNKS", 1)
    monkeypatch.setattr(thresholds, "ENTRIES_A_CHUNK", 1 << 20)
    counted: list[int] = []
    whole = thresholds.Thresholds._counted

    def counting(self: thresholds.Thresholds, ranks: Any) -> Any:
        counted.append(len(ranks))
        return whole(self, ranks)

    monkeypatch.setattr(thresholds.Thresholds, "_counted", counting)
    own = {source: {"density": density} for source in models}
    _, fast = merged("ties", base, models, {"scope": "tensor"}, own, compiled=True)
    _, slow = merged("ties", base, models, {"scope": "tensor"}, own, compiled=False)

    assert sum(counted) > 0, "the bracket was to miss"
    assert fast == slow


def test_more_entries_between_the_edges_than_are_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "MOST_GATHERED", 10)
    base, models = tensors(2, (200_000,), 2, "fine")
    own = {source: {"density": 0.3} for source in models}
    _, fast = merged("ties", base, models, {"scope": "tensor"}, own, compiled=True)
    _, slow = merged("ties", base, models, {"scope": "tensor"}, own, compiled=False)

    assert fast == slow


def _none_missed(self: thresholds.Thresholds, ranks: Mapping[str, Any]) -> dict[str, int]:
    assert not ranks, "a bracket has missed"
    return {}


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.8])
def test_one_pass_is_enough_for_what_fine_tuning_looks_like(monkeypatch: pytest.MonkeyPatch, density: float) -> None:
    """The histograms are for odd tensors: rows of very different sizes are not."""
    generator = torch.Generator().manual_seed(3)
    base = 0.04 * torch.randn(2000, 300, generator=generator)
    rows = torch.rand(2000, 1, generator=generator)
    models = {s: (base + 0.004 * rows * torch.randn(2000, 300, generator=generator)).bfloat16() for s in "abc"}
    monkeypatch.setattr(thresholds.Thresholds, "_counted", _none_missed)
    _, found = merged(
        "breadcrumbs", base.bfloat16(), models, {"scope": "tensor"}, {source: {"density": density} for source in "abc"},
        compiled=True, block=1 << 17,
    )  # fmt: skip

    for source, model in models.items():
        sizes = (model.float() - base.bfloat16().float()).abs().view(-1).sort(descending=True).values
        first = int(0.006 * len(sizes))
        assert found[f"0:low {source}"] == sizes[first + int(density * len(sizes)) - 1]
        assert found[f"0:high {source}"] == sizes[first]


@pytest.mark.parametrize("method", sorted(SHARED))
def test_neither_blocks_nor_threads_show(method: str) -> None:
    base, models = tensors(4, (90, 700), 3, "coarse")
    shared = {"scope": "tensor"} if method.startswith(("ties", "bread")) else {}
    results = [
        merged(method, base, models, shared, {}, compiled=True, block=block, threads=threads)
        for block, threads in ((3001, 1), (1 << 17, 2), (64, 2))
    ]

    assert all(torch.equal(out.view(torch.int16), results[0][0].view(torch.int16)) for out, _ in results)
    assert all(found == results[0][1] for _, found in results)


def test_a_pipeline_that_a_user_wrote_has_the_loops_too() -> None:
    written = method_of(Merge.model_validate({"method": "pipeline", "pipeline": ["band", "weigh", "sum"]}))

    assert chain_of(written) is not None


def test_rows_that_are_in_the_reverse_of_order_are_ranked() -> None:
    """All magnitudes of a row but one are in one bin, in falling order."""
    row = torch.arange(255, 127, -1) / 128.0
    base = torch.zeros(4, 129).bfloat16()
    model = torch.cat([row, torch.tensor([1e30])]).expand(4, -1).contiguous().bfloat16()
    models = {"a": model, "b": (model * -0.5).flip(1).contiguous()}
    fast, _ = merged("della", base, models, {}, {}, compiled=True)
    slow, _ = merged("della", base, models, {}, {}, compiled=False)

    assert torch.equal(fast.view(torch.int16), slow.view(torch.int16))


@pytest.mark.parametrize("method", sorted(SHARED))
def test_a_sum_that_overflows_is_an_error_here_too(method: str) -> None:
    base, models = tensors(0, (5000,), 2, "fine")
    with pytest.raises(NonFiniteError, match="merged model"):
        merged(method, base, models, {"lambda": 3e38, "normalize": False},
               {s: {"weight": 1e3, "density": 0.5} for s in models}, compiled=True)  # fmt: skip


@pytest.mark.parametrize("group", [0, 7, 2**27 + 3])
def test_random_numbers_are_those_of_the_torch_path(group: int) -> None:
    from evomerge.merge.fused import kernels

    key, out = 2**127 + 12345, np.empty(4096, np.uint32)
    kernels.drawn(np.array([key % 2**64, key >> 64], np.uint64), group, out)
    (found,) = (drawn for _, drawn in philox.numbers(key, group * philox.GROUP, 4096, CPU))

    assert np.array_equal(out, found.numpy())
