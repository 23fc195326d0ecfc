"""A model that runs under weights in the making."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.learn.losses import Objective, Output
from evomerge.merge.calibration.live import Live

Weights = Mapping[str, Tensor]
"""The base's name of a tensor → weights in its place; all others are the base's."""
Batches = Mapping[str, Sequence[Sample]]
"""Source → its items."""


class Student:
    """The base's architecture, config and weights, some of which are given anew at every pass.

    Args:
        live: the base.
        experts: source → its own weights for the tensors that it changes.
    """

    def __init__(self, live: Live, experts: Callable[[str], Weights]) -> None:
        names = {id(parameter): name for name, parameter in live.model.named_parameters()}
        self._names = {at: names[id(parameter)] for at, parameter in live.parameters.items()}
        self._live, self._experts = live, experts

    def output(self, weights: Weights, sample: Sample, hidden: bool = False) -> Output:
        """What the model puts out under these weights."""
        ids = torch.tensor([sample.ids], device=self._live.device)
        found = functional_call(
            self._live.model,
            {self._names[at]: tensor for at, tensor in weights.items()},
            (),
            {"input_ids": ids, "use_cache": False, "output_hidden_states": hidden},
        )
        states = tuple(state[0] for state in found.hidden_states[1:]) if hidden else ()
        logits = found.logits[0, sample.first - 1 : -1]
        return Output(logits.to(torch.promote_types(logits.dtype, torch.float32)), states)

    def loss(self, weights: Weights, batches: Batches, objective: Objective) -> float:
        """Σ over sources of the mean loss of their items; its gradient is added to `grad` of the weights that ask for
        one.

        An expert runs under the base's config, as the merged model will.
        """
        total = 0.0
        for source, samples in batches.items():
            expert = self._experts(source) if objective.expert else None
            for sample in samples:
                target = None
                if expert is not None:
                    with torch.no_grad():
                        target = self.output(expert, sample, objective.hidden)
                labels = torch.tensor(sample.ids[sample.first :], device=self._live.device)
                loss = objective.loss(self.output(weights, sample, objective.hidden), target, labels) / len(samples)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
        return total
