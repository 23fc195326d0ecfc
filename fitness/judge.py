"""Answers judged by a model that the user names: the probability that it says yes to a template of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import Failure, InvalidInputError
from fitness.answer_metrics import Answer
from fitness.items import Item
from fitness.judge_spec import JudgeSpec, filled
from fitness.loglikelihood import ChoiceScorer


class Judge:
    """The metric `judge`: P(yes) / (P(yes) + P(no)) after the filled template, in [0, 1].

    Its weights stay in memory beside those of the candidates, once in each worker.

    Args:
        model, tokenizer: the judge's, on `device`.
        batch_tokens: most tokens in one forward pass.
    """

    def __init__(
        self,
        spec: JudgeSpec,
        model: Any,
        tokenizer: Any,
        *,
        batch_tokens: int = 2048,
        device: str | torch.device = "cpu",
    ) -> None:
        self.spec, self.model = spec, model
        self._tokenizer = tokenizer
        self._scorer = ChoiceScorer(model, tokenizer, batch_tokens=batch_tokens, device=device)

    def __call__(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[float] | Failure:
        """One value an item, or why there are none.

        Raises:
            InvalidInputError: a filled template that does not fit into the judge's length.
        """
        asked = [self._asked(item, answer.text) for item, answer in zip(items, answers, strict=True)]
        found = self._scorer.log_likelihoods(asked)
        if isinstance(found, Failure):
            return replace(found, message=f"the judge: {found.message}")
        return [1.0 / (1.0 + math.exp(min(700.0, no - yes))) for yes, no in found]

    def _asked(self, item: Item, answer: str) -> Item:
        text = filled(self.spec.template, item, answer)
        if self.spec.chat:
            turn = [{"role": "user", "content": text}]
            text = str(self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        return Item(item.id, text, (self.spec.yes, self.spec.no), 0)


def load_judges(specs: Mapping[str, JudgeSpec], *, batch_tokens: int = 2048, device: str = "cpu") -> dict[str, Judge]:
    """Judges by name: safetensors only, none of their code. Those of one directory and dtype share its weights.

    Raises:
        InvalidInputError: no such directory.
    """
    loaded: dict[tuple[str, str], tuple[Any, Any]] = {}
    for spec in specs.values():
        if (spec.model, spec.dtype) not in loaded:
            loaded[spec.model, spec.dtype] = _load(spec, device)
    return {
        name: Judge(spec, *loaded[spec.model, spec.dtype], batch_tokens=batch_tokens, device=device)
        for name, spec in specs.items()
    }


def _load(spec: JudgeSpec, device: str) -> tuple[Any, Any]:
    if not Path(spec.model).is_dir():
        raise InvalidInputError("judge.model", spec.model, "a directory of a model")
    tokenizer: Any = AutoTokenizer.from_pretrained(spec.model, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        spec.model, dtype=getattr(torch, spec.dtype), local_files_only=True, use_safetensors=True
    )
    return model.to(device), tokenizer
