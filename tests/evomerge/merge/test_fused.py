"""Compiled loops against the torch path: the same bytes. They run where numba is installed (the extra `fast`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import NonFiniteError
from evomerge.merge import blocks
from evomerge.merge.blocks import Operand, TensorWork, measure_model, merge_into
from evomerge.merge.fused import measure as fused_measure
from evomerge.merge.fused import run
from evomerge.merge.methods import METHODS
from evomerge.merge.plan import Plan, TensorJob

pytest.importorskip("numba")


def merged(
    method: str,
    base: Tensor,
    models: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    compiled: bool,
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
        patch.setattr(blocks, "BLOCK", 3001)
        cpu = torch.device("cpu")
        over_model = measure_model(plan, lambda: [work], cpu, threads=2) if plan.measures == "model" else None
        measured = over_model if over_model is not None else blocks.measure_tensor(plan, work, cpu)
        ran = run.fused(plan, work, measured, torch.bfloat16, blocks._read_bits) is not None
        nothing = method == "task_arithmetic" and (shared["lambda"] == 0 or not any(v["weight"] for v in own.values()))
        assert ran == (compiled and not nothing)
        out = torch.empty_like(base)
        merge_into(out, plan, work, over_model)
    return out, measured


def tensors(seed: int, size: int, number: int, *, coarse: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """A base and models near it; `coarse` ones cancel exactly now and then, and hold zeros of both signs."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(scale: float) -> Tensor:
        found = scale * torch.randn(size, generator=generator)
        return (found / 0.01).round() * 0.01 if coarse else found

    base = numbers(0.03)
    return base.bfloat16(), {name: (base + numbers(0.01)).bfloat16() for name in "abcd"[:number]}


WEIGHTS = st.sampled_from([0.0, 1.0, 0.5, 0.3, -0.4, 1.7])
SHARED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "linear": {"normalize": st.just(True)},
    "task_arithmetic": {"lambda": WEIGHTS, "normalize": st.booleans()},
    "ties": {
        "scope": st.sampled_from(["tensor", "global"]),
        "sign_ties": st.sampled_from(["majority", "positive"]),
        "normalize": st.booleans(),
        "divisor": st.sampled_from(["absolute", "signed"]),
        "lambda": WEIGHTS,
    },
    "dare_linear": {"rescale": st.sampled_from(["inverse", "none"]), "lambda": WEIGHTS},
    "dare_ties": {
        "rescale": st.sampled_from(["inverse", "none"]),
        "sign_ties": st.sampled_from(["majority", "positive"]),
        "normalize": st.booleans(),
        "lambda": WEIGHTS,
    },
}


@st.composite
def merges(draw: st.DrawFn) -> dict[str, Any]:
    method = draw(st.sampled_from(sorted(SHARED)))
    number = draw(st.integers(1, 4))
    own = {name: {"weight": draw(WEIGHTS)} for name in "abcd"[:number]}
    if METHODS[method].name != "linear" and method != "task_arithmetic":
        for values in own.values():
            values["density"] = draw(st.sampled_from([0.0, 0.001, 0.2, 0.5, 0.999, 1.0]))
    if abs(sum(values["weight"] for values in own.values())) < 0.05 or draw(st.booleans()):
        own["a"]["weight"] += 1.0
    asked = {name: draw(values) for name, values in SHARED[method].items()}
    known = {p.name: p for p in METHODS[method].parameters}
    asked = {k: v for k, v in asked.items() if k in known and (not known[k].choices or v in known[k].choices)}
    return {
        "method": method,
        "number": number,
        "own": own,
        "shared": asked,
        "seed": draw(st.integers(0, 99)),
        "size": draw(st.sampled_from([1, 7, 2048, 2049, 9000])),
        "coarse": draw(st.booleans()),
    }


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=merges())
def test_compiled_loops_give_the_bytes_of_the_torch_path(asked: dict[str, Any]) -> None:
    base, models = tensors(asked["seed"], asked["size"], asked["number"], coarse=asked["coarse"])
    fast, fast_measured = merged(asked["method"], base, models, asked["shared"], asked["own"], compiled=True)
    slow, slow_measured = merged(asked["method"], base, models, asked["shared"], asked["own"], compiled=False)

    assert fast_measured == slow_measured
    assert torch.equal(fast.view(torch.int16), slow.view(torch.int16))


def test_a_sum_that_overflows_is_an_error_here_too() -> None:
    base, models = tensors(0, 5000, 2, coarse=False)
    with pytest.raises(NonFiniteError, match="merged model"):
        merged("task_arithmetic", base, models, {"lambda": 3e38}, {s: {"weight": 1e3} for s in models}, compiled=True)
