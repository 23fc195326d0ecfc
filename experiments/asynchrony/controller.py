"""How long does the controller itself need for a candidate?

python experiments/asynchrony/controller.py

Runs the real controller (state machine, CMA-ES on 16 genes, estimates, SQLite with all its commits) with workers whose
latencies are log-normal and of whose jobs a tenth fail, in real time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simulated import SimulatedPool
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.recipe.schema import Recipe
from evomerge.storage.sql import open_store
from fitness.evaluator import Responses
from workers.controller import Controller
from workers.drive import ControllerSettings
from workers.job import Job, JobResult, WorkerSpec
from workers.registry import Registry

ITEMS = 64


def models_and_items(folder: Path) -> Registry:
    """A base and four sources of a few kilobytes, and an eval set."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    places = {}
    for seed, name in enumerate(("base", "math", "code", "ja", "chat")):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / name)
        words = {f"w{i}": i for i in range(64)}
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0"))).save_pretrained(
            folder / name
        )
        places[name] = str(folder / name)
    items = [
        {"id": f"i{n}", "context": f"w{n % 64} w{n // 64}", "choices": [" w2", " w3"], "label": 0, "split": split}
        for n, split in enumerate(["search", "holdout"] * ITEMS)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    return Registry.of(places, {"items": str(folder / "items.jsonl")}, folder)


def answer(recipe: Recipe, items: dict[str, tuple[str, ...]]) -> dict[str, Responses]:
    """A score that is best where every weight is 0.4, with noise of the items."""
    weights = [float(v) for rule in recipe.merge.rules for v in rule.parameters.values() if isinstance(v, float)]
    weights += [float(p["weight"]) for p in recipe.merge.sources.values() if "weight" in p]
    quality = 1.0 - float(np.mean([(w - 0.4) ** 2 for w in weights] or [0.1]))
    return {
        name: Responses(ids, {"choice_probability": tuple(quality * (0.5 + hash(i) % 100 / 200) for i in ids)}, 0.0, 0)
        for name, ids in items.items()
    }


def spec_of(candidates: int) -> dict[str, Any]:
    return {
        "models": {"base": "base", "sources": {n: n for n in ("math", "code", "ja", "chat")}},
        "space": {"kind": "parameter", "layers": 4, "weight": [0, 1]},
        "objectives": [{"name": "skill", "eval_sets": ["items"], "metric": "choice_probability", "items": 32}],
        "optimizer": {"name": "cma_es"},
        "budget": {"candidates": candidates},
        "verify": {"top": 1, "holdout": False},
    }


def measure(registry: Registry, folder: Path, workers: int, median_s: float, candidates: int) -> dict[str, float]:
    """What the controller costs and how busy the workers are, for one run."""
    store = open_store(f"sqlite:///{folder / f'{workers}-{median_s}.sqlite3'}")
    pools = list[Marking]()

    def pool_of(worker: WorkerSpec, spec: object) -> SimulatedPool:
        pools.append(Marking(workers, answer, median_s=median_s, failures=0.1, seed=0))
        return pools[-1]

    run = store.create_run(spec_of(candidates), "simulated")[0].id
    controller = Controller(store, registry, pool_of, ControllerSettings(cache=folder / "cache", lease_s=60.0))
    lease = store.acquire(controller.owner, 60.0, run)
    assert lease is not None, "nobody else is here"
    controller.drive(lease, threading.Event())
    row = store.run(run)
    assert row is not None, "a run that was made"
    assert row.summary["scored"] > 0.8 * candidates, row.reason
    store.close()
    return pools[0].measured()


class Marking(SimulatedPool):
    """A pool that notes the controller's time, which is all outside of `wait`.

    A turn is what the controller does from one handing out of jobs to the next; it may wait several times in one. Turns
    count from when every worker has had a job and as long as there are jobs for all.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.turns: list[tuple[float, float, int]] = []
        self.clocks: tuple[float, float] | None = None
        self.wall, self.cpu, self.results, self.submitted, self.total = 0.0, 0.0, 0, False, 0

    def submit(self, job: Job) -> None:
        super().submit(job)
        self.submitted, self.total = True, self.total + 1

    def wait(self, timeout_s: float) -> list[JobResult]:
        wall, cpu = time.perf_counter(), time.process_time()
        if self.clocks is not None:
            self.wall, self.cpu = self.wall + wall - self.clocks[0], self.cpu + cpu - self.clocks[1]
        if self.submitted:
            if self.results and self.total > 2 * self.size and len(self._running) == self.size:
                self.turns.append((self.wall, self.cpu, self.results))
            self.wall, self.cpu, self.results, self.submitted = 0.0, 0.0, 0, False
        results = super().wait(timeout_s)
        self.results += len(results)
        self.clocks = (time.perf_counter(), time.process_time())
        return results

    def measured(self) -> dict[str, float]:
        """Milliseconds of the controller a candidate: CPU time (median over candidates of their turn's share, mean over
        all), wall time alike; candidates in a turn, and their number."""
        count = sum(n for *_, n in self.turns)
        found = {"candidates": float(count), "batch": count / len(self.turns)}
        for name, place in (("cpu", 1), ("wall", 0)):
            each = [turn[place] / turn[2] for turn in self.turns for _ in range(turn[2])]
            found |= {f"{name}_median_ms": 1e3 * statistics.median(each), f"{name}_ms": 1e3 * statistics.mean(each)}
        return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--median-s", type=float, default=2.0)
    parser.add_argument("--candidates", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=30.0, help="fewer candidates where these would take longer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = models_and_items(folder)
        for workers in options.workers:
            possible = int(options.seconds * workers / (1.28 * options.median_s))
            candidates = max(20, min(options.candidates, possible))
            found = measure(registry, folder, workers, options.median_s, candidates)
            print(workers, candidates, {k: round(v, 3) for k, v in found.items()}, flush=True)


if __name__ == "__main__":
    main()
