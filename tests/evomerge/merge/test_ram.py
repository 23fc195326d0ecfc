"""RAM and RAM+."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors


class TestRam(MethodContract):
    method = METHODS["ram"]


class TestRamRelative(MethodContract):
    method = METHODS["ram"]
    parameters: ClassVar = {"epsilon": 0.5, "epsilon_unit": "rms"}


class TestRamPlus(MethodContract):
    method = METHODS["ram_plus"]


class TestRamPlusRelative(MethodContract):
    method = METHODS["ram_plus"]
    parameters: ClassVar = {"epsilon": 0.3, "epsilon_unit": "rms"}


class TestRamPlusByTensor(MethodContract):
    method = METHODS["ramplus_tl"]


@pytest.mark.proves("ram", "ram_plus", "ramplus_tl", by="property")
@pytest.mark.parametrize(
    ("name", "r", "alpha", "whole"), [("ram_plus", 0.2, 1.0, True), ("ramplus_tl", 0.1, 0.2, False)]
)
def test_it_is_the_split_of_the_paper(name: str, r: float, alpha: float, whole: bool) -> None:
    """Shared entries averaged, unique ones scaled by 1 + r·min(shared/unique, α), counted over the model or tensor."""
    rng = np.random.default_rng(4)
    base = {n: rng.normal(size=shape).astype(np.float32) for n, shape in (("m", (21, 17)), ("v", (60,)))}
    shares = {"m": 0.4, "v": 0.1}
    models = {
        s: {
            n: b + (rng.normal(size=b.shape) * (rng.random(b.shape) < shares[n])).astype(np.float32)
            for n, b in base.items()
        }
        for s in "abc"
    }
    found = merge_tensors(
        METHODS[name],
        {n: torch.from_numpy(b) for n, b in base.items()},
        {s: {n: torch.from_numpy(x) for n, x in model.items()} for s, model in models.items()},
        epsilon=0.01,
    )

    deltas = {n: np.stack([models[s][n] - b for s in "abc"]) for n, b in base.items()}
    changed = {n: np.abs(d) > 0.01 for n, d in deltas.items()}
    count = {n: c.sum(axis=0) for n, c in changed.items()}
    shared = {n: (c & (count[n] > 1)).reshape(3, -1).sum(axis=1) for n, c in changed.items()}
    unique = {n: (c & (count[n] == 1)).reshape(3, -1).sum(axis=1) for n, c in changed.items()}
    for n, b in base.items():
        of = ["m", "v"] if whole else [n]
        ratio = sum(shared[k] for k in of) / np.maximum(sum(unique[k] for k in of), 1)
        gain = (1 + r * np.clip(ratio, 0, alpha)).reshape(3, *[1] * b.ndim)
        kept = deltas[n] * changed[n]
        merged = np.where(count[n] == 1, (kept * gain).sum(axis=0), kept.sum(axis=0) / np.maximum(count[n], 1))
        torch.testing.assert_close(found[n], torch.from_numpy((b + merged).astype(np.float32)))
    plain = merge_tensors(
        METHODS["ram"],
        {n: torch.from_numpy(b) for n, b in base.items()},
        {s: {n: torch.from_numpy(x) for n, x in model.items()} for s, model in models.items()},
        epsilon=0.01,
    )
    assert not torch.equal(plain["m"], found["m"])


@pytest.mark.parametrize("name", ["ram", "ram_plus", "ramplus_tl"])
def test_sources_without_an_entry_of_their_own_are_averaged(name: str) -> None:
    base = torch.zeros(30)
    merged = merge_tensor(METHODS[name], base, {"a": torch.ones(30), "b": torch.full((30,), 3.0)})

    assert merged.tolist() == [2.0] * 30


def test_a_relative_threshold_scales_with_the_task_vector() -> None:
    base = torch.zeros(400)
    model = torch.randn(400, generator=torch.Generator().manual_seed(0))
    asked = {"epsilon": 0.5, "epsilon_unit": "rms"}
    large = merge_tensor(METHODS["ram"], base, {"a": model}, **asked)
    small = merge_tensor(METHODS["ram"], base, {"a": model * 2**-20}, **asked)

    assert torch.equal(small, large * 2**-20)
    assert 0 < int(large.count_nonzero()) < 400


def test_what_lies_at_the_threshold_did_not_change() -> None:
    merged = merge_tensor(METHODS["ram"], torch.zeros(3), {"a": torch.tensor([0.5, 0.25, -0.75])}, epsilon=0.5)

    assert merged.tolist() == [0.0, 0.0, -0.75]
