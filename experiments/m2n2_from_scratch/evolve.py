"""Networks evolved from nothing by M2N2, its ablations and CMA-ES: one JSON file in results/ for each variant and seed.

nice -n 10 env OMP_NUM_THREADS=1 python experiments/m2n2_from_scratch/evolve.py [--variants m2n2 ...] [--seeds 0 1 ...]

What is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from digits import WEIGHTS, Digits, Vector, descend, random_network

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
BUDGET = {"m2n2": 20_000}
"""Evaluations, 10,000 unless named here."""
SPAN = 1.0
"""CMA-ES searches weights from -SPAN to SPAN: a gene of ½ is a weight of 0."""

Row = dict[str, float]
Report = Callable[[int, Vector, M2n2 | None], None]


def evolve(digits: Digits, seed: int, evaluations: int, report: Report, **options: Any) -> None:
    """M2N2 on a lineage of two random networks; reports the archive's best by train accuracy, as the authors do."""
    lineage = LineageDomain(sources=2, units=(WEIGHTS,))
    optimizer = M2n2(Problem(Domain((), lineage=lineage)), seed=seed, **PAPER | options)
    sources = [random_network(seed, number) for number in range(2)]
    known: dict[int, Vector] = {}
    for number in range(1, evaluations + 1):
        (proposal,) = optimizer.ask(1)
        assert proposal.descent is not None
        child = descend(proposal.descent, proposal.trial, sources, known, seed)
        solved = digits.solved(child).astype(float).tolist()
        optimizer.tell([Evaluation(proposal.trial, (sum(solved) / len(solved),), responses=(tuple(solved),))])
        if any(member.trial == proposal.trial for member in optimizer.members):
            kept = {member.trial for member in optimizer.members}
            known = {trial: network for trial, network in (*known.items(), (proposal.trial, child)) if trial in kept}
        if number in CHECKPOINTS:
            report(number, known[max(optimizer.members, key=lambda m: m.rank).trial], optimizer)


def adapt(digits: Digits, seed: int, evaluations: int, report: Report) -> None:
    """CMA-ES on the weights themselves, variances only; reports the best ever by train accuracy."""
    start = tuple((0.5 + random_network(seed, 0).astype(float) / 2 / SPAN).tolist())
    optimizer = CmaEs(real(start), seed=seed, population=20, sigma=0.01 / 2 / SPAN, diagonal=True)
    best, best_score = np.zeros(WEIGHTS, np.float32), -1.0
    for number in range(1, evaluations + 1):
        (proposal,) = optimizer.ask(1)
        network = ((np.array(proposal.genome) - 0.5) * 2 * SPAN).astype(np.float32)
        score = float(digits.solved(network).mean())
        optimizer.tell([Evaluation(proposal.trial, (score,))])
        if score > best_score:
            best, best_score = network, score
        if number in CHECKPOINTS:
            report(number, best, None)


def run(digits: Digits, variant: str, seed: int, evaluations: int) -> dict[str, Any]:
    """The curve of one run."""
    began, rows = time.process_time(), list[Row]()

    def report(number: int, network: Vector, optimizer: M2n2 | None) -> None:
        row = {"evaluations": number, **{split: digits.accuracy(network, split) for split in ("train", "test")}}
        if optimizer is not None:
            row |= {"coverage": 100 * optimizer.coverage, "entropy_bits": optimizer.entropy}
        rows.append(row)
        print(variant, seed, {name: round(value, 2) for name, value in row.items()}, flush=True)

    if variant == "cma_es":
        adapt(digits, seed, evaluations, report)
    else:
        evolve(digits, seed, evaluations, report, **VARIANTS[variant])
    return {"variant": variant, "seed": seed, "cpu_s": round(time.process_time() - began, 1), "curve": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS, "cma_es"], choices=[*VARIANTS, "cma_es"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--evaluations", type=int, help="of each run; default 10,000, of m2n2 20,000")
    given = parser.parse_args()
    digits = Digits()
    RESULTS.mkdir(exist_ok=True)
    for seed in given.seeds:
        for variant in given.variants:
            path = RESULTS / f"{variant}_{seed}.json"
            if not path.exists():
                result = run(digits, variant, seed, given.evaluations or BUDGET.get(variant, 10_000))
                path.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
