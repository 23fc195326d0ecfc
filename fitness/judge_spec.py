"""Which model judges answers, and how it is asked; plain values, which need no model."""

from __future__ import annotations

from dataclasses import dataclass

import regex

from evomerge.errors import InvalidInputError
from fitness.items import Item

PLACES = ("context", "question", "answer", "reference")
"""What a template may name in braces; other braces are text. `question` is the item's, or else its context;
`reference` its first."""

_PLACE = regex.compile(rf"\{{({'|'.join(PLACES)})\}}")


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """Who judges, and how it is asked.

    Attributes:
        model: directory of a causal language model and its tokenizer.
        template: the judge's prompt, with `PLACES` in braces; `{answer}` is one of them.
        yes, no: what it may go on with; their probabilities are compared.
        chat: whether the prompt is a user's turn in the judge's own chat template.
        dtype: of its weights.
    """

    model: str
    template: str
    yes: str = " yes"
    no: str = " no"
    chat: bool = False
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if "{answer}" not in self.template:
            raise InvalidInputError("judge.template", self.template, "a text with {answer} in it")
        if not self.yes or not self.no or self.yes == self.no:
            raise InvalidInputError("judge.no", self.no, f"a text other than judge.yes, {self.yes!r}")


def filled(template: str, item: Item, answer: str) -> str:
    """A template with an item and its answer in their places.

    >>> filled("{question} {answer} {x}", Item("i", "1 + 1 ="), "{answer}")
    '1 + 1 = {answer} {x}'
    """
    reference = item.references[0] if item.references else ""
    given = dict(zip(PLACES, (item.context, item.question or item.context, answer, reference), strict=True))
    return str(_PLACE.sub(lambda place: given[place[1]], template))
