"""Networks evolved from nothing by M2N2, its ablations and CMA-ES: one JSON file in results/ for each variant and seed.

nice -n 10 env OMP_NUM_THREADS=1 python experiments/m2n2_from_scratch/evolve.py [--variants m2n2 ...] [--seeds 0 1 ...]

What is there already is not run again; a run that was stopped, or is to be longer, goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from digits import WEIGHTS, Digits, Vector, descend, random_network
from progress import Progress

from evomerge.candidate import Evaluation
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.domain import Domain, LineageDomain, Problem, real
from evomerge.optimizers.m2n2 import M2n2

RESULTS = Path(__file__).with_name("results")
CHECKPOINTS = (200, 500, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7500, 10_000, 12_500, 15_000, 20_000)
PAPER = {"population": 20, "mutation": 0.01, "warmup": 0}
VARIANTS: dict[str, dict[str, Any]] = {
    "m2n2": {},
    "no_split": {"split": False},
    "no_attraction": {"attraction": "none"},
    "no_crossover": {"crossover": False},
    "no_competition": {"alpha": 0.0},
    "ga": {"alpha": 0.0, "attraction": "none"},
}
BUDGET = {"cma_es": 10_000}
"""Evaluations, 20,000 unless named here."""
SPAN = 1.0
"""CMA-ES searches weights from -SPAN to SPAN: a gene of ½ is a weight of 0."""


def evolve(digits: Digits, seed: int, evaluations: int, progress: Progress, **options: Any) -> None:
    """M2N2 on a lineage of two random networks; reports the archive's best by train accuracy, as the authors do."""
    lineage = LineageDomain(sources=2, units=(WEIGHTS,))
    optimizer = M2n2(Problem(Domain((), lineage=lineage)), seed=seed, **PAPER | options)
    sources = [random_network(seed, number) for number in range(2)]
    known: dict[int, Vector] = {}
    done = 0
    if progress.state is not None:
        done, known = progress.done, progress.state["known"]
        optimizer = M2n2.from_state(progress.state["optimizer"])
    for number in range(done + 1, evaluations + 1):
        (proposal,) = optimizer.ask(1)
        assert proposal.descent is not None
        child = descend(proposal.descent, proposal.trial, sources, known, seed)
        solved = digits.solved(child).astype(float).tolist()
        optimizer.tell([Evaluation(proposal.trial, (sum(solved) / len(solved),), responses=(tuple(solved),))])
        if any(member.trial == proposal.trial for member in optimizer.members):
            kept = {member.trial for member in optimizer.members}
            known = {trial: network for trial, network in (*known.items(), (proposal.trial, child)) if trial in kept}
        if number in CHECKPOINTS:
            best = known[max(optimizer.members, key=lambda m: m.rank).trial]
            more = {"coverage": 100 * optimizer.coverage, "entropy_bits": optimizer.entropy}
            progress.save(row(digits, number, best) | more, {"known": known, "optimizer": optimizer.state()})


def adapt(digits: Digits, seed: int, evaluations: int, progress: Progress) -> None:
    """CMA-ES on the weights themselves, variances only; reports the best ever by train accuracy."""
    start = tuple((0.5 + random_network(seed, 0).astype(float) / 2 / SPAN).tolist())
    optimizer = CmaEs(real(start), seed=seed, population=20, sigma=0.01 / 2 / SPAN, diagonal=True)
    best, best_score, done = np.zeros(WEIGHTS, np.float32), -1.0, 0
    if progress.state is not None:
        done, (best, best_score) = progress.done, progress.state["best"]
        optimizer = CmaEs.from_state(progress.state["optimizer"])
    for number in range(done + 1, evaluations + 1):
        (proposal,) = optimizer.ask(1)
        network = ((np.array(proposal.genome) - 0.5) * 2 * SPAN).astype(np.float32)
        score = float(digits.solved(network).mean())
        optimizer.tell([Evaluation(proposal.trial, (score,))])
        if score > best_score:
            best, best_score = network, score
        if number in CHECKPOINTS:
            progress.save(row(digits, number, best), {"best": (best, best_score), "optimizer": optimizer.state()})


def row(digits: Digits, number: int, network: Vector) -> dict[str, float]:
    """A point of the curve."""
    return {"evaluations": number, **{split: digits.accuracy(network, split) for split in ("train", "test")}}


def run(digits: Digits, variant: str, seed: int, evaluations: int) -> None:
    """Carry one run as far as that, unless it has got there."""
    progress = Progress(RESULTS / f"{variant}_{seed}.json")
    if progress.done >= evaluations:
        return
    if variant == "cma_es":
        adapt(digits, seed, evaluations, progress)
    else:
        evolve(digits, seed, evaluations, progress, **VARIANTS[variant])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS, "cma_es"], choices=[*VARIANTS, "cma_es"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--evaluations", type=int, help="of each run; default 20,000, of CMA-ES 10,000")
    given = parser.parse_args()
    digits = Digits()
    RESULTS.mkdir(exist_ok=True)
    for seed in given.seeds:
        for variant in given.variants:
            run(digits, variant, seed, given.evaluations or BUDGET.get(variant, 20_000))


if __name__ == "__main__":
    main()
