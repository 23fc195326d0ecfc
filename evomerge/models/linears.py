"""The linear maps of a model as transformers builds it: what a LoRA adapter can adapt, and under which name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evomerge.errors import ArchitectureError
from evomerge.models.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear map.

    Attributes:
        module: its name in the live model.
        transposed: its weight is (in × out).
    """

    module: str
    transposed: bool


def linears_of(path: Path, architecture: Architecture) -> Mapping[str, Linear]:
    """The base checkpoint's weights that are linear maps; none of those that are tied to another tensor.

    Args:
        path: of the base checkpoint: only its config.json is read.

    Raises:
        ArchitectureError: transformers cannot build the model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # takes seconds; a merge that writes a model needs none
    from transformers.pytorch_utils import Conv1D

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers' own
    except (ValueError, ImportError, OSError) as error:
        raise ArchitectureError(f"{path}: transformers cannot build this model: {error}") from error
    found = {}
    for name, module in model.named_modules():
        at = architecture.find(f"{name}.weight") if isinstance(module, torch.nn.Linear | Conv1D) else None
        if at is not None and at not in architecture.tied.values():
            found[at] = Linear(name, isinstance(module, Conv1D))
    return found
