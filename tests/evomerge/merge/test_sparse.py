"""Sums of sparse changes, the largest changes, and Hi-Merging's first stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors


class TestSft(MethodContract):
    method = METHODS["sft"]


class TestShira(MethodContract):
    method = METHODS["shira"]


class TestMagMax(MethodContract):
    method = METHODS["magmax"]


class TestHiMerging(MethodContract):
    method = METHODS["hi_merging"]


BASE = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0]), "head": torch.tensor([5.0, 6.0])}
ROLES = {"w": "mlp.up", "head": "head"}
LANGUAGE = {"w": torch.tensor([1.5, 2.0, 3.0, 5.0]), "head": torch.tensor([7.0, 7.0])}
TASK = {"w": torch.tensor([1.0, 4.0, 3.0, 6.0]), "head": torch.tensor([0.0, 1.0])}


@pytest.mark.proves("sft", by="property")
def test_differences_are_added_and_the_head_is_the_tasks_own() -> None:
    models = {"language": LANGUAGE, "task": TASK}
    found = merge_tensors(METHODS["sft"], BASE, models, roles=ROLES, head={"task": True}, weight={"task": 0.5})

    assert found["w"].tolist() == [1.5, 3.0, 3.0, 6.0]
    assert torch.equal(found["head"], TASK["head"])


@pytest.mark.proves("sft", by="property")
def test_without_a_task_the_head_is_the_bases() -> None:
    found = merge_tensors(METHODS["sft"], BASE, {"a": LANGUAGE, "b": TASK}, roles=ROLES)

    assert torch.equal(found["head"], BASE["head"])


def test_two_heads_are_one_too_many() -> None:
    with pytest.raises(InvalidInputError, match="at most one source"):
        merge_tensors(METHODS["sft"], BASE, {"a": LANGUAGE, "b": TASK}, roles=ROLES, head=True)


def test_dense_models_can_be_made_sparse_first() -> None:
    found = merge_tensors(METHODS["sft"], BASE, {"a": TASK}, roles=ROLES, density=0.25, scope="tensor")

    assert int((found["w"] != BASE["w"]).sum()) == 2  # two equal ones at the threshold


@pytest.mark.proves("shira", by="property")
def test_adapters_on_entries_of_their_own_do_not_disturb_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 8, generator=generator)
    owner = torch.randint(0, 3, (6, 8), generator=generator)
    models = {s: torch.where(owner == i, base + torch.randn(6, 8, generator=generator), base)
              for i, s in enumerate("abc")}  # fmt: skip
    found = merge_tensor(METHODS["shira"], base, models)

    for i, s in enumerate("abc"):
        torch.testing.assert_close(found[owner == i], models[s][owner == i])


@pytest.mark.proves("magmax", by="property")
def test_the_largest_change_of_every_entry_wins() -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.zeros(30)
    models = {s: torch.randn(30, generator=generator) for s in "abc"}
    found = merge_tensor(METHODS["magmax"], base, models, **{"lambda": 0.5})

    stack = torch.stack(list(models.values()))
    assert torch.equal(found, 0.5 * stack.gather(0, stack.abs().argmax(dim=0, keepdim=True))[0])


def test_of_equal_changes_the_first_sources_wins() -> None:
    found = merge_tensor(METHODS["magmax"], torch.zeros(1), {"a": torch.tensor([-2.0]), "b": torch.tensor([2.0])})

    assert found.item() == -2


@pytest.mark.proves("hi_merging", by="golden")
def test_pruned_and_scaled_models_are_merged_as_mergekit_does() -> None:
    """Its first stage is mergekit's TIES without normalisation."""
    tensors = load_file(Path(__file__).parents[2] / "golden" / "mergekit" / "merges.safetensors")
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = tensor
    found = merge_tensors(
        METHODS["hi_merging"],
        groups["base"],
        {s: groups[s] for s in "abc"},
        weight={"a": 0.5, "b": -0.6, "c": 1.0},
        density={"a": 0.5, "b": 0.5, "c": 1.0},
    )

    for name, expected in groups["ties_sum"].items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
