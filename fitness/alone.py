"""Greedy answers one prompt at a time, as transformers itself writes them.

For models that no batch with padding and a cache of keys and values fits: recurrent layers, caches of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria

from fitness.encoding import Tokens
from fitness.failures import NonFiniteOutputError


class _Stopped(StoppingCriteria):
    def __init__(self, begin: int, stopped: Callable[[list[int]], bool]) -> None:
        self._begin, self._stopped = begin, stopped
        self.found = False

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.found = self._stopped(input_ids[0, self._begin :].tolist())
        return torch.tensor([self.found], device=input_ids.device)


def write_alone(
    model: PreTrainedModel,
    prompt: Tokens,
    most: int,
    stopped: Callable[[list[int]], bool],
    ends: frozenset[int],
    pad: int,
) -> tuple[list[int], bool]:
    """The answer to one prompt, without the token that ends a sequence; and whether it came to its end.

    Args:
        most: an answer's most tokens.
        stopped: whether an answer of these tokens has come to its end.
        ends: tokens that end a sequence.
        pad: any token.

    Raises:
        NonFiniteOutputError: NaN or infinity instead of a token's logits.
    """
    criterion = _Stopped(len(prompt), stopped)
    how = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=most,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = torch.tensor([prompt], device=model.device)
    found: Any = model.generate(  # type: ignore[operator]
        tokens, attention_mask=torch.ones_like(tokens), generation_config=how, stopping_criteria=[criterion]
    )
    if not all(torch.isfinite(logits).all() for logits in found.logits):
        raise NonFiniteOutputError("the model's output is not finite while it answers")
    written: list[int] = found.sequences[0, len(prompt) :].tolist()
    ended = bool(written) and written[-1] in ends
    return written[:-1] if ended else written, ended or criterion.found
