"""Arcee Fusion's compiled loops: the float64 of NumPy, bit for bit, whatever the length of a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.merge.fused.reading import address, bits_of
from evomerge.merge.methods.arcee_fusion import divergences
from evomerge.merge.primitives.measure import LOW_BITS

pytest.importorskip("numba")

LENGTHS = [*range(1, 40), 127, 128, 129, 135, 136, 137, 255, 257, 264, 576, 1000, 1023, 1025, 5001]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_sum_is_numpys(length: int) -> None:
    from evomerge.merge.fused.importance import pairwise

    rows = np.random.default_rng(length).normal(size=(3, length))

    assert [pairwise(row) for row in rows] == rows.sum(-1).tolist()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("scale", [0.03, 3.0, 300.0])
def test_divergences_and_importances_are_those_of_the_torch_path(length: int, scale: float) -> None:
    from evomerge.merge.fused import importance

    base, model = _models(length, scale)
    found, counts = np.empty(5, np.float32), np.zeros((2, 1 << (31 - LOW_BITS)), np.int64)
    at = (np.uint64(address(bits_of(model))), np.uint64(address(bits_of(base))), length)
    finite = importance.measured(*at, found, counts)
    delta = model.float() - base.float()
    expected = divergences(base.float(), delta)
    bits = delta.abs().mul(expected.unsqueeze(1)).numpy().view(np.uint32)
    upper = np.bincount(bits.ravel() >> LOW_BITS, minlength=counts.shape[1])
    high = np.array([upper.argmax(), bits.max() >> LOW_BITS])
    inside, number = np.empty((2, bits.size + 2), np.int32), np.zeros(2, np.int64)
    importance.gathered(*at, found, high, inside, number)

    assert finite
    assert found.tolist() == expected.tolist()
    assert counts.sum(0).tolist() == upper.tolist()
    for row, of, within in zip(inside, number, high, strict=True):
        assert row[:of].tolist() == bits[bits >> LOW_BITS == within].tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("of_base", [True, False])
def test_what_is_not_finite_is_noticed(value: float, *, of_base: bool) -> None:
    from evomerge.merge.fused import importance

    base, model = _models(17, 0.03)
    (base if of_base else model)[3, 16] = value
    counts = np.zeros((2, 1 << (31 - LOW_BITS)), np.int64)
    at = np.uint64(address(bits_of(model))), np.uint64(address(bits_of(base)))

    assert not importance.measured(*at, 17, np.empty(5, np.float32), counts)


def _models(length: int, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    base = scale * torch.randn(5, length, generator=generator)
    return base.bfloat16(), (base + 0.2 * scale * torch.randn(5, length, generator=generator)).bfloat16()
