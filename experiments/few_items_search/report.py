"""What the searches found, judged by items that no search saw: prints the README's tables, writes quality.svg and
inflation.svg.

    python experiments/few_items_search/report.py
    python experiments/few_items_search/report.py --merges 64    # of the smaller grid; no figures

With `--split search` all search items are the judge: those that full evaluation follows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from grid import BASELINES
from searches import GRID, file_of

from fitness.estimate import paired
from table import METRIC, Table, load_table

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
FULL = "all items"
KINDS = ("scored", "chosen", "verified")
"""The best unbiased score, the most that is believed, the best on all search items of those that were verified."""
CLOSE = 0.005
"""So much worse on average counts as equal."""

Row = dict[str, Any]


def by_policy(rows: Sequence[Row], kind: str) -> dict[str, dict[int, list[Row]]]:
    """Policy → budget → one row a seed; those that have such a choice."""
    found: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        if kind in row:
            found.setdefault(row["policy"], {}).setdefault(row["budget"], []).append(row)
    return {policy: dict(sorted(by_budget.items())) for policy, by_budget in found.items()}


def quality(table: Table, rows: Sequence[Row], kind: str, split: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[seeds] of the merges that were chosen, in points."""
    return np.array([100 * table.mean(row[kind]["name"], split=split) for row in rows])


def show(table: Table, found: Mapping[str, Mapping[int, Sequence[Row]]], kind: str, split: Any) -> None:
    """Quality by answers, then what was said of the choice against all search items."""
    for full in (True, False):
        some = {policy: rows for policy, rows in found.items() if (policy == FULL) is full}
        budgets = list(next(iter(some.values())))
        head = f"| {' | '.join(map(str, budgets))} |\n|---|{'---|' * len(budgets)}"
        print(f"{'' if full else chr(10)}| quality by answers {head}")
        for policy, by_budget in some.items():
            cells = [quality(table, rows, kind, split) for rows in by_budget.values()]
            print(f"| {policy} | {' | '.join(f'{c.mean():.1f} ± {c.std():.1f}' for c in cells)} |")
        if not full:
            print(f"\n| inflation ± error of its mean (in standard errors) {head}")
            for policy, by_budget in some.items():
                print(f"| {policy} | {' | '.join(inflation(table, rows, kind) for rows in by_budget.values())} |")


def over(table: Table, rows: Sequence[Row], kind: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[seeds] what was said of a choice minus its score on all search items, in points."""
    return np.array([100 * (row[kind]["mean"] - table.mean(row[kind]["name"])) for row in rows])


def inflation(table: Table, rows: Sequence[Row], kind: str) -> str:
    """The mean, its error over seeds, and where there are errors what share of the mean of these it is."""
    found, error = over(table, rows, kind), 100 * float(np.mean([row[kind]["se"] for row in rows]))
    said = f"{found.mean():+.1f} ± {found.std() / np.sqrt(len(found)):.1f}"
    return said + (f" ({found.mean() / error:+.1f})" if error > 0 else "")


def savings(
    table: Table, found: Mapping[str, Mapping[int, Sequence[Row]]], kind: str, split: Any, counted: str
) -> None:
    """For each budget of full evaluation: how many times fewer answers a policy needs for the same quality."""
    goals = {
        b: (quality(table, rows, "chosen", split).mean(), np.mean([r[counted] for r in rows]))
        for b, rows in found[FULL].items()
    }
    print(f"| policy | {' | '.join(f'{spent:.0f}: {goal:.1f}' for goal, spent in goals.values())} |")
    print(f"|---|{'---|' * len(goals)}")
    for policy, by_budget in found.items():
        if policy == FULL:
            continue
        cells = []
        for goal, spent in goals.values():
            enough = [
                np.mean([row[counted] for row in rows])
                for rows in by_budget.values()
                if quality(table, rows, kind, split).mean() >= goal - 100 * CLOSE
            ]
            cells.append(f"{spent / min(enough):.1f}" if enough else "–")
        print(f"| {policy} | {' | '.join(cells)} |")


def baselines(table: Table, split: Any) -> None:
    """Every baseline, and the best merge of the grid by all search items."""
    best = max(table.merges, key=table.mean)
    rows = {**{label: weights.name for label, weights in BASELINES.items()}, "best by all search items": best}
    print("| model | search | judge | accuracy there | best minus it |\n|---|---|---|---|---|")
    for label, name in rows.items():
        against = paired(table.values(best, split=split).tolist(), table.values(name, split=split).tolist())
        print(f"| {label} ({name}) | {100 * table.mean(name):.1f} | {100 * table.mean(name, split=split):.1f} | "
              f"{100 * table.mean(name, metric='accuracy', split=split):.1f} | {100 * against.difference:+.1f} "
              f"[{100 * against.low:+.1f}, {100 * against.high:+.1f}] |")  # fmt: skip


def draw(table: Table, found: Mapping[str, Mapping[int, Sequence[Row]]], split: Any) -> None:
    """Quality by answers."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, (policy, by_budget) in enumerate(found.items()):
        spent = [np.mean([row["items"] for row in rows]) for rows in by_budget.values()]
        values = [quality(table, rows, "chosen", split) for rows in by_budget.values()]
        centre, error = [v.mean() for v in values], [v.std() / np.sqrt(len(v)) for v in values]
        axis.errorbar(spent, centre, error, color=f"C{number}", marker="o", markersize=3, capsize=2, label=policy)
    axis.axhline(100 * table.mean(BASELINES["average"].name, split=split), color="0.6", linestyle=":")
    axis.text(0.99, 100 * table.mean(BASELINES["average"].name, split=split), "plain average", fontsize=8, color="0.4",
              ha="right", va="bottom", transform=axis.get_yaxis_transform())  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("answers of candidates")
    axis.set_ylabel(f"{METRIC} of the merge chosen, {split} items, %")
    axis.legend(fontsize=7)
    figure.savefig(HERE / "quality.svg")


def draw_inflation(table: Table, rows: Sequence[Row]) -> None:
    """What the best score and the most that is believed lie above the truth, by answers."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    kinds = {"scored": "the best unbiased score", "chosen": "the most that is believed"}
    for axis, (kind, label) in zip(axes, kinds.items(), strict=True):
        for number, (policy, by_budget) in enumerate(by_policy(rows, kind).items()):
            if policy == FULL or (kind == "chosen" and "scored" not in next(iter(by_budget.values()))[0]):
                continue
            values = [over(table, some, kind) for some in by_budget.values()]
            spent = [np.mean([row["items"] for row in some]) for some in by_budget.values()]
            centre, error = [v.mean() for v in values], [v.std() / np.sqrt(len(v)) for v in values]
            axis.errorbar(spent, centre, error, color=f"C{number}", marker="o", markersize=3, capsize=2, label=policy)
        axis.axhline(0, color="0.6", linestyle=":")
        axis.set_xscale("log")
        axis.set_title(f"{label} minus the truth", fontsize=10)
        axis.set_xlabel("answers of candidates")
    axes[0].set_ylabel("points")
    axes[0].legend(fontsize=7)
    figure.savefig(HERE / "inflation.svg")


def main() -> None:
    """All tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--merges", type=int, default=GRID, help="of the grid")
    parser.add_argument("--split", choices=("search", "holdout"), default="holdout")
    options = parser.parse_args()
    split: Any = options.split
    table = load_table(most=options.merges)
    everything = json.loads(file_of(len(table.merges)).read_text(encoding="utf-8"))["rows"]
    judged = set(table.names(split))
    judged_rows = {kind: [row for row in everything if kind in row and row[kind]["name"] in judged] for kind in KINDS}
    rows = judged_rows["chosen"]
    print(f"{len(rows)} of {len(everything)} searches: the others' merges have no answers to the {split} items\n")
    baselines(table, split)
    for kind in KINDS:
        found = by_policy(judged_rows[kind], kind)
        print(f"\n**{kind}**, {split} items\n")
        show(table, found, kind, split)
        for counted in ("items", "all_items"):
            print(f"\ntimes fewer {counted} for the quality of full evaluation, {kind}\n")
            savings(table, found, kind, split, counted)
    if options.merges == GRID:
        draw(table, by_policy(rows, "chosen"), split)
        draw_inflation(table, rows)


if __name__ == "__main__":
    main()
