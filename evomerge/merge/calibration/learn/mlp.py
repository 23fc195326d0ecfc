"""The MLPs of a model's layers, each to be run by itself under any weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.errors import ArchitectureError
from evomerge.models.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Mlp:
    """One layer's.

    Attributes:
        layer: from 0.
        names: the base's name of a tensor → its name within the module; in the module's order.
        width: of its inputs and outputs.
        transposed: its matrices are (in × out).
        module: without weights of its own.
    """

    layer: int
    names: Mapping[str, str]
    width: int
    transposed: bool
    module: Any

    def __call__(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs under these weights, (n × width), of inputs (n × width)."""
        found: Tensor = functional_call(self.module, {self.names[at]: t for at, t in weights.items()}, (inputs,))
        return found


def mlps_of(path: Path, architecture: Architecture) -> list[Mlp]:
    """Of every layer, from the first; none of layers that are mixtures of experts or whose MLP is no module.

    Args:
        path: of the base checkpoint: only its config.json is read.

    Raises:
        ArchitectureError: transformers cannot build the model, or no layer has one.
    """
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers' own
    except (ValueError, ImportError, OSError) as error:
        raise ArchitectureError(f"{path}: transformers cannot build this model: {error}") from error
    model.train(False)
    found: dict[int, Mlp] = {}
    for name, module in model.named_modules():  # what contains others comes before them
        mlp = _mlp(name, module, architecture)
        if mlp is not None:
            found.setdefault(mlp.layer, mlp)
    if not found:
        raise ArchitectureError(f"{path}: no layer has an MLP of its own (neither experts nor bare linear maps)")
    return [found[layer] for layer in sorted(found)]


def _mlp(name: str, module: Any, architecture: Architecture) -> Mlp | None:
    own = {own: architecture.find(f"{name}.{own}") for own, _ in module.named_parameters()}
    names = {at: own for own, at in own.items() if at is not None}
    parts = [architecture.parts[at] for at in names]
    roles = {part.role.removesuffix(".bias") for part in parts}
    layer = parts[0].layer if parts else None
    if layer is None or len(names) < len(own) or "mlp.down" not in roles or roles == {"mlp.down"}:
        return None
    if not roles <= {"mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down"}:
        return None
    transposed = "mlp.down" in architecture.transposed
    (down,) = (p for own, p in module.named_parameters() if _is_down(architecture, names, own) and p.dim() == 2)
    return Mlp(layer, names, down.shape[1 if transposed else 0], transposed, module)


def _is_down(architecture: Architecture, names: Mapping[str, str], own: str) -> bool:
    return any(architecture.parts[at].role == "mlp.down" for at, name in names.items() if name == own)
