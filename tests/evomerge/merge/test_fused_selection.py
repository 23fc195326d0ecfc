"""SCE's loops for a few sources: variances in one pass where a sample brackets their rank, in two where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge import blocks
from evomerge.merge.blocks import Operand, TensorWork, measure_tensor, merge_into
from evomerge.merge.fused import measure as fused_measure
from evomerge.merge.fused import run
from evomerge.merge.fused.selection import Selection, least_numerator
from evomerge.merge.methods import METHODS
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives.gram import LANES

pytest.importorskip("numba")

CPU = torch.device("cpu")
FLOATS = st.floats(0, 2.0**100, width=32)


def merged(models: dict[str, Tensor], base: Tensor, share: float, *, compiled: bool, absent: int = 0) -> Tensor:
    """One tensor through SCE; `absent` sources more leave it alone."""
    shared = {p.name: p.default for p in METHODS["sce"].parameters} | {"select_topk": share}
    everyone = (*models, *(f"absent {number}" for number in range(absent)))
    job = TensorJob("w", torch.bfloat16, False, False, shared, {name: {} for name in everyone}, tuple(models))
    plan = Plan(METHODS["sce"], everyone, (job,), 5)
    work = TensorWork(job, base, {name: Operand("weights", model) for name, model in models.items()})
    with pytest.MonkeyPatch.context() as patch:
        for module in (run, fused_measure):
            patch.setattr(module, "worth_it", lambda num_entries: compiled)
        patch.setattr(blocks, "BLOCK", 30_001)
        measured = measure_tensor(plan, work, CPU)
        assert (run.fused(plan, work, measured, torch.bfloat16) is not None) == compiled
        out = torch.empty_like(base)
        merge_into(out, plan, work, None)
    return out


def world(kind: str, size: int, number: int) -> tuple[Tensor, dict[str, Tensor]]:
    """θ0 and models near it: as fine-tuning leaves them, equal nearly everywhere, or far apart in one place only."""
    generator = torch.Generator().manual_seed(size)
    base = 0.03 * torch.randn(size, generator=generator)
    models = {}
    for name in "abcde"[:number]:
        delta = 0.002 * torch.randn(size, generator=generator)
        if kind == "sparse":
            delta = torch.where(torch.rand(size, generator=generator) < 0.01, delta, 0.0)
        if kind == "front":
            delta[: size // 50] *= 1000
        models[name] = (base + delta).bfloat16()
    return base.bfloat16(), models


@pytest.mark.parametrize("kind", ["near", "sparse", "front"])
@pytest.mark.parametrize(("number", "absent"), [(2, 1), (3, 0), (5, 0)])
def test_a_long_tensor_is_merged_to_the_bytes_of_the_torch_path(kind: str, number: int, absent: int) -> None:
    base, models = world(kind, 60_002 + 7 * number, number)
    for share in (0.03, 0.5):
        fast, slow = (merged(models, base, share, compiled=compiled, absent=absent) for compiled in (True, False))

        assert torch.equal(fast.view(torch.int16), slow.view(torch.int16))


def test_a_bracket_that_misses_costs_another_way_and_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = world("near", 60_002, 3)
    slow = merged(models, base, 0.5, compiled=False)
    found: list[Any] = []
    usual = Selection.least_variance

    def watched(self: Selection, *asked: Any) -> Any:
        found.append(usual(self, *asked))
        return found[-1]

    monkeypatch.setattr(Selection, "least_variance", watched)
    for edges in ([5, 6], [0, 7], [2**31 - 2, 2**31 - 1]):
        monkeypatch.setattr(Selection, "_edges", lambda self, share, edges=edges: np.array([edges]))
        assert torch.equal(merged(models, base, 0.5, compiled=True), slow)
    assert found
    assert set(found) == {None}


def test_one_pass_is_enough_for_what_fine_tuning_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.merge.fused import agree

    def never(*asked: Any) -> float:
        raise AssertionError("counted in two passes")

    monkeypatch.setattr(agree, "_least_variance", never)
    for kind in ("near", "sparse"):
        base, models = world(kind, 60_002, 3)
        merged(models, base, 0.3, compiled=True)


@given(least=FLOATS, by=st.integers(1, 20))
def test_numerators_are_compared_as_quotients_are(least: float, by: int) -> None:
    divisor, bound = np.float32(by), np.float32(least)
    numerator = least_numerator(bound, divisor)

    assert numerator / divisor >= bound
    assert numerator == 0 or np.nextafter(numerator, np.float32(0)) / divisor < bound


@pytest.mark.parametrize(("number", "from_base"), [(2, False), (3, True), (4, False)])
def test_sums_in_registers_are_those_of_many_vectors(number: int, from_base: bool) -> None:
    from evomerge.merge.fused import grams

    entries = torch.randn(number + 1, 9000, generator=torch.Generator().manual_seed(number)).bfloat16()
    at = np.array([row.data_ptr() for row in entries], np.uint64)
    base = at[-1] if from_base else None
    for size, skipped in ((0, 0), (1, 255), (100, 3), (2048, 0), (5000, 100), (9000, 17)):
        few, many = (np.ones((number * (number + 1) // 2, LANES)) for _ in range(2))
        grams.gram(tuple(at[:-1]), base, size, skipped, few)
        grams.gram_of_many(at[:-1], at[-1], from_base, size, skipped, many)

        assert (few == many).all()
