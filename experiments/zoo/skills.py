"""The skills of the zoo, and their evaluation items.

    python experiments/zoo/skills.py          # write items/<skill>.jsonl again, byte for byte

Four skills have an expert each; nobody is trained for the fifth, `ja_math`. Items are multiple
choice with five choices (chance 0.2); labels are balanced.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

from capitals import geo_example, geo_question
from question import Example, Question, Split
from stories import es_example, es_question, story_example, story_question
from sums import ja_example, ja_math_question, ja_question, math_example, math_question

ITEMS = Path(__file__).parent / "items"
EVALUATION_SPLITS: tuple[Split, ...] = ("search", "holdout")
ITEMS_PER_SPLIT = 300
NUM_CHOICES = 5
STORY_SHARE = 0.4
"""Share of the math skill that is told as a story."""


class Item(TypedDict):
    """One line of an item file; `choices` carry their own leading blank."""

    id: str
    context: str
    choices: list[str]
    label: int
    split: Split
    group: str


def mixed_math_example(rng: random.Random) -> Example:
    """Return a sum in digits or, in two of five cases, a story."""
    return story_example(rng) if rng.random() < STORY_SHARE else math_example(rng)


def mixed_math_question(rng: random.Random, split: Split) -> Question:
    """Ask for a sum in digits or, in two of five cases, for the end of a story."""
    ask = story_question if rng.random() < STORY_SHARE else math_question
    return ask(rng, split)


EXAMPLES: dict[str, Callable[[random.Random], Example]] = {
    "math": mixed_math_example,
    "ja": ja_example,
    "es": es_example,
    "geo": geo_example,
}
QUESTIONS: dict[str, Callable[[random.Random, Split], Question]] = {
    "math": mixed_math_question,
    "ja": ja_question,
    "es": es_question,
    "geo": geo_question,
    "ja_math": ja_math_question,
}


def examples(skill: str, seed: int) -> Iterator[Example]:
    """Yield training examples of a skill without end; the same ones for the same seed."""
    rng = random.Random(f"train-{skill}-{seed}")
    while True:
        yield EXAMPLES[skill](rng)


def to_item(skill: str, question: Question, label: int, split: Split, rng: random.Random) -> Item:
    """Put a question's right answer in place `label` among the shuffled wrong ones."""
    choices = list(question.distractors)
    rng.shuffle(choices)
    choices.insert(label, question.answer)
    content = json.dumps([question.context, choices], ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return Item(
        id=f"{skill}-{digest}",
        context=question.context,
        choices=choices,
        label=label,
        split=split,
        group=question.group,
    )


def items(skill: str) -> list[Item]:
    """Return all items of a skill, `ITEMS_PER_SPLIT` for each split, each context once."""
    made: list[Item] = []
    contexts: set[str] = set()
    for split in EVALUATION_SPLITS:
        rng = random.Random(f"items-{skill}-{split}")
        labels = [place % NUM_CHOICES for place in range(ITEMS_PER_SPLIT)]
        rng.shuffle(labels)
        while labels:
            question = QUESTIONS[skill](rng, split)
            if question.context not in contexts:
                contexts.add(question.context)
                made.append(to_item(skill, question, labels.pop(), split, rng))
    return made


def to_jsonl(made: list[Item]) -> str:
    """Return items as JSON, one a line."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in made)


def main() -> None:
    """Write the item files."""
    parser = argparse.ArgumentParser(description="Write the zoo's evaluation items.")
    parser.add_argument("--out", type=Path, default=ITEMS, help="folder of the item files")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for skill in QUESTIONS:
        made = items(skill)
        (folder / f"{skill}.jsonl").write_text(to_jsonl(made), encoding="utf-8", newline="\n")
        print(f"{skill}: {len(made)} items")


if __name__ == "__main__":
    main()
