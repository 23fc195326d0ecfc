"""What do late answers and failures cost in quality, and what do barriers cost in time?

python experiments/asynchrony/quality.py

Searches the toy merge of four experts (experiments/benchmarks/toy_merge) with simulated workers: latencies are
log-normal (median 1, sigma 0.7), a tenth of the candidates fail. Asynchronous: every idle worker gets a candidate
at once. Synchronous: a generation is asked for, and the next one when all of it is answered. Writes quality.json.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.candidate import Evaluation, Proposal
from evomerge.optimizers import make
from evomerge.optimizers.domain import Domain, Problem
from evomerge.optimizers.optimizer import Optimizer

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks/toy_merge"))
from digit_experts import AVERAGE, ToyMerge, solved  # type: ignore[import-not-found]

GENERATION = {"cma_es": 12, "m2n2": 20, "nsga2": 20}
FAILURES = 0.1


class Simulation:
    """Evaluations of one search, each with the time at which its answer came."""

    def __init__(self, toy: ToyMerge, optimizer: Optimizer, seed: int) -> None:
        self.toy, self.optimizer = toy, optimizer
        self.rng = np.random.default_rng(seed)
        self.now, self.count, self.best = 0.0, 0, 0.0

    def latency(self) -> float:
        return float(self.rng.lognormal(0.0, 0.7))

    def answer(self, proposal: Proposal) -> None:
        """Tell one result."""
        self.count += 1
        if self.rng.random() < FAILURES:
            self.optimizer.tell([Evaluation(proposal.trial, None)])
            return
        items = solved(self.toy.merge(proposal.genome), self.toy.train_digits).astype(float)
        responses = (tuple(items.tolist()),) if self.optimizer.uses_responses else None
        self.optimizer.tell([Evaluation(proposal.trial, (float(items.mean()),), responses=responses)])
        self.best = max(self.best, float(items.mean()))

    def asynchronous(self, workers: int, evaluations: int) -> None:
        """Every idle worker gets a candidate at once."""
        running: list[tuple[float, int, Proposal]] = []
        while self.count < evaluations:
            for proposal in self.optimizer.ask(workers - len(running)):
                heapq.heappush(running, (self.now + self.latency(), proposal.trial, proposal))
            self.now, _, proposal = heapq.heappop(running)
            self.answer(proposal)

    def synchronous(self, workers: int, evaluations: int, generation: int) -> None:
        """Generation after generation; each waits for its slowest candidate."""
        while self.count < evaluations:
            free = [self.now] * workers
            ends = []
            proposals = self.optimizer.ask(generation)
            for _ in proposals:
                ends.append(heapq.heappop(free) + self.latency())
                heapq.heappush(free, ends[-1])
            self.now = max(ends)
            for proposal in proposals:
                self.answer(proposal)


def measure(toy: ToyMerge, name: str, workers: int, seeds: range, evaluations: int, *, wait: bool) -> dict[str, Any]:
    found = []
    for seed in seeds:
        simulation = Simulation(
            toy,
            make(name, Problem(Domain(AVERAGE), budget=evaluations, workers=1 if wait else workers), seed=seed),
            seed,
        )
        if wait:
            simulation.synchronous(workers, evaluations, GENERATION[name])
        else:
            simulation.asynchronous(workers, evaluations)
        found.append((100 * simulation.best, simulation.now))
    best, time = np.array(found).T
    return {
        "optimizer": name, "workers": workers, "synchronous": wait, "best": float(best.mean()),
        "spread": float(best.std()), "time": float(time.mean()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimizers", nargs="+", default=["cma_es", "m2n2", "nsga2"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--evaluations", type=int, default=1000)
    options = parser.parse_args()
    toy, rows = ToyMerge(), []
    for name in options.optimizers:
        for workers in options.workers:
            for wait in (True, False):
                row = measure(toy, name, workers, range(options.seeds), options.evaluations, wait=wait)
                rows.append(row)
                print(row, flush=True)
    data = {"seeds": options.seeds, "evaluations": options.evaluations, "failures": FAILURES, "rows": rows}
    Path(__file__).with_name("quality.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
