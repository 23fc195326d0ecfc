"""How much of the front of real merges is known after so many answers to single items: prints the README's tables,
writes answers-MERGES.json.

    python experiments/real_fronts/answers.py

Every candidate answers items of its own, as many for each objective. Optimizers that take scores are told the mean
difference to the plain average's answers, plus its score; what counts in the end is the front of what is believed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import mean, pstdev
from typing import Any

import numpy as np
from study import HERE, OBJECTIVES, Point, Task

sys.path.insert(0, str(HERE.parent / "few_items_search"))

from grid import BASELINES

from evomerge.archive.pareto import non_dominated
from evomerge.candidate import Evaluation, Genome, ItemAnswers
from evomerge.optimizers import make
from evomerge.optimizers.optimizer import uses_items
from evomerge.run.belief import Scored, believe
from evomerge.seeds import generator
from table import METRIC, load_table

BUDGETS = (320, 640, 1280, 2560)
ROWS = (
    ("random", 20), ("nsga2", 20), ("como_catcma", 20), ("thompson", 20), ("nsga2", 5), ("thompson", 5),
)  # fmt: skip
"""Optimizer, and items of each objective that a candidate answers."""
MOST_CANDIDATES = 128
"""Searches of more are left out: they take long."""


def answers(task: Task, name: str) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """For each objective the answers to all items, and what each counts."""
    found = []
    for skills in task.objectives:
        values = [task.table.values(name, skill, METRIC) for skill in skills]
        shares = [np.full(len(v), 1 / (len(skills) * len(v))) for v in values]
        found.append((np.concatenate(values), np.concatenate(shares)))
    return found


def search(task: Task, name: str, items: int, budget: int, seed: int) -> float:
    """The share of the grid's hypervolume that the front of what is believed has."""
    many, rng = len(task.objectives), generator(seed, "items of candidates")
    candidates = budget // (items * many)
    optimizer = make(name, task.genes.problem(many, candidates), seed=seed)
    average = answers(task, BASELINES["average"].name)
    if uses_items(optimizer):
        optimizer.know(tuple(_told(np.arange(len(v)), v, s) for v, s in average))
    genomes, scored = dict[str, Genome](), [list[Scored]() for _ in task.objectives]
    for number in range(candidates):
        (proposal,) = optimizer.ask(1)
        merge = task.genes.name(proposal.genome)
        genomes[merge] = proposal.genome
        told, scores = [], []
        for k, ((values, shares), (usual, _)) in enumerate(zip(answers(task, merge), average, strict=True)):
            asked = np.sort(rng.permutation(len(values))[:items])
            apart = (values - usual)[asked]  # items of an objective count alike
            error = float(apart.std(ddof=1) / np.sqrt(items) * np.sqrt(1 - items / len(values)))
            scores.append((float(usual @ shares + apart.mean()), error))
            scored[k].append(Scored(merge, proposal.genome, number, *scores[-1], items))
            told.append(_told(asked, values[asked], shares[asked]))
        means, errors = zip(*scores, strict=True)
        own = tuple(told) if uses_items(optimizer) else None
        optimizer.tell([Evaluation(proposal.trial, means, errors=errors, answers=own)])
    if uses_items(optimizer):
        columns = [[e.mean for e in optimizer.believed([*genomes.values()], k) if e is not None] for k in range(many)]
        points: dict[str, Point] = dict(zip(genomes, zip(*columns, strict=True), strict=True))
    else:
        found = [believe(rows) for rows in scored]
        points = {merge: tuple(of[merge].mean for of in found) for merge in genomes}
    front = non_dominated([*points.values()])
    return task.share([merge for merge, on in zip(points, front, strict=True) if on])


def _told(places: np.ndarray[Any, Any], values: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]) -> ItemAnswers:
    return ItemAnswers(tuple(places.tolist()), tuple(values.tolist()), tuple(shares.tolist()))


def main() -> None:
    """All tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--merges", type=int, nargs="*", default=[64, 125, 216], help="of the grids")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--objectives", nargs="*", default=[*OBJECTIVES])
    options = parser.parse_args()
    for merges in options.merges:
        place = HERE / f"answers-{merges}.json"
        results = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
        for label in options.objectives:
            task = Task(load_table(most=merges), OBJECTIVES[label])
            print(f"\n**{len(task.points)} merges, {label} objectives**\n\n| | {' | '.join(map(str, BUDGETS))} |")
            print(f"|---|{'---|' * len(BUDGETS)}")
            for name, items in ROWS:
                begun = time.process_time()
                budgets = [b for b in BUDGETS if b // (items * int(label)) <= MOST_CANDIDATES]
                shares = [[search(task, name, items, b, seed) for seed in range(options.seeds)] for b in budgets]
                cells = [f"{100 * mean(values):.1f} ± {100 * pstdev(values):.1f}" for values in shares]
                print(f"| {name}, {items} items | {' | '.join(cells)} |", flush=True)
                results[f"{label} {name} {items}"] = {"shares": shares, "cpu_s": time.process_time() - begun}
                place.write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
