"""Statistics of layers and of whole models: hidden states, losses, distances of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.merge.calibration.activations import Done, Named
from evomerge.merge.calibration.gradients import Labels, negative_log_likelihood
from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.live import Live

MODEL = "model"
"""Name of what belongs to the whole model."""


def layer_name(layer: int) -> str:
    """Name of what belongs to a layer, −1 for what comes before the first."""
    return f"layer {layer}"


def hidden(live: Live, samples: Sequence[Sample], done: Done) -> Named:
    """Mean hidden state of an item over its tokens, before the first layer (−1) and after each; (items × hidden)."""
    rows: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for sample in samples:
            rows.append([state.double().mean(0).float().cpu() for state in live.hidden(sample)])
            done()
    for layer, states in enumerate(zip(*rows, strict=True), start=-1):
        yield layer_name(layer), torch.stack(states)


def loss(live: Live, samples: Sequence[Sample], done: Done) -> Named:
    """Mean over items of the mean negative log-likelihood of the continuation's tokens."""
    total = 0.0
    own = Labels(sampled=False, seed=0)
    with torch.no_grad():
        for number, sample in enumerate(samples):
            total += float(negative_log_likelihood(live, number, sample, own))
            done()
    yield MODEL, torch.tensor([total / len(samples)])


def logit_distance(live: Live, other: Live, samples: Sequence[Sample], done: Done) -> Named:
    """Mean over items of the mean over their tokens of the Euclidean distance between two models' logits."""
    total = 0.0
    with torch.no_grad():
        for sample in samples:
            total += float((live.logits(sample).double() - other.logits(sample).double()).norm(dim=-1).mean())
            done()
    yield MODEL, torch.tensor([total / len(samples)])
