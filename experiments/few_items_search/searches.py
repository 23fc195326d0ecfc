"""Whole searches over the table, at equal numbers of answers: writes searches-MERGES.json and winners.txt.

    python experiments/few_items_search/searches.py --seeds 20
    python experiments/few_items_search/searches.py --merges 64 --part product    # again, without the plain loops

`report.py` compares what they found, once `collect.py --holdout winners.txt` has scored the winners.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
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
BUDGETS = (160, 320, 640, 1280, 2560)
FULL = (1200, 2400, 4800, 9600, 19200)
"""Of full evaluation, 300 items a candidate."""
PLAIN = {"policy": "stratified", "race": [], "elites": None, "screening": "unbiased"}
CATCMA, THOMPSON = "catcma", "thompson"
PRODUCT: dict[str, tuple[int | None, dict[str, Any], str]] = {
    "all items": (None, PLAIN, CATCMA),
    "fixed items, mean": (ITEMS, PLAIN | {"policy": "random", "rotate": False}, CATCMA),
    "rotating items": (ITEMS, PLAIN, CATCMA),
    "rotating items, racing and elites": (ITEMS, {"policy": "stratified", "screening": "unbiased"}, CATCMA),
    "catcma": (ITEMS, {}, CATCMA),
    "thompson": (ITEMS, {}, THOMPSON),
    "thompson, 10 items a candidate": (10, {}, THOMPSON),
    "thompson, 8 items a candidate": (8, {}, THOMPSON),
    "thompson, 5 items a candidate": (5, {}, THOMPSON),
    "thompson, all items": (None, {}, THOMPSON),
}
"""Searches by the product: items of a candidate, what is made of them, and who proposes; the first five by `catcma`."""
MOST_CANDIDATES = 256
"""Searches of more candidates that answer less than `ITEMS` each are left out: they take long, and have found the best
merge before."""
GRID = 125
"""Merges of the grid that is searched; the table has a larger one, too."""
MERGES = 24
"""In the banks of the searches below that have merges besides sources, base and average."""


@dataclass(frozen=True, slots=True)
class Way:
    """A search with a bank: selection and estimator, whether items rotate, merges in the bank, items a candidate."""

    approach: Approach
    rotate: bool = True
    merges: int = 0
    n: int = ITEMS
    pool: bool = False


DIFFERENCE = Approach("random", "difference")
LOOPS = {
    "fixed items, gmp-IRT (MERGE³), 24 merges known": Way(Approach("random", "gmp_irt"), rotate=False, merges=MERGES),
    "fixed items, mp-IRT, 24 merges known": Way(Approach("random", "mp_irt"), rotate=False, merges=MERGES),
    "rotating items, gmp-IRT, 24 merges known": Way(Approach("random", "gmp_irt"), merges=MERGES),
    "greedy items, BLUP, 24 merges known": Way(Approach("greedy", "blup"), rotate=False, merges=MERGES),
    "hybrid items, recentred BLUP, 24 merges known": Way(Approach("hybrid", "recentred_blup"), merges=MERGES),
    "fixed items, gmp-IRT (MERGE³), no merge known": Way(Approach("random", "gmp_irt"), rotate=False),
    "rotating items, gmp-IRT, no merge known": Way(Approach("random", "gmp_irt")),
    "rotating items, difference": Way(DIFFERENCE),
    "rotating items, difference, pooled": Way(DIFFERENCE, pool=True),
    "rotating 10 items, difference, pooled": Way(DIFFERENCE, n=10, pool=True),
    "rotating 5 items, difference, pooled": Way(DIFFERENCE, n=5, pool=True),
}

Row = dict[str, Any]


def product_runs(table: Table, seed: int, only: Sequence[str]) -> Iterator[Row]:
    """Every policy, or `only` some, and every budget, through the controller."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = make_registry(table, folder)
        for policy, (items, subset, optimizer) in PRODUCT.items():
            budgets = FULL if items is None else [b for b in BUDGETS if items == ITEMS or b // items <= MOST_CANDIDATES]
            for budget in budgets if not only or policy in only else ():
                objective = {"name": "ja_math", "eval_sets": ["ja_math"], "metric": METRIC, "items": items}
                spec = {
                    "objectives": [objective],
                    "optimizer": {"name": optimizer},
                    "budget": {"candidates": max(1, 2 * budget // (items or 300)), "items": budget},
                    "subset": subset,
                    "seed": seed,
                }
                found = run(table, registry, spec, folder)
                yield {"policy": policy, "budget": budget, "seed": seed, **_found(found)}


def _found(found: Found) -> Row:
    return {
        "scored": asdict(found.scored), "chosen": asdict(found.chosen), "verified": asdict(found.verified),
        "items": found.items, "all_items": found.all_items, "candidates": found.candidates,
    }  # fmt: skip


def loop_runs(table: Table, seed: int) -> Iterator[Row]:
    """Every estimator and budget; each seed has banks of its own."""
    shared: dict[int, Loop] = {}
    for policy, way in LOOPS.items():
        bank, _ = banks(table, way.merges, seed, table.merges)
        loop = Loop(table, tuple(bank), len(SOURCES), way.approach, way.n, way.rotate, way.pool)
        if way.merges in shared:
            loop.__dict__["fits"] = shared[way.merges].fits  # what is learnt of a bank is learnt once
        shared[way.merges] = loop
        for budget in BUDGETS:
            ended = loop.run(CATCMA, budget, seed)
            yield {
                "policy": policy, "budget": budget, "seed": seed, "chosen": asdict(ended.chosen),
                "items": ended.items, "all_items": ended.items + 300 * len(bank), "candidates": ended.candidates,
            }  # fmt: skip


def of_seed(seed: int, merges: int, part: str, only: Sequence[str]) -> list[Row]:
    """Everything, or one part."""
    table, begun = load_table(most=merges), time.process_time()
    rows = [*product_runs(table, seed, only)] if part != "loops" else []
    rows += [*loop_runs(table, seed)] if part != "product" else []
    print(f"seed {seed}: {len(rows)} searches, {time.process_time() - begun:.0f} CPU s", flush=True)
    return rows


def file_of(merges: int) -> Path:
    """Of the searches over so many merges."""
    return HERE / f"searches-{merges}.json"


def main() -> None:
    """Every seed; what the file has of the other part is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--merges", type=int, default=GRID, help="of the grid")
    parser.add_argument("--part", choices=("all", "product", "loops"), default="all")
    parser.add_argument("--only", nargs="*", default=[], choices=PRODUCT, help="of the product's policies")
    options = parser.parse_args()
    table = load_table(most=options.merges)
    work = partial(of_seed, merges=len(table.merges), part=options.part, only=options.only)
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        rows = [row for rows in pool.map(work, range(options.seeds)) for row in rows]
    setting = {
        "levels": table.stage.levels, "most": table.stage.most, "metric": METRIC, "items": ITEMS
    }  # fmt: skip
    place, made = file_of(len(table.merges)), {row["policy"] for row in rows}
    before = json.loads(place.read_text(encoding="utf-8"))["rows"] if place.exists() else []
    rows += [row for row in before if row["policy"] not in made]
    place.write_text(json.dumps({**setting, "rows": rows}, separators=(",", ":")) + "\n", encoding="utf-8")
    winners = [weights.name for weights in BASELINES.values()]
    winners += [row[kind]["name"] for row in rows for kind in ("scored", "chosen", "verified") if kind in row]
    (HERE / "winners.txt").write_text("\n".join(dict.fromkeys(winners)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
