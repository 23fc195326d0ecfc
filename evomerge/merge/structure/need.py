"""How much memory making a model smaller takes: known from shapes and items, before a weight is read.

First the whole model is run in float32, then layers or experts are merged one after the other. Upper bounds, beside the
interpreter and its libraries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from evomerge.errors import InvalidInputError
from evomerge.merge.structure.experts import Mixture
from evomerge.merge.workspace import FLOAT32, FLOAT64
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint

_ACTIVATIONS = 8
"""Rows as wide as the widest weight that a layer's forward pass holds for each token."""
_LOGITS = 2
_OUTPUTS = 3
"""Copies of all experts' outputs for an item: as they come, together, as directions."""
_KERNELS = 8
"""Matrices (tokens × tokens) of a diffusion map and its decomposition."""
_FUSED = 4
"""Copies in float64 of a tensor that is fused: the sum so far, a term, what is read, the result."""
_STACKS = {"reap": 1.5, "hc_smoe": 3.0, "m_smoe": 4.0, "sub_moe": 6.0}
"""Copies of a layer's experts in float32 that a method holds while it merges them."""
_ASSIGNMENTS = 6
"""Matrices (units × units) in float64 of a matching, or (side × side) of a decomposition."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of tensors at a time.

    Attributes:
        running: while the model reads the items.
        merging: while weights are merged.
    """

    running: int
    merging: int

    def check(self, limit: int | None) -> None:
        """Refuse a limit that is too small.

        Raises:
            InvalidInputError: says what is needed, and what for.
        """
        most = max(self.running, self.merging)
        if limit is None or limit >= most:
            return
        what = "the whole model reads the items in float32" if self.running >= self.merging else "weights are merged"
        raise InvalidInputError("memory", limit, f"at least {most} bytes: so much is held while {what}")


def of_layers(checkpoint: Checkpoint, architecture: Architecture, lengths: Sequence[int], most_tokens: int) -> Need:
    """Of fusing layers.

    Args:
        lengths: tokens of each item.
        most_tokens: how many are looked at in all.
    """
    tokens = min(sum(lengths), most_tokens)
    hidden = _hidden(checkpoint, architecture)
    states = tokens * hidden * (architecture.num_layers + 1) * (FLOAT32 + 2 * FLOAT64)
    running = _model(checkpoint) + _pass(checkpoint, architecture, tokens) + states
    compared = states + _KERNELS * FLOAT64 * tokens**2
    inside = [name for name, part in architecture.parts.items() if part.layer is not None]
    largest = max(prod(checkpoint.tensors[name].shape) for name in inside)
    return Need(max(running, compared), compared + _FUSED * FLOAT64 * largest)


def of_experts(
    checkpoint: Checkpoint, architecture: Architecture, lengths: Sequence[int], mixtures: Sequence[Mixture], method: str
) -> Need:
    """Of merging or pruning experts."""
    tokens, number = max(lengths, default=0), architecture.num_experts
    hidden = _hidden(checkpoint, architecture)
    stack = max(_entries(checkpoint, mixture) for mixture in mixtures) * FLOAT32
    watched = _OUTPUTS * FLOAT64 * number * tokens * hidden
    known = len(mixtures) * FLOAT64 * (3 * number * hidden + 6 * number**2)
    running = _model(checkpoint) + stack + _pass(checkpoint, architecture, tokens) + watched + known
    shapes = [checkpoint.tensors[name].shape for name in mixtures[0].experts[0].values()]
    side = max(max(shape) for shape in shapes) if method == "m_smoe" else max(min(shape) for shape in shapes)
    merging = known + int(_STACKS[method] * stack)
    if method in ("m_smoe", "sub_moe"):
        merging += _ASSIGNMENTS * FLOAT64 * side**2
    return Need(running, merging)


def _model(checkpoint: Checkpoint) -> int:
    return FLOAT32 * sum(prod(info.shape) for info in checkpoint.tensors.values())


def _pass(checkpoint: Checkpoint, architecture: Architecture, tokens: int) -> int:
    """What one item's forward pass holds beside the model."""
    inside = [checkpoint.tensors[name].shape for name, part in architecture.parts.items() if part.layer is not None]
    widest = max((max(shape) for shape in inside if shape), default=0)
    vocabulary = max(info.shape[0] for info in checkpoint.tensors.values() if info.shape)
    return FLOAT32 * tokens * (_ACTIVATIONS * widest + _LOGITS * vocabulary)


def _hidden(checkpoint: Checkpoint, architecture: Architecture) -> int:
    """Entries of a token's state: the width of the embedding."""
    table = next(name for name, part in architecture.parts.items() if part.role == "embedding")
    return checkpoint.tensors[table].shape[-1]


def _entries(checkpoint: Checkpoint, mixture: Mixture) -> int:
    return sum(prod(checkpoint.tensors[name].shape) for names in mixture.experts for name in names.values())
