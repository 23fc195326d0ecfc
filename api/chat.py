"""Talking to a merged model: greedy decoding with transformers, nothing more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, EvomergeError


class Chat:
    """A model and the conversation so far.

    Args:
        model: directory of a model with its tokenizer.
        plain: continue each text as it is, instead of holding a conversation in the chat template.
        max_new_tokens: longest answer.

    Raises:
        CheckpointError: the directory holds no model that transformers can load.
    """

    def __init__(self, model: Path, *, plain: bool, max_new_tokens: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed
        if not (model / "config.json").is_file():
            raise CheckpointError(f"{model} is not a model directory: it has no config.json")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(model, local_files_only=True, dtype="auto")
        except (OSError, ValueError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{model} cannot be loaded: {error}") from error
        self._plain, self._max_new_tokens = plain, max_new_tokens
        if not plain and self._tokenizer.chat_template is None:
            raise EvomergeError(f"{model} has no chat template; use --plain to continue texts")
        self._turns: list[dict[str, str]] = []

    def answer(self, text: str) -> str:
        """The model's continuation of the conversation, or of the text."""
        import torch

        if self._plain:
            inputs = self._tokenizer(text, return_tensors="pt")
        else:
            self._turns.append({"role": "user", "content": text})
            inputs = self._tokenizer.apply_chat_template(
                self._turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
        reply: str = self._tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        if not self._plain:
            self._turns.append({"role": "assistant", "content": reply})
        return reply
