"""PCB-Merging, and clipping of outliers."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge import blocks
from evomerge.merge.methods import METHODS, pipeline
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors


class TestPcb(MethodContract):
    method = METHODS["pcb"]


class TestPcbInUnits(MethodContract):
    method = METHODS["pcb"]
    parameters: ClassVar = {"inter_scale": True, "density": 0.9}


class TestClipQuantiles(MethodContract):
    method = pipeline(("clip_quantiles", "sum"))
    parameters: ClassVar = {"clip": 0.1}


def sources(number: int = 3, size: int = 700, scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(number)
    base = torch.randn(size, generator=generator)
    return base, {s: base + scale * torch.randn(size, generator=generator) for s in "abcde"[:number]}


def competed(deltas: np.ndarray, clip: float, ratio: float, weights: np.ndarray) -> np.ndarray:
    """The paper's formula on one vector a source."""
    number, size = deltas.shape
    magnitudes = np.sort(np.abs(deltas), axis=1)
    low, high = magnitudes[:, [int(size * clip)]], magnitudes[:, [int(size * (1 - clip) - 1)]]
    clipped = np.clip(np.abs(deltas), low, high)
    score = np.exp(number * ((clipped - low) / (high - low)) ** 2) * np.tanh(deltas * deltas.sum(axis=0))
    cut = np.sort(score, axis=1)[:, [int(size * (1 - ratio))]]
    share = (np.maximum(score, cut) - cut) / (score.max(axis=1, keepdims=True) - cut)
    total: np.ndarray = (weights[:, None] * share * clipped * np.sign(deltas)).sum(axis=0)
    return total / np.maximum(share.sum(axis=0), 1e-12)


@given(st.integers(1, 4), st.sampled_from([0.0, 1e-4, 0.05]), st.sampled_from([0.05, 0.3, 0.95, 1.0]))
@pytest.mark.proves("pcb", by="property")
def test_the_formula(number: int, clip: float, ratio: float) -> None:
    base, models = sources(number)
    weights = {s: 0.5 + i for i, s in enumerate(models)}
    found = merge_tensor(METHODS["pcb"], base, models, clip=clip, density=ratio, weight=weights, **{"lambda": 0.7})

    deltas = np.stack([(m - base).double().numpy() for m in models.values()])
    expected = base.double().numpy() + 0.7 * competed(deltas, clip, ratio, np.array(list(weights.values())))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=2e-4)


def test_it_is_not_free_of_scale_unless_told_to_be() -> None:
    """tanh of a raw product: 1000 times smaller task vectors are weighed otherwise."""
    large, small = (sources(3, scale=scale) for scale in (1.0, 1e-3))
    for units, differs in ((False, True), (True, False)):
        first, second = (
            merge_tensor(METHODS["pcb"], torch.zeros_like(b), {s: m - b for s, m in models.items()}, inter_scale=units)
            for b, models in (large, small)
        )
        assert torch.allclose(first / 1e3, second, rtol=1e-2, atol=2e-5) != differs


def test_entries_compete_over_the_whole_model() -> None:
    """One vector in two tensors gives what it gives in one."""
    base, models = sources(3)
    whole = merge_tensor(METHODS["pcb"], base, models)
    halves = merge_tensors(
        METHODS["pcb"],
        {"x": base[:300], "y": base[300:]},
        {s: {"x": m[:300], "y": m[300:]} for s, m in models.items()},
    )

    assert torch.equal(torch.cat([halves["x"], halves["y"]]), whole)


@pytest.mark.parametrize("length", [9, 37, 64])
def test_the_length_of_blocks_does_not_show(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = sources(4)
    expected = merge_tensor(METHODS["pcb"], base, models)
    monkeypatch.setattr(blocks, "BLOCK", length)

    assert torch.equal(merge_tensor(METHODS["pcb"], base, models), expected)


def test_equal_entries_leave_nothing_to_compete() -> None:
    base = torch.ones(6)

    assert torch.equal(merge_tensor(METHODS["pcb"], base, {"a": base + 1, "b": base + 1}), base)


def test_shares_that_differ_between_tensors_are_refused() -> None:
    from evomerge.merge.method import Block

    def block(density: float) -> Block:
        shared = {"clip": 0.1, "inter_scale": False}
        return Block("w", torch.zeros(3), shared, {"a": {"density": density}}, {"a": torch.ones(3)})

    measure = METHODS["pcb"].measure
    assert measure is not None
    with pytest.raises(InvalidInputError, match="one density"):
        measure(lambda: [block(0.1), block(0.2)])


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_outliers_are_brought_to_the_next_quantile(scope: str) -> None:
    base = {"x": torch.zeros(10), "y": torch.zeros(10)}
    delta = {"x": torch.arange(1.0, 11.0) * -1, "y": torch.arange(11.0, 21.0)}
    found = merge_tensors(pipeline(("clip_quantiles", "sum")), base, {"a": delta}, clip=0.1, scope=scope)

    low, high = ([3, 18], [3, 18]) if scope == "global" else ([2, 9], [12, 19])
    assert found["x"].tolist() == delta["x"].clamp(-low[1], -low[0]).tolist()
    assert found["y"].tolist() == delta["y"].clamp(*high).tolist()


def test_entries_without_a_change_stay_so() -> None:
    found = merge_tensor(
        pipeline(("clip_quantiles", "sum")), torch.zeros(4), {"a": torch.tensor([0.0, 1, 2, 3])}, clip=0.4
    )

    assert found[0] == 0
