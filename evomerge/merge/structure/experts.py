"""The experts of a checkpoint, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint

MATRICES = ("gate", "up", "down")
Stack = Mapping[str, Tensor]
"""Matrix (`gate`, `up`, `down`) → that of every expert, (experts × out × in)."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """One layer's mixture of experts.

    Attributes:
        layer: its number.
        router: the router's tensor; a row an expert.
        experts: for every expert its tensors' names, by matrix.
    """

    layer: int
    router: str
    experts: tuple[Mapping[str, str], ...]

    def read(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """All experts in float32."""
        return {m: torch.stack([checkpoint.read(names[m]).float() for names in self.experts]) for m in MATRICES}


def mixtures_of(architecture: Architecture) -> tuple[Mixture, ...]:
    """The mixtures of a model, in the order of its layers; dense layers have none.

    Raises:
        InvalidInputError: the model is no mixture of experts.
    """
    routers: dict[int, str] = {}
    experts: dict[int, list[dict[str, str]]] = {}
    for name, part in architecture.parts.items():
        if part.layer is not None and part.role == "mlp.router":
            routers[part.layer] = name
            experts.setdefault(part.layer, [{} for _ in range(architecture.num_experts)])
    for name, part in architecture.parts.items():
        if part.layer in experts and part.expert is not None and part.role.startswith("mlp.expert."):
            experts[part.layer][part.expert][part.role.rpartition(".")[2]] = name
    if not routers:
        raise InvalidInputError("model", architecture.family, "a mixture of experts")
    return tuple(Mixture(layer, routers[layer], tuple(experts[layer])) for layer in sorted(routers))
