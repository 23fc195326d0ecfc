"""Frank-Wolfe with several models a step, whose coefficients are learned: FW-Merging's soft variant."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evomerge.merge.calibration.learn import items
from evomerge.merge.calibration.learn.adam import Adam
from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.calibration.learn.descent import Problem, descend
from evomerge.merge.calibration.learn.frank_wolfe import chosen, scores_of
from evomerge.merge.calibration.learn.gates import Learned, Shares, Start

Coefficients = dict[str, dict[str, float]]
"""Tensor → source → what its task vector is multiplied by."""


@dataclass(frozen=True, slots=True)
class SoftPace:
    """How it learns.

    Attributes:
        steps: of Frank-Wolfe.
        batch: items a source that the gradient is taken over.
        score: as of `frank_wolfe`.
        one_choice: models are picked for all tensors at once.
        picks: most models a step.
        first, later: coefficients that the first step and the later ones start from.
        inner_steps, inner_rate, inner_batch: of the learning of a step's coefficients.
    """

    steps: int
    batch: int
    score: str
    one_choice: bool
    picks: int
    first: float
    later: float
    inner_steps: int
    inner_rate: float
    inner_batch: int


def soft_frank_wolfe(
    problem: Problem, inner: Problem, atoms: Mapping[str, Atoms], pace: SoftPace, seed: int, done: Callable[[], None]
) -> Learned:
    """W ← W + Σ λ (s − W) over the models s that the sources' gradients prefer, λ in [0, 1] learned; W begins at θ0.

    Each source's items pick one model: of those that none before has picked, the one of the least score under their
    gradient. With as many picks as sources all take part, and what is learned is where they go from W.

    Args:
        problem: its loss picks.
        inner: its loss decides λ.

    Source: Chen et al. 2025, arXiv:2503.12649, section 3.3, as in the public code (merge_fn: adamerging).
    """
    found: Coefficients = {name: dict.fromkeys(own.vectors, 0.0) for name, own in atoms.items()}
    for step in range(pace.steps):
        here = {name: iterate(own, found[name]) for name, own in atoms.items()}
        picked = _picked(problem, here, atoms, pace, step, seed)
        towards = {name: _towards(atoms[name], here[name], own) for name, own in picked.items()}
        shares = Shares(towards, _always(pace.first if step == 0 else pace.later), one_a_source=False)
        how = Adam(pace.inner_rate)
        descend(
            replace(inner, names=list(towards)), shares, how,
            steps=pace.inner_steps, batch=pace.inner_batch, seed=seed + step, done=done,
        )  # fmt: skip
        learned: Coefficients = {name: {} for name in towards}
        for source, name, share in shares.learned():
            if source in picked[name]:
                learned[name][source] = float(share)
        found |= {name: moved(found[name], own) for name, own in learned.items()}
    for name, own in found.items():
        for source, weight in own.items():
            yield source, name, torch.tensor([weight])


def iterate(atoms: Atoms, coefficients: Mapping[str, float]) -> Tensor:
    """W = θ0 + Σ c δ, in the atoms' orientation."""
    result = atoms.base.clone()
    for source, vector in atoms.vectors.items():
        result += coefficients[source] * vector
    return result


def moved(coefficients: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """The coefficients of W + Σ λ (s − W).

    >>> moved({"a": 0.5, "b": 0.0}, {"b": 0.25})
    {'a': 0.375, 'b': 0.25}
    """
    left = 1 - math.fsum(shares.values())
    return {source: left * weight + shares.get(source, 0.0) for source, weight in coefficients.items()}


def _always(share: float) -> Start:
    return lambda tensor, source: share


def _towards(atoms: Atoms, here: Tensor, picked: Sequence[str]) -> Atoms:
    """W, and s − W of the models that were picked."""
    return replace(atoms, base=here, vectors={s: atoms.base + atoms.vectors[s] - here for s in picked})


def _picked(
    problem: Problem, here: Mapping[str, Tensor], atoms: Mapping[str, Atoms], pace: SoftPace, step: int, seed: int
) -> dict[str, list[str]]:
    """Tensor → models, each the least by the gradient of one source's items among those that are left."""
    found: dict[str, list[str]] = {name: [] for name in atoms}
    stored = {name: atoms[name].stored(tensor) for name, tensor in here.items()}
    for source, own in sorted(problem.samples.items())[: pace.picks]:
        _, gradients = problem.gradients(stored, {source: items.batch(own, step, pace.batch, seed)})
        scores = {
            name: {s: value for s, value in scores_of(whole, whole.stored(gradients[name]), pace.score).items()
                   if s not in found[name]}
            for name, whole in atoms.items()
            if name in gradients
        }  # fmt: skip
        scores = {name: left for name, left in scores.items() if left}
        for name, choice in chosen(scores, pace.one_choice).items():
            found[name].append(choice)
    return {name: sorted(picked) for name, picked in found.items() if picked}
