"""Frank-Wolfe over the convex hull of the sources and a start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evomerge.merge.calibration.learn import items
from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.calibration.learn.descent import Problem
from evomerge.merge.calibration.learn.gates import Learned, Start

Vertices = dict[str, dict[str, float]]
"""Tensor → source → its convex weight; what is left to 1 is the start's."""


def frank_wolfe(
    problem: Problem,
    atoms: Mapping[str, Atoms],
    start: Start,
    *,
    steps: int,
    length: float,
    batch: int,
    score: str,
    one_choice: bool,
    seed: int,
    done: Callable[[], None],
) -> Learned:
    """Convex weights: W ← W + γ (s − W), γ = length · 2 / (t + 2), t from 0, s the model that the gradient prefers.

    Args:
        start: W begins at θ0 + Σ start · δ.
        length: at most 1; at 1 the first step leaves the start behind.
        batch: items a source that the gradient is taken over.
        score: `cosine` of gradient and model, as published, or `inner` product, the exact oracle; the least wins,
            of equal ones the first by name.
        one_choice: one model for all tensors (by the sum of the scores), not one for each.

    Source: Chen et al. 2025, arXiv:2503.12649, algorithm 1.
    """
    weights: Vertices = {name: dict.fromkeys(found.vectors, 0.0) for name, found in atoms.items()}
    for step in range(steps):
        here = {name: iterate(found, weights[name], start) for name, found in atoms.items()}
        batches = {s: items.batch(own, step, batch, seed) for s, own in problem.samples.items()}
        _, gradients = problem.gradients(here, batches)
        scores = {
            name: scores_of(found, found.stored(gradients[name]), score)
            for name, found in atoms.items()
            if name in gradients
        }
        move(weights, chosen(scores, one_choice), length * 2 / (step + 2))
        done()
    for name, own in weights.items():
        for source, weight in own.items():
            yield source, name, torch.tensor([weight])


def iterate(atoms: Atoms, weights: Mapping[str, float], start: Start) -> Tensor:
    """Σ w θ + (1 − Σ w) · start, in the orientation that the model holds."""
    left = 1 - math.fsum(weights.values())
    result = atoms.base.clone()
    for source, vector in atoms.vectors.items():
        result += (weights[source] + left * start(atoms.job.name, source)) * vector
    return atoms.stored(result)


def scores_of(atoms: Atoms, gradient: Tensor, score: str) -> dict[str, float]:
    """⟨g, θ⟩ of every source, or its cosine; float64."""
    g = gradient.double().reshape(-1)
    found = {}
    for source, vector in atoms.vectors.items():
        theta = (atoms.base.double() + vector.double()).reshape(-1)
        size = float(g.norm() * theta.norm()) if score == "cosine" else 1.0
        found[source] = float(g @ theta) / size if size else 0.0
    return found


def chosen(scores: Mapping[str, Mapping[str, float]], one_choice: bool) -> dict[str, str]:
    """Tensor → the source of the least score."""
    if one_choice:
        sources = sorted({source for found in scores.values() for source in found})
        totals = {s: math.fsum(found[s] for found in scores.values()) for s in sources}
        return {name: min(sources, key=totals.__getitem__) for name in scores}
    return {name: min(sorted(found), key=found.__getitem__) for name, found in scores.items()}


def move(weights: Vertices, choices: Mapping[str, str], step: float) -> None:
    """W ← (1 − step) W + step · s, in place."""
    for name, choice in choices.items():
        for source in weights[name]:
            weights[name][source] = (1 - step) * weights[name][source] + (step if source == choice else 0.0)
