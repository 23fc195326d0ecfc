"""Architectures of checkpoints that need not be there."""

from __future__ import annotations

from typing import Any

from evomerge.models.architecture import Architecture, architecture_of
from evomerge.models.family import families


def llama(num_layers: int = 10, *, tied: bool = False) -> Architecture:
    config: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": num_layers, "tie_word_embeddings": tied}
    names = [
        f"{module.format(layer=layer)}.weight"
        for module in families()["llama"].modules
        for layer in (range(num_layers) if "{layer}" in module else [None])
    ]
    return architecture_of(config, [name for name in names if not (tied and name == "lm_head.weight")])
