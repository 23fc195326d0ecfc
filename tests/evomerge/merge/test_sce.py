"""SCE."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import MethodContract, merge_tensor

SCE = METHODS["sce"]


class TestSce(MethodContract):
    method = SCE


class TestSceOfAll(MethodContract):
    method = SCE
    parameters: ClassVar = {"select_topk": 1.0, "energy_floor": 1e-6}


@pytest.mark.proves("sce", by="property")
@pytest.mark.parametrize("shape", [(19, 23), (101,)])
def test_it_is_select_calculate_erase(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=shape).astype(np.float32)
    scales = (1e-4, 3e-4, 2e-4)
    models = [base + (s * rng.normal(size=shape)).astype(np.float32) for s in scales]
    named = dict(zip("abc", map(torch.from_numpy, models), strict=True))
    found = merge_tensor(SCE, torch.from_numpy(base), named, select_topk=0.37)

    deltas = np.stack([m - base for m in models]).astype(np.float64)
    variance = deltas.var(axis=0)
    least = np.sort(variance.ravel())[::-1][int(0.37 * np.count_nonzero(variance)) - 1]
    deltas = deltas * (variance >= least)
    energy = (deltas**2).reshape(3, -1).mean(axis=1)
    shares = (energy / energy.sum()).reshape(3, *[1] * len(shape))
    agree = np.sign(deltas) == np.where(deltas.sum(axis=0) >= 0, 1, -1)
    merged = (shares * agree * deltas).sum(axis=0) / np.maximum((shares * agree).sum(axis=0), 1e-6)
    assert np.abs(found.numpy() - base - merged).max() < 1.5e-7  # a rounding of the base
    assert np.abs(merged).max() > 1e-4


def test_small_task_vectors_are_weighed_by_their_energy_unless_mergekits_floor_is_asked_for() -> None:
    base = torch.zeros(1000)
    models = {"a": torch.full((1000,), 1e-4), "b": torch.full((1000,), 3e-4)}

    ours = merge_tensor(SCE, base, models, select_topk=1.0)
    theirs = merge_tensor(SCE, base, models, select_topk=1.0, energy_floor=1e-6)
    torch.testing.assert_close(ours, torch.full((1000,), 0.1e-4 + 0.9 * 3e-4))
    torch.testing.assert_close(theirs, torch.full((1000,), 2e-4))


def test_where_sources_agree_everywhere_nothing_is_selected() -> None:
    base, model = torch.zeros(50), torch.ones(50)

    assert torch.equal(merge_tensor(SCE, base, {"a": model, "b": model.clone()}), base)
