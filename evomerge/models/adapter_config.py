"""adapter_config.json: what evomerge understands exactly, and what it refuses by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError

_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "use_dora",
    "lora_bias", "modules_to_save",
}  # fmt: skip
_HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core",
    "megatron_config", "eva_config", "qalora_group_size", "runtime_config", "loftq_config", "ensure_weight_tying",
}  # fmt: skip
"""Fields that say how an adapter was trained, or what its tensors show anyway."""
_PLAIN_VALUES = {
    "bias": ("none", None, "all", "lora_only"),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
"""Fields with values beside false that leave ΔW as it is. Other initialisations (PiSSA, OLoRA, …) change the base."""
_SPARSE = {"mask_type", "random_seed", "init_weights"}
"""Fields of SHiRA that say where its entries lie and began, which the stored tensors show."""


def check_config(config: Mapping[str, Any], where: Path) -> None:
    """Refuse what would make the delta another than the one that is computed.

    Raises:
        CheckpointError: naming the field.
    """
    kind = config.get("peft_type")
    if kind not in ("LORA", "SHIRA"):
        raise CheckpointError(f"{where}: peft_type is {kind!r}; expected 'LORA' or 'SHIRA'")
    known = _READ | _HARMLESS | (_SPARSE if kind == "SHIRA" else set())
    for field, value in config.items():
        plain = _PLAIN_VALUES.get(field)
        if value in plain if plain is not None else (not value or field in known):
            continue
        expected = f"one of {plain}" if plain else "no value: this changes the weights in a way that is not supported"
        raise CheckpointError(f"{where}: {field} is {value!r}; expected {expected}")
    if kind == "SHIRA":
        if config.get("fan_in_fan_out"):
            raise CheckpointError(f"{where}: fan_in_fan_out is true; expected false with SHiRA")
        return
    for field, kinds in (("r", int), ("lora_alpha", (int, float))):
        if not isinstance(config.get(field), kinds) or isinstance(config[field], bool):
            raise CheckpointError(f"{where}: {field} is {config.get(field)!r}; expected a number")
    for field in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(field) or {}, dict):
            raise CheckpointError(f"{where}: {field} is {config[field]!r}; expected a mapping from modules to numbers")


def rank_of(module: str, config: Mapping[str, Any], path: Path) -> int:
    """The rank that the config gives a module."""
    return int(_pattern(config.get("rank_pattern"), module, config["r"], path))


def scale_of(module: str, rank: int, config: Mapping[str, Any], path: Path) -> float:
    """α/r, or α/√r for rsLoRA."""
    alpha = _pattern(config.get("alpha_pattern"), module, config["lora_alpha"], path)
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: float, path: Path) -> float:
    """The first pattern's value that matches the module's name or its end, as PEFT reads them."""
    for pattern, value in (patterns or {}).items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise CheckpointError(f"{path}: {pattern!r} is no regular expression: {error}") from error
        if matches:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise CheckpointError(f"{path}: pattern {pattern!r} is {value!r}; expected a number")
            return value
    return otherwise
