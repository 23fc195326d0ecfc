"""A source of a recipe as a model that runs, its weights under the base checkpoint's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Conv1D
from transformers.utils.logging import disable_progress_bar

from evomerge.errors import ArchitectureError, CheckpointError
from evomerge.merge.calibration.items import Sample
from evomerge.merge.method import VOCABULARY
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.family import BUFFER
from evomerge.models.source import AdapterSource, Source
from evomerge.recipe.schema import role_matches

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Live:
    """A model that runs.

    Attributes:
        model: transformers' causal language model, in evaluation mode, no parameter requiring gradients.
        parameters: base tensor name → live parameter; a tied head is its embedding.
        linears: base tensor name of a weight → the linear map that holds it, vocabularies apart.
    """

    model: Any
    parameters: Mapping[str, torch.nn.Parameter]
    linears: Mapping[str, torch.nn.Module]

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(iter(self.parameters.values())).device

    def logits(self, sample: Sample) -> Tensor:
        """Of the next token after each token of the item; (tokens × vocabulary)."""
        ids = torch.tensor([sample.ids], device=self.device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0]
        return logits

    def hidden(self, sample: Sample) -> list[Tensor]:
        """Hidden states before the first layer and after each, (tokens × hidden) each."""
        ids = torch.tensor([sample.ids], device=self.device)
        states = self.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        return [state[0] for state in states]


def load_live(
    source: Source | None, base: Checkpoint, architecture: Architecture, dtype: str, device: torch.device
) -> Live:
    """Load a source, or the base for None.

    A checkpoint runs under its own config; an adapter is the base with its deltas added.

    Raises:
        CheckpointError: transformers cannot build the model.
        ArchitectureError: the model as built lacks tensors of the checkpoint.
    """
    adapter = isinstance(source, AdapterSource)
    path = base.path if source is None or adapter else source.path
    model = _load(path, dtype)
    parameters = _named(model, architecture)
    if lost := sorted(_weights(architecture) - set(parameters)):
        raise ArchitectureError(f"{path}: the model as transformers builds it lacks {lost[:3]}")
    if source is not None and adapter:
        for name in sorted(source.changed):
            parameters[name].data = source.weights(name).to(DTYPES[dtype])
    model.to(device)
    return Live(model, parameters, _linears(model, architecture))


def tokenizer_of(source: Source | None, base: Checkpoint) -> Any:
    """The source's tokenizer where its directory has one, else the base's.

    Raises:
        CheckpointError: there is none.
    """
    path = base.path
    if source is not None and any(source.path.glob("tokenizer*")):
        path = source.path
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: no tokenizer for calibration items: {_line(error)}") from error


def _load(path: Path, dtype: str) -> Any:
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed; a command's own lines suffice
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype], local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: transformers cannot load this model: {_line(error)}") from error
    model.requires_grad_(False)
    model.train(False)
    return model


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _named(model: Any, architecture: Architecture) -> dict[str, torch.nn.Parameter]:
    named = {}
    for name, parameter in model.named_parameters():
        if (at := architecture.find(name)) is not None:
            named[at] = parameter
    return named


def _weights(architecture: Architecture) -> set[str]:
    merged = {name for name, part in architecture.parts.items() if part.role != BUFFER}
    return merged - set(architecture.tied)


def _linears(model: Any, architecture: Architecture) -> dict[str, torch.nn.Module]:
    found = {}
    for name, module in model.named_modules():
        at = architecture.find(f"{name}.weight") if isinstance(module, torch.nn.Linear | Conv1D) else None
        if at is not None and not role_matches(architecture.parts[at].role, VOCABULARY):
            found[at] = module
    return found
