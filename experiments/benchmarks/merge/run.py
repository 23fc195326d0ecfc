"""How far from the machine's limits is a merge? See README.md.

    python experiments/benchmarks/merge/run.py ~/.cache/evomerge/smollm2-135m-instruct \
        [--mergekit-python /tmp/mergekit-venv/bin/python]
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: CPU seconds of spinning threads say nothing

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.schema import Merge, ModelRef, Recipe

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
MERGEKIT = """
import sys, time, warnings
warnings.simplefilter("ignore")
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
config = MergeConfiguration.model_validate(yaml.safe_load(open(sys.argv[1])))
cpu, wall = time.process_time(), time.perf_counter()
run_merge(config, sys.argv[2], MergeOptions(quiet=True))
print(time.process_time() - cpu, time.perf_counter() - wall)
"""
Seconds = tuple[float, float]
"""CPU and wall."""


def make_experts(base: Path, root: Path) -> dict[str, Path]:
    """Three fine-tunes of the base: every tensor moved by 5 % of its standard deviation."""
    stored = load_file(base / "model.safetensors")
    paths = {}
    for seed, name in enumerate(WEIGHTS):
        torch.manual_seed(seed)
        paths[name] = root / name
        shutil.copytree(base, paths[name])
        moved = {k: (t + 0.05 * t.float().std() * torch.randn(t.shape)).to(t.dtype) for k, t in stored.items()}
        save_file(moved, paths[name] / "model.safetensors", {"format": "pt"})
    return paths


def timed(work: Callable[[Path], object], out: Path) -> Seconds:
    """CPU and wall seconds of one call; what it wrote is removed."""
    shutil.rmtree(out, ignore_errors=True)
    cpu, wall = time.process_time(), time.perf_counter()
    work(out)
    taken = time.process_time() - cpu, time.perf_counter() - wall
    shutil.rmtree(out, ignore_errors=True)
    return taken


def copy(inputs: list[Path], out: Path) -> None:
    """Read all inputs, write one output: what any merge has to do."""
    out.mkdir()
    for path in inputs:
        with (path / "model.safetensors").open("rb", buffering=0) as file:
            buffer = bytearray(1 << 22)
            while file.readinto(buffer):
                pass
    shutil.copyfile(inputs[0] / "model.safetensors", out / "model.safetensors")


def plain(experts: dict[str, Path], out: Path) -> None:
    """A weighted average as one would write it in torch: float32 sum per tensor, one `save_file`."""
    out.mkdir()
    files = {name: safe_open(path / "model.safetensors", "pt") for name, path in experts.items()}
    merged = {}
    for key in files["a"].keys():  # noqa: SIM118 (a safe_open handle is no mapping)
        total = torch.zeros(files["a"].get_slice(key).get_shape())
        for name, file in files.items():
            total += WEIGHTS[name] * file.get_tensor(key).float()
        merged[key] = total.to(torch.bfloat16)
    save_file(merged, out / "model.safetensors")


def recipe(method: str, base: Path, experts: dict[str, Path]) -> Recipe:
    """Ours; TIES as mergekit does it: each tensor apart, even votes positive."""
    ties = {"density": 0.5, "scope": "tensor", "sign_ties": "positive"}
    return Recipe(
        base=ModelRef(location=str(base)),
        sources={name: ModelRef(location=str(path)) for name, path in experts.items()},
        merge=Merge(
            method=method,
            parameters=ties if method == "ties" else {},
            sources={name: {"weight": weight} for name, weight in WEIGHTS.items()},
        ),
    )


def ours(wanted: Recipe, out: Path) -> None:
    """The whole of `evomerge merge` but hashing the inputs, with its fsync."""
    merge_to_directory(wanted, out, root=out.parent, check_hashes=False)


def mergekit(python: Path, method: str, base: Path, experts: dict[str, Path], out: Path) -> Seconds:
    """mergekit's own work, its imports left out."""
    parameters = {n: {"weight": w, **({"density": 0.5} if method == "ties" else {})} for n, w in WEIGHTS.items()}
    config = {
        "merge_method": method,
        "models": [{"model": str(path), "parameters": parameters[name]} for name, path in experts.items()],
        "dtype": "bfloat16",
        **({"base_model": str(base)} if method == "ties" else {}),
    }
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(config))
    done = subprocess.run([python, "-c", MERGEKIT, file, out], check=True, capture_output=True, text=True)
    shutil.rmtree(out)
    cpu, wall = done.stdout.split()[-2:]
    return float(cpu), float(wall)


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    """Measure everything once a round, so that a ratio's two sides saw the same machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a checkpoint directory with one model.safetensors")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mergekit-python", type=Path, help="an interpreter that imports mergekit")
    parser.add_argument("--mergekit-repeats", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where 5 copies of the model fit")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[Seconds]] = {}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        root, base = Path(scratch), asked.base.expanduser().resolve()
        experts = make_experts(base, root)
        out = root / "out"
        works: dict[str, Callable[[Path], object]] = {
            "copy": lambda out: copy([base, *experts.values()], out),
            "plain torch linear": lambda out: plain(experts, out),
        }
        for method in ("linear", "task_arithmetic", "ties"):
            works[method] = partial(ours, recipe(method, base, experts))
        for round_number in range(asked.repeats):
            for name, work in works.items():
                found.setdefault(name, []).append(timed(work, out))
            if asked.mergekit_python and round_number < asked.mergekit_repeats:
                for method in ("linear", "ties"):
                    seconds = mergekit(asked.mergekit_python, method, base, experts, out)
                    found.setdefault(f"mergekit {method}", []).append(seconds)
            loads.append(os.getloadavg()[0])
    report(found, loads)


def report(found: dict[str, list[Seconds]], loads: list[float]) -> None:
    """A table in Markdown."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"load average {min(loads):.1f} to {max(loads):.1f}; median (range)\n")
    print("| what | n | CPU s | wall s | CPU / plain torch | CPU / copy |\n|---|---|---|---|---|---|")
    for name, seconds in found.items():
        cpu = [c for c, _ in seconds]
        ratios = [
            spread([mine / limit for mine, (limit, _) in zip(cpu, found[of], strict=False)])
            for of in ("plain torch linear", "copy")
        ]
        print(f"| {name} | {len(cpu)} | {spread(cpu)} | {spread([w for _, w in seconds])} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()
