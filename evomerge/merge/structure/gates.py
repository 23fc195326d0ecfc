"""Rows of routers without training: what a mixture's gates begin with, or stay with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.structure.live import load
from evomerge.models.architecture import Architecture
from evomerge.recipe.document import read_document

# E experts, L layers, T tokens, H hidden

GATES = ("random", "uniform", "hidden", "cheap_embed")
STATES = ("mlp", "layer")
TOKENS = ("mean", "last")
TINY = 1e-8
"""Rows shorter than this are not stretched to length 1."""
ALIKE = 0.99
"""Cosine of two experts' rows from which a person is warned."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What an expert is for, and what it is not for."""

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


def read_prompts(path: Path, experts: Sequence[str]) -> dict[str, Prompts]:
    """Prompts of every expert from a YAML or JSON file: `NAME: {positive: [...], negative: [...]}`.

    Raises:
        InvalidInputError: it cannot be read, names another expert or lacks one, or a list is none of texts; or all
            experts have the same prompts, by which none can be told from another.
    """
    data = read_document(path).data
    if not isinstance(data, dict):
        raise InvalidInputError("prompts", str(path), f"prompts by expert: {', '.join(experts)}")
    if unknown := [name for name in data if name not in experts]:
        raise InvalidInputError(f"prompts.{unknown[0]}", "an expert", f"one of {', '.join(experts)}")
    found = {name: _prompts(data.get(name), f"prompts.{name}") for name in experts}
    if len(experts) > 1 and len(set(found.values())) == 1:
        raise InvalidInputError("prompts", str(path), "prompts that differ: here every expert has the same")
    return found


def _prompts(data: Any, where: str) -> Prompts:
    if not isinstance(data, dict) or not set(data) <= {"positive", "negative"}:
        raise InvalidInputError(where, data, "`positive` and, if wanted, `negative` prompts")
    positive, negative = (_texts(data.get(key, []), f"{where}.{key}") for key in ("positive", "negative"))
    if not positive:
        raise InvalidInputError(f"{where}.positive", [], "at least one prompt that this expert is for")
    return Prompts(positive, negative)


def _texts(data: Any, where: str) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(text, str) and text for text in data):
        raise InvalidInputError(where, data, "a list of texts, none of them empty")
    return tuple(data)


def hidden_rows(
    path: Path,
    architecture: Architecture,
    tokenizer: Any,
    prompts: Mapping[str, Prompts],
    states: str = "mlp",
    tokens: str = "mean",
) -> Tensor:
    """Mean hidden state of each expert's positive prompts minus that of the negative ones, of length 1; (L × E × H).

    Args:
        path: the model that reads the prompts, dense.
        states: `mlp`: what enters the MLP, which is what the router will read; `layer`: what enters the layer, as
            mergekit-moe has it.
        tokens: `mean` of a prompt's tokens, or the `last`.

    Raises:
        CheckpointError: transformers cannot load the model.
        InvalidInputError: a prompt has no tokens.
    """
    model = load(path)

    def read(ids: Sequence[int]) -> Tensor:
        seen = _states(model, architecture, ids, states).double()
        return seen.mean(1) if tokens == "mean" else seen[:, -1]

    def mean(texts: Sequence[str], name: str) -> Tensor:
        return torch.stack([read(ids) for ids in _ids(tokenizer, texts, name)]).mean(0)

    with torch.no_grad():
        return torch.stack([_unit(_difference(mean, name, asked)) for name, asked in prompts.items()], 1).float()


def cheap_rows(embedding: Tensor, tokenizer: Any, prompts: Mapping[str, Prompts], num_layers: int) -> Tensor:
    """Mean embedding of the tokens of each expert's positive prompts minus that of the negative ones, both of length 1
    before, the difference after; the same in every layer, (L × E × H).

    Raises:
        InvalidInputError: a prompt has no tokens.
    """

    def mean(texts: Sequence[str], name: str) -> Tensor:
        ids = [at for prompt in _ids(tokenizer, texts, name) for at in prompt]
        return _unit(embedding[ids].double().mean(0))

    rows = torch.stack([_unit(_difference(mean, name, asked)) for name, asked in prompts.items()])
    return rows.float().expand(num_layers, -1, -1).contiguous()


def child_row(rows: Mapping[str, Tensor], parents: Sequence[str], shares: Sequence[float]) -> Tensor:
    """The row of an expert that was made of others: theirs in its shares, of length 1."""
    return _unit(sum((s * rows[p].double() for p, s in zip(parents, shares, strict=True)), torch.zeros(()))).float()


def warn_alike(rows_LEH: Tensor, names: Sequence[str]) -> None:
    """Say which experts a router can hardly tell apart."""
    unit = _unit(rows_LEH.double())
    cosines = (unit @ unit.transpose(1, 2)).mean(0)
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            if float(cosines[i, j]) > ALIKE:
                log.warning("the prompts of %r and %r give almost the same router rows", first, names[j])


def _difference(mean: Callable[[Sequence[str], str], Tensor], name: str, asked: Prompts) -> Tensor:
    positive = mean(asked.positive, name)
    return positive - mean(asked.negative, name) if asked.negative else positive


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp(min=TINY)
    return unit


def _ids(tokenizer: Any, texts: Sequence[str], name: str) -> Iterator[list[int]]:
    for text in texts:
        ids = list(tokenizer(text)["input_ids"])
        if not ids:
            raise InvalidInputError(f"prompts.{name}", text, "texts of one or more tokens")
        yield ids


def _states(model: Any, architecture: Architecture, ids: Sequence[int], which: str) -> Tensor:
    """(L × T × H)."""
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        if which == "mlp":
            for name, module in model.named_modules():
                part = architecture.parts.get(architecture.find(f"{name}.weight") or "")
                if part is not None and part.role == "norm.mlp" and part.layer is not None:
                    stack.callback(module.register_forward_hook(_keep(found, part.layer)).remove)
        answer = model(input_ids=torch.tensor([list(ids)]), use_cache=False, output_hidden_states=which == "layer")
    if which == "layer":
        return torch.stack([state[0] for state in answer.hidden_states[:-1]])
    return torch.stack([found[layer] for layer in range(architecture.num_layers)])


def _keep(found: dict[int, Tensor], layer: int) -> Callable[[Any, Any, Tensor], None]:
    def hook(module: Any, inputs: Any, output: Tensor) -> None:
        found[layer] = output[0]

    return hook
