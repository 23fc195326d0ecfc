"""ComPEFT and 1bit-Merging."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors


class TestCompeft(MethodContract):
    method = METHODS["compeft"]


class TestStc(MethodContract):
    method = METHODS["compeft"]
    parameters: ClassVar = {"magnitude": "mean", "scope": "tensor"}


class TestOneBit(MethodContract):
    method = METHODS["onebit"]


def sources() -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.zeros(30, 20) for name in "xy"}
    return base, {s: {n: (1 + 9 * (n == "y")) * torch.randn(30, 20, generator=generator) for n in base} for s in "ab"}


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("magnitude", ["std", "mean"])
@pytest.mark.proves("compeft", by="property")
def test_the_largest_entries_become_signs_of_one_magnitude(scope: str, magnitude: str) -> None:
    base, models = sources()
    found = merge_tensors(
        METHODS["compeft"], base, {"a": models["a"]}, density=0.25, alpha=2.0, scope=scope, magnitude=magnitude
    )

    for names in [["x", "y"]] if scope == "global" else [["x"], ["y"]]:
        delta = torch.cat([models["a"][n].flatten() for n in names])
        kept = delta.abs() >= delta.abs().sort(descending=True).values[len(delta) // 4 - 1]
        size = delta.std() if magnitude == "std" else delta[kept].abs().mean()
        expected = torch.where(kept, 2 * size * delta.sign(), 0.0)
        torch.testing.assert_close(torch.cat([found[n].flatten() for n in names]), expected, rtol=1e-5, atol=1e-6)


def test_large_tensors_take_all_of_a_small_share_of_the_whole_model() -> None:
    """Why the scope is a parameter: x is ten times smaller than y."""
    base, models = sources()
    whole, apart = (merge_tensors(METHODS["compeft"], base, models, scope=s) for s in ("global", "tensor"))

    assert int((whole["x"] != 0).sum()) < 10
    assert int((apart["x"] != 0).sum()) >= 120


def test_keeping_all_entries_leaves_task_vectors_as_they_are() -> None:
    base, models = sources()
    found = merge_tensors(METHODS["compeft"], base, models, density=1.0)

    assert all(torch.equal(found[n], models["a"][n] + models["b"][n]) for n in base)


@pytest.mark.parametrize(("which", "role", "done"), [
    ("all", "attention.q", True), ("all", "mlp.down", True), ("all", "embedding", False), ("all", "norm.mlp", False),
    ("attention", "attention.o", True), ("attention", "mlp.up", False), ("mlp", "mlp.up", True),
    ("mlp", "attention.q", False), ("none", "mlp.up", False), ("all", "head", False),
])  # fmt: skip
@pytest.mark.proves("onebit", by="property")
def test_matrices_of_the_chosen_modules_become_signs_of_their_mean_magnitude(which: str, role: str, done: bool) -> None:
    _, models = sources()
    delta = models["a"]["x"]
    found = merge_tensor(METHODS["onebit"], torch.zeros(30, 20), {"a": delta}, role=role, binarise=which)

    torch.testing.assert_close(found, delta.abs().mean() * delta.sign() if done else delta)


def test_vectors_are_not_binarised_whatever_their_role() -> None:
    bias = torch.tensor([1.0, -3.0, 0.5])

    assert torch.equal(merge_tensor(METHODS["onebit"], torch.zeros(3), {"a": bias}, role="attention.q"), bias)


def test_each_source_has_modules_of_its_own() -> None:
    _, models = sources()
    found = merge_tensor(
        METHODS["onebit"], torch.zeros(30, 20), {s: m["x"] for s, m in models.items()}, role="mlp.up",
        binarise={"a": "mlp", "b": "attention"}, weight={"b": 0.5}, **{"lambda": 2.0},
    )  # fmt: skip

    a, b = models["a"]["x"], models["b"]["x"]
    torch.testing.assert_close(found, 2 * (a.abs().mean() * a.sign() + 0.5 * b))
