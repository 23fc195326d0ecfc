"""The curves in results/ beside the paper's: writes curves.png, prints the README's tables.

python experiments/m2n2_specialists/figure.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
NAMES = {
    "m2n2": "M2N2",
    "angle_per_side": "M2N2, angle per side",
    "no_attraction": "no attraction",
    "no_split": "no split point",
    "no_competition": "no competition",
    "ga": "GA",
}
PAPER = {
    "m2n2": {200: 62.7, 500: 63.9, 1000: 64.4, 2000: 65.5, 4000: 67.1, 6000: 67.3, 8000: 68.3, 10_000: 68.3},
    "no_attraction": {200: 61.0, 500: 61.9, 1000: 62.2, 2000: 62.7, 4000: 65.0, 6000: 65.6, 8000: 66.0, 10_000: 66.3},
    "no_split": {200: 57.5, 500: 57.3, 1000: 57.8, 2000: 57.8, 4000: 57.8, 6000: 57.8, 8000: 57.8, 10_000: 57.8},
    "ga": {200: 51.5, 500: 52.0, 1000: 52.0, 2000: 52.0, 4000: 52, 6000: 52, 8000: 52, 10_000: 52},
}
"""Test accuracy by evaluations, mean of ten runs, read off the paper's figure to about 0.3 points."""
SHOWN = (200, 500, 1000, 2000, 4000, 10_000)

Run = dict[int, dict[str, float]]


def curves() -> dict[str, list[Run]]:
    """Variant → one a seed: evaluations → what was measured."""
    found: dict[str, list[Run]] = {name: [] for name in NAMES}
    for path in sorted((HERE / "results").glob("*_[0-9].json")):
        result: dict[str, Any] = json.loads(path.read_text())
        found[result["variant"]].append({int(row["evaluations"]): row for row in result["curve"]})
    return found


def draw(found: dict[str, list[Run]]) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6))
    for number, (variant, runs) in enumerate(found.items()):
        colour = f"C{number}"
        for axis, key in zip(axes, ("test", "coverage", "entropy_bits"), strict=True):
            if not runs:
                continue
            shared = sorted(set.intersection(*(set(run) for run in runs)))
            values = np.array([[run[n][key] for n in shared] for run in runs])
            axis.plot(shared, values.mean(axis=0), colour, label=f"{NAMES[variant]} ({len(runs)})")
            axis.fill_between(shared, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.1)
        if variant in PAPER:
            axes[0].plot(list(PAPER[variant]), list(PAPER[variant].values()), colour + "o:", markersize=4, linewidth=1)
    for axis, title in zip(
        axes, ("test accuracy, %; dotted: the paper", "coverage of the archive, %", "entropy, bits"), strict=True
    ):
        axis.set(title=title, xlabel="evaluations", xscale="log", xlim=(40, 12_000))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(HERE / "curves.png", dpi=110)


def table(found: dict[str, list[Run]]) -> None:
    print("| test (train) % | seeds | " + " | ".join(f"{n:,}" for n in SHOWN) + " |")
    print("|---" * (len(SHOWN) + 2) + "|")
    for variant, runs in found.items():
        cells = []
        for n in SHOWN:
            rows = [run[n] for run in runs if n in run]
            test, train = ([row[key] for row in rows] for key in ("test", "train"))
            fewer = f" [{len(rows)}]" if rows and len(rows) < len(runs) else ""
            spread = f" ± {np.std(test):.1f}" if len(rows) > 1 else ""
            cells.append(f"{np.mean(test):.1f}{spread} ({np.mean(train):.1f}){fewer}" if rows else "")
        print(f"| {NAMES[variant]} | {len(runs)} | " + " | ".join(cells) + " |")
        if variant in PAPER:
            print("| *- the paper* | 10 | " + " | ".join(str(PAPER[variant].get(n, "")) for n in SHOWN) + " |")


def pairs() -> None:
    found = json.loads((HERE / "results" / "brute_force.json").read_text())
    own = next(row for row in found if row["seed"] < 0)
    others = [row["test"] for row in found if row["seed"] >= 0]
    print(
        f"best single ratio: the authors' pair {own['test']:.1f} ({own['train']:.1f}); {len(others)} other pairs ",
        end="",
    )
    print(f"{np.mean(others):.1f}, from {min(others):.1f} to {max(others):.1f}")


def lineage(found: dict[str, list[Run]]) -> None:
    last = [max(run.items()) for run in found["m2n2"]]
    print("M2N2's archives at the end:", [(n, int(r["segments"]), round(r["archive_kb"])) for n, r in last])


def main() -> None:
    found = curves()
    draw(found)
    table(found)
    pairs()
    lineage(found)


if __name__ == "__main__":
    main()
