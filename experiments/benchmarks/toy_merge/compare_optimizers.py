"""How good a merge each optimizer finds, by number of evaluations: prints the README's table, writes results.json.

python experiments/benchmarks/toy_merge/compare_optimizers.py
"""

from __future__ import annotations

import heapq
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from digit_experts import AVERAGE, ToyMerge, accuracy

from evomerge.candidate import Evaluation, Genome
from evomerge.optimizers import make
from evomerge.optimizers.domain import real

CHECKPOINTS = (50, 100, 200, 500)
SEEDS = (0, 1, 2, 3)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "cma_es, sigma 0.25": ("cma_es", {"sigma": 0.25}),
    "cma_es, sigma 0.15 (default)": ("cma_es", {}),
    "cma_es, sigma 0.1": ("cma_es", {"sigma": 0.1}),
    "cma_es, sigma 0.05": ("cma_es", {"sigma": 0.05}),
}


def search(toy: ToyMerge, name: str, seed: int, evaluations: int, **options: Any) -> list[Genome]:
    """Best genome so far after each evaluation, one at a time."""
    return crowd(toy, name, seed, evaluations, workers=1, failures=0.0, **options)


def crowd(
    toy: ToyMerge, name: str, seed: int, evaluations: int, *, workers: int, failures: float, **options: Any
) -> list[Genome]:
    """Best genome so far after each evaluation on `workers` workers of log-normal latency, some of which fail."""
    optimizer = make(name, real(AVERAGE), seed=seed, **options)
    rng = np.random.default_rng(seed)
    running: list[tuple[float, int, Genome]] = []
    now, best, bests = 0.0, (-1.0, AVERAGE), []
    while len(bests) < evaluations:
        for proposal in optimizer.ask(workers - len(running)):
            heapq.heappush(running, (now + rng.lognormal(0, 0.7), proposal.trial, proposal.genome))
        now, trial, genome = heapq.heappop(running)
        if rng.random() < failures:
            optimizer.tell([Evaluation(trial, None)])
        else:
            score = toy.score(genome)
            optimizer.tell([Evaluation(trial, (score,))])
            best = max(best, (score, genome))
        bests.append(best[1])
    return bests


def measure(toy: ToyMerge) -> dict[str, dict[str, list[float]]]:
    """Row → number of evaluations → [train, test, spread of train over seeds], in percent."""
    results: dict[str, dict[str, list[float]]] = {}
    runs = {row: [search(toy, n, s, max(CHECKPOINTS), **o) for s in SEEDS] for row, (n, o) in ROWS.items()}
    label = "cma_es, 12 workers, 10 % failures"
    runs[label] = [crowd(toy, "cma_es", s, max(CHECKPOINTS), workers=12, failures=0.1) for s in SEEDS]
    for row, bests in runs.items():
        results[row] = {}
        for n in CHECKPOINTS:
            train = [100 * toy.score(b[n - 1]) for b in bests]
            test = [100 * toy.test(b[n - 1]) for b in bests]
            results[row][str(n)] = [float(np.mean(train)), float(np.mean(test)), float(np.std(train))]
    return results


def main() -> None:
    began = time.perf_counter()
    toy = ToyMerge()
    results = measure(toy)
    print(f"base {100 * accuracy(toy.base, toy.train_digits):.1f} / {100 * accuracy(toy.base, toy.test_digits):.1f}")
    print(f"plain average {100 * toy.score(AVERAGE):.1f} / {100 * toy.test(AVERAGE):.1f}")
    print("| best so far, train / test % | " + " | ".join(map(str, CHECKPOINTS)) + " |")
    print("|---" * (len(CHECKPOINTS) + 1) + "|")
    for row, by_count in results.items():
        cells = [f"{train:.1f} ± {spread:.1f} / {test:.1f}" for train, test, spread in by_count.values()]
        print(f"| {row} | " + " | ".join(cells) + " |")
    print(f"{time.perf_counter() - began:.0f} s")
    text = json.dumps({"seeds": SEEDS, "rows": results}, indent=1)
    Path(__file__).with_name("results.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
