"""Which optimizer finds paths soonest, how far from the start it should begin, and what closed gates should teach.

python experiments/mixed_genes/study.py [--seeds 3] [--evaluations 200]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from path_toy import PathToy

from evomerge.candidate import Evaluation
from evomerge.optimizers import make
from evomerge.optimizers.catcma import CatCma
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.optimizer import Optimizer
from evomerge.optimizers.ranking import Vector

MARKS = (50, 100, 200, 500, 1000)
HERE = Path(__file__).parent


class AtTheMean(CatCma):
    """Learns of a gene behind a closed gate that it stood at the mean, instead of where it was drawn."""

    def _sample(self, trial: int) -> Vector:
        point = super()._sample(trial)
        closed = np.array(self._legal(self._distribution.genome(point))) != self._distribution.genome(point)
        self._normal.trial = 0
        return np.where(closed, self._distribution.sample(), point)


def kinds() -> dict[str, Callable[[Problem, int], Optimizer]]:
    """Label → what makes the optimizer."""
    return {
        "cma_es, bits by thresholds": lambda p, s: make("cma_es", p, seed=s),
        **{f"catcma, {c} changes": lambda p, s, c=c: make("catcma", p, seed=s, changes=float(c)) for c in (4, 8, 2)},
        "catcma, closed genes at the mean": lambda p, s: AtTheMean(p, seed=s),
        "nevergrad TwoPointsDE": lambda p, s: make("nevergrad", p, seed=s),
        "nsga2": lambda p, s: make("nsga2", p, seed=s),
        "random": lambda p, s: make("random", p, seed=s),
    }


def run(toy: PathToy, optimizer: Optimizer, evaluations: int) -> list[float]:
    """Test accuracy in % of the best on the training items so far, at the marks."""
    best, marks = (-1.0, 0.0), []
    for number in range(1, evaluations + 1):
        (proposal,) = optimizer.ask(1)
        path = toy.path(proposal.genome)
        value = toy.score(path, toy.train)
        optimizer.tell([Evaluation(proposal.trial, (value,))])
        if value > best[0]:
            best = (value, toy.score(path, toy.test))
        if number in MARKS:
            marks += [100 * best[0], 100 * best[1]]
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=200)
    settings = parser.parse_args()
    toy = PathToy()
    alone = {
        "A": toy.score([(i, 1.0) for i in range(6)], toy.test),
        "B's blocks": toy.score([(i + 6, 1.0) for i in range(6)], toy.test),
        "A then B": toy.score([(i, 1.0) for i in range(12)], toy.test),
    }
    results = {"marks": [m for m in MARKS if m <= settings.evaluations], "test of": alone, "train, test": {}}
    for label, make_one in kinds().items():
        began = time.perf_counter()
        problem = Problem(toy.domain, budget=settings.evaluations)
        runs = [run(toy, make_one(problem, seed), settings.evaluations) for seed in range(settings.seeds)]
        mean, spread = np.mean(runs, axis=0).round(1).tolist(), np.std(runs, axis=0, ddof=1).round(1).tolist()
        results["train, test"][label] = {"mean": mean, "spread": spread, "s": round(time.perf_counter() - began, 1)}
        print(label, mean, spread, flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
