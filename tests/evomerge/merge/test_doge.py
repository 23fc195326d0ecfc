"""DOGE in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.merge.primitives.gaps import closing_edit
from evomerge.testing.merging import MethodContract, merge_tensor, merge_tensors


class TestDoge(MethodContract):
    method = METHODS["doge"]


def sources(number: int = 3, scale: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    base = torch.zeros(11, 9)
    return base, {s: scale * torch.randn(11, 9, generator=generator) for s in "abcd"[:number]}


def loss(vectors: np.ndarray, lambdas: np.ndarray, edit: np.ndarray) -> float:
    together = np.tensordot(lambdas, vectors, axes=1) + lambdas.sum() * edit
    return float(sum((((v * (v - together)).sum(axis=1)) ** 2).sum() for v in vectors))


@pytest.mark.proves("doge", by="property")
def test_the_edit_is_the_shortest_that_closes_all_gaps() -> None:
    _, models = sources()
    vectors = np.stack([m.double().numpy() for m in models.values()])
    lambdas = np.array([0.3, 0.1, 0.2])
    edit = closing_edit(torch.from_numpy(vectors), torch.from_numpy(lambdas)).numpy()

    assert loss(vectors, lambdas, edit) < 1e-18 * loss(vectors, lambdas, 0 * edit)
    together = np.tensordot(lambdas, vectors, axes=1)
    for row in range(len(edit)):
        gaps = [v[row] @ (v[row] - together[row]) / lambdas.sum() for v in vectors]
        shortest = np.linalg.lstsq(vectors[:, row], np.array(gaps), rcond=None)[0]
        np.testing.assert_allclose(edit[row], shortest, rtol=1e-8, atol=1e-10)


def test_dependent_task_vectors_have_a_least_squares_edit() -> None:
    _, models = sources(2)
    vectors = np.stack([models["a"].double().numpy(), 2 * models["a"].double().numpy(), models["b"].double().numpy()])
    lambdas = np.array([0.3, 0.1, 0.2])
    edit = closing_edit(torch.from_numpy(vectors), torch.from_numpy(lambdas)).numpy()
    best = loss(vectors, lambdas, edit)

    generator = np.random.default_rng(0)
    nearby = [edit + 0.01 * generator.standard_normal(edit.shape) for _ in range(20)]
    assert all(best < loss(vectors, lambdas, other) for other in nearby)


@pytest.mark.proves("doge", by="property")
def test_all_of_it_together() -> None:
    base, models = sources()
    found = merge_tensor(METHODS["doge"], base, models, eta=0.5, density=1.0)

    vectors = torch.stack(list(models.values())).double()
    lambdas = 0.5 / vectors.norm(dim=(1, 2))
    edited = vectors + closing_edit(vectors, lambdas)
    torch.testing.assert_close(found.double(), torch.einsum("i,irc->rc", lambdas, edited), rtol=1e-4, atol=1e-6)


def test_masks_are_taken_over_all_matrices_together() -> None:
    models = {"x": torch.ones(4, 5), "y": 10 * torch.ones(4, 5), "table": 99 * torch.ones(4, 5)}
    base = {name: torch.zeros(4, 5) for name in models}
    roles = {"x": "mlp.up", "y": "mlp.up", "table": "embedding"}
    found = merge_tensors(METHODS["doge"], base, {"a": models}, roles=roles, density=0.5)

    assert (found["x"] == 0).all()
    assert (found["y"] != 0).all()
    assert (found["table"] == 0).all()


@pytest.mark.parametrize(("role", "shape"), [("embedding", (11, 9)), ("head", (11, 9)), ("norm.mlp", (9,))])
def test_all_but_matrices_stay_or_are_averaged(role: str, shape: tuple[int, ...]) -> None:
    base, models = torch.zeros(shape), {"a": torch.ones(shape), "b": 3 * torch.ones(shape)}
    kept, averaged = (merge_tensor(METHODS["doge"], base, models, role=role, others=o) for o in ("base", "mean"))

    assert torch.equal(kept, base)
    assert torch.equal(averaged, base + 2)


@pytest.mark.parametrize("scale", [1e-4, 1e2])
def test_gaps_close_at_every_scale_of_the_checkpoints(scale: float) -> None:
    """Steps of an optimiser have the unit of a weight: too long for one model, too short for another."""
    _, models = sources(scale=scale)
    vectors = torch.stack(list(models.values())).double()
    lambdas = 0.07 / vectors.norm(dim=(1, 2))
    edit = closing_edit(vectors, lambdas).numpy()

    assert loss(vectors.numpy(), lambdas.numpy(), edit) < 1e-12 * loss(vectors.numpy(), lambdas.numpy(), 0 * edit)


def test_densities_that_differ_between_tensors_are_refused() -> None:
    from evomerge.merge.method import Block

    shared: dict[str, Any] = {p.name: p.default for p in METHODS["doge"].parameters if not p.per_source}
    blocks = [
        Block("w", torch.zeros(2, 2), shared, {"a": {"density": d}}, {"a": torch.ones(2, 2)}, shape=(2, 2))
        for d in (0.1, 0.2)
    ]
    assert METHODS["doge"].measure is not None
    with pytest.raises(InvalidInputError, match="one density"):
        METHODS["doge"].measure(lambda: blocks)
