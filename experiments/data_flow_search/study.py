"""A search for paths over the demo's models, and the winner's checkpoint in plain transformers.

A search that was stopped goes on where it was when the same command is given again: its store stays in
~/.cache/evomerge/studies.

python experiments/data_flow_search/study.py --base ~/.cache/evomerge/smollm2-135m-instruct --candidates 30
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.path import LayerPath
from evomerge.recipe.schema import Recipe, canonical_json
from evomerge.storage.sql import open_store
from evomerge.storage.store import CandidateQuery, Store
from fitness.items import load_eval_set
from fitness.scorer import make_scorer
from workers.controller import Controller
from workers.drive import ControllerSettings
from workers.pools import make_pool
from workers.registry import Registry
from workers.replay import replay

HERE = Path(__file__).parent
ZOO = HERE.parent / "zoo"
SOURCES = ("math", "ja", "es", "geo")
CACHE = Path.home() / ".cache" / "evomerge" / "studies" / "data_flow_search"
LAYERS = 30
BLOCKS = {"encoding": "blocks", "back": False, "scales": None, "min_hops": LAYERS}
"""A layer that is missing loses nearly all: with as many hops as layers, none is left out for good."""
SPACES: dict[str, dict[str, Any]] = {
    "blocks": {"kind": "data_flow", "host": "math", "models": ["math", "ja"], **BLOCKS},
    "indicator": {
        "kind": "data_flow", "host": "math", "models": ["math", "ja"], "encoding": "indicator", "repeats": 2,
        "scales": None, "min_hops": LAYERS,
    },
    "hybrid": {"kind": "hybrid", "path": {"models": ["merged", "math", "ja"], **BLOCKS}},
    "parameter": {"kind": "parameter"},
}  # fmt: skip
"""`blocks` and `indicator` begin with the best source, the others with the plain average; `parameter` is the merge of
`hybrid` alone, for comparison."""
CHANGES = (15, 18, 21, 24)
"""Adapters begin at layer 12: a change before changes nothing."""


def seeds_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Paths that change once from one source to the other: what the paper's evolved path looks like."""
    space = SPACES[arguments.space]
    if space["kind"] == "parameter":
        return []
    host = space.get("host", "merged")
    sources = {name: {"location": name} for name in arguments.sources}
    merge = {"merge": {"method": "task_arithmetic"}} if space["kind"] == "hybrid" else {}
    recipes = []
    for first, second in (("ja", "math"), ("math", "ja")):
        for change in CHANGES:
            ends = {0: host, LAYERS - 1: host}
            layers = [{"model": ends.get(n, first if n < change else second), "layer": n} for n in range(LAYERS)]
            path = {"host": host, "layers": layers}
            recipes.append({"base": {"location": "base"}, "sources": sources, "path": path, **merge})
    return recipes


def items(out: Path, number: int) -> None:
    """So many items of each split, the first ones of the demo's."""
    lines = (ZOO / "items" / "ja_math.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [
        [line for line in lines if json.loads(line).get("split", "search") == split][:number]
        for split in ("search", "holdout")
    ]
    out.write_text("\n".join(line for split in kept for line in split), encoding="utf-8")


def spec_of(arguments: argparse.Namespace) -> dict[str, Any]:
    objective = {"name": "ja_math", "eval_sets": ["ja_math"], "metric": "choice_probability", "items": arguments.items}
    return {
        "name": f"paths: {arguments.space}",
        "models": {"base": "base", "sources": {name: name for name in arguments.sources}},
        "space": SPACES[arguments.space],
        "objectives": [objective],
        "constraints": [{"name": "depth", "metric": "layers", "max": arguments.layers}],
        "optimizer": {"name": arguments.optimizer},
        "budget": {"candidates": arguments.candidates},
        "seeds": seeds_of(arguments),
        "verify": {"top": arguments.top, "metrics": ["accuracy"]},
        "workers": {"pool": "local"},
        "dtype": arguments.dtype,
        "seed": arguments.seed,
    }


def folder_of(arguments: argparse.Namespace, spec: dict[str, Any]) -> Path:
    """Where the store of these arguments lies, and stays until the search is through."""
    digest = hashlib.sha256(canonical_json([spec, arguments.pool, str(arguments.base)]).encode()).hexdigest()
    folder = CACHE / f"{arguments.space}_{arguments.optimizer}_{arguments.seed}-{digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def search(store: Store, registry: Registry, cache: Path, spec: dict[str, Any]) -> str:
    """Begin a search, or go on with it."""
    run = store.create_run(spec, "study", ("study", canonical_json(spec)))[0].id
    controller = Controller(store, registry, make_pool, ControllerSettings(cache=cache))
    while (row := store.run(run)) is not None and row.state not in ("succeeded", "failed", "cancelled"):
        lease = store.acquire(controller.owner, 60.0, run)
        if lease is None:  # of the process that was stopped
            time.sleep(5.0)
        else:
            controller.drive(lease, threading.Event())
    return run


def plain_scores(model: Path, tokenizer: Path, file: Path, ids: list[str]) -> list[float]:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    outcome = make_scorer(loaded, AutoTokenizer.from_pretrained(tokenizer)).score(
        load_eval_set("ja_math", file).pick(tuple(ids))
    )
    return list(outcome.values["choice_probability"])  # type: ignore[union-attr]


def report(store: Store, run: str, registry: Registry, folder: Path) -> dict[str, Any]:
    row = store.run(run)
    assert row is not None
    assert row.state == "succeeded", row.reason
    result = row.summary["result"]
    winner = store.candidate(run, result["winner"])
    assert winner is not None
    recipe = Recipe.model_validate(winner.recipe)
    merge_to_directory(recipe, folder / "out", root=Path("/"))
    answers = winner.responses["holdout"]["ja_math"]
    found = plain_scores(folder / "out", registry.model("base"), registry.eval_set("ja_math"), answers["item_ids"])
    stored = answers["values"]["choice_probability"]
    return {
        "winner": result["winner"],
        "path": said(recipe.path),
        "merge": recipe.model_dump(mode="json", exclude_none=True)["merge"],
        "table": [{k: line[k] for k in ("number", "label", "search", "holdout")} for line in result["table"]],
        "paired": [pair for pair in result["paired"] if pair["objective"] == "ja_math"],
        "inflation": result["inflation"],
        "candidates": candidates(store, run),
        "replayed": replay(store, run, registry).candidates,
        "export_differs_by_at_most": max(abs(a - b) for a, b in zip(found, stored, strict=True)),
        "failed": row.summary["failed"],
    }


def candidates(store: Store, run: str) -> list[list[Any]]:
    """Of each candidate: number, path, mean and standard error of its own items, of all search items where it answered
    them."""
    found: list[list[Any]] = []
    cursor: str | None = None
    while True:
        rows, cursor = store.candidates(run, CandidateQuery(None, "search", sort="number", limit=500, cursor=cursor))
        for row in rows:
            scores = [(row.scores or {}).get("ja_math", {}), (row.verified or {}).get("search", {}).get("ja_math", {})]
            numbers = [None if key not in score else round(score[key], 4) for score in scores for key in ("mean", "se")]
            found.append([row.number, said(Recipe.model_validate(row.recipe).path), *numbers])
        if cursor is None:
            return found


def said(path: LayerPath | None) -> str:
    """A path in words: each model with the stretches of its layers."""
    stretches: list[tuple[str, int, int]] = []
    for hop in () if path is None else path.layers:
        model, first, last = stretches[-1] if stretches else ("", 0, 0)
        if stretches and (hop.model, hop.layer) == (model, last + 1):
            stretches[-1] = (model, first, hop.layer)
        else:
            stretches.append((hop.model, hop.layer, hop.layer))
    return " ".join(f"{model}:{first}-{last}" for model, first, last in stretches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--space", choices=SPACES, default="blocks")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--candidates", type=int, default=30, help="the budget")
    parser.add_argument("--items", type=int, default=12, help="that a candidate answers")
    parser.add_argument("--pool", type=int, default=60, help="items of each split, of the demo's 300")
    parser.add_argument("--top", type=int, default=2, help="candidates that answer all search items at the end")
    parser.add_argument("--layers", type=int, default=36, help="most layers of a path")
    parser.add_argument("--optimizer", default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    spec = spec_of(arguments)
    folder = folder_of(arguments, spec)
    items(folder / "ja_math.jsonl", arguments.pool)
    models = {"base": str(arguments.base.expanduser()), **{s: str(ZOO / "adapters" / s) for s in SOURCES}}
    registry = Registry.of(models, {"ja_math": "ja_math.jsonl"}, folder)
    store = open_store(f"sqlite:///{folder / 'runs.sqlite3'}")
    run = search(store, registry, folder / "cache", spec)
    with tempfile.TemporaryDirectory() as scratch:
        found = {"spec": spec, **report(store, run, registry, Path(scratch)), "cpu_s": time.process_time()}
    store.close()
    file = HERE / f"results_{arguments.space}_{arguments.optimizer}_{arguments.seed}.json"
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for line in found["table"]:
        print(line["number"], line["label"], (line["holdout"] or {}).get("ja_math"))


if __name__ == "__main__":
    main()
