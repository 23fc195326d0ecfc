"""A candidate on a live model against a plain copy of the bytes that it must read and write. See README.md.

python experiments/benchmarks/merge/resident.py [--shape 1.1b] [--device cuda] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from run import CASES, make_models, recipe_of
from torch import Tensor

from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Recipe

BLOCK = 1 << 17
METHODS = ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties")


def copy(inputs: list[list[Tensor]], outputs: list[Tensor], threads: int) -> None:
    """Read every input and write every output, a block at a time: through a core's cache, as memory allows."""

    def one(number: int) -> None:
        out, scratch = (
            outputs[number].view(-1),
            torch.empty(BLOCK, dtype=outputs[number].dtype, device=outputs[0].device),
        )
        step = BLOCK if out.device.type == "cpu" else out.numel()
        scratch = scratch if out.device.type == "cpu" else torch.empty_like(out)
        for begin in range(0, out.numel(), step):
            end = min(begin + step, out.numel())
            for tensors in inputs:
                scratch[: end - begin].copy_(tensors[number].view(-1)[begin:end])
            out[begin:end].copy_(scratch[: end - begin])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(outputs))))
    if outputs[0].device.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Copy and materialize in turn, so that a ratio's two sides saw the same machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["135m", "1.1b", "third"], default="135m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as scratch:
        paths = make_models(Path(scratch), asked.shape)
        cases = {case.method: Recipe.model_validate(recipe_of(case, paths)) for case in CASES if case.method in METHODS}
        resident = Resident(cases["linear"], device=asked.device)
        live = resident._live
        sources = [{n: o.tensor for n, o in operands.items()} for operands in resident._operands.values()]
        print(f"{asked.threads} threads on {asked.device}; load {os.getloadavg()[0]:.1f}; median (range)\n")
        print("| method | copy s | materialize s | ratio | copy CPU s | CPU s |\n|---|---|---|---|---|---|")
        for method, recipe in cases.items():
            read = sources if method == "linear" else [resident._base, *sources]
            names = [name for name in live if all(name in tensors for tensors in read)]
            inputs = [[tensors[name] for name in names] for tensors in read]
            outputs = [torch.empty_like(live[name]) for name in names]
            resident.materialize(recipe)
            copies, merges = [], []
            for _ in range(asked.rounds):
                copies.append(timed(lambda i=inputs, o=outputs: copy(i, o, asked.threads)))
                merges.append(timed(lambda r=recipe: resident.materialize(r)))
            ratios = [m[0] / c[0] for m, c in zip(merges, copies, strict=True)]
            columns = [[c[0] for c in copies], [m[0] for m in merges], ratios, [c[1] for c in copies],
                       [m[1] for m in merges]]  # fmt: skip
            print(f"| {method} | {' | '.join(map(spread, columns))} |")


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


if __name__ == "__main__":
    main()
