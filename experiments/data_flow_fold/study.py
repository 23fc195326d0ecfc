"""Paths over a real model: the exported checkpoint against the live path, and what a live path costs.

python experiments/data_flow_fold/study.py --base ~/.cache/evomerge/smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from evomerge.merge.execute import merge_to_directory
from evomerge.merge.flow.cost import cost_of
from evomerge.merge.resident import Resident
from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import Merge, ModelRef, Recipe

HERE = Path(__file__).parent
ADAPTERS = HERE.parent / "zoo" / "adapters"
NAMES = ("base", "ja", "math")
NUM_PATHS = 50
TEXT = "Three boxes hold twelve pens each, and two pens are lost. How many pens are left? There are"


def random_path(rng: np.random.Generator, semantics: str, *, signed: bool, spread: float) -> LayerPath:
    """The base's 30 layers, of which one in three is another model's and one in six is visited again."""
    hops: list[Hop] = []
    for layer in range(30):
        model = str(rng.choice(NAMES, p=[0.67, 0.165, 0.165])) if 0 < layer < 29 else "base"
        for _ in range(1 + int(0 < layer < 29 and rng.random() < 1 / 6)):
            sign = -1.0 if signed and rng.random() < 0.1 else 1.0
            hops.append(Hop(model=model, layer=layer, scale=sign * float(np.exp(spread * rng.standard_normal()))))
    return LayerPath.model_validate({"semantics": semantics, "layers": tuple(hops)})


def recipe_of(base: Path, path: LayerPath | None, dtype: str) -> Recipe:
    sources = {name: ModelRef(location=str(ADAPTERS / name)) for name in NAMES[1:]}
    data = {"base": ModelRef(location=str(base)), "sources": sources, "merge": Merge(method="linear")}
    return Recipe.model_validate({**data, "path": path, "dtype": dtype})


@torch.no_grad()
def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(tokens, use_cache=False).logits.float()
    return logits


@torch.no_grad()
def token_by_token(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    cache, found = None, []
    for at in range(tokens.shape[1]):
        output = model(tokens[:, at : at + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits.float())
    return torch.cat(found, dim=1)


def agreement(found: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    return {
        "largest difference": (found - expected).abs().max().item(),
        "relative error": ((found - expected).norm() / expected.norm()).item(),
        "equal argmax": (found.argmax(-1) == expected.argmax(-1)).float().mean().item(),
    }


def compare(base: Path, resident: Resident, path: LayerPath, dtype: str, tokens: torch.Tensor) -> dict[str, Any]:
    """One path, live and exported."""
    recipe = recipe_of(base, path, dtype)
    resident.materialize(recipe)
    live = logits_of(resident.model, tokens)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        out = merge_to_directory(recipe, Path(folder) / "out", root=HERE, check_hashes=False)
        seconds = time.perf_counter() - began
        exported = AutoModelForCausalLM.from_pretrained(out, dtype=getattr(torch, dtype)).eval()
        found = agreement(logits_of(exported, tokens), live)
        cached = agreement(token_by_token(resident.model, tokens), live)
        asked = {"max_new_tokens": 16, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
        same = torch.equal(resident.model.generate(tokens, **asked), exported.generate(tokens, **asked))
    return {
        "hops": len(path.layers),
        "export against live": found,
        "live with the cache against without": cached,
        "same 16 tokens generated": same,
        "export seconds": seconds,
    }


def switching(base: Path, resident: Resident, dtype: str) -> dict[str, float]:
    """Milliseconds from one path to another, and by how much the largest memory of the process rose meanwhile."""
    rng = np.random.default_rng(1)
    paths = [recipe_of(base, random_path(rng, "stream", signed=False, spread=0.1), dtype) for _ in range(NUM_PATHS)]
    resident.materialize(paths[0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for recipe in paths:
        began = time.perf_counter()
        resident.materialize(recipe)
        times.append(1e3 * (time.perf_counter() - began))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = recipe_of(base, None, dtype)
    began = time.perf_counter()
    resident.materialize(whole)
    return {
        "median ms": statistics.median(times),
        "largest ms": max(times),
        "peak MiB more during 50 paths": (after - before) / 1024,
        "ms of a merge of both adapters": 1e3 * (time.perf_counter() - began),
    }


def main() -> None:
    """Write results.json beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    base = parser.parse_args().base.expanduser().resolve()
    disable_progress_bar()
    tokens = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt").input_ids
    results: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for dtype in ("float32", "bfloat16"):
        resident = Resident(recipe_of(base, None, dtype))
        for semantics in ("stream", "delta"):
            for signed in (False, True):
                path = random_path(np.random.default_rng(0), semantics, signed=signed, spread=0.1)
                case = f"{dtype} {semantics}{' signed' if signed else ''}"
                results[case] = compare(base, resident, path, dtype, tokens)
                print(case, json.dumps(results[case]), flush=True)
        results[f"{dtype} switching"] = switching(base, resident, dtype)
        print(dtype, json.dumps(results[f"{dtype} switching"]), flush=True)
        del resident
    config = json.loads((base / "config.json").read_text())
    path = random_path(np.random.default_rng(0), "stream", signed=False, spread=0.1)
    results["cost"] = {
        name: {key: getattr(cost_of(recipe_of(base, p, "float32"), config), key)
               for key in ("layers", "unique_layers", "parameters", "unique_parameters", "flops_per_token")}
        for name, p in (("base", None), ("path", path))
    }  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
