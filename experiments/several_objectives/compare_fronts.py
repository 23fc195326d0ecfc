"""How much of the front of a toy merge each optimizer finds: prints the README's table, writes results.json.

python experiments/several_objectives/compare_fronts.py
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks" / "toy_merge"))

from digit_experts import AVERAGE, GROUPS, MAX_WEIGHT, TENSORS, ToyMerge, solved  # noqa: E402

from evomerge.archive import hypervolume  # noqa: E402
from evomerge.candidate import Evaluation, Genome  # noqa: E402
from evomerge.optimizers import make  # noqa: E402
from evomerge.optimizers.domain import Domain, Problem  # noqa: E402

CHECKPOINTS = (50, 100, 200, 500)
SEEDS = (0, 1, 2, 3)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "cma_es": ("cma_es", {}),
    "como_cma_es": ("como_cma_es", {}),
    "como_cma_es, 10 kernels": ("como_cma_es", {"kernels": 10}),
    "nsga2, Sobol points first": ("nsga2", {"spread": None}),
    "nsga2": ("nsga2", {}),
    "nsga3, Sobol points first": ("nsga3", {"spread": None}),
    "nsga3": ("nsga3", {}),
    "map": ("map", {}),
}


class Task:
    """The toy with several objectives: the accuracy on each set of groups of digits.

    Args:
        toy: base and experts.
        genes: 16, one for each expert and tensor, or 4, one for each expert.
        sets: for each objective the groups that it counts.
    """

    def __init__(self, toy: ToyMerge, genes: int, sets: tuple[tuple[int, ...], ...]) -> None:
        self.toy, self.repeats, self.name = toy, len(AVERAGE) // genes, f"{genes} genes, {len(sets)} objectives"
        self.num_objectives = len(sets)
        labels = toy.train_digits.labels
        self._counted = [np.isin(labels, [digit for group in groups for digit in GROUPS[group]]) for groups in sets]
        alone = [
            tuple(float(gene // (TENSORS // self.repeats) == k) / MAX_WEIGHT for gene in range(genes))
            for k in range(len(GROUPS))
        ]
        self.domain = Domain(AVERAGE[:genes], seeds=tuple(alone))

    def values(self, genome: Genome) -> tuple[float, ...]:
        right = solved(self.toy.merge(tuple(np.repeat(genome, self.repeats))), self.toy.train_digits)
        return tuple(float(right[counted].mean()) for counted in self._counted)


def search(task: Task, name: str, seed: int, options: dict[str, Any]) -> tuple[list[float], float]:
    """The hypervolume over (0, …) at each checkpoint, and the median time of asking and telling once, in ms."""
    budget = CHECKPOINTS[-1]
    optimizer = make(name, Problem(task.domain, task.num_objectives, budget), seed=seed, **options)
    found: list[tuple[float, ...]] = []
    times = []
    for _ in range(budget):
        begun = time.perf_counter()
        (proposal,) = optimizer.ask(1)
        asked = time.perf_counter() - begun
        values = task.values(proposal.genome)
        found.append(values)
        begun = time.perf_counter()
        optimizer.tell([Evaluation(proposal.trial, values)])
        times.append(asked + time.perf_counter() - begun)
    zero = (0.0,) * task.num_objectives
    return [hypervolume(found[:n], zero) for n in CHECKPOINTS], 1e3 * median(times)


def measure(task: Task) -> dict[str, Any]:
    """For each row hypervolumes by checkpoint and seed, and milliseconds."""
    rows: dict[str, Any] = {}
    for row, (name, options) in ROWS.items():
        if name == "map" and task.domain.dim > 12:
            continue
        runs = [search(task, name, seed, options) for seed in SEEDS]
        volumes = {str(n): [volumes[i] for volumes, _ in runs] for i, n in enumerate(CHECKPOINTS)}
        rows[row] = {"volumes": volumes, "ms": median(ms for _, ms in runs)}
        cells = [f"{100 * mean(v):.1f} ± {100 * pstdev(v):.1f}" for v in volumes.values()]
        print(f"| {row} | {' | '.join(cells)} | {rows[row]['ms']:.2f} |", flush=True)
    return rows


def main() -> None:
    toy = ToyMerge()
    halves, groups = ((0, 1), (2, 3)), ((0,), (1,), (2,), (3,))
    tasks = [Task(toy, 16, halves), Task(toy, 16, groups), Task(toy, 4, halves), Task(toy, 4, groups)]
    results = {}
    for task in tasks:
        zero = (0.0,) * task.num_objectives
        average = hypervolume([task.values(task.domain.start)], zero)
        print(f"\n**{task.name}** (plain average {100 * average:.1f})\n")
        print(f"| | {' | '.join(map(str, CHECKPOINTS))} | ms |\n|---|{'---|' * (len(CHECKPOINTS) + 1)}")
        results[task.name] = {"average": average, "rows": measure(task)}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
