"""Neighbouring layers fused into one, from the last on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import ArchitectureError, InvalidInputError, NonFiniteError
from evomerge.merge.calibration.items import Sample
from evomerge.merge.slices import sliced_config
from evomerge.merge.structure.directory import write_directory
from evomerge.merge.structure.live import load
from evomerge.merge.structure.similarity import Matrix, embed, similarities
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint, is_merged
from evomerge.models.family import fill_numbers, split_numbers
from evomerge.models.finite import check_finite
from evomerge.models.layout import Entry
from evomerge.recipe.slices import Slice

TOKENS = 512
"""Tokens whose activations are compared, from the beginning of the items: the cost grows with their cube."""
LEAST_TOKENS = 16


def fuse_layers(
    checkpoint: Checkpoint,
    architecture: Architecture,
    out: Path,
    samples: Sequence[Sample],
    number: int,
    beta: float,
    settings: Mapping[str, Any],
) -> Path:
    """Fuse the last layers, two at a time, and write the shorter model.

    Layers i and i + 1 become r·W_i + (1 − r)·W_{i+1} with r = sigmoid(β · s_i / (s_i + s_{i+1})), s the mean similarity
    of a layer to all layers. All tensors of a layer are fused; the authors' code computes these weights and drops them.

    Source: Liu et al. 2024, MKA, arXiv:2406.16330, section 3, with the ratio of the authors' code.

    Raises:
        InvalidInputError: the model has too few layers, or the items too few tokens.
        ArchitectureError: layers that would be fused have other tensors or shapes.
        NonFiniteError: the model gives NaN or infinity.
    """
    left = architecture.num_layers - number
    if left < 1:
        raise InvalidInputError("layers", number, f"1 to {architecture.num_layers - 1} of this model's layers")
    states = list(_states(checkpoint.path, architecture, samples))
    for layer, found in enumerate(states):
        if not np.isfinite(found).all():
            raise NonFiniteError(f"{checkpoint.path}: NaN or infinity among the activations of layer {layer}")
    similarity = similarities([embed(found) for found in states])
    shares = fused_shares(similarity, number, beta)
    names = {name: split_numbers(name) for name in checkpoint.tensors}
    kept = [name for name, (_, layer, _) in names.items() if layer is None or layer < left]
    _check_same(checkpoint, names, left)

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name in kept:
            template, layer, expert = names[name]
            if layer != left - 1 or not is_merged(checkpoint.tensors[name]):
                yield name, checkpoint.read(name)
                continue
            parts = [fill_numbers(template, at, expert) for at in range(left - 1, architecture.num_layers)]
            fused = sum(share * checkpoint.read(at).double() for share, at in zip(shares, parts, strict=True))
            assert isinstance(fused, Tensor)
            check_finite(fused, name, "the fused layer")
            yield name, fused.to(checkpoint.tensors[name].dtype)

    entries = [Entry(name, checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape) for name in kept]
    config = sliced_config(checkpoint.config, (Slice(base=(0, left - 1)),))
    report = {"settings": dict(settings), "shares": shares, "similarity": similarity.tolist()}
    return write_directory(out, checkpoint.path, entries, weights, config, report)


def fused_shares(similarity: Matrix, number: int, beta: float) -> list[float]:
    """What each of the last `number` + 1 layers adds to the one that they become, first to last; the sum is 1."""
    count = len(similarity)
    mean = similarity.mean(1)
    shares = [1.0]
    for layer in range(count - 2, count - 2 - number, -1):
        total = mean[layer] + mean[layer + 1]
        ratio = 1.0 / (1.0 + math.exp(-beta * (mean[layer] / total if total > 0 else 0.5)))
        shares = [ratio, *((1.0 - ratio) * share for share in shares)]
    return shares


def _states(path: Path, architecture: Architecture, samples: Sequence[Sample]) -> Iterator[Matrix]:
    """What enters each layer, (tokens × hidden)."""
    model = load(path)
    rows: list[list[Tensor]] = [[] for _ in range(architecture.num_layers)]
    tokens = 0
    with torch.no_grad():
        for sample in samples:
            if tokens >= TOKENS:
                break
            ids = torch.tensor([sample.ids[: TOKENS - tokens]])
            tokens += ids.shape[1]
            states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
            for layer, found in enumerate(rows):
                found.append(states[layer][0].double())
    if tokens < LEAST_TOKENS:
        raise InvalidInputError("items", f"{tokens} tokens", f"{LEAST_TOKENS} tokens or more to compare layers by")
    return (np.asarray(torch.cat(found).numpy()) for found in rows)


def _check_same(checkpoint: Checkpoint, names: Mapping[str, tuple[str, int | None, int | None]], left: int) -> None:
    """The layers that are fused have the same tensors."""
    shapes: dict[int, dict[tuple[str, int | None], tuple[int, ...]]] = {}
    for name, (template, layer, expert) in names.items():
        if layer is not None and layer >= left - 1:
            shapes.setdefault(layer, {})[template, expert] = checkpoint.tensors[name].shape
    for layer, found in shapes.items():
        if found != shapes[left - 1]:
            raise ArchitectureError(f"layers {left - 1} and {layer} have other tensors: they cannot be fused")
