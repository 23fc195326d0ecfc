"""A merge written as a LoRA adapter of its base, in PEFT's format.

Where the sources are LoRA adapters and the method knows the factors of its result (weighted sums, merges in factor
space), these are written, cut only where a limit asks for it. Any other task vector is approximated by its leading
singular values. `adapter_report.json` says by how much each matrix differs from the merged model's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.blocks import TensorWork, blocks_of, merge_into
from evomerge.merge.budget import promised
from evomerge.merge.engine import Progress, one_thread_a_kernel
from evomerge.merge.factored import factors_of
from evomerge.merge.inputs import Inputs
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives.low_rank import reduced, truncated
from evomerge.models.adapter import PREFIX
from evomerge.models.content import ADAPTER_CONFIG
from evomerge.models.factors import Factors
from evomerge.models.linears import Linear, linears_of
from evomerge.models.weights import some
from evomerge.recipe.output import Output
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml

REPORT = "adapter_report.json"


@dataclass(frozen=True, slots=True)
class Made:
    """One matrix of the adapter.

    Attributes:
        error: ‖δ − B·A‖ / ‖δ‖.
        norm: ‖δ‖.
    """

    factors: Factors
    error: float
    norm: float


def write_adapter(
    recipe: Recipe,
    output: Output,
    todo: Plan,
    inputs: Inputs,
    directory: Path,
    *,
    measured: Mapping[str, float] | None,
    threads: int,
    memory: int | None = None,
    progress: Progress | None,
) -> None:
    """Merge all tensors and write `adapter_model.safetensors`, `adapter_config.json`, the report and the recipe.

    Args:
        directory: an existing directory.
        threads: most matrices at a time.
        memory: bytes of tensors that should be in memory at a time; by default (number of sources + 2) × the largest
            merged tensor in float32. One matrix is worked on in any case.

    Raises:
        InvalidInputError: the merge has other layers or another vocabulary than its base, changes tensors that an
            adapter cannot hold (unless `others: drop`), or nothing that it can.
        CheckpointError: a file cannot be written.
    """
    if recipe.slices is not None or inputs.vocabulary is not None:
        raise InvalidInputError("output.kind", output.kind, "a model: layers or vocabulary are not those of the base")
    linears = linears_of(inputs.base.path, inputs.architecture)
    changing = [job for job in todo.jobs if not job.copy]
    dropped = _others([job for job in changing if job.name not in linears], output, todo, inputs, measured)
    held = [job for job in changing if job.name in linears]
    made: dict[str, Made] = {}

    def make(job: TensorJob) -> Made:
        return _make(job, linears[job.name], output, todo, inputs, measured)

    limit = memory if memory is not None else promised(todo, inputs.shapes)
    needed = max((_bytes(job, inputs.shapes[job.name]) for job in held), default=1)
    with one_thread_a_kernel(), ThreadPoolExecutor(max(1, min(threads, limit // needed))) as pool:
        for number, (job, found) in enumerate(zip(held, pool.map(make, held), strict=True)):
            if found.factors.rank:
                made[job.name] = found
            if progress is not None:
                progress(number + 1, len(held))
    if not made:
        raise InvalidInputError(
            "output.kind", output.kind, "a model: the merge changes no matrix, so there is no adapter"
        )
    _write(recipe, output, made, linears, dropped, inputs.base.path, directory)


def _others(
    jobs: list[TensorJob], output: Output, todo: Plan, inputs: Inputs, measured: Mapping[str, float] | None
) -> list[str]:
    """Names of changed tensors that an adapter cannot hold."""
    with one_thread_a_kernel():
        changed = [job.name for job in jobs if bool(_delta(todo, job, inputs, measured).any())]
    if changed and output.others == "error":
        allowed = f"drop, or a merge that leaves them alone: an adapter cannot hold {some(changed, 10)}"
        raise InvalidInputError("output.others", output.others, allowed)
    return changed


def _bytes(job: TensorJob, shape: tuple[int, ...]) -> int:
    """What a matrix holds while it is cut: operands and result in float32, itself and three squares in float64."""
    size, side = math.prod(shape), min(shape)
    return 4 * size * (len(job.changed) + 2) + 8 * (size + 3 * side * side)


def _delta(todo: Plan, job: TensorJob, inputs: Inputs, measured: Mapping[str, float] | None) -> Tensor:
    """The merged tensor minus the base's, in float32, as stored."""
    work = inputs.work(replace(job, dtype=torch.float32))
    merged = torch.empty(work.base.shape, dtype=torch.float32)
    merge_into(merged, todo, work, measured)
    return merged.sub_(work.base)


def _make(
    job: TensorJob, linear: Linear, output: Output, todo: Plan, inputs: Inputs, measured: Mapping[str, float] | None
) -> Made:
    if todo.method.combine is not None and all(job.name in inputs.sources[s].factored for s in job.changed):
        given = _combined(todo, job, inputs)
        found, error = reduced(given, output.rank, output.energy)
        return Made(found, error, _norm(given))
    delta = _delta(todo, job, inputs, measured)
    delta = delta.t() if linear.transposed else delta
    found, error = truncated(delta, output.rank, output.energy)
    return Made(found, error, float(torch.linalg.vector_norm(delta.double())))


def _combined(todo: Plan, job: TensorJob, inputs: Inputs) -> Factors:
    """The method's own factors of the merged task vector."""
    assert todo.method.combine is not None
    whole = replace(todo, method=replace(todo.method, grain="tensor"))
    read = replace(job, factored=True)
    work = TensorWork(read, inputs.base.read(job.name), {}, factors=factors_of(read, inputs.sources))
    (block,) = blocks_of(whole, work, {}, torch.device("cpu"))
    return todo.method.combine(block)


def _norm(factors: Factors) -> float:
    """‖B·A‖ by the traces of two small Gram matrices."""
    A, B = factors.A.double(), factors.B.double()
    return math.sqrt(max(float(((B.t() @ B) * (A @ A.t())).sum()), 0.0))


def _write(
    recipe: Recipe,
    output: Output,
    made: Mapping[str, Made],
    linears: Mapping[str, Linear],
    dropped: list[str],
    base: Path,
    directory: Path,
) -> None:
    ranks = {linears[name].module: found.factors.rank for name, found in made.items()}
    tensors: dict[str, Tensor] = {}
    for name, found in made.items():
        scale = 1.0 if output.alpha is None else output.alpha / found.factors.rank
        stored = found.factors.scaled(1 / scale)
        tensors[f"{PREFIX}{linears[name].module}.lora_A.weight"] = stored.A.contiguous()
        tensors[f"{PREFIX}{linears[name].module}.lora_B.weight"] = stored.B.contiguous()
    transposed = any(linears[name].transposed for name in made)
    config = _config(_place(recipe, base), ranks, output.alpha, transposed=transposed)
    try:
        save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
        for file, data in ((ADAPTER_CONFIG, config), (REPORT, report_of(made, dropped))):
            (directory / file).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (directory / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{directory}: an adapter cannot be written: {error.strerror or error}") from error


def _place(recipe: Recipe, base: Path) -> str:
    location = recipe.base.location
    return location.removeprefix("hub:") if location.startswith("hub:") else str(base.resolve())


def _config(base: str, ranks: Mapping[str, int], alpha: float | None, *, transposed: bool) -> dict[str, Any]:
    """adapter_config.json as PEFT writes it."""
    most = max(ranks.values())
    other = {re.escape(module): rank for module, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": most,
        "lora_alpha": most if alpha is None else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted(ranks),
        "rank_pattern": other,
        "alpha_pattern": other if alpha is None else {},
    }


def report_of(made: Mapping[str, Made], dropped: list[str]) -> dict[str, Any]:
    """What the adapter holds, JSON-ready; the whole error over all its matrices, those that were dropped apart."""
    missed = math.fsum((found.error * found.norm) ** 2 for found in made.values())
    whole = math.fsum(found.norm**2 for found in made.values())
    return {
        "relative_error": math.sqrt(missed / whole) if whole else 0.0,
        "dropped": dropped,
        "tensors": {n: {"rank": f.factors.rank, "relative_error": f.error} for n, f in made.items()},
    }
