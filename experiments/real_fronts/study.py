"""How much of the front of real merges each optimizer finds: prints the README's tables, writes results.json and
fronts.svg.

    python experiments/real_fronts/study.py
    python experiments/real_fronts/study.py --merges 64 --only thompson nsga2    # another grid: tables alone

Answers come from the table of experiments/few_items_search; an optimizer is told what a merge truly is worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import matplotlib as mpl
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "few_items_search"))

from genes import Genes  # noqa: E402
from grid import BASELINES, SOURCES  # noqa: E402
from searches import GRID  # noqa: E402

from evomerge.archive.pareto import hypervolume, non_dominated  # noqa: E402
from evomerge.candidate import Evaluation  # noqa: E402
from evomerge.optimizers import make  # noqa: E402
from evomerge.optimizers.surrogate import MapSearch  # noqa: E402
from table import METRIC, Table, load_table  # noqa: E402

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

SEEDS = range(20)
BUDGETS = (10, 20, 40, 60)
Point = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """An optimizer, and whether it sees the three genes as ordered choices or as real numbers that are snapped."""

    name: str
    real: bool = False

    @property
    def label(self) -> str:
        """In tables."""
        return f"{self.name}, real genes" if self.real else self.name


ROWS = (
    Row("random"), Row("nsga2"), Row("nsga3"), Row("m2n2"), Row("como_catcma"), Row("thompson"), Row("auto"),
    Row("random", real=True), Row("nsga2", real=True), Row("m2n2", real=True), Row("cma_es", real=True),
    Row("como_cma_es", real=True), Row("map", real=True), Row("auto", real=True),
)  # fmt: skip
OBJECTIVES = {
    "2": (("ja_math",), SOURCES),
    "3": (("ja_math",), ("math", "ja"), ("es", "geo")),
}
"""Number of objectives → for each its skills, whose means count alike."""


class Task:
    """The grid with several objectives.

    Attributes:
        points: merge → its true values.
        front: the grid's own, sorted by the first objective.
        volume: of that front over `reference`, which is the worst that any baseline has in each objective.
    """

    def __init__(self, table: Table, objectives: tuple[tuple[str, ...], ...]) -> None:
        self.table, self.objectives = table, objectives
        self.genes = Genes(table.stage)
        self.points = {name: self._values(name) for name in table.merges}
        baselines = [self._values(weights.name) for weights in BASELINES.values()]
        self.reference: Point = tuple(map(min, zip(*baselines, strict=True)))
        self.front = self._front()
        self.volume = hypervolume(list(self.points.values()), self.reference)
        self.average = hypervolume([self._values(BASELINES["average"].name)], self.reference) / self.volume

    def _values(self, name: str) -> Point:
        return tuple(mean(self.table.mean(name, skill) for skill in skills) for skills in self.objectives)

    def _front(self) -> list[str]:
        names = list(self.points)
        kept = np.flatnonzero(non_dominated([self.points[name] for name in names]))
        return sorted((names[place] for place in kept), key=lambda name: self.points[name])

    def responses(self, name: str) -> tuple[Point, ...]:
        """For each objective the answers to all its items."""
        return tuple(
            tuple(np.concatenate([self.table.values(name, skill) for skill in skills]).tolist())
            for skills in self.objectives
        )

    def share(self, names: list[str]) -> float:
        """The hypervolume of some merges as a share of the whole grid's."""
        return hypervolume([self.points[name] for name in names], self.reference) / self.volume


@dataclass(frozen=True, slots=True)
class Preview:
    """What MAP predicts at the end without an evaluation: the share of the true hypervolume that its predicted front
    has when it is evaluated, the number of merges on it, and the mean error of the prediction, in points."""

    share: float
    merges: int
    error: float


@dataclass(frozen=True, slots=True)
class Search:
    """Shares of the hypervolume and different merges by budget, the merges in the order asked, MAP's preview."""

    shares: list[float]
    different: list[int]
    asked: list[str]
    preview: Preview | None


def search(task: Task, row: Row, seed: int) -> Search:
    """One candidate at a time."""
    optimizer = make(row.name, task.genes.problem(len(task.objectives), BUDGETS[-1], real=row.real), seed=seed)
    asked = list[str]()
    for _ in range(BUDGETS[-1]):
        (proposal,) = optimizer.ask(1)
        asked.append(task.genes.name(proposal.genome))
        responses = task.responses(asked[-1]) if optimizer.uses_responses else None
        optimizer.tell([Evaluation(proposal.trial, task.points[asked[-1]], responses=responses)])
    preview = _preview(task, optimizer) if isinstance(optimizer, MapSearch) else None
    shares = [task.share(asked[:n]) for n in BUDGETS]
    return Search(shares, [len(set(asked[:n])) for n in BUDGETS], asked, preview)


def _preview(task: Task, optimizer: MapSearch) -> Preview:
    found = optimizer.preview()
    names = [task.genes.name(tuple(genome)) for genome in found.genomes]
    truth = np.array([task.points[name] for name in names])
    return Preview(task.share(names), len(set(names)), float(100 * np.abs(found.values - truth).mean()))


def measure(task: Task, only: Sequence[str] = ()) -> dict[str, Any]:
    """Row → shares of the hypervolume by budget and seed."""
    results: dict[str, Any] = {}
    for row in ROWS if not only else [row for row in ROWS if row.label in only]:
        begun = time.process_time()
        runs = [search(task, row, seed) for seed in SEEDS]
        shares = [[run.shares[place] for run in runs] for place in range(len(BUDGETS))]
        different = [mean(run.different[place] for run in runs) for place in range(len(BUDGETS))]
        results[row.label] = {"shares": shares, "different": different, "cpu_s": time.process_time() - begun}
        cells = [f"{100 * mean(values):.1f} ± {100 * pstdev(values):.1f}" for values in shares]
        print(f"| {row.label} | {' | '.join(cells)} | {different[-1]:.0f} |", flush=True)
        previews = [run.preview for run in runs if run.preview is not None]
        if previews:
            results["preview"] = {
                "shares": [p.share for p in previews],
                "merges": [p.merges for p in previews],
                "error_points": [p.error for p in previews],
            }
            volume, error = [100 * p.share for p in previews], [p.error for p in previews]
            cells = [*[""] * (len(BUDGETS) - 1), f"{mean(volume):.1f} ± {pstdev(volume):.1f}"]
            note = f"{mean(p.merges for p in previews):.0f}, error {mean(error):.1f} points"
            print(f"| map's preview, evaluated | {' | '.join(cells)} | {note} |", flush=True)
        places = np.argsort([run.shares[1] for run in runs])
        results[row.label]["median_front"] = runs[places[len(places) // 2]].asked[: BUDGETS[1]]
    return results


def draw(task: Task, results: dict[str, Any]) -> None:
    """Two objectives: all merges, the front, and the front of each optimizer's median run of BUDGETS[1] candidates."""
    shown = ("random", "nsga2", "m2n2", "como_catcma", "map, real genes", "auto")
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), sharex=True, sharey=True, layout="constrained")
    everything = np.array(list(task.points.values()))
    front = np.array([task.points[name] for name in task.front])
    for axis, label in zip(axes.flat, shown, strict=True):
        asked = list(dict.fromkeys(results[label]["median_front"]))
        points = np.array([task.points[name] for name in asked])
        own = points[non_dominated(points)]
        own = own[np.argsort(own[:, 0])]
        axis.scatter(*everything.T, s=8, color="0.8", label="all merges of the grid")
        axis.plot(*front.T, color="0.4", linewidth=1, label="their front")
        axis.scatter(*points.T, s=14, color="C0", label=f"{BUDGETS[1]} candidates, median run")
        axis.plot(*own.T, "C3o-", markersize=4, linewidth=1, label="their front")
        axis.set_title(f"{label}: {100 * sorted(results[label]['shares'][1])[len(SEEDS) // 2]:.0f} %", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("ja_math: probability of the right choice")
    for axis in axes[:, 0]:
        axis.set_ylabel("mean over the sources' own skills")
    axes[0, 0].legend(fontsize=7, loc="lower left")
    figure.savefig(HERE / "fronts.svg")


def main() -> None:
    """Everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--merges", type=int, default=GRID, help="of the grid")
    parser.add_argument("--only", nargs="*", default=[], choices=[row.label for row in ROWS])
    options = parser.parse_args()
    whole = options.merges == GRID and not options.only
    table = load_table(most=options.merges)
    results: dict[str, Any] = {
        "levels": table.stage.levels,
        "most": table.stage.most,
        "merges": len(table.merges),
        "metric": METRIC,
    }
    for label, objectives in OBJECTIVES.items():
        task = Task(table, objectives)
        print(f"\n**{label} objectives**: {len(task.points)} merges, {len(task.front)} on the front, reference "
              f"{tuple(round(x, 3) for x in task.reference)}, plain average {100 * task.average:.1f}\n")  # fmt: skip
        print(f"| | {' | '.join(map(str, BUDGETS))} | different |\n|---|{'---|' * (len(BUDGETS) + 1)}")
        found = measure(task, options.only)
        results[label] = {
            "front": {name: task.points[name] for name in task.front}, "reference": task.reference,
            "average": task.average, "rows": found,
        }  # fmt: skip
        if whole and label == "2":
            draw(task, found)
    if whole:
        (HERE / "results.json").write_text(
            json.dumps(results, indent=None, separators=(",", ":")) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
