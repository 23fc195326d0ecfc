"""Consensus merging with TALL masks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import MethodContract, merge_tensor


class TestTallConsensus(MethodContract):
    method = METHODS["tall_consensus"]


class TestTallConsensusTies(MethodContract):
    method = METHODS["tall_consensus_ties"]


def sources(number: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = 3 + torch.randn(40, 25, generator=generator)
    return base, {s: base + 0.1 * torch.randn(40, 25, generator=generator) for s in "abcd"[:number]}


def masks(base: Tensor, models: dict[str, Tensor], anchor: Tensor) -> Tensor:
    together = sum(m - base for m in models.values())
    return torch.stack([(m - base - anchor).abs() > 0.4 * (together - (m - base)).abs() for m in models.values()])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.proves("tall_consensus", by="property")
def test_entries_stay_that_enough_sources_need(count: int) -> None:
    base, models = sources()
    found = merge_tensor(METHODS["tall_consensus"], base, models, min_count=count, **{"lambda": 0.5})

    keep = masks(base, models, torch.zeros(())).sum(dim=0) >= count
    expected = base + 0.5 * keep * sum(m - base for m in models.values())
    torch.testing.assert_close(found, expected)


def test_masks_compare_with_no_change_never_with_the_base_weights() -> None:
    """A public port puts θ0 where 0 belongs: then nearly every entry counts as needed by all."""
    base, models = sources()
    found = merge_tensor(METHODS["tall_consensus"], base, models, min_count=3)

    right, wrong = (masks(base, models, anchor).all(dim=0).float().mean() for anchor in (torch.zeros(()), base))
    assert wrong > 0.99
    assert right < 0.6
    assert float((found != base).float().mean()) == pytest.approx(float(right), abs=0.01)


def test_what_stays_is_the_merged_vector_not_a_source_of_it() -> None:
    """Another port scores a source's own masked vector."""
    base, models = sources()
    found = merge_tensor(METHODS["tall_consensus"], base, models, min_count=1, **{"lambda": 1.0}) - base
    together = sum(m - base for m in models.values())

    kept = found != 0
    torch.testing.assert_close(found[kept], together[kept], rtol=1e-4, atol=1e-6)


def test_more_votes_keep_less() -> None:
    base, models = sources(4)
    kept = [merge_tensor(METHODS["tall_consensus"], base, models, min_count=k) != base for k in (1, 2, 3, 4)]

    assert all(not (more & ~fewer).any() for fewer, more in pairwise(kept))


def test_one_source_alone_is_kept_by_one_vote_and_lost_by_two() -> None:
    base, models = sources(1)
    one, two = (merge_tensor(METHODS["tall_consensus"], base, models, min_count=k, **{"lambda": 1.0}) for k in (1, 2))

    torch.testing.assert_close(one, models["a"])
    assert torch.equal(two, base)


def test_each_source_has_a_threshold_of_its_own() -> None:
    base = torch.zeros(1)
    models = {"a": torch.tensor([1.0]), "b": torch.tensor([1.5])}
    loose = merge_tensor(METHODS["tall_consensus"], base, models, mask_lambda={"a": 0.6, "b": 1.4})
    strict = merge_tensor(METHODS["tall_consensus"], base, models, mask_lambda={"a": 0.7, "b": 1.4})

    assert loose.item() == pytest.approx(0.3 * 2.5)
    assert strict.item() == 0
