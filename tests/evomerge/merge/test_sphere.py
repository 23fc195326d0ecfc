"""Means on the sphere: karcher, multislerp, nuslerp."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.merge.primitives import rows
from evomerge.merge.primitives.aggregate import slerp_weights, slerp_weights_of
from evomerge.testing.merging import MethodContract, merge_tensor


class TestKarcher(MethodContract):
    method = METHODS["karcher"]


class TestMultislerp(MethodContract):
    method = METHODS["multislerp"]


class TestMultislerpOfTaskVectors(MethodContract):
    method = METHODS["multislerp"]
    parameters: ClassVar = {"origin": "base", "normalize_weights": False}


class TestNuslerp(MethodContract):
    method = METHODS["nuslerp"]


class TestNuslerpOfTaskVectors(MethodContract):
    method = METHODS["nuslerp"]
    parameters: ClassVar = {"origin": "base"}


class TestNuslerpByRows(MethodContract):
    method = METHODS["nuslerp"]
    parameters: ClassVar = {"nuslerp_flatten": False}


class TestNuslerpByColumnsOfTaskVectors(MethodContract):
    method = METHODS["nuslerp"]
    parameters: ClassVar = {"nuslerp_flatten": False, "nuslerp_row_wise": True, "origin": "base"}


def zoo(number: int, shape: tuple[int, ...] = (13, 11), step: float = 0.5) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(number)
    base = torch.randn(shape, generator=generator)
    return base, {s: base + step * torch.randn(shape, generator=generator) for s in "abcde"[:number]}


def logarithm(at: np.ndarray[Any, Any], point: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    angle = np.arccos(at @ point)
    return np.asarray(angle / np.sin(angle) * (point - (at @ point) * at))


@pytest.mark.proves("karcher", by="property")
def test_at_karchers_mean_the_pulls_of_all_models_cancel() -> None:
    base, models = zoo(4)
    w = {"a": 1.0, "b": 0.5, "c": 2.0, "d": 0.25}
    found = merge_tensor(METHODS["karcher"], base, models, weight=w, max_iter=100.0, tol=1e-8).double().numpy().ravel()

    points = {s: m.double().numpy().ravel() for s, m in models.items()}
    norms = {s: np.linalg.norm(x) for s, x in points.items()}
    mean = found / np.linalg.norm(found)
    pull = sum(w[s] * logarithm(mean, x / norms[s]) for s, x in points.items())
    assert np.linalg.norm(pull) < 1e-5
    assert np.linalg.norm(found) == pytest.approx(sum(w[s] * norms[s] for s in w) / sum(w.values()), rel=1e-6)


@pytest.mark.proves("karcher", "multislerp", by="property")
def test_of_two_unit_models_the_means_are_points_of_the_arc() -> None:
    _, models = zoo(2)
    a, b = (m / m.norm() for m in models.values())
    t = 0.3
    asked = {"weight": {"a": 1 - t, "b": t}}
    found = merge_tensor(METHODS["karcher"], a, {"a": a, "b": b}, max_iter=50.0, tol=1e-8, **asked)
    middle = merge_tensor(METHODS["multislerp"], a, {"a": a, "b": b}, weight=0.5)

    torch.testing.assert_close(found, merge_tensor(METHODS["slerp"], a, {"a": a, "b": b}, t=t), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(middle, merge_tensor(METHODS["slerp"], a, {"a": a, "b": b}, t=0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.proves("multislerp", by="property")
@pytest.mark.parametrize("origin", ["zero", "base"])
def test_the_tangent_space_of_multislerp_adds_nothing(origin: str) -> None:
    """The operator as its author states it, tangents and all, in float64."""
    base, models = zoo(3)
    w = np.array([0.2, 0.5, 0.9]) / 1.6
    found = merge_tensor(
        METHODS["multislerp"], base, models, weight=dict(zip("abc", (0.2, 0.5, 0.9), strict=True)), origin=origin
    )

    start = base.double().numpy().ravel() * (origin == "base")
    points = np.stack([m.double().numpy().ravel() - start for m in models.values()])
    norms = np.linalg.norm(points, axis=1)
    units = points / norms[:, None]
    mean = w @ units / np.linalg.norm(w @ units)
    tangent = w @ (units - (units @ mean)[:, None] * mean)
    length = np.linalg.norm(tangent) + 1e-8
    expected = start + (mean * np.cos(length) + tangent * np.sin(length) / length) * (w @ norms)
    torch.testing.assert_close(found.double().flatten(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_directions_that_cancel_are_refused_and_two_are_interpolated_linearly() -> None:
    x = torch.tensor([1.0, 2.0, 2.0])
    three = {"a": x, "b": -x, "c": torch.zeros(3)}
    merged = merge_tensor(METHODS["multislerp"], x, {"a": x, "b": -3 * x}, weight=0.5)

    torch.testing.assert_close(merged, -x)
    with pytest.raises(InvalidInputError, match="do not cancel"):
        merge_tensor(METHODS["multislerp"], x, three)


def test_opposite_and_zero_models_have_a_finite_mean() -> None:
    x = torch.tensor([1.0, 2.0, 2.0])
    for models in ({"a": x, "b": -x}, {"a": x, "b": torch.zeros(3)}, {"a": torch.zeros(3), "b": torch.zeros(3)}):
        merged = merge_tensor(METHODS["karcher"], x, models)

        assert torch.isfinite(merged).all()
    assert torch.equal(merged, torch.zeros(3))


@pytest.mark.parametrize("name", ["karcher", "multislerp", "nuslerp"])
def test_equal_models_give_exactly_that_model(name: str) -> None:
    base, models = zoo(2)
    a = models["a"]

    for asked in ({}, {"nuslerp_flatten": False}) if name == "nuslerp" else ({},):
        assert torch.equal(merge_tensor(METHODS[name], base, {"a": a, "b": a.clone()}, **asked), a)


def test_nearly_equal_models_do_not_lose_their_difference() -> None:
    """A plain weighted sum rounds at the size of the weights, not at that of their difference."""
    base = torch.randn(5000, generator=torch.Generator().manual_seed(0)) + 4
    models = {
        s: base + 1e-5 * torch.randn(5000, generator=torch.Generator().manual_seed(k)) for k, s in enumerate("ab")
    }
    found = merge_tensor(METHODS["karcher"], base, models)

    middle = (models["a"].double() + models["b"].double()) / 2
    assert (found.double() - middle).abs().max() < 5e-7


@pytest.mark.proves("nuslerp", by="property")
@pytest.mark.parametrize("first", [False, True])
def test_every_row_or_column_turns_by_its_own_angle(first: bool) -> None:
    base, models = zoo(2, shape=(9, 7))
    found = merge_tensor(
        METHODS["nuslerp"],
        base,
        models,
        weight={"a": 1.0, "b": 3.0},
        nuslerp_flatten=False,
        nuslerp_row_wise=first,
    )

    a, b = (m.double().numpy() for m in models.values())
    axis = 0 if first else 1
    cosine = (a * b).sum(axis) / np.linalg.norm(a, axis=axis) / np.linalg.norm(b, axis=axis)
    angle = np.expand_dims(np.arccos(cosine), axis)
    expected = (np.sin(0.25 * angle) * a + np.sin(0.75 * angle) * b) / np.sin(angle)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (4, 5, 3)])
@pytest.mark.parametrize("first", [False, True])
def test_other_shapes_than_matrices_are_interpolated_too(shape: tuple[int, ...], first: bool) -> None:
    base, models = zoo(2, shape=shape)
    found = merge_tensor(METHODS["nuslerp"], base, models, nuslerp_flatten=False, nuslerp_row_wise=first)

    def as_rows(x: Tensor) -> Tensor:
        whole = x.reshape(shape[0], -1).t() if first and len(shape) > 1 else x.reshape(-1, shape[-1])
        return whole.contiguous()

    rows_of = {s: as_rows(m) for s, m in models.items()}
    expected = merge_tensor(METHODS["nuslerp"], as_rows(base), rows_of, nuslerp_flatten=False)
    torch.testing.assert_close(as_rows(found), expected)


@pytest.mark.parametrize("asked", [{"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}])
def test_the_rows_worked_on_at_a_time_do_not_matter(asked: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = zoo(2)
    whole = merge_tensor(METHODS["nuslerp"], base, models, **asked)
    monkeypatch.setattr(rows, "_ENTRIES", 30)

    torch.testing.assert_close(merge_tensor(METHODS["nuslerp"], base, models, **asked), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["nuslerp", "multislerp"])
def test_the_base_is_read_where_it_is_the_origin(name: str) -> None:
    assert METHODS[name].baseless(2, {"origin": "zero"})
    assert not METHODS[name].baseless(2, {"origin": "base"})


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_weights_of_many_pairs_are_those_of_each(t: float) -> None:
    a, b = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1)).double()
    a[:4], b[0], b[1], b[2], b[3] = a[4], a[4], -a[4], 0.0, 2 * a[4]
    products = (torch.stack([a, b], 1) @ torch.stack([a, b], 2)).numpy()
    found = slerp_weights_of(t, products)

    expected = [slerp_weights(t, aa, bb, ab) or (1 - t, t) for (aa, ab), (_, bb) in products.tolist()]
    assert found.tolist() == [list(pair) for pair in expected]
