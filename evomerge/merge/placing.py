"""Where a merge's tensors lie in a live model; and how it gets them where transformers has made others of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.errors import ArchitectureError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.plan import DTYPES
from evomerge.models.architecture import Architecture
from evomerge.models.family import BUFFER
from evomerge.recipe.schema import Recipe

log = logging.getLogger(__name__)


def live_tensors(
    model: Any, architecture: Architecture, place: Path, shapes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The base's tensor name → the live tensor that it is in the model.

    Of a family that nobody described nothing, where transformers renames, joins or splits tensors when it loads it.

    Args:
        place: of the base.
        shapes: its tensors.

    Raises:
        ArchitectureError: the model as transformers builds it has other tensors than the checkpoint.
    """
    try:
        return _placed(model, architecture, place, shapes)
    except ArchitectureError as error:
        if not architecture.kind.inferred:
            raise
        log.info("%s: %s; candidates go through files, which takes longer", architecture.family, error)
        return {}


def _placed(model: Any, architecture: Architecture, place: Path, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    live: dict[str, Tensor] = {}
    unknown: dict[str, Tensor] = {}
    for name, tensor in chain(model.named_parameters(remove_duplicate=False), model.named_buffers()):
        parts = architecture.parts_of(name, tensor.data)
        if not parts and isinstance(tensor, torch.nn.Parameter):
            unknown[name] = tensor.data
        for at, part in parts.items():
            if architecture.parts[at].role == BUFFER:
                continue
            if shapes[at].shape != part.shape or not part.is_contiguous():
                has = f"{list(part.shape)}; the checkpoint has {list(shapes[at].shape)}"
                raise ArchitectureError(f"live tensor {name!r} is {has}")
            if live.setdefault(at, part).data_ptr() != part.data_ptr():
                raise ArchitectureError(f"live tensor {name!r} does not share its memory with {at!r}, its twin")
    known = {tensor.data_ptr() for tensor in live.values()}
    if lacking := [name for name, tensor in unknown.items() if tensor.data_ptr() not in known]:
        raise ArchitectureError(f"live tensor {lacking[0]!r}: the checkpoint has no such tensor")
    weights = {n for n, p in architecture.parts.items() if p.role != BUFFER}
    if lost := sorted(weights - set(live) - set(architecture.tied)):
        raise ArchitectureError(f"the live model has no place for {lost[:3]} of {place}")
    return live


@torch.no_grad()
def place_through_files(model: Any, recipe: Recipe, scratch: Path) -> None:
    """Make a live model that of a recipe: merged to files, loaded by transformers, copied.

    Args:
        recipe: with absolute locations.
        scratch: a folder with room for the model; nothing stays in it.

    Raises:
        NonFiniteError: NaN or infinity came out; the live model is then as it was.
    """
    out = scratch / "merged"
    try:
        alone = recipe.model_copy(update={"carry": None})  # a live model is the language model, under its own names
        merge_to_directory(alone, out, root=scratch, check_hashes=False)
        dtype = DTYPES[recipe.dtype]
        fresh: Any = AutoModelForCausalLM.from_pretrained(out, dtype=dtype, local_files_only=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    found = fresh.state_dict()
    for name, tensor in model.state_dict().items():
        tensor.copy_(found[name])
