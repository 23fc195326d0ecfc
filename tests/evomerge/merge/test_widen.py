"""WIDEN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import rankdata
from torch import Tensor

from evomerge.merge.methods import METHODS
from evomerge.merge.primitives.columns import changes, significant_shares
from evomerge.testing.merging import MethodContract, merge_tensor


class TestWiden(MethodContract):
    method = METHODS["widen"]


def sources(shape: tuple[int, ...], number: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(shape, generator=generator)
    return base, {
        s: base + 0.3 * (i + 1) * torch.randn(shape, generator=generator) for i, s in enumerate("abcd"[:number])
    }


def widened(base: np.ndarray, models: list[np.ndarray], t: float, s: float) -> np.ndarray:
    """Column by column, from the formula."""

    def shares(significance: np.ndarray) -> np.ndarray:
        above = significance > t * significance.mean(axis=1, keepdims=True)
        found: np.ndarray = np.where(above, s, softmax(significance, axis=0))
        return found

    lengths = [np.linalg.norm(m, axis=0) for m in (base, *models)]
    moved = [np.abs(own - lengths[0]) for own in lengths[1:]]
    turned = [1 - (m * base).sum(axis=0) / own / lengths[0] for m, own in zip(models, lengths[1:], strict=True)]
    ranks = [np.stack([(rankdata(x) - 1) / len(x) for x in found]) for found in (moved, turned)]
    weights = (shares(ranks[0]) + shares(ranks[1])) / 2
    return base + sum(w * (m - base) for w, m in zip(weights, models, strict=True))


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.61, 1.4)])
@pytest.mark.parametrize("role", ["mlp.up", "head", "embedding", "position"])
@pytest.mark.proves("widen", by="property")
def test_matrices_by_columns_and_tables_of_tokens_by_rows(t: float, s: float, role: str) -> None:
    base, models = sources((14, 12))
    found = merge_tensor(METHODS["widen"], base, models, role=role, threshold=t, value=s)

    turn = np.transpose if role in ("embedding", "position") else np.asarray
    parts = [turn(m.double().numpy()) for m in (base, *models.values())]
    np.testing.assert_allclose(turn(found.double().numpy()), widened(parts[0], parts[1:], t, s), rtol=1e-5, atol=1e-5)


@pytest.mark.proves("widen", by="property")
def test_vectors_are_weighed_by_their_entries() -> None:
    base, models = sources((9,))
    found = merge_tensor(METHODS["widen"], base, models, role="norm.mlp", threshold=1.2, value=0.9)

    sizes = np.stack([(m - base).abs().double().numpy() for m in models.values()])
    weights = np.where(sizes > 1.2 * sizes.mean(axis=1, keepdims=True), 0.9, softmax(sizes, axis=0))
    expected = base.numpy() + sum(w * (m - base).numpy() for w, m in zip(weights, models.values(), strict=True))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("columns", [5, 7, 101])
def test_the_middle_rank_is_the_mean_and_not_above_it(columns: int) -> None:
    """With an odd number of columns a comparison of rounded floats goes either way."""
    ranks = torch.arange(columns, dtype=torch.float64)[None] / columns
    weights = significant_shares(ranks, threshold=1.0, value=7.0)[0]

    assert (weights == 7).tolist() == [False] * (columns // 2 + 1) + [True] * (columns // 2)


def test_columns_that_changed_alike_weigh_alike() -> None:
    base = torch.ones(4, 6)
    found = merge_tensor(METHODS["widen"], base, {"a": base * 2, "b": base * 3})

    assert torch.unique(found).numel() == 1


def test_small_changes_are_ranked_without_rounding() -> None:
    """1 − cos of nearly equal columns is all rounding, in float32 from changes of 1e-4 on."""
    base = torch.ones(64, 5)
    sizes = torch.tensor([3e-6, 1e-6, 5e-6, 2e-6, 4e-6])
    across = torch.tensor([1.0, -1.0]).repeat(32)[:, None]
    moved, turned = changes(base, across * sizes)

    torch.testing.assert_close(turned, (sizes.double() ** 2) / 2, rtol=1e-3, atol=0)
    assert moved.argsort().tolist() == sizes.argsort().tolist()


def test_columns_of_zeros_have_a_direction_to_turn_to() -> None:
    base, delta = torch.zeros(3, 3), torch.zeros(3, 3)
    delta[0, 1], base[0, 2], delta[0, 2] = 2.0, 1.0, -1.0
    moved, turned = changes(base, delta)

    assert moved.tolist() == [0, 2, 1]
    assert turned.tolist() == [0, 1, 1]
