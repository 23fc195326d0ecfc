"""LoRA adapters in PEFT's format, as deltas of their base model.

Source: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3: ΔW = (α/r)·B·A. Kalajdzievski 2023, rsLoRA, arXiv:2312.03732:
α/√r in place of α/r. Factors are never averaged: the mean of products is not the product of means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.content import ADAPTER_CONFIG
from evomerge.models.finite import check_finite
from evomerge.models.product import rounded_product
from evomerge.models.weights import Weights, open_weights, read_json, some

PREFIX = "base_model.model."
"""What PEFT puts before the base model's own names."""
_FACTORS = {
    ".lora_A.weight": ("A", False), ".lora_B.weight": ("B", False),
    ".lora_embedding_A": ("A", True), ".lora_embedding_B": ("B", True),
}  # fmt: skip
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"}
_HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core",
    "megatron_config", "eva_config", "qalora_group_size", "runtime_config", "loftq_config", "ensure_weight_tying",
}  # fmt: skip
"""Fields that say how an adapter was trained, or what its tensors show anyway."""
_PLAIN_VALUES = {"bias": ("none", None), "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva")}
"""Fields with values beside false that leave ΔW as above. Other initialisations (PiSSA, OLoRA, …) change the base."""


@dataclass(frozen=True, slots=True)
class Factors:
    """One adapted module: names of its two tensors, how they are scaled and laid out."""

    A: str
    B: str
    scale: float
    transposed: bool


class Adapter:
    """A LoRA adapter: deltas of base tensors, computed when asked for.

    Attributes:
        path: its directory.
        config: adapter_config.json.
        factors: base tensor name, as PEFT spells it (a live model's name) → what its delta is made of.
    """

    def __init__(self, path: Path, config: dict[str, Any], weights: Weights, factors: Mapping[str, Factors]) -> None:
        self.path, self.config, self.factors = path, config, factors
        self._weights = weights

    @property
    def names(self) -> frozenset[str]:
        """Base tensors that the adapter changes."""
        return frozenset(self.factors)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the factors as stored."""
        return next(iter(self._weights.tensors.values())).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a base tensor's delta, from the factors' shapes."""
        factors = self.factors[name]
        rows, columns = self._weights.tensors[factors.B].shape[0], self._weights.tensors[factors.A].shape[1]
        return (columns, rows) if factors.transposed else (rows, columns)

    def delta(self, name: str) -> Tensor | None:
        """δ of a base tensor in float32, the same bytes on every machine; None where the adapter leaves it alone.

        Raises:
            NonFiniteError: a factor holds NaN or infinity.
        """
        factors = self.factors.get(name)
        if factors is None:
            return None
        A_KC, B_RK = (self._weights.read(at) for at in (factors.A, factors.B))
        for at, factor in ((factors.A, A_KC), (factors.B, B_RK)):
            check_finite(factor, at, str(self.path))
        delta_RC = rounded_product(B_RK, A_KC, factors.scale)
        return delta_RC.T.contiguous() if factors.transposed else delta_RC

    def close(self) -> None:
        """Let the files go."""
        self._weights.close()


def is_adapter(path: Path) -> bool:
    """Whether a directory holds a PEFT adapter."""
    return (path / ADAPTER_CONFIG).is_file()


def open_adapter(path: Path) -> Adapter:
    """Open a directory with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        CheckpointError: a file is missing or corrupt, the adapter is not plain LoRA (the message names the field), or
            ranks differ between config and weights.
    """
    config = read_json(path / ADAPTER_CONFIG)
    _check_config(config, path / ADAPTER_CONFIG)
    weights = open_weights(path, "adapter_model")
    return Adapter(path, config, weights, _factors(weights, config, path))


def _check_config(config: Mapping[str, Any], where: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{where}: peft_type is {config.get('peft_type')!r}; expected 'LORA'")
    for field, value in config.items():
        plain = _PLAIN_VALUES.get(field)
        if value in plain if plain is not None else (not value or field in _READ | _HARMLESS):
            continue
        expected = f"one of {plain}" if plain else "no value: this changes the weights in a way that is not supported"
        raise CheckpointError(f"{where}: {field} is {value!r}; expected {expected}")
    for field, kinds in (("r", int), ("lora_alpha", (int, float))):
        if not isinstance(config.get(field), kinds) or isinstance(config[field], bool):
            raise CheckpointError(f"{where}: {field} is {config.get(field)!r}; expected a number")
    for field in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(field) or {}, dict):
            raise CheckpointError(f"{where}: {field} is {config[field]!r}; expected a mapping from modules to numbers")


def _factors(weights: Weights, config: Mapping[str, Any], path: Path) -> dict[str, Factors]:
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for stored in weights.tensors:
        module, factor, embedding = _parse(stored, path)
        found.setdefault(module, {})[factor] = (stored, embedding)
    factors: dict[str, Factors] = {}
    for module, pair in found.items():
        if len(pair) != 2:
            raise CheckpointError(f"{path}: module {module!r} has only {some([at for at, _ in pair.values()])}")
        (A, embedding), (B, _) = pair["A"], pair["B"]
        rank = _check_rank(weights, A, B, module, config, path)
        transposed = embedding or bool(config.get("fan_in_fan_out"))
        factors[f"{module}.weight"] = Factors(A, B, _scale(module, rank, config, path), transposed)
    return factors


def _parse(stored: str, path: Path) -> tuple[str, str, bool]:
    """A stored name → the adapted module, `A` or `B`, whether it is an embedding."""
    for suffix, (factor, embedding) in _FACTORS.items():
        if stored.startswith(PREFIX) and stored.endswith(suffix):
            return stored[len(PREFIX) : -len(suffix)], factor, embedding
    raise CheckpointError(f"{path}: tensor {stored!r} is no LoRA factor; only plain LoRA adapters are supported")


def _check_rank(weights: Weights, A: str, B: str, module: str, config: Mapping[str, Any], path: Path) -> int:
    shape_A, shape_B = weights.tensors[A].shape, weights.tensors[B].shape
    rank = _pattern(config.get("rank_pattern"), module, config["r"], path)
    if len(shape_A) != 2 or len(shape_B) != 2 or not shape_A[0] == shape_B[1] == rank >= 1:
        raise CheckpointError(
            f"{path}: module {module!r} has factors A {list(shape_A)} and B {list(shape_B)}; "
            f"expected rank {rank} as {ADAPTER_CONFIG} says"
        )
    return int(rank)


def _scale(module: str, rank: int, config: Mapping[str, Any], path: Path) -> float:
    alpha = _pattern(config.get("alpha_pattern"), module, config["lora_alpha"], path)
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: float, path: Path) -> float:
    """The first pattern's value that matches the module's name or its end, as PEFT reads them."""
    for pattern, value in (patterns or {}).items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise CheckpointError(f"{path / ADAPTER_CONFIG}: {pattern!r} is no regular expression: {error}") from error
        if matches:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise CheckpointError(f"{path / ADAPTER_CONFIG}: pattern {pattern!r} is {value!r}; expected a number")
            return value
    return otherwise
