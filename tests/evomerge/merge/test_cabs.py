"""CABS."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.methods import METHODS, pipeline
from evomerge.merge.stages import exclusive
from evomerge.testing.merging import MethodContract, merge_tensor


class TestCabs(MethodContract):
    method = METHODS["cabs"]
    parameters: ClassVar = {"group": 8, "density": 0.5}


class TestExclusive(MethodContract):
    method = pipeline(("exclusive", "weigh", "sum"))
    parameters: ClassVar = {"group": 32, "overlap": "none"}


def sources(size: int = 60, number: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return torch.zeros(size), {s: torch.randn(size, generator=generator) for s in "abcd"[:number]}


def masks(models: dict[str, Tensor], **parameters: Any) -> dict[str, Tensor]:
    """Which entries each source keeps: a power of 2 a source shows in the sum."""
    ones = {s: m.sign() * m.abs().argsort().argsort().float().add(1) for s, m in models.items()}
    found = {}
    for s in models:
        weight = {other: float(other == s) for other in models}
        merged = merge_tensor(METHODS["cabs"], torch.zeros_like(models[s]), ones, weight=weight, **parameters)
        found[s] = merged != 0
    return found


@given(st.integers(1, 9), st.floats(0.05, 0.49), st.sampled_from(["share", "drop", "keep"]))
@pytest.mark.proves("cabs", by="property")
def test_no_entry_belongs_to_two_sources_and_each_keeps_n_of_m(group: int, density: float, tail: str) -> None:
    _, models = sources(60)
    found = masks(models, group=group, density=density, tail=tail, overlap="none")

    keep = max(1, round(density * group))
    full = 60 // group * group
    left = torch.full((full // group,), group)
    for mask in found.values():
        counts = mask[:full].view(-1, group).sum(dim=1)
        assert torch.equal(counts, torch.minimum(left, torch.tensor(keep)))
        left = left - counts
    assert not any((found[a] & found[b]).any() for a, b in ("ab", "bc", "ac"))


@pytest.mark.proves("cabs", by="property")
def test_the_first_source_keeps_its_largest_entries() -> None:
    base, models = sources()
    found = merge_tensor(METHODS["cabs"], base, {"a": models["a"]}, group=10, density=0.3)

    for before, after in zip(models["a"].view(-1, 10), found.view(-1, 10), strict=True):
        assert set(after.nonzero().flatten().tolist()) == set(before.abs().topk(3).indices.tolist())


@pytest.mark.parametrize(("tail", "kept"), [("share", 2), ("drop", 0), ("keep", 5)])
def test_what_fills_no_group_has_a_rule_of_its_own(tail: str, kept: int) -> None:
    base, models = sources(25)
    found = merge_tensor(METHODS["cabs"], base, {"a": models["a"]}, group=10, density=0.4, tail=tail)

    assert int((found[20:] != 0).sum()) == kept


def test_a_vector_shorter_than_a_group_is_not_lost() -> None:
    """The published script of small models drops tensors of fewer than m entries: all norms and biases."""
    _, models = sources(12, 2)
    found = masks(models, density=0.25)

    assert {s: int(m.sum()) for s, m in found.items()} == {"a": 3, "b": 3}


def test_the_order_decides_who_chooses_first() -> None:
    _, models = sources()
    first = masks(models, group=6, density=0.3, order={"a": 0.0, "b": 0.5, "c": 1.0})
    last = masks(models, group=6, density=0.3, order={"a": 1.0, "b": 0.5, "c": 0.0})
    alone = masks({"a": models["a"]}, group=6, density=0.3)

    assert METHODS["cabs"].ordered
    assert torch.equal(first["a"], alone["a"])
    assert not torch.equal(last["a"], alone["a"])


def test_beyond_half_of_a_group_sources_share_entries_again() -> None:
    _, models = sources(64, 2)
    shared = masks(models, group=8, density=0.75)
    apart = masks(models, group=8, density=0.75, overlap="none")

    assert (shared["b"] | shared["a"]).all()
    assert int((shared["a"] & shared["b"]).sum()) == 4 * 8
    assert int(apart["b"].sum()) == 2 * 8


@pytest.mark.parametrize("entries", [1, 7, 64])
def test_the_length_of_parts_does_not_show(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = sources(129)
    expected = merge_tensor(METHODS["cabs"], base, models, group=8, density=0.5)
    monkeypatch.setattr(exclusive, "_ENTRIES", entries)

    assert torch.equal(merge_tensor(METHODS["cabs"], base, models, group=8, density=0.5), expected)


def test_the_stages_apart_and_in_one_give_the_same_sum() -> None:
    base, models = sources(129)
    chain = pipeline(("exclusive", "weigh", "sum"))
    apart = merge_tensor(chain, base, models, group=8, density=0.3, weight=0.5)

    assert torch.equal(apart, merge_tensor(METHODS["cabs"], base, models, group=8, density=0.3, weight=0.5))


def test_a_group_is_the_nearest_whole_number() -> None:
    """A search varies it like any number."""
    base, models = sources()
    asked, expected = (merge_tensor(METHODS["cabs"], base, models, group=group) for group in (8.4, 8))

    assert torch.equal(asked, expected)
