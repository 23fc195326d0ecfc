"""What the generators make: examples to train on and questions to ask."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "search", "holdout"]
"""Experts learn from `train`; a search sees `search`; `holdout` judges what it found."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer that an expert learns to give; the answer begins with a blank."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question with one right and four wrong answers, each with its leading blank."""

    context: str
    answer: str
    distractors: tuple[str, ...]
    group: str

    def __post_init__(self) -> None:
        if len({self.answer, *self.distractors}) != 5:
            raise ValueError(f"expected five distinct choices for {self.context!r}, got {self!r}")


def split_of(*fact: object) -> Split:
    """Assign a fact, say `("+", 32, 29)`, to a split by the SHA-256 of its parts.

    A fifth of all facts is held out from training, half of it for each evaluation split; every
    skill asks this one function, so that no skill trains on what another one asks.
    """
    digest = hashlib.sha256(" ".join(map(str, fact)).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 10
    return "search" if bucket == 0 else "holdout" if bucket == 1 else "train"


def draw_distinct(candidates: list[str], count: int, answer: str, rng: random.Random) -> list[str]:
    """Draw `count` different candidates, none of them the answer."""
    return rng.sample(sorted({each for each in candidates if each != answer}), count)
