"""What a mixture does with a user's items: forward passes of the real model, with hooks on its routers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from evomerge.merge.calibration.items import Sample
from evomerge.merge.structure.live import load
from evomerge.models.architecture import Architecture

# T tokens, E experts, H hidden


@dataclass(frozen=True, slots=True)
class Usage:
    """One layer's mixture over all tokens. All in float64.

    Attributes:
        routed: tokens that an expert was chosen for, (E).
        outputs: mean output of an expert over all tokens, chosen or not, (E × H).
        cosines: mean over all tokens of the cosine between two experts' outputs, (E × E).
        logits: cosine between the logits that the router gives two experts over all tokens, (E × E).
        saliency: mean of gate · ‖output‖ over the tokens that an expert was chosen for; 0 if there was none, (E).
    """

    routed: Tensor
    outputs: Tensor
    cosines: Tensor
    logits: Tensor
    saliency: Tensor


class _Watch:
    """Sums over the tokens that one mixture has seen."""

    def __init__(self, experts: Any, num_experts: int, *, renormalise: bool) -> None:
        self.experts, self.num_experts, self.renormalise = experts, num_experts, renormalise
        self.tokens = 0
        self.routed = torch.zeros(num_experts, dtype=torch.float64)
        self.weighted = torch.zeros(num_experts, dtype=torch.float64)
        self.outputs: Tensor | float = 0.0
        self.cosines: Tensor | float = 0.0
        self.products: Tensor | float = 0.0

    def __call__(self, router: Any, inputs: Any, found: Any) -> None:
        """A forward hook of the router."""
        hidden_TH = inputs[0].reshape(-1, inputs[0].shape[-1])
        logits_TE, chosen_TK = found[0].reshape(len(hidden_TH), -1).double(), found[2].reshape(len(hidden_TH), -1)
        output_ETH = torch.stack([self._output(expert, hidden_TH) for expert in range(self.num_experts)])
        direction_ETH = normalize(output_ETH, dim=2)
        chosen_TE = torch.zeros_like(logits_TE).scatter_(1, chosen_TK, 1.0)
        gate_TE = torch.softmax(logits_TE, 1) * chosen_TE
        if self.renormalise:
            gate_TE = gate_TE / gate_TE.sum(1, keepdim=True)
        self.tokens += len(hidden_TH)
        self.routed += chosen_TE.sum(0)
        self.weighted += (gate_TE * torch.linalg.vector_norm(output_ETH, dim=2).T).sum(0)
        self.outputs = self.outputs + output_ETH.sum(1)
        self.cosines = self.cosines + torch.einsum("ith,jth->ij", direction_ETH, direction_ETH)
        self.products = self.products + logits_TE.T @ logits_TE

    def _output(self, expert: int, hidden_TH: Tensor) -> Tensor:
        """One expert's output for every token, by the model's own module."""
        index_T1 = torch.full((len(hidden_TH), 1), expert)
        out: Tensor = self.experts(hidden_TH, index_T1, torch.ones(len(hidden_TH), 1, dtype=hidden_TH.dtype))
        return out.double()

    def usage(self) -> Usage:
        assert isinstance(self.outputs, Tensor), "a mixture saw no token"
        assert isinstance(self.cosines, Tensor)
        assert isinstance(self.products, Tensor)
        length_E = self.products.diagonal().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        return Usage(
            self.routed,
            self.outputs / self.tokens,
            self.cosines / self.tokens,
            self.products / torch.outer(length_E, length_E),
            self.weighted / self.routed.clamp(min=1.0),
        )


def watch(
    path: Path, architecture: Architecture, samples: Sequence[Sample], *, renormalise: bool, done: Callable[[], None]
) -> dict[int, Usage]:
    """The usage of every mixture of a model, by its layer's number.

    Costs what a dense forward pass with every expert costs; memory: the model in float32, and experts × tokens × hidden
    of one item.

    Args:
        renormalise: gates of the chosen experts sum to 1, whatever the model does.
        done: called after each item.

    Raises:
        CheckpointError: transformers cannot load the model.
    """
    model = load(path)
    watches: dict[int, _Watch] = {}
    modules = dict(model.named_modules())
    with ExitStack() as stack, torch.no_grad():
        for name, module in modules.items():
            at = architecture.find(f"{name}.weight")
            if at is None or architecture.parts[at].role != "mlp.router":
                continue
            experts = modules[f"{name.rpartition('.')[0]}.experts"]
            layer = architecture.parts[at].layer
            assert layer is not None, at
            watches[layer] = _Watch(experts, architecture.num_experts, renormalise=renormalise)
            stack.callback(module.register_forward_hook(watches[layer]).remove)
        for sample in samples:
            model(input_ids=torch.tensor([sample.ids]), use_cache=False)
            done()
    return {layer: watched.usage() for layer, watched in watches.items()}
