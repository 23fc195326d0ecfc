"""The model whose activations are watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from evomerge.errors import CheckpointError


def load(path: Path) -> Any:
    """transformers' causal language model of a checkpoint, in float32 and evaluation mode.

    Raises:
        CheckpointError: transformers cannot load it.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, experts_implementation="eager"
        )  # one expert after the other: the grouped products want widths of whole 16 bytes
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: transformers cannot load this model: {str(error).splitlines()[0]}") from error
    return model.eval()
