"""What 20 to 50 evaluations find with Bayesian search and others: prints the README's tables, writes results.json.

python experiments/small_budgets/study.py [one] [two] [times]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "benchmarks" / "toy_merge"), str(HERE.parent / "several_objectives")]

import compare_fronts  # noqa: E402
import compare_optimizers  # noqa: E402
from digit_experts import ToyMerge, accuracy  # noqa: E402

from evomerge.archive import hypervolume  # noqa: E402
from evomerge.candidate import Evaluation  # noqa: E402
from evomerge.optimizers import make  # noqa: E402
from evomerge.optimizers.domain import Problem, real  # noqa: E402

SEEDS = (0, 1, 2, 3)
COUNTS = (20, 40, 50)
ONE: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "m2n2": ("m2n2", {}),
    "cma_es": ("cma_es", {}),
    "cma_es, sigma 0.05": ("cma_es", {"sigma": 0.05}),
    "bayes": ("bayes", {}),
}
SEVERAL = ("random", "nsga2", "cma_es", "bayes")
FRONT_COUNTS = (30, 50)
FRONT_SEEDS = SEEDS[:3]
SHAPES = ((4, 1), (16, 1), (60, 1), (16, 2), (16, 4))
ANSWERS = (20, 50, 200)


def row(name: str, columns: list[list[float]], note: str = "") -> None:
    cells = [f"{100 * mean(values):.1f} ± {100 * pstdev(values):.1f}" for values in columns]
    print(f"| {name} | {' | '.join(cells)} |{note}", flush=True)


def one_objective(toy: ToyMerge) -> dict[str, Any]:
    """Row → train accuracy of the best so far by count and seed, and test accuracy at the end."""
    results: dict[str, Any] = {}
    for name, (kind, options) in ONE.items():
        runs = [compare_optimizers.search(toy, kind, seed, COUNTS[-1], **options) for seed in SEEDS]
        train = [[bests[n - 1].score for bests in runs] for n in COUNTS]
        test = [accuracy(bests[-1].network, toy.test_digits) for bests in runs]
        results[name] = {"train": train, "test": test}
        row(name, train, f" {100 * mean(test):.1f} |")
    return results


def front(task: compare_fronts.Task, name: str, seed: int) -> list[float]:
    """Hypervolumes over (0, …)."""
    optimizer = make(name, Problem(task.domain, task.num_objectives, FRONT_COUNTS[-1]), seed=seed)
    found: list[tuple[float, ...]] = []
    for _ in range(FRONT_COUNTS[-1]):
        (proposal,) = optimizer.ask(1)
        found.append(task.values(proposal.genome))
        optimizer.tell([Evaluation(proposal.trial, found[-1])])
    return [hypervolume(found[:n], (0.0,) * task.num_objectives) for n in FRONT_COUNTS]


def two_objectives(task: compare_fronts.Task) -> dict[str, Any]:
    """Row → hypervolumes by count and seed."""
    results = {}
    for name in SEVERAL:
        runs = [front(task, name, seed) for seed in FRONT_SEEDS]
        results[name] = [list(volumes) for volumes in zip(*runs, strict=True)]
        row(name, results[name])
    return results


def cpu_ms(answers: int, genes: int, objectives: int) -> list[float]:
    """CPU milliseconds of the first ask after so many answers, which fits, and of the next one, which does not."""
    optimizer = make("bayes", real((0.5,) * genes, objectives), seed=0, design=answers)
    peaks, rng = np.linspace(0.3, 0.7, objectives), np.random.default_rng(0)
    for proposal in optimizer.ask(answers):
        values = [-float(np.square(np.subtract(proposal.genome, peak)).sum()) for peak in peaks]
        optimizer.tell([Evaluation(proposal.trial, tuple(v + 0.02 * rng.standard_normal() for v in values))])
    times = []
    for _ in range(2):
        begun = time.process_time()
        optimizer.ask(1)
        times.append(1e3 * (time.process_time() - begun))
    return times


def times() -> dict[str, Any]:
    cpu_ms(5, 2, 1)  # imports
    results: dict[str, Any] = {}
    for genes, objectives in SHAPES:
        shape = f"{genes} genes, {objectives} objectives"
        results[shape] = [cpu_ms(answers, genes, objectives) for answers in ANSWERS]
        print(f"| {shape} | {' | '.join(f'{a:.0f} / {b:.0f}' for a, b in results[shape])} |", flush=True)
    return results


def main() -> None:
    toy = ToyMerge()
    task = compare_fronts.Task(toy, 16, ((0, 1), (2, 3)))
    parts = {"one": lambda: one_objective(toy), "two": lambda: two_objectives(task), "times": times}
    path = HERE / "results.json"
    for part in sys.argv[1:] or parts:
        begun = time.process_time()
        print(f"\n{part}")
        results = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(results | {part: parts[part]()}, indent=1) + "\n")
        print(f"{time.process_time() - begun:.0f} CPU s")


if __name__ == "__main__":
    main()
