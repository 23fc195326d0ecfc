"""Calibration items: texts from a JSONL file, drawn by a seed, as tokens of one tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Text:
    """What a model reads (`context`, may be empty) and how it goes on."""

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Sample:
    """An item as tokens.

    Attributes:
        ids: of the whole text, two at least.
        first: index of the first token that counts as the continuation, from 1: log-likelihoods are of the tokens from
            here on.
    """

    ids: tuple[int, ...]
    first: int


def read_texts(path: Path) -> list[Text]:
    """The items of a JSONL file, without those of the split `holdout`.

    An item has `text`; or `context` and how it goes on: `answer`, the choice that `label` points at, or the first of
    `references`.

    Raises:
        InvalidInputError: the file is missing, or a line is no item; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInputError("items", str(path), f"a readable JSONL file ({reason})") from error
    parsed = [_text(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    texts = [text for text in parsed if text is not None]
    if not texts:
        raise InvalidInputError("items", str(path), "at least one item that is not of the split 'holdout'")
    return texts


def _text(line: str, where: str) -> Text | None:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(where, line[:60], f"one JSON object ({error.msg})") from error
    if not isinstance(data, dict):
        raise InvalidInputError(where, line[:60], "a JSON object")
    if data.get("split") == "holdout":
        return None
    text = Text("", data["text"]) if "text" in data else Text(data.get("context", ""), _continuation(data, where))
    if not isinstance(text.continuation, str) or not text.continuation or not isinstance(text.context, str):
        raise InvalidInputError(where, line[:60], "`text`, or `context` with an answer, as non-empty strings")
    return text


def _continuation(data: dict[str, Any], where: str) -> Any:
    """What follows the context; a choice carries its own leading blank, as in evaluation."""
    if "answer" in data:
        return data["answer"]
    choices, label, references = data.get("choices") or [], data.get("label"), data.get("references") or []
    if choices and isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(choices):
        return choices[label]
    if references:
        return references[0]
    raise InvalidInputError(where, sorted(data), "`text`, or `context` with `answer`, `choices` and `label`, …")


def draw(texts: Sequence[Text], number: int, seed: int) -> list[Text]:
    """`number` of the texts in their order, chosen by the seed and their positions alone; all if there are fewer."""
    ranked = sorted(range(len(texts)), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
    return [texts[i] for i in sorted(ranked[:number])]


def encode(tokenizer: Any, texts: Sequence[Text], max_tokens: int, where: str) -> list[Sample]:
    """Texts as tokens; those of fewer than two tokens are left out.

    A text that is too long loses its end where it is one piece, and the beginning of its context where an answer
    follows.

    Raises:
        InvalidInputError: no item is left.
    """
    samples = [_sample(tokenizer, text, max_tokens) for text in texts]
    kept = [sample for sample in samples if sample is not None]
    if not kept:
        raise InvalidInputError("items", where, "items of two or more tokens")
    return kept


def _sample(tokenizer: Any, text: Text, max_tokens: int) -> Sample | None:
    ids = list(tokenizer(text.context + text.continuation)["input_ids"])
    if len(ids) < 2:
        return None
    if not text.context:
        return Sample(tuple(ids[:max_tokens]), 1)
    begin = _common(list(tokenizer(text.context)["input_ids"]), ids[:-1])
    cut = min(max(0, len(ids) - max_tokens), max(0, begin - 1))  # the answer is cut at its end, if at all
    return Sample(tuple(ids[cut : cut + max_tokens]), max(1, begin - cut))


def _common(left: list[int], right: list[int]) -> int:
    """Length of the common beginning: a tokenizer may join the context's end to the answer."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def digest(samples: Sequence[Sample]) -> str:
    """SHA-256 of the tokens and of where continuations begin."""
    text = json.dumps([[sample.first, *sample.ids] for sample in samples], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
