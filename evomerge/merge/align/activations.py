"""Activations of units: what the tensors that read them are given, on the same tokens in both models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.align.groups import Group
from evomerge.merge.calibration.files import pin_file
from evomerge.merge.calibration.items import Sample, encode, read_texts
from evomerge.merge.calibration.live import Live, load_live, tokenizer_of
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.source import Source
from evomerge.recipe.calibration import FileRef


def activations_of(
    source: Source, base: Checkpoint, architecture: Architecture, groups: Iterable[Group], items: FileRef, tokens: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Activations of the base and of the source, by the name of the tensor that reads them; (tokens × width), float32.

    Memory: one model, and for both models tokens × the sum of widths × 4 bytes.

    Args:
        items: its location is absolute.
        tokens: most tokens, from the beginning of the file; both models read the base's tokens.

    Raises:
        CheckpointError, HashMismatchError: the items or a model cannot be read.
        InvalidInputError: no items, or units whose activations transformers does not show (experts).
    """
    file = pin_file(items, f"align.{source.name}.items", Path())
    path = Path(file.location)
    samples = _first(encode(tokenizer_of(None, base), read_texts(path), tokens, str(path)), tokens)
    names = [group.read_by for group in groups if group.read_by is not None]
    return tuple(  # type: ignore[return-value]  # of two
        _collect(load_live(model, base, architecture, "float32", torch.device("cpu")), samples, names)
        for model in (None, source)
    )


def _first(samples: Sequence[Sample], tokens: int) -> list[Sample]:
    taken: list[Sample] = []
    for sample in samples:
        left = tokens - sum(len(s.ids) for s in taken)
        if left < 2:
            break
        taken.append(Sample(sample.ids[:left], sample.first))
    return taken or [samples[0]]


def _collect(live: Live, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> Callable[[Any, Any], None]:
        def keep(module: Any, arguments: Any) -> None:
            rows[name].append(arguments[0].detach().reshape(-1, arguments[0].shape[-1]).clone())

        return keep

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            if name not in live.linears:
                raise InvalidInputError("align.units", name, "units that are read by a linear module")
            stack.callback(live.linears[name].register_forward_pre_hook(hook(name)).remove)
        for sample in samples:
            live.logits(sample)
    return {name: torch.cat(found) for name, found in rows.items()}
