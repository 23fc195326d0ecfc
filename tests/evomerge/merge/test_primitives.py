"""Primitives against their definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.primitives import measure, weights
from evomerge.merge.primitives.aggregate import affine, slerp_weights, weighted_sum
from evomerge.merge.primitives.elect import elect, settle
from evomerge.merge.primitives.measure import count_kept, kth_magnitudes
from evomerge.merge.primitives.sparsify import bernoulli, mask_key, trim

values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


def threshold(blocks: list[Tensor], density: float, zeros: int = 0) -> float:
    def rows() -> Iterator[tuple[int, Mapping[str, Tensor | None]]]:
        yield from ((len(block), {"a": block}) for block in blocks)
        if zeros:
            yield zeros, {"a": None}

    return kth_magnitudes(rows, {"a": density})["a"]


@settings(deadline=None)
@given(values, st.floats(0, 1), st.integers(1, 7), st.integers(0, 5))
def test_the_threshold_is_the_kth_largest_magnitude_however_it_is_cut(
    entries: list[float], density: float, length: int, zeros: int
) -> None:
    x = torch.tensor(entries)
    kept = count_kept(density, len(entries) + zeros)
    found = threshold(list(x.split(length)), density, zeros)

    magnitudes = torch.cat([x.abs(), torch.zeros(zeros)]).sort(descending=True).values
    expected = 0.0 if density == 1 else magnitudes[kept - 1].item() if kept else float("inf")
    assert found == expected


def test_a_crowded_bin_is_counted_instead_of_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_PENDING", 10)
    x = 1 + torch.rand(500, generator=torch.Generator().manual_seed(0)) / 32
    expected = x.sort(descending=True).values

    assert threshold(list(x.split(7)), 0.3) == expected[149].item()
    assert threshold([torch.zeros(40)], 0.5, zeros=60) == 0.0


def test_trim_keeps_entries_that_equal_the_threshold() -> None:
    x = torch.tensor([1.0, -2.0, 2.0, 3.0])

    assert trim(x, 2.0).tolist() == [0.0, -2.0, 2.0, 3.0]


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1))
def test_a_mask_is_the_same_in_whatever_blocks_it_is_asked_for(offset: int, length: int, density: float) -> None:
    key = mask_key(3, "math", "model.norm.weight")
    whole = bernoulli(key, density, 0, 80)

    assert torch.equal(bernoulli(key, density, offset, length), whole[offset : offset + length])


def test_a_mask_keeps_its_share_and_only_grows_with_density() -> None:
    key = mask_key(3, "math", "model.norm.weight")
    thin, thick = bernoulli(key, 0.3, 0, 100_000), bernoulli(key, 0.4, 0, 100_000)

    assert abs(thin.mean().item() - 0.3) < 5 * (0.3 * 0.7 / 1e5) ** 0.5
    assert (thin <= thick).all()
    assert not bernoulli(key, 0.0, 0, 100).any()
    assert bernoulli(key, 1.0, 0, 100).all()


def test_masks_of_different_seeds_sources_and_tensors_are_independent() -> None:
    masks = [
        bernoulli(mask_key(*key), 0.5, 0, 100_000)
        for key in ((0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"))
    ]

    agreement = [(masks[0] == other).float().mean().item() for other in masks[1:]]
    assert all(abs(share - 0.5) < 5 * 0.5 / 1e5**0.5 for share in agreement)


def test_the_first_draws_of_a_mask_never_change() -> None:
    """A change here would change the bytes of every DARE recipe there is."""
    kept = bernoulli(mask_key(0, "math", "w"), 0.5, 0, 16).int().tolist()

    assert kept == [0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1]


@settings(deadline=None)
@given(values, st.floats(-2, 2))
def test_an_affine_combination_of_one_model_is_that_model(entries: list[float], weight: float) -> None:
    x = torch.tensor(entries)
    models = {"a": x.clone(), "b": x.clone()}

    assert torch.equal(affine(models, {"a": weight, "b": 1 - weight}), x)


@settings(deadline=None)
@given(values)
def test_all_weight_on_one_model_gives_exactly_that_model(entries: list[float]) -> None:
    x = torch.tensor(entries)
    models = {"a": x * 1e-20 + 3.0, "b": x}

    assert torch.equal(affine(models, {"a": 0.0, "b": 1.0}), x)


def test_a_source_of_weight_zero_does_not_count_whatever_it_holds() -> None:
    x = torch.tensor([1.0])
    result = weighted_sum({"a": x, "b": torch.tensor([float("inf")])}, {"a": 2.0, "b": 0.0}, like=x)

    assert result.tolist() == [2.0]


@pytest.mark.parametrize("found", [{"a": 1.0, "b": -1.0}, {"a": 0.0}, {"a": 5e-324, "b": 0.0, "c": 1e-5, "d": -1e-5}])
def test_weights_without_a_sum_cannot_be_normalised(found: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="sum"):
        weights.normalised(found)


def test_votes_that_are_even_take_the_tie_sign() -> None:
    votes = [torch.tensor([1.0, -3.0, 2.0]), torch.tensor([-1.0, 1.0, 2.0])]

    assert settle(elect(votes, "mass"), -1.0).tolist() == [-1.0, -1.0, 1.0]
    assert settle(elect(votes, "count"), 1.0).tolist() == [1.0, 1.0, 1.0]


def test_parallel_and_zero_vectors_are_interpolated_linearly() -> None:
    assert slerp_weights(0.3, 1.0, 4.0, 2.0) is None
    assert slerp_weights(0.3, 1.0, 4.0, -2.0) is None
    assert slerp_weights(0.3, 0.0, 4.0, 0.0) is None
