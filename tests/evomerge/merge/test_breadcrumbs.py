"""Model Breadcrumbs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.merge.methods import METHODS, pipeline
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors


class TestBreadcrumbs(MethodContract):
    method = METHODS["breadcrumbs"]


class TestBreadcrumbsTies(MethodContract):
    method = METHODS["breadcrumbs_ties"]


class TestRescaledOverTheModel(MethodContract):
    method = METHODS["breadcrumbs"]
    parameters: ClassVar = {"scope": "global", "rescale": "l2"}


def kept(size: int, density: float, gamma: float) -> int:
    """How many entries of a vector without equal magnitudes move."""
    base = torch.zeros(size)
    model = torch.randn(size, generator=torch.Generator().manual_seed(size)) + 3
    merged = merge_tensor(METHODS["breadcrumbs"], base, {"a": model}, density=density, gamma=gamma)
    return int(merged.count_nonzero())


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 0.99), st.floats(0, 0.99))
def test_the_density_is_reached_whatever_gamma_is(size: int, density: float, gamma: float) -> None:
    assert kept(size, density, gamma) == max(1, int(density * size))


@pytest.mark.parametrize(("size", "gamma"), [(2048, 0.0), (64, 0.01), (1, 0.3), (3, 0.3)])
def test_a_band_whose_top_share_is_less_than_one_entry_is_not_empty(size: int, gamma: float) -> None:
    assert kept(size, 0.9, gamma) == max(1, int(0.9 * size))


def test_equal_magnitudes_are_not_emptied() -> None:
    merged = merge_tensor(METHODS["breadcrumbs"], torch.zeros(40), {"a": torch.ones(40)}, density=0.1, gamma=0.2)

    assert merged.tolist() == [1.0] * 40


@pytest.mark.proves("breadcrumbs", by="property")
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_it_is_the_band_of_the_paper(scope: str) -> None:
    """Sorted magnitudes written out: the top share goes, the next largest stay."""
    rng = np.random.default_rng(0)
    base = {n: rng.normal(size=shape).astype(np.float32) for n, shape in (("m", (30, 20)), ("v", (50,)))}
    models = {s: {n: b + rng.normal(size=b.shape).astype(np.float32) for n, b in base.items()} for s in "ab"}
    found = merge_tensors(
        METHODS["breadcrumbs"],
        {n: torch.from_numpy(b) for n, b in base.items()},
        {s: {n: torch.from_numpy(m) for n, m in model.items()} for s, model in models.items()},
        density=0.25,
        gamma=0.1,
        weight=0.5,
        scope=scope,
    )

    groups = [["m", "v"]] if scope == "global" else [["m"], ["v"]]
    expected = {n: b.copy() for n, b in base.items()}
    for model in models.values():
        for group in groups:
            magnitudes = np.sort(np.concatenate([np.abs(model[n] - base[n]).ravel() for n in group]))[::-1]
            top, number = int(0.1 * len(magnitudes)), int(0.25 * len(magnitudes))
            high, low = magnitudes[top], magnitudes[top + number - 1]
            for n in group:
                delta = model[n] - base[n]
                expected[n] += 0.5 * np.where((np.abs(delta) >= low) & (np.abs(delta) <= high), delta, 0)
    for n, values in expected.items():
        torch.testing.assert_close(found[n], torch.from_numpy(values))


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_rescaled_task_vectors_have_the_norm_of_the_whole(norm: str) -> None:
    base = torch.zeros(300)
    model = torch.randn(300, generator=torch.Generator().manual_seed(0))
    chain = pipeline(("band", "rescale", "sum"))
    merged = merge_tensor(chain, base, {"a": model}, density=0.2, rescale=norm, scope="tensor")

    order = {"l1": 1, "l2": 2, "linf": float("inf")}[norm]
    assert torch.linalg.vector_norm(merged, order).item() == pytest.approx(
        torch.linalg.vector_norm(model, order).item(), rel=1e-5
    )


def test_the_inverse_of_the_density_is_a_rule_too() -> None:
    merged = merge_tensor(
        pipeline(("trim", "rescale", "sum")),
        torch.zeros(4),
        {"a": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        density=0.5,
        rescale="inverse",
    )

    assert merged.tolist() == [0.0, 0.0, 6.0, 8.0]
