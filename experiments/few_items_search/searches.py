"""Whole searches over the table, at equal numbers of answers: writes searches.json and winners.txt.

    python experiments/few_items_search/searches.py --seeds 20

`report.py` compares what they found, once `collect.py --holdout winners.txt` has scored the winners.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from estimators import banks
from grid import BASELINES, SOURCES
from loop import Loop
from product import Found, make_registry, run

from fitness.irt.cross_validation import Approach
from table import METRIC, Table, load_table

HERE = Path(__file__).parent
ITEMS = 20
"""Of a candidate, unless it answers all 300."""
BUDGETS = (200, 400, 640, 1280, 2560, 5120)
FULL = (600, 1200, 2400, 4800, 9600, 19200, 38400)
"""Of full evaluation, 300 items a candidate."""
PLAIN = {"race": [], "elites": None, "screening": "unbiased", "bank": False}
PRODUCT: dict[str, tuple[int | None, dict[str, Any]]] = {
    "all items": (None, PLAIN),
    "fixed items, mean": (ITEMS, PLAIN | {"policy": "random", "rotate": False}),
    "rotating items": (ITEMS, PLAIN),
    "rotating items, racing and elites": (ITEMS, {"screening": "unbiased", "bank": False}),
    "as shipped": (ITEMS, {"bank": False}),
}
"""Searches by the product: items of a candidate, and what is made of them."""
MERGES = 24
"""In the banks of the searches below that have merges besides sources, base and average."""
LOOPS: dict[str, tuple[Approach, bool, int]] = {
    "fixed items, gmp-IRT (MERGE³), 24 merges known": (Approach("random", "gmp_irt"), False, MERGES),
    "fixed items, mp-IRT, 24 merges known": (Approach("random", "mp_irt"), False, MERGES),
    "rotating items, gmp-IRT, 24 merges known": (Approach("random", "gmp_irt"), True, MERGES),
    "greedy items, BLUP, 24 merges known": (Approach("greedy", "blup"), False, MERGES),
    "hybrid items, recentred BLUP, 24 merges known": (Approach("hybrid", "recentred_blup"), True, MERGES),
    "fixed items, gmp-IRT (MERGE³), none known": (Approach("random", "gmp_irt"), False, 0),
    "rotating items, gmp-IRT, none known": (Approach("random", "gmp_irt"), True, 0),
    "rotating items, difference to the sources": (Approach("random", "difference"), True, 0),
    "the same, answers pooled": (Approach("random", "difference"), True, 0),
}
"""Searches with a bank: the selection and the estimator, whether items rotate, and the merges in the bank."""
OPTIMIZER = "auto"

Row = dict[str, Any]


def product_runs(table: Table, seeds: int, folder: Path) -> Iterator[Row]:
    """Every policy, budget and seed through the controller."""
    registry = make_registry(table, folder)
    for name, (items, subset) in PRODUCT.items():
        for budget in FULL if items is None else BUDGETS:
            for seed in range(seeds):
                objective = {"name": "ja_math", "eval_sets": ["ja_math"], "metric": METRIC, "items": items}
                spec = {
                    "objectives": [objective],
                    "optimizer": {"name": OPTIMIZER},
                    "budget": {"candidates": max(1, 2 * budget // (items or 300)), "items": budget},
                    "subset": subset,
                    "seed": seed,
                }
                yield {"policy": name, "budget": budget, "seed": seed, **_found(run(table, registry, spec, folder))}


def _found(found: Found) -> Row:
    return {
        "chosen": asdict(found.chosen), "verified": asdict(found.verified), "items": found.items,
        "all_items": found.all_items, "candidates": found.candidates,
    }  # fmt: skip


def loop_runs(table: Table, seeds: int) -> Iterator[Row]:
    """Every estimator, budget and seed; each seed has banks of its own."""
    for seed in range(seeds):
        shared: dict[int, Loop] = {}
        for name, (approach, rotate, merges) in LOOPS.items():
            bank, _ = banks(table, merges, seed, table.merges)
            loop = Loop(table, tuple(bank), len(SOURCES), approach, ITEMS, rotate, pool="pooled" in name)
            if merges in shared:
                loop.__dict__["fits"] = shared[merges].fits  # what is learnt of a bank is learnt once
            shared[merges] = loop
            for budget in BUDGETS:
                ended = loop.run(OPTIMIZER, budget, seed)
                yield {
                    "policy": name, "budget": budget, "seed": seed, "chosen": asdict(ended.chosen),
                    "items": ended.items, "all_items": ended.items + 300 * len(bank), "candidates": ended.candidates,
                }  # fmt: skip


def main() -> None:
    """Everything, or some of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    table = load_table()
    parts: list[Callable[[], Iterator[Row]]] = []
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        parts = [lambda: product_runs(table, options.seeds, Path(folder)), lambda: loop_runs(table, options.seeds)]
        for part in parts:
            begun = time.process_time()
            rows += part()
            print(f"{len(rows)} searches, {time.process_time() - begun:.0f} CPU s", flush=True)
    document = {"levels": table.levels, "metric": METRIC, "items": ITEMS, "optimizer": OPTIMIZER, "rows": rows}
    (HERE / "searches.json").write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")
    winners = [weights.name for weights in BASELINES.values()]
    winners += [row[kind]["name"] for row in rows for kind in ("chosen", "verified") if kind in row]
    (HERE / "winners.txt").write_text("\n".join(dict.fromkeys(winners)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
