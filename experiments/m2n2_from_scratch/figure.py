"""The curves in results/ beside the paper's: writes curves.png, prints the README's table.

python experiments/m2n2_from_scratch/figure.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the choice of what to draw with

HERE = Path(__file__).parent
NAMES = {
    "m2n2": "M2N2",
    "no_split": "no split point",
    "no_attraction": "no attraction",
    "no_crossover": "no crossover",
    "no_competition": "no competition",
    "ga": "GA",
    "cma_es": "CMA-ES, variances only",
}
PAPER = {
    "m2n2": {1: 33.6, 2: 45.5, 5: 69.5, 10: 82.5, 20: 86.0, 30: 86.5, 50: 87.0},
    "cma_es": {1: 49.0, 2: 59.8, 5: 73.8, 10: 78.4, 20: 81.5, 30: 84.3, 50: 86.1},
    "no_crossover": {1: 34.7, 2: 40.4, 5: 51.2, 10: 62.4, 20: 70.4, 30: 73.9, 50: 77.1},
    "ga": {1: 43.7, 2: 51.1, 5: 60.0, 10: 64.6, 20: 66.5, 30: 67.4, 50: 68.3},
}
"""Test accuracy by thousands of evaluations, mean of ten runs, read off the paper's figure to about 0.3 points."""
AUTHORS = (
    {1: 41.9, 2: 55.6, 3: 67.2, 5: 78.9, 7.5: 84.7, 10: 84.4},
    {1: 32.2, 2: 51.7, 3: 70.0, 5: 79.7, 7.5: 85.0, 10: 86.1},
)
"""The authors' program under jax 0.10.2, seeds 42 and 43."""
SHOWN = (1000, 2000, 5000, 10_000, 20_000)


def curves() -> dict[str, list[dict[int, dict[str, float]]]]:
    """Variant → one a seed: evaluations → what was measured."""
    found: dict[str, list[dict[int, dict[str, float]]]] = {name: [] for name in NAMES}
    for path in sorted((HERE / "results").glob("*.json")):
        result: dict[str, Any] = json.loads(path.read_text())
        found[result["variant"]].append({int(row["evaluations"]): row for row in result["curve"]})
    return found


def draw(found: dict[str, list[dict[int, dict[str, float]]]]) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6))
    for number, (variant, runs) in enumerate(found.items()):
        colour = f"C{number}"
        for axis, key in zip(axes, ("test", "coverage", "entropy_bits"), strict=True):
            shared = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
            if not shared or key not in runs[0][shared[0]]:
                continue
            values = np.array([[run[n][key] for n in shared] for run in runs])
            axis.plot(shared, values.mean(axis=0), colour, label=f"{NAMES[variant]} ({len(runs)})")
            axis.fill_between(shared, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.08)
        if variant in PAPER:
            points = {n: v for n, v in PAPER[variant].items() if n <= 20}
            axes[0].plot([1000 * n for n in points], list(points.values()), colour + "o:", markersize=4, linewidth=1)
    for run in AUTHORS:
        axes[0].plot([1000 * n for n in run], list(run.values()), "kx", markersize=5)
    for axis, title in zip(
        axes,
        ("test accuracy, %\ndotted: the paper; ×: the authors' program", "coverage of the archive, %", "entropy, bits"),
        strict=True,
    ):
        axis.set(title=title, xlabel="evaluations", xscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "curves.png", dpi=110)


def table(found: dict[str, list[dict[int, dict[str, float]]]]) -> None:
    print("| test (train) % | seeds | " + " | ".join(f"{n:,}" for n in SHOWN) + " |")
    print("|---" * (len(SHOWN) + 2) + "|")
    for variant, runs in found.items():
        cells = []
        for n in SHOWN:
            rows = [run[n] for run in runs if n in run]
            test, train = ([row[key] for row in rows] for key in ("test", "train"))
            lone = f" [{len(rows)}]" if rows and len(rows) < len(runs) else ""
            spread = f" ± {np.std(test):.1f}" if len(rows) > 1 else ""
            cells.append(f"{np.mean(test):.1f}{spread} ({np.mean(train):.1f}){lone}" if rows else "")
        print(f"| {NAMES[variant]} | {len(runs)} | " + " | ".join(cells) + " |")
        if variant in PAPER:
            points = [str(PAPER[variant].get(n // 1000, "")) for n in SHOWN]
            print("| *- the paper* | 10 | " + " | ".join(points) + " |")


def main() -> None:
    found = curves()
    draw(found)
    table(found)


if __name__ == "__main__":
    main()
