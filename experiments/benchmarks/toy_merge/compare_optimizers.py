"""How good a merge each optimizer finds, by number of evaluations: prints the README's table, writes results.json.

python experiments/benchmarks/toy_merge/compare_optimizers.py
"""

from __future__ import annotations

import heapq
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from digit_experts import AVERAGE, GROUPS, TENSORS, Crossings, Network, ToyMerge, accuracy, solved

from evomerge.candidate import Evaluation, Proposal
from evomerge.optimizers import make
from evomerge.optimizers.domain import Domain, Problem

CHECKPOINTS = (50, 100, 200, 500)
SEEDS = (0, 1, 2, 3)
LINEAGE = "m2n2 on lineages"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "cma_es, sigma 0.25": ("cma_es", {"sigma": 0.25}),
    "cma_es, sigma 0.15 (default)": ("cma_es", {}),
    "cma_es, sigma 0.1": ("cma_es", {"sigma": 0.1}),
    "cma_es, sigma 0.05": ("cma_es", {"sigma": 0.05}),
    "cma_es, 12 workers, 10 % failures": ("cma_es", {"workers": 12, "failures": 0.1}),
    "m2n2 on genes (default)": ("m2n2", {}),
    "m2n2 on genes, no mutation": ("m2n2", {"mutation": 0.0}),
    LINEAGE: ("m2n2", {}),
    f"{LINEAGE}, 24 workers, 10 % failures": ("m2n2", {"workers": 24, "failures": 0.1}),
    f"{LINEAGE}, mutation 0.005": ("m2n2", {"mutation": 0.005}),
    f"{LINEAGE}, no attraction": ("m2n2", {"attraction": "none"}),
    f"{LINEAGE}, no split point": ("m2n2", {"split": False}),
    f"{LINEAGE}, no competition (GA)": ("m2n2", {"alpha": 0.0, "attraction": "none"}),
}


@dataclass(frozen=True, slots=True)
class Best:
    """The best network so far by train accuracy."""

    score: float
    network: Network


class Genes:
    """Networks that genomes stand for.

    Args:
        per_expert: genes of each expert: one for every tensor, or one for all.
    """

    def __init__(self, toy: ToyMerge, per_expert: int = TENSORS) -> None:
        self._toy, self._repeats = toy, TENSORS // per_expert
        self.domain = Domain(AVERAGE[: len(GROUPS) * per_expert])

    def network(self, proposal: Proposal) -> Network:
        return self._toy.merge(tuple(np.repeat(proposal.genome, self._repeats).tolist()))


def search(
    toy: ToyMerge,
    name: str,
    seed: int,
    evaluations: int,
    *,
    lineage: bool = False,
    per_expert: int = TENSORS,
    objectives: int = 1,
    workers: int = 1,
    failures: float = 0.0,
    **options: Any,
) -> list[Best]:
    """The best after each evaluation, on `workers` workers of log-normal latency, some of which fail.

    With several objectives these are the accuracies on single digits' groups; the best is still best on all digits.
    """
    space = Crossings(toy, seed) if lineage else Genes(toy, per_expert)
    optimizer = make(name, Problem(space.domain, objectives, evaluations), seed=seed, **options)
    parts = [np.isin(toy.train_digits.labels, group) for group in GROUPS[:objectives]] if objectives > 1 else [...]
    rng = np.random.default_rng(seed)
    running: list[tuple[float, int, Network]] = []
    now, best, bests = 0.0, Best(-1.0, toy.base), list[Best]()
    while len(bests) < evaluations:
        for proposal in optimizer.ask(workers - len(running)):
            heapq.heappush(running, (now + rng.lognormal(0, 0.7), proposal.trial, space.network(proposal)))
        now, trial, network = heapq.heappop(running)
        if rng.random() < failures:
            optimizer.tell([Evaluation(trial, None)])
        else:
            items = solved(network, toy.train_digits).astype(float)
            score = float(items.mean())
            blocks = [items[part] for part in parts]
            responses = tuple(tuple(block.tolist()) for block in blocks) if optimizer.uses_responses else None
            values = tuple(float(block.mean()) for block in blocks)
            optimizer.tell([Evaluation(trial, values, responses=responses)])
            best = Best(score, network) if score > best.score else best
        bests.append(best)
    return bests


def measure(toy: ToyMerge) -> dict[str, dict[str, list[float]]]:
    """Row → number of evaluations → [train, test, spread of train over seeds], in percent."""
    results: dict[str, dict[str, list[float]]] = {}
    for row, (name, options) in ROWS.items():
        lineage = row.startswith(LINEAGE)
        runs = [search(toy, name, seed, max(CHECKPOINTS), lineage=lineage, **options) for seed in SEEDS]
        results[row] = {}
        for n in CHECKPOINTS:
            train = [100 * bests[n - 1].score for bests in runs]
            test = [100 * accuracy(bests[n - 1].network, toy.test_digits) for bests in runs]
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
