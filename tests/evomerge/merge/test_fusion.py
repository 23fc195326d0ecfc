"""model_stock, nearswap, arcee_fusion, passthrough."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import MethodContract, merge_tensor


class TestModelStock(MethodContract):
    method = METHODS["model_stock"]


class TestModelStockByFilters(MethodContract):
    method = METHODS["model_stock"]
    parameters: ClassVar = {"filter_wise": True}


class TestNearswap(MethodContract):
    method = METHODS["nearswap"]


class TestArceeFusion(MethodContract):
    method = METHODS["arcee_fusion"]


class TestPassthrough(MethodContract):
    method = METHODS["passthrough"]


@pytest.mark.proves("model_stock", by="property")
def test_the_ratio_puts_the_merge_where_it_is_orthogonal_to_the_sources() -> None:
    """The paper's geometry: of vectors of one length and one angle, θ − θ0 is orthogonal to every θ − δk."""
    size, number = 64, 3
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(size, number + 1)))[0].T
    common, own = basis[0], basis[1:]
    deltas = 0.6 * common + 0.8 * own  # unit vectors, cosine 0.36
    base = torch.from_numpy(rng.normal(size=size)).float()
    models = {s: base + torch.from_numpy(d).float() for s, d in zip("abc", deltas, strict=True)}
    moved = (merge_tensor(METHODS["model_stock"], base, models) - base).double().numpy()

    ratio = 3 * 0.36 / (1 + 2 * 0.36)
    np.testing.assert_allclose(moved, ratio * deltas.mean(axis=0), atol=1e-6)
    for delta in deltas:
        assert abs((moved - delta) @ moved - (moved @ moved - delta @ moved)) < 1e-9
        assert delta @ moved == pytest.approx(moved @ moved / ratio, rel=1e-5)


def test_every_filter_has_its_own_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 12, generator=generator)
    models = {s: base + torch.randn(8, 12, generator=generator) for s in "abc"}
    found = merge_tensor(METHODS["model_stock"], base, models, filter_wise=True)

    for row in range(8):
        single = merge_tensor(METHODS["model_stock"], base[row], {s: m[row] for s, m in models.items()})
        torch.testing.assert_close(found[row], single)


def test_task_vectors_that_cancel_stay_at_the_base() -> None:
    base, delta = torch.ones(10), torch.arange(10.0)

    assert torch.equal(merge_tensor(METHODS["model_stock"], base, {"a": base + delta, "b": base - delta}), base)


def test_small_task_vectors_go_as_far_as_large_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = {s: torch.randn(16, generator=generator) for s in "ab"}
    base = torch.zeros(16)
    large = merge_tensor(METHODS["model_stock"], base, deltas)
    small = merge_tensor(METHODS["model_stock"], base, {s: d * 2**-20 for s, d in deltas.items()})
    floored = merge_tensor(METHODS["model_stock"], base, {s: d * 2**-20 for s, d in deltas.items()}, norm_floor=1e-6)

    torch.testing.assert_close(small * 2**20, large)
    assert floored.abs().max() < small.abs().max() / 2


@pytest.mark.proves("nearswap", by="property")
def test_near_entries_are_swapped_and_far_ones_moved_by_t() -> None:
    base = torch.tensor([0.0, 1.0, -2.0, 3.0])
    model = torch.tensor([0.05, 1.5, -4.0, 3.0])
    found = merge_tensor(METHODS["nearswap"], base, {"a": model}, t=0.1)

    difference = model - base
    share = (0.1 / difference.abs()).clamp(max=1)
    expected = torch.where(difference == 0, base, share * model + (1 - share) * base)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, torch.tensor([0.05, 1.1, -2.1, 3.0]))


def fused(base: np.ndarray, model: np.ndarray, factor: float) -> np.ndarray:
    """The operator in float64, with quartiles from a full sort."""
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in (model, base))
    p, q = p / p.sum(-1, keepdims=True) + 1e-8, q / q.sum(-1, keepdims=True) + 1e-8
    importance = np.abs(model - base) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(importance.ravel())
    q1, median, q3 = (ordered[int(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75))
    return np.where(importance >= median + factor * (q3 - q1), model, base)


@pytest.mark.proves("arcee_fusion", by="property")
@pytest.mark.parametrize(
    ("shape", "factor"), [((31, 17), 1.5), ((90,), 0.5), pytest.param((1010, 1000), 1.5, marks=pytest.mark.slow)]
)
def test_the_quartiles_are_exact_however_large_the_tensor_is(shape: tuple[int, ...], factor: float) -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=shape).astype(np.float32)
    model = base + (0.3 * rng.normal(size=shape)).astype(np.float32)
    found = merge_tensor(
        METHODS["arcee_fusion"], torch.from_numpy(base), {"a": torch.from_numpy(model)}, iqr_factor=factor
    )

    expected = fused(base.astype(np.float64), model.astype(np.float64), factor)
    differing = np.abs(found.numpy() - expected) > 1e-6
    assert differing.sum() <= max(1, found.numel() // 100_000)  # entries at the threshold, to a rounding
    assert 0.01 < (np.abs(expected - base) > 0).mean() < 0.3


def test_passthrough_scales() -> None:
    base, model = torch.zeros(3), torch.tensor([1.0, -2.0, 4.0])

    assert merge_tensor(METHODS["passthrough"], base, {"a": model}, scale=0.5).tolist() == [0.5, -1.0, 2.0]
    assert torch.equal(merge_tensor(METHODS["passthrough"], base, {"a": model}), model)
    assert METHODS["passthrough"].keeps_base({"scale": 1.0})
    assert not METHODS["passthrough"].keeps_base({"scale": 0.5})
