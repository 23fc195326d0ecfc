"""Score real merges on everything, one line a merge: the table that the other scripts of this folder read.

    python collect.py                    # all merges on the search items; again after a stop: what is missing
    python collect.py --from-end --quiet 3.5    # a second process, while the machine has room for it
    python collect.py --holdout winners.txt     # names of merges: their holdout items, too
    python collect.py --check            # one merge with and without the shortcut of the shared layers: equal

A line holds the merge's name, its weights, the split, the seconds it took, and for each skill all metrics of multiple
choice, in the order of `asked`. Lines are appended whole; a process that is killed loses the merge at hand.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from grid import BASELINES, SKILLS, ZOO, Weights, recipe, rows
from shared_layers import share_layers

from evomerge.errors import Failure
from evomerge.merge.resident import Resident
from evomerge.seeds import generator
from fitness.evaluator import Responses
from fitness.items import Item, Split, load_eval_set
from fitness.scorer import ItemScorer, make_scorer

HERE = Path(__file__).resolve().parent
TABLE = HERE / "responses.jsonl"
CACHE = Path(os.environ.get("EVOMERGE_CACHE", Path.home() / ".cache" / "evomerge"))
BASE = CACHE / "smollm2-135m-instruct"
AHEAD = 4
"""A second process takes the merge so many places ahead of the first one."""
FEW = 30
"""Items of each skill but ja_math, the same for all merges."""


def asked(split: Split) -> dict[str, tuple[Item, ...]]:
    """Skill → items: all of ja_math; a few of the other skills, on the search split alone."""
    found = {"ja_math": load_eval_set("ja_math", ZOO / "items" / "ja_math.jsonl").split(split)}
    if split == "holdout":
        return found
    for skill in SKILLS[1:]:
        items = load_eval_set(skill, ZOO / "items" / f"{skill}.jsonl").split(split)
        places = generator(0, "items of the table", skill).choice(len(items), FEW, replace=False)
        found[skill] = tuple(items[place] for place in sorted(places))
    return found


def main() -> None:
    """Score what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--from-end", action="store_true", help="of the next merges the last one first")
    parser.add_argument("--quiet", type=float, help="begin a merge only while the machine's load is below this")
    parser.add_argument("--holdout", type=Path, help="a file of names: score these on the holdout items")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.check:
        check()
        return
    split: Split = "holdout" if arguments.holdout else "search"
    wanted = rows() if split == "search" else named(arguments.holdout.read_text(encoding="utf-8").split())
    collect(wanted, split, arguments.table, from_end=arguments.from_end, quiet=arguments.quiet)


def named(names: Sequence[str]) -> list[Weights]:
    """Merges of the table by name."""
    known = {weights.name: weights for weights in rows()}
    return [known[name] for name in names]


def collect(wanted: Sequence[Weights], split: Split, table: Path, *, from_end: bool, quiet: float | None) -> None:
    """Score merges that the table lacks, looking again before each what other processes have done."""
    items = asked(split)
    resident, scorer = load()
    share_layers(resident.model)
    while missing := lacking(wanted, split, table):
        wait_for_room(quiet)
        weights = missing[:AHEAD][-1 if from_end else 0]
        began = time.perf_counter()
        responses = score(resident, scorer, weights, items)
        append(table, line(weights, split, responses, time.perf_counter() - began))
        print(f"{time.strftime('%H:%M:%S')} {len(missing) - 1} left, {time.perf_counter() - began:.1f} s", flush=True)


def lacking(wanted: Sequence[Weights], split: Split, table: Path) -> list[Weights]:
    """Those that the table does not hold, in order."""
    there = done(table, split)
    return [weights for weights in wanted if weights.name not in there]


def load() -> tuple[Resident, ItemScorer]:
    """The four sources resident, as a worker holds them."""
    resident = Resident(recipe(BASELINES["average"], BASE), device="cpu", cache=CACHE / "deltas")
    return resident, make_scorer(resident.model, resident.tokenizer)


def score(
    resident: Resident, scorer: ItemScorer, weights: Weights, items: dict[str, tuple[Item, ...]]
) -> dict[str, Responses]:
    """Build one merge and score it."""
    resident.materialize(recipe(weights, BASE))
    found = {}
    for skill, some in items.items():
        outcome = scorer.score(some)
        if isinstance(outcome, Failure):
            raise RuntimeError(f"{weights.name} on {skill}: {outcome.message}")
        found[skill] = outcome
    return found


def line(weights: Weights, split: Split, responses: dict[str, Responses], seconds: float) -> str:
    """As the table holds it; reals with six digits, right or wrong as a digit."""
    values = {
        skill: {
            metric: "".join(str(int(v)) for v in found)
            if metric.startswith("accuracy")
            else [float(f"{v:.6g}") for v in found]
            for metric, found in outcome.values.items()
        }
        for skill, outcome in responses.items()
    }
    row = {"name": weights.name, "split": split, "seconds": round(seconds, 1), "values": values}
    return json.dumps(row, separators=(",", ":"))


def append(table: Path, text: str) -> None:
    """One line, at once, after whatever a killed process left."""
    whole = not table.exists() or table.stat().st_size == 0 or table.read_bytes()[-1:] == b"\n"
    handle = os.open(table, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{'' if whole else chr(10)}{text}\n".encode())
    finally:
        os.close(handle)


def done(table: Path, split: Split) -> set[str]:
    """Names of the merges that the table holds on a split."""
    found = set()
    for text in table.read_text(encoding="utf-8").splitlines() if table.exists() else ():
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue  # a process was killed while it wrote
        if row["split"] == split:
            found.add(row["name"])
    return found


def wait_for_room(most: float | None) -> None:
    """Wait while the machine's load is higher."""
    while most is not None and os.getloadavg()[0] >= most:
        time.sleep(20)


def check() -> None:
    """Fails unless the shared layers' shortcut gives the product's numbers, bit for bit."""
    items = {"ja_math": asked("search")["ja_math"][:24]}
    resident, scorer = load()
    some = rows()[60], rows()[110]
    plain = [score(resident, scorer, weights, items)["ja_math"].values for weights in some]
    share_layers(resident.model)
    score(resident, scorer, some[1], items)  # what the layers gave is remembered from another merge
    for weights, expected in zip(some, plain, strict=True):
        if score(resident, scorer, weights, items)["ja_math"].values != expected:
            raise SystemExit(f"{weights.name}: the shortcut changes numbers")
    print("equal")


if __name__ == "__main__":
    main()
