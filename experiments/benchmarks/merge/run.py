"""How far from the machine's limits is a merge, and from mergekit? See README.md.

python experiments/benchmarks/merge/run.py [--shape 1.1b] [--mergekit-python PYTHON] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MERGEKIT = "mergekit==0.1.5"
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
ALONE = {"density": 0.5}
SORTED = (
    "ties", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "sce", "karcher", "arcee_fusion",
    "ram", "ramplus_tl",
)  # fmt: skip
"""mergekit takes up to two minutes for each of these on the 135M shape: both merge a third of it, once."""


@dataclass(frozen=True)
class Case:
    """One method in both tools' words.

    Attributes:
        sources: how many of the three fine-tunes.
        ours, theirs: parameters.
        base: whether mergekit is given the base: `no`, `base_model`, or `first` (it is one of the models).
        weighed: whether sources have weights (and in ours and theirs a density, where there is one).
        kind: for the targets.
        name: the method, where this is not its only case.
    """

    method: str
    sources: int = 3
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    base: str = "base_model"
    weighed: bool = True
    kind: str = "other"
    name: str = ""

    @property
    def called(self) -> str:
        """The method's name in both tools."""
        return self.name or self.method


TIES = {"scope": "tensor", "sign_ties": "positive"}
CASES = (
    Case("linear", base="no", kind="linear"),
    Case("task_arithmetic", kind="linear"),
    Case("passthrough", 1, base="no", weighed=False, kind="linear"),
    Case("slerp", 2, {"t": 0.4}, {"t": 0.4}, base="first", weighed=False),
    Case("nuslerp", 2, base="no"),
    Case("multislerp", base="no"),
    Case("nearswap", 1, {"t": 0.0005}, {"t": 0.0005}, weighed=False),
    Case("model_stock", weighed=False),
    Case("ties", ours={**ALONE, **TIES}, theirs=ALONE, kind="sparsified"),
    Case("dare_linear", ours=ALONE, theirs=ALONE, kind="sparsified"),
    Case("dare_ties", ours={**ALONE, "sign_ties": "positive"}, theirs=ALONE, kind="sparsified"),
    Case("breadcrumbs", ours={**ALONE, "gamma": 0.01}, theirs={**ALONE, "gamma": 0.01}, kind="sparsified"),
    Case("breadcrumbs_ties", ours={**ALONE, "gamma": 0.01, "sign_ties": "positive"}, theirs={**ALONE, "gamma": 0.01},
         kind="sparsified"),
    Case("della", ours={**ALONE, "epsilon": 0.15, "sign_ties": "positive"}, theirs={**ALONE, "epsilon": 0.15},
         kind="sparsified"),
    Case("della_linear", ours={**ALONE, "epsilon": 0.15}, theirs={**ALONE, "epsilon": 0.15}, kind="sparsified"),
    Case("sce", ours={"select_topk": 0.5}, theirs={"select_topk": 0.5}, weighed=False),
    Case("karcher", base="no", weighed=False),
    Case("arcee_fusion", 1, weighed=False),
    Case("passthrough_scaled", 1, {"scale": 0.5}, {"scale": 0.5}, base="no", weighed=False, kind="linear",
         name="passthrough"),
    Case("nuslerp_rows", 2, {"nuslerp_flatten": False}, {"nuslerp_flatten": False}, base="no", name="nuslerp"),
    Case("model_stock_rows", ours={"filter_wise": True}, theirs={"filter_wise": True}, weighed=False,
         name="model_stock"),
    Case("ram", weighed=False),
    Case("ramplus_tl", weighed=False),
)  # fmt: skip

SHAPES = {
    # vocabulary, hidden, intermediate, layers, heads, key and value heads, tied
    "135m": (49152, 576, 1536, 30, 9, 3, True),
    "third": (16384, 576, 1536, 10, 9, 3, True),
    "tiny": (1024, 64, 128, 2, 4, 2, True),
    "1.1b": (32000, 2048, 5632, 22, 32, 4, False),
}

# Servers: a process that has imported everything, and a child of it for every merge.

SERVER = """
import json, os, resource, sys, time
{imports}
for line in sys.stdin:
    asked = json.loads(line)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        prepare(asked)
        before, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        work(asked)
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        os.write(write, json.dumps({{"wall": wall, "cpu": cpu, "rss": after.ru_maxrss * 1024}}).encode())
        os._exit(0)
    os.close(write)
    anonymous = 0
    while not os.waitpid(child, os.WNOHANG)[0]:
        try:
            status = open(f"/proc/{{child}}/status").read()
            anonymous = max(anonymous, int(status.partition("RssAnon:")[2].split()[0]) * 1024)
        except (OSError, IndexError):
            pass
        time.sleep(0.01)
    found = os.read(read, 4096)
    os.close(read)
    print(json.dumps({{**json.loads(found), "anonymous": anonymous}}) if found else "null", flush=True)
"""
OURS = """
from pathlib import Path
import logging
logging.disable()
import torch
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.fused.run import installed
from evomerge.recipe.schema import Recipe
if installed():
    import evomerge.merge.fused.kernels

def prepare(asked):
    work({**asked, "recipe": asked["warm"], "out": asked["out"] + "-warm"})  # loads the compiled loops, as imports do
    import shutil
    shutil.rmtree(asked["out"] + "-warm")

def work(asked):
    merge_to_directory(Recipe.model_validate(asked["recipe"]), Path(asked["out"]), root=Path("/"), check_hashes=False)
"""
THEIRS = """
import warnings
warnings.simplefilter("ignore")
import mergekit.merge
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

def prepare(asked):
    pass

def work(asked):
    mergekit.merge.run_merge(MergeConfiguration.model_validate(asked["config"]), asked["out"], MergeOptions(quiet=True))
"""
FLOOR = """
import threading

def prepare(asked):
    pass

def work(asked):
    # as `cat` of all inputs and `dd` of one output: 1 MiB at a time, then the fsync that a merge needs as well
    block = memoryview(bytearray(1 << 20))
    for path in asked["inputs"]:
        file = os.open(path, os.O_RDONLY)
        while os.readv(file, [block]):
            pass
        os.close(file)
    os.makedirs(asked["out"])
    file = os.open(asked["out"] + "/model.safetensors", os.O_WRONLY | os.O_CREAT)
    left = asked["bytes"]
    while left > 0:
        left -= os.write(file, block[: min(left, len(block))])
    if asked["fsync"]:
        os.fsync(file)
    os.close(file)
"""


class Server:
    """A tool that merges when it is told to."""

    def __init__(self, python: Path, imports: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", SERVER.format(imports=imports)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def run(self, out: Path, **asked: Any) -> dict[str, float]:
        """Seconds and bytes of one merge; what it wrote is removed."""
        shutil.rmtree(out, ignore_errors=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"out": str(out), **asked}) + "\n")
        self._process.stdin.flush()
        while (line := self._process.stdout.readline()) and not line.startswith(("{", "null")):
            pass
        shutil.rmtree(out, ignore_errors=True)
        found: dict[str, float] | None = json.loads(line) if line else None
        if found is None:
            raise RuntimeError(f"it failed: {json.dumps(asked)[:500]}")
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def make_models(root: Path, shape: str) -> dict[str, Path]:
    """A base of random weights and three fine-tunes that are 5 % of each tensor's standard deviation away."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    shapes = dict(tensors_of(*SHAPES[shape]))
    paths = {name: root / shape / name for name in ("base", *WEIGHTS)}
    for path in paths.values():
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config_of(*SHAPES[shape])))
    held: dict[str, dict[str, Any]] = {name: {} for name in paths}
    for name, size in shapes.items():
        base = 0.04 * torch.randn(size, generator=generator) + (len(size) == 1)
        held["base"][name] = base.bfloat16()
        for expert in WEIGHTS:
            held[expert][name] = (base + 0.002 * torch.randn(size, generator=generator)).bfloat16()
    for name, tensors in held.items():
        save_file(tensors, paths[name] / "model.safetensors", {"format": "pt"})
    return paths


def tensors_of(
    vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, tied: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors."""
    kv = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "mlp.down_proj.weight", (hidden, intermediate)
        yield prefix + "mlp.gate_proj.weight", (intermediate, hidden)
        yield prefix + "mlp.up_proj.weight", (intermediate, hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "self_attn.k_proj.weight", (kv, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "self_attn.q_proj.weight", (hidden, hidden)
        yield prefix + "self_attn.v_proj.weight", (kv, hidden)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocabulary, hidden)


def config_of(
    vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, tied: bool
) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "hidden_act": "silu",
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": hidden // heads, "vocab_size": vocabulary,
        "tie_word_embeddings": tied, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip


def recipe_of(case: Case, paths: dict[str, Path]) -> dict[str, Any]:
    """Ours."""
    names = list(WEIGHTS)[: case.sources]
    per_source = {name: {"weight": WEIGHTS[name]} for name in names} if case.weighed else {}
    return {
        "base": {"location": str(paths["base"])},
        "sources": {name: {"location": str(paths[name])} for name in names},
        "merge": {"method": case.called, "parameters": case.ours, "sources": per_source},
    }


def config_for(case: Case, paths: dict[str, Path]) -> dict[str, Any]:
    """mergekit's."""
    names = list(WEIGHTS)[: case.sources]
    models = [
        {"model": str(paths[name]), **({"parameters": {"weight": WEIGHTS[name]}} if case.weighed else {})}
        for name in names
    ]
    config: dict[str, Any] = {"merge_method": case.called, "models": models, "dtype": "bfloat16"}
    if case.theirs:
        config["parameters"] = case.theirs  # for all models: mergekit passes over some of them beside a model
    if case.base != "no":
        config["base_model"] = str(paths[{"base_model": "base", "first": "a"}[case.base]])
    return config


@contextmanager
def mergekit_python(given: Path | None, root: Path) -> Iterator[Path]:
    """An interpreter that imports mergekit, in an environment of its own where none is given."""
    if given is not None:
        yield given
        return
    environment = root / "mergekit"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    import torch

    same_torch = f"torch=={torch.__version__.partition('+')[0]}"
    for wanted in (same_torch, MERGEKIT):  # torch first: mergekit alone would bring the newest, with its CUDA libraries
        subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=True)
    yield python


def forget(inputs: list[str]) -> None:
    """Make files cold: their pages leave the memory. Linux keeps pages that are dirty or mapped by a process."""
    for path in inputs:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def spread(values: list[float]) -> str:
    """Median and range."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def measure(asked: argparse.Namespace, root: Path) -> tuple[dict[str, dict[str, list[dict[str, float]]]], list[float]]:
    """Method → who → what each round found: a ratio's two sides saw the same machine, one after the other."""
    shapes = {shape: make_models(root, shape) for shape in (asked.shape, "tiny")}
    if not asked.whole and asked.shape != "third":
        shapes["third"] = make_models(root, "third")
    loads = [os.getloadavg()[0]]
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with mergekit_python(asked.mergekit_python, root) as python:
        servers = {"floor": Server(Path(sys.executable), FLOOR), "ours": Server(Path(sys.executable), OURS)}
        if not asked.without_mergekit:
            servers["mergekit"] = Server(python, THEIRS)
        cases = [case for case in CASES if not asked.methods or case.method in asked.methods]
        for number in range(asked.rounds):
            for case in cases:
                slow = case.method in SORTED
                shape = "third" if slow and not asked.whole else asked.shape
                paths, out = shapes[shape], root / "out"
                inputs = [str(paths[name] / "model.safetensors") for name in ("base", *list(WEIGHTS)[: case.sources])]
                size = Path(inputs[0]).stat().st_size
                rows = found.setdefault(f"{case.method} ({case.kind}, {shape})", {})

                def add(who: str, row: dict[str, float], rows: dict[str, list[dict[str, float]]] = rows) -> None:
                    rows.setdefault(who, []).append(row)

                warm = recipe_of(case, shapes["tiny"])
                jobs = [
                    ("floor", "floor", {"inputs": inputs, "bytes": size, "fsync": True}),
                    ("cached", "floor", {"inputs": inputs, "bytes": size, "fsync": False}),
                    ("ours", "ours", {"recipe": recipe_of(case, paths), "warm": warm}),
                ]
                if "mergekit" in servers and (number == 0 or not slow):
                    jobs.append(("mergekit", "mergekit", {"config": config_for(case, paths)}))
                for row, server, job in jobs:
                    if asked.cold:
                        forget(inputs)
                    add(row, servers[server].run(out, **job))
                loads.append(os.getloadavg()[0])
                print(f"{number + 1}/{asked.rounds} {case.method}", file=sys.stderr, flush=True)
        for server in servers.values():
            server.close()
    return found, loads


def report(
    found: dict[str, dict[str, list[dict[str, float]]]], loads: list[float], seconds: float, *, cold: bool
) -> None:
    """A table in Markdown."""
    from importlib.util import find_spec

    import torch

    compiled = "with" if find_spec("numba") else "without"
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}, {compiled} numba; "
          f"{'cold' if cold else 'warm'} files; load {min(loads):.1f} to {max(loads):.1f}; {seconds:.0f} s in all; "
          "median (range)\n")  # fmt: skip
    print("| method | floor s | ours s | ours / floor | without fsync | ours CPU s | mergekit s | mergekit / ours "
          "| mergekit CPU s | peak MB ours | peak MB mergekit |\n" + 11 * "|---" + "|")  # fmt: skip
    for name, rows in found.items():
        ours, floor, theirs = rows["ours"], rows["floor"], rows.get("mergekit", [])
        ratio = spread([o["wall"] / f["wall"] for o, f in zip(ours, floor, strict=True)])
        cached = spread([o["wall"] / f["wall"] for o, f in zip(ours, rows["cached"], strict=True)])
        faster = spread([t["wall"] / o["wall"] for t, o in zip(theirs, ours, strict=False)]) if theirs else "-"
        memory = [f"{max(r['rss'] for r in rs) / 1e6:.0f} ({max(r['anonymous'] for r in rs) / 1e6:.0f})" if rs else "-"
                  for rs in (ours, theirs)]  # fmt: skip
        seconds_of = [spread([r["wall"] for r in rs]) if rs else "-" for rs in (floor, ours, theirs)]
        cpu, cpu_theirs = (spread([r["cpu"] for r in rs]) if rs else "-" for rs in (ours, theirs))
        print(f"| {name} | {seconds_of[0]} | {seconds_of[1]} | {ratio} | {cached} | {cpu} | {seconds_of[2]} | {faster} "
              f"| {cpu_theirs} | {memory[0]} | {memory[1]} |")  # fmt: skip


def main() -> None:
    """Measure everything once a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["135m", "1.1b", "third"], default="135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", help="some of them")
    parser.add_argument("--whole", action="store_true", help="merge the whole shape with the slow methods too")
    parser.add_argument("--mergekit-python", type=Path, help="an interpreter that imports mergekit")
    parser.add_argument("--without-mergekit", action="store_true")
    parser.add_argument("--cold", action="store_true", help="every run reads its inputs from the disk")
    parser.add_argument("--scratch", type=Path, help="where five copies of the model fit")
    asked = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        found, loads = measure(asked, Path(scratch))
    report(found, loads, time.perf_counter() - began, cold=asked.cold)


if __name__ == "__main__":
    main()
