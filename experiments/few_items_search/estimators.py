"""How well do few answers of a real merge say its full score? Prints the README's tables, writes estimators.json.

    python experiments/few_items_search/estimators.py

Models of items are fitted on a bank: the sources, the base, the plain average, and some of the merges; the estimates
are those of all other merges. Random items are drawn anew for each of several splits and draws.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from grid import BASELINES, SOURCES

from evomerge.seeds import generator
from fitness.irt.accuracy import Accuracy, accuracy
from fitness.irt.contracts import Bank, Scores
from fitness.irt.cross_validation import DETERMINED, Approach, predict
from fitness.irt.estimators import ESTIMATORS
from fitness.irt.fits import Fits
from fitness.irt.selection import Stream
from table import Table, load_table

HERE = Path(__file__).parent
COUNTS = (10, 20, 30, 50, 100)
SLOW_DRAWS = 5
"""Of the published ways that maximise a likelihood for every merge."""
APPROACHES = (
    Approach("random", "mean"), Approach("stratified", "stratified"), Approach("random", "difference"),
    Approach("stratified", "difference"), Approach("parent_neyman", "difference"), Approach("random", "greg"),
    Approach("random", "doubly_robust"), Approach("random", "shrunk"), Approach("random", "eap"),
    Approach("random", "blup"), Approach("greedy", "blup"), Approach("hybrid", "recentred_blup"),
    Approach("hybrid", "combined_blup"), Approach("random", "combined_eap"), Approach("adaptive", "eap"),
    Approach("each", "eap"), Approach("random", "p_irt"), Approach("random", "gp_irt"), Approach("random", "mp_irt"),
    Approach("random", "gmp_irt"), Approach("random", "ridge"), Approach("random", "aipw"),
    Approach("random", "anchor_correctness"),
)  # fmt: skip


def banks(table: Table, merges: int, split: int, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Rows of the bank, the sources first, and the others."""
    known = [BASELINES[name].name for name in (*SOURCES, "average", "base")]
    rest = [name for name in names if name not in known]
    order = generator(split, "bank", merges).permutation(len(rest))
    return [*known, *(rest[i] for i in order[:merges])], [rest[i] for i in order[merges:]]


def measure(
    table: Table, metric: str, merges: int, *, splits: int, draws: int, approaches: Sequence[Approach]
) -> dict[str, dict[str, Any]]:
    """Approach → number of items → accuracy of its estimates, averaged over splits."""
    found: dict[str, dict[str, list[Accuracy]]] = {}
    for split in range(splits):
        bank, others = banks(table, merges, split, table.names())
        fits = Fits(Bank(table.matrix(metric, bank), tuple(range(len(SOURCES)))))
        matrix = table.matrix(metric, others)
        for approach in approaches:
            begun = time.process_time()
            for n in COUNTS:
                count = SLOW_DRAWS if approach.estimator.endswith("p_irt") else draws
                count = 1 if approach.policy in DETERMINED else count
                sets: list[Scores] = []
                for draw in range(count):
                    sets.append(predict(fits, matrix.values, approach, n, Stream(split, draw)))
                result = accuracy(matrix.full_scores, sets, generator(split, "picks", approach.name, n))
                found.setdefault(approach.name, {}).setdefault(str(n), []).append(result)
            print(
                f"  {metric} {merges} {split} {approach.name}: {time.process_time() - begun:.1f} CPU s", file=sys.stderr
            )
    return {name: {n: mean_of(results) for n, results in by_n.items()} for name, by_n in found.items()}


def mean_of(results: Sequence[Accuracy]) -> dict[str, float]:
    """Of each measure."""
    rows = [asdict(result) for result in results]
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def show(title: str, found: dict[str, dict[str, Any]]) -> None:
    """A table: MAE by n, the rest at n = 20."""
    print(f"\n**{title}**\n\n| estimator, items | MAE at {' '.join(map(str, COUNTS))} | τ | regret | inflation | "
          "coverage |\n|---|---|---|---|---|---|")  # fmt: skip
    for name, by_n in found.items():
        maes = " ".join(f"{100 * by_n[str(n)]['mae']:.1f}" for n in COUNTS)
        at = by_n["20"]
        cover = "–" if np.isnan(at["coverage"]) else f"{100 * at['coverage']:.0f}"
        print(
            f"| {name} | {maes} | {at['tau']:.2f} | {100 * at['regret']:.1f} | {100 * at['inflation']:+.1f} | {cover} |"
        )


def main() -> None:
    """Both metrics, with and without merges in the bank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    table = load_table()
    results: dict[str, Any] = {"models": len(table.names()), "splits": options.splits, "draws": options.draws}
    print(f"{len(table.names())} models, {len(ESTIMATORS)} estimators known")
    for metric in ("choice_probability", "accuracy"):
        for merges in (0, 24):
            begun = time.process_time()
            found = measure(table, metric, merges, splits=options.splits, draws=options.draws, approaches=APPROACHES)
            results[f"{metric}, {merges} merges in the bank"] = found
            show(f"{metric}, {merges} merges in the bank ({time.process_time() - begun:.0f} CPU s)", found)
            (HERE / "estimators.json").write_text(json.dumps(results, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
