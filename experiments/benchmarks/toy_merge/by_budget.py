"""Every optimizer at every budget: prints the README's table; results are stored row by row and not made again.

python experiments/benchmarks/toy_merge/by_budget.py          the toy of the README
python experiments/benchmarks/toy_merge/by_budget.py 1        the toy whose base began at seed 1, fewer optimizers
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from compare_optimizers import SEEDS, Best, search
from digit_experts import ToyMerge, accuracy

BUDGETS = (50, 100, 200, 500, 1000)
FEW = {"per_expert": 1}
ROWS: dict[str, tuple[str, int, bool, dict[str, Any]]] = {
    # name, largest budget, whether it adapts to the budget (then each budget is a run of its own), options
    "nevergrad NgIohTuned": ("nevergrad", 500, True, {"algorithm": "NgIohTuned"}),
    "nevergrad TwoPointsDE": ("nevergrad", 500, True, {"algorithm": "TwoPointsDE"}),
    "nevergrad OnePlusOne": ("nevergrad", 500, True, {"algorithm": "OnePlusOne"}),
    "swarm": ("swarm", 500, False, {}),
    "genome": ("genome", 500, False, {}),
    "catcma": ("catcma", 500, False, {}),
    "catcma, sigma 0.05": ("catcma", 500, False, {"sigma": 0.05}),
    "nsga2": ("nsga2", 500, True, {}),
    "nsga2, 4 objectives": ("nsga2", 500, True, {"objectives": 4}),
    "m2n2": ("m2n2", 1000, False, {}),
    "cma_es": ("cma_es", 1000, False, {}),
    "cma_es, sigma 0.05, variances only": ("cma_es", 500, False, {"sigma": 0.05, "diagonal": True}),
    "como_cma_es, 4 objectives": ("como_cma_es", 200, True, {"objectives": 4}),
    "random": ("random", 500, False, {}),
    "auto": ("auto", 1000, True, {}),
    "portfolio": ("portfolio", 500, True, {}),
    "map, 4 genes": ("map", 200, True, FEW),
    "cma_es, 4 genes": ("cma_es", 200, False, FEW),
    "m2n2, 4 genes": ("m2n2", 200, False, FEW),
    "auto, 4 genes": ("auto", 200, True, FEW),
    "portfolio, 4 genes": ("portfolio", 200, True, FEW),
}


AGAIN = ("nevergrad NgIohTuned", "nevergrad OnePlusOne", "nsga2", "m2n2", "cma_es", "auto", "portfolio")
"""Rows that are measured on other toys, on which nothing was chosen."""


def measure(toy: ToyMerge, row: str) -> dict[str, list[float]]:
    """Budget → [train, test, spread of train over seeds], in percent."""
    name, most, adapts, options = ROWS[row]
    budgets = [budget for budget in BUDGETS if budget <= most]
    whole = {} if adapts else {seed: search(toy, name, seed, most, **options) for seed in SEEDS}

    def last(seed: int, budget: int) -> Best:
        return search(toy, name, seed, budget, **options)[-1] if adapts else whole[seed][budget - 1]

    results = {}
    for budget in budgets:
        bests = [last(seed, budget) for seed in SEEDS]
        train = [100 * best.score for best in bests]
        test = [100 * accuracy(best.network, toy.test_digits) for best in bests]
        results[str(budget)] = [float(np.mean(train)), float(np.mean(test)), float(np.std(train))]
    return results


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| | " + " | ".join(map(str, BUDGETS)) + " |", "|---" * (len(BUDGETS) + 1) + "|"]
    for row, by_budget in rows.items():
        cells = [_cell(by_budget.get(str(budget))) for budget in BUDGETS]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(result: list[float] | None) -> str:
    if result is None:
        return "–"
    train, test, spread = result
    return f"{train:.1f} ± {spread:.1f} / {test:.1f}"


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    file = Path(__file__).with_name(f"by_budget_{seed}.json" if seed else "by_budget.json")
    toy = ToyMerge(seed)
    stored = json.loads(file.read_text()) if file.exists() else {"seeds": SEEDS, "rows": {}, "cpu_s": {}}
    for row in [row for row in (AGAIN if seed else ROWS) if row not in stored["rows"]]:
        began = time.process_time()
        stored["rows"][row] = measure(toy, row)
        stored["cpu_s"][row] = round(time.process_time() - began, 1)
        stored["rows"] = {name: stored["rows"][name] for name in ROWS if name in stored["rows"]}
        file.write_text(json.dumps(stored, indent=1) + "\n")
        print(row, stored["rows"][row], stored["cpu_s"][row], flush=True)
    print(table(stored["rows"]))
    print(f"{sum(stored['cpu_s'].values()):.0f} s of processor time")


if __name__ == "__main__":
    main()
