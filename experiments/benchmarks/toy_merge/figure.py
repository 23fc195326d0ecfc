"""Draws by_budget.json and its likes on other toys: python experiments/benchmarks/toy_merge/figure.py"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
FILES = {"by_budget.json": "toy 0", "by_budget_1.json": "toy 1", "by_budget_2.json": "toy 2"}
TICKS = (50, 100, 200, 500, 1000)
ROWS = ("auto", "portfolio", "m2n2", "cma_es", "nsga2", "nevergrad NgIohTuned", "nevergrad OnePlusOne")


def main() -> None:
    stored = {title: json.loads((HERE / file).read_text())["rows"] for file, title in FILES.items()}
    figure, axes = plt.subplots(1, len(stored), figsize=(4 * len(stored), 4), sharey=True, layout="constrained")
    for axis, (title, rows) in zip(axes, stored.items(), strict=True):
        for row in ROWS:
            budgets = list(map(int, rows[row]))
            train, spread = ([result[i] for result in rows[row].values()] for i in (0, 2))
            axis.errorbar(budgets, train, spread, label=row, lw=2.5 if row == "auto" else 1.2, capsize=2, marker=".")
        axis.set(title=title, xscale="log", xlabel="evaluations", xticks=TICKS, xticklabels=TICKS)
        axis.minorticks_off()
    axes[0].set_ylabel("train accuracy of the best, %")
    axes[0].legend(fontsize=8)
    figure.savefig(HERE / "by_budget.png", dpi=110)


if __name__ == "__main__":
    main()
