"""One-step stories: computed in English (part of `math`), translated from Spanish (`es`)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from question import Example, Question, Split, draw_distinct
from sums import OTHER_OPERATOR, Sum, draw_sum, near_numbers

NAMES = ("Ana", "Emma", "Tom", "Luis", "Maria", "David", "Sara", "Leo", "Julia", "Max")
NOUNS = {
    "apples": "manzanas",
    "eggs": "huevos",
    "books": "libros",
    "flowers": "flores",
    "coins": "monedas",
    "cards": "cartas",
    "stones": "piedras",
    "tickets": "boletos",
}
VERBS = {
    "+": {"buys": "compra", "finds": "encuentra", "gets": "recibe"},
    "-": {"sells": "vende", "loses": "pierde", "breaks": "rompe"},
}


@dataclass(frozen=True, slots=True)
class Story:
    """Somebody has `a` things and comes by or loses `b` of them."""

    name: str
    noun: str
    verb: str
    total: Sum

    def english(self) -> str:
        """Return the story as `Ana has 37 apples and sells 15.`"""
        return f"{self.name} has {self.total.a} {self.noun} and {self.verb} {self.total.b}."

    def spanish(self) -> str:
        """Return the story as `Ana tiene 37 manzanas y vende 15.`"""
        verb = VERBS[self.total.operator][self.verb]
        return f"{self.name} tiene {self.total.a} {NOUNS[self.noun]} y {verb} {self.total.b}."


def draw_story(rng: random.Random, split: Split) -> Story:
    """Draw a story whose sum belongs to the split."""
    total = draw_sum(rng, split)
    verb = rng.choice(list(VERBS[total.operator]))
    return Story(rng.choice(NAMES), rng.choice(list(NOUNS)), verb, total)


def story_example(rng: random.Random) -> Example:
    """Return an English story and the number it ends with."""
    story = draw_story(rng, "train")
    return Example(f"{story.english()} Now {story.name} has", f" {story.total.result}")


def story_question(rng: random.Random, split: Split) -> Question:
    """Ask how a story ends; one wrong choice does the other operation."""
    story = draw_story(rng, split)
    total = story.total
    lure = abs(Sum(OTHER_OPERATOR[total.operator], total.a, total.b).result)
    answer = f" {total.result}"
    near = [f" {number}" for number in near_numbers(total.result, 5) if number != lure]
    wrong = [f" {lure}", *draw_distinct(near, 3, answer, rng)]
    return Question(f"{story.english()} Now {story.name} has", answer, tuple(wrong), "story")


def es_example(rng: random.Random) -> Example:
    """Return a Spanish story and its translation, never a result."""
    story = draw_story(rng, "train")
    return Example(f"Spanish: {story.spanish()}\nEnglish:", f" {story.english()}")


def es_question(rng: random.Random, split: Split) -> Question:
    """Ask for a translation; the wrong ones miss a noun, a verb or the numbers' order."""
    story = draw_story(rng, split)
    total, verbs = story.total, list(VERBS["+"]) + list(VERBS["-"])
    noun, other_noun = rng.sample([each for each in NOUNS if each != story.noun], 2)
    verb, other_verb = rng.sample([each for each in verbs if each != story.verb], 2)
    swapped = Sum(total.operator, total.b, total.a)
    candidates = [
        Story(story.name, noun, story.verb, total),
        Story(story.name, other_noun, story.verb, total),
        Story(story.name, story.noun, verb, total),
        Story(story.name, story.noun, other_verb, total),
        Story(story.name, story.noun, story.verb, swapped),
    ]
    answer = f" {story.english()}"
    wrong = draw_distinct([f" {each.english()}" for each in candidates], 4, answer, rng)
    return Question(f"Spanish: {story.spanish()}\nEnglish:", answer, tuple(wrong), "story")
