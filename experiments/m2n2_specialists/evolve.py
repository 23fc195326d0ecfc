"""Two specialists merged by M2N2 and its ablations: one JSON file in results/ for each variant and seed.

nice -n 10 env OMP_NUM_THREADS=1 python experiments/m2n2_specialists/evolve.py [--variants m2n2 ...] [--seeds 0 1 ...]

What is there already is not run again; a run that was stopped, or is to be longer, goes on where it was. No child's
weights are kept: an individual is a few hundred coefficients over the two specialists, whose weights are mixed when it
is evaluated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.archive.lineage import Individual, Noise, Strand, cross, founder
from evomerge.candidate import Descent, Evaluation
from evomerge.optimizers.domain import Domain, LineageDomain, Problem
from evomerge.optimizers.m2n2 import M2n2
from evomerge.recipe.segments import Angle

HERE = Path(__file__).parent
sys.path[1:1] = [str(HERE.parent / "m2n2_from_scratch"), str(HERE.parent / "benchmarks" / "toy_merge")]

import digit_experts  # noqa: E402  # beside the line that finds it
from authors_pair import authors_start  # noqa: E402
from digits import HIDDEN, INPUTS, OUTPUTS, WEIGHTS, Digits, Vector, random_network  # noqa: E402
from progress import Progress  # noqa: E402

RESULTS = HERE / "results"
HALVES = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
STEPS, RATE = 10, 3e-3
PAIRS = 30
"""Other pairs of specialists whose best single ratio is looked for."""
CHECKPOINTS = (2, 50, 100, 200, 500, 1000, 2000, 3000, 4000, 5000, 6000, 8000, 10_000)
PAPER = {"population": 20, "warmup": 0}
VARIANTS: dict[str, tuple[Angle, dict[str, Any]]] = {
    "m2n2": ("global", {}),
    "angle_per_side": ("side", {}),
    "no_attraction": ("global", {"attraction": "none"}),
    "no_split": ("global", {"split": False}),
    "no_competition": ("global", {"alpha": 0.0}),
    "ga": ("global", {"alpha": 0.0, "attraction": "none"}),
}


def specialist(digits: Digits, half: int, start: Vector) -> Vector:
    """A network after ten full-batch steps of Adam on one half of the digits."""
    sizes = np.cumsum([INPUTS * HIDDEN, HIDDEN, HIDDEN * OUTPUTS])
    w1, b1, w2, b2 = np.split(start.astype(float), sizes)
    mine = np.isin(digits.labels["train"], HALVES[half])
    images = digit_experts.Digits(digits.images["train"][mine].astype(float), digits.labels["train"][mine])
    fresh = [w1.reshape(INPUTS, HIDDEN), b1, w2.reshape(HIDDEN, OUTPUTS), b2]
    return np.concatenate([t.ravel() for t in digit_experts.train(fresh, images, STEPS, RATE)]).astype(np.float32)


class Pair:
    """The two specialists as a lineage's sources: inner products of any stretch from running sums."""

    def __init__(self, vectors: Sequence[Vector]) -> None:
        self.weights = np.stack(vectors).astype(float)
        products = self.weights[:, None, :] * self.weights[None, :, :]
        self._sums = np.concatenate([np.zeros((1, 2, 2)), np.cumsum(np.moveaxis(products, 2, 0), axis=0)])

    @property
    def starts(self) -> tuple[NDArray[np.int64], ...]:
        """One chromosome of one piece: splits may fall between any two weights."""
        return (np.array([0, WEIGHTS]),)

    def grams(self, chromosome: int, edges: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shape [edges - 1, 2, 2]."""
        return np.diff(self._sums[edges], axis=0)

    def blocks(self, chromosome: int, begin: int, end: int, noise: Sequence[Noise]) -> Iterator[NDArray[np.float64]]:
        """The weights themselves; there is no noise here."""
        yield self.weights[:, begin:end]

    def network(self, strand: Strand) -> Vector:
        """The weights of an individual."""
        lengths = np.diff([*strand.starts.tolist(), WEIGHTS])
        network: Vector = (np.repeat(strand.rows, lengths, axis=0).T * self.weights).sum(axis=0).astype(np.float32)
        return network


def child_of(descent: Descent, known: dict[int, Individual], angle: Angle, pair: Pair) -> Individual:
    """The individual that a proposal speaks of."""
    if descent.parents is None:
        return founder(descent.source or 0, 2, 1)
    a, b = (known[parent] for parent in descent.parents)
    return cross(a, b, descent.splits, descent.mix, angle, pair)


def authors_pair(digits: Digits) -> Pair:
    """The one pair that all searches of the paper begin from, and ours."""
    return Pair([specialist(digits, half, authors_start(half, WEIGHTS)) for half in range(2)])


def run(digits: Digits, variant: str, seed: int, evaluations: int) -> None:
    """Carry one run as far as that: the curve of the archive's best by train accuracy."""
    progress = Progress(RESULTS / f"{variant}_{seed}.json")
    if progress.done >= evaluations:
        return
    angle, options = VARIANTS[variant]
    pair = authors_pair(digits)
    problem = Problem(Domain((), lineage=LineageDomain(sources=2, units=(WEIGHTS,))))
    optimizer = M2n2(problem, seed=seed, **PAPER | options)
    known: dict[int, Individual] = {}
    done, last, began = 0, 0, time.process_time()
    if progress.state is not None:
        done, known = progress.done, progress.state["known"]
        optimizer = M2n2.from_state(progress.state["optimizer"])
    for number in range(done + 1, evaluations + 1):
        (proposal,) = optimizer.ask(1)
        assert proposal.descent is not None
        known[proposal.trial] = child_of(proposal.descent, known, angle, pair)
        solved = digits.solved(pair.network(known[proposal.trial].strands[0])).astype(float).tolist()
        optimizer.tell([Evaluation(proposal.trial, (sum(solved) / len(solved),), responses=(tuple(solved),))])
        known = {member.trial: known[member.trial] for member in optimizer.members}
        if number in CHECKPOINTS:
            best = pair.network(known[max(optimizer.members, key=lambda m: m.rank).trial].strands[0])
            row = {
                "evaluations": number,
                **{split: digits.accuracy(best, split) for split in ("train", "test")},
                "coverage": 100 * optimizer.coverage,
                "entropy_bits": optimizer.entropy,
                "segments": max(individual.num_segments for individual in known.values()),
                "archive_kb": sum(individual.num_bytes for individual in known.values()) / 1000,
                "cpu_ms": 1000 * (time.process_time() - began) / (number - max(done, last)),
            }
            last, began = number, time.process_time()
            progress.save(row, {"known": known, "optimizer": optimizer.state()})


def brute_force(digits: Digits, seed: int, steps: int) -> dict[str, Any]:
    """The best single mixing ratio, by train accuracy: all that can be had without a split point from two models.

    Seed -1: of the authors' pair; else of a pair that begins from other random networks.
    """
    other = [specialist(digits, half, random_network(seed, half)) for half in range(2)] if seed >= 0 else []
    pair = Pair(other) if other else authors_pair(digits)
    ends = founder(0, 2, 1), founder(1, 2, 1)
    mixed = [pair.network(cross(*ends, (0,), t, "global", pair).strands[0]) for t in np.linspace(0, 1, steps)]
    best = max(mixed, key=lambda network: digits.accuracy(network, "train"))
    return {"seed": seed, **{split: digits.accuracy(best, split) for split in ("train", "test")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--evaluations", type=int, default=10_000)
    given = parser.parse_args()
    digits = Digits()
    RESULTS.mkdir(exist_ok=True)
    for seed in given.seeds:
        for variant in given.variants:
            run(digits, variant, seed, given.evaluations)
    path = RESULTS / "brute_force.json"
    if not path.exists():
        found = [brute_force(digits, seed, 1000 if seed < 0 else 100) for seed in range(-1, PAIRS)]
        path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
