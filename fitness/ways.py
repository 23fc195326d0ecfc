"""How a live model may be read, found out by reading it where nobody described its family.

Scoring reads several texts in one row (a mask says what a token sees), goes on behind a beginning that was read before,
uses the head at few positions, and writes many answers at a time behind padding. That holds for the families that
evomerge knows. Others are asked: the same few tokens are read so and one text at a time, and what does not give the
same logits is not done. A recurrent layer, for one, sees everything that stands before a token in its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from evomerge.errors import ArchitectureError
from evomerge.models.family import families

TRUNK, BRANCH = 12, 3
"""Tokens that the two texts have in common, and of their own."""
EXACT, ROUGH = 1e-3, 0.05
"""How far logits may differ by rounding, in standard deviations of the logits: in float32, and in 16 bits."""
MASKED = {"full_attention", "sliding_attention"}
"""Kinds of layers whose masks `Reader` knows how to make."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What may be done.

    Attributes:
        trees: texts that branch share a row.
        beginnings: what rows begin with is read once, its keys and values kept.
        scale: of the logits, beside what the head gives.
    """

    trees: bool = True
    beginnings: bool = True
    scale: float = 1.0


Branching = Callable[[tuple[int, ...], tuple[int, ...], int, bool], tuple[Tensor, Tensor]]
"""Two texts that share so many tokens, and whether these are read before → both texts' hidden states, [L, width]."""


def is_known(model: PreTrainedModel) -> bool:
    """Whether somebody described the model's family."""
    return model.config.model_type in families()


def body_of(model: PreTrainedModel) -> Any:
    """What gives the last hidden states: some classes have it under another name than they say."""
    if model.base_model is not model:
        return model.base_model
    embeddings: Any = model.get_input_embeddings()
    return next((child for child in model.children() if embeddings in child.modules()), model)


@torch.inference_mode()
def ways_of(model: PreTrainedModel, read: Branching) -> Ways:
    """What may be done with a model of a family that nobody described.

    Args:
        read: how texts are read that share a row.

    Raises:
        ArchitectureError: it is no causal language model whose head is a matrix.
    """
    one, two = _texts(model)
    alone = [_logits(model, text) for text in (one, two)]
    if not _same(model, alone[0][:TRUNK], alone[1][:TRUNK]):
        raise ArchitectureError(f"{type(model).__name__} reads what follows a token: it is no causal language model")
    scale = _scale(model, one, alone[0])
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    cap = getattr(model.config, "final_logit_softcapping", None)

    def branches(before: bool) -> bool:
        found = read(tuple(one), tuple(two), TRUNK, before)
        logits = [_capped(scale * head(hidden).float(), cap) for hidden in found]
        return all(_same(model, each, expected[-len(each) :]) for each, expected in zip(logits, alone, strict=True))

    if not _same(model, _capped(scale * head(_hidden(model, one)).float(), cap), alone[0]):
        raise ArchitectureError(f"the head of {type(model).__name__} is not a matrix behind its last hidden state")
    trees = _masks_are_known(model.config) and _holds(lambda: branches(False))
    return Ways(trees, trees and _holds(lambda: branches(True)), scale)


@torch.inference_mode()
def pads(model: PreTrainedModel) -> bool:
    """Whether prompts of several lengths may be continued together, padded on the left."""
    if is_known(model):
        return True
    one, two = _texts(model)
    expected = torch.stack([_logits(model, text)[-1] for text in (one, two[1:])])
    return _holds(lambda: _same(model, _padded(model, one, two[1:]), expected))


def _texts(model: PreTrainedModel) -> tuple[list[int], list[int]]:
    """Two that begin alike."""
    embeddings: Any = model.get_input_embeddings()
    vocabulary = int(embeddings.weight.shape[0])
    one = [(7 * n * n + 3 * n + 11) % vocabulary for n in range(TRUNK + BRANCH)]
    return one, one[:TRUNK] + [(token + 5 + n) % vocabulary for n, token in enumerate(one[TRUNK:])]


def _same(model: PreTrainedModel, found: Tensor, expected: Tensor) -> bool:
    """Whether logits are equal but for rounding."""
    bound = float(expected.std()) * (EXACT if model.dtype == torch.float32 else ROUGH)
    return bool(torch.isfinite(found).all()) and float((found.float() - expected).abs().max()) <= bound


def _holds(tried: Callable[[], bool]) -> bool:
    """Whether it does; a model that takes no mask, positions or cache of this kind raises what it likes."""
    try:
        return tried()
    except Exception:
        return False


def _masks_are_known(config: Any) -> bool:
    """Whether layers' masks are full, or cut off at a window where the config says so layer by layer."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return getattr(config, "sliding_window", None) is None
    return set(kinds) <= MASKED


def _tokens(model: PreTrainedModel, *texts: list[int]) -> Tensor:
    return torch.tensor(texts, device=model.device)


def _logits(model: PreTrainedModel, text: list[int]) -> Tensor:
    found: Tensor = model(input_ids=_tokens(model, text), use_cache=False).logits[0]
    return found.float()


def _hidden(model: PreTrainedModel, text: list[int]) -> Tensor:
    found: Tensor = body_of(model)(input_ids=_tokens(model, text), use_cache=False)[0][0]
    return found


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _scale(model: PreTrainedModel, text: list[int], logits: Tensor) -> float:
    """How many times what the head gives of the last hidden state the logits are (least squares)."""
    if getattr(model.config, "final_logit_softcapping", None) is not None:
        return 1.0
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    hidden = _hidden(model, text)
    if hidden.shape[-1] != head.weight.shape[-1]:
        raise ArchitectureError(f"the head of {type(model).__name__} is not a matrix behind its last hidden state")
    plain = head(hidden).double()
    found = float((plain * logits).sum() / (plain * plain).sum().clamp(min=1e-30))
    return 1.0 if abs(found - 1) < ROUGH / 10 else found


def _padded(model: PreTrainedModel, one: list[int], short: list[int]) -> Tensor:
    """Logits of the last tokens of one text, and of another that is a token shorter, by two steps with a cache."""
    mask = torch.ones((2, len(one)), dtype=torch.long, device=model.device)
    mask[1, 0] = 0
    tokens, positions = _tokens(model, one, [one[0], *short]), (mask.cumsum(1) - 1).clamp(min=0)
    cache, found = DynamicCache(config=model.config), torch.empty(0)
    for begin, end in ((0, len(one) - 1), (len(one) - 1, len(one))):
        found = model(
            input_ids=tokens[:, begin:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, begin:end],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return found.float()
