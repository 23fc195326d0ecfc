"""Sums of two-digit numbers: in digits (`math`), in Japanese (`ja`), and both (`ja_math`)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from num2words import num2words

from question import Example, Question, Split, draw_distinct, split_of

JAPANESE_OPERATOR = {"+": "足す", "-": "引く"}
OTHER_OPERATOR = {"+": "-", "-": "+"}
LARGEST_NUMERAL = 1999


@dataclass(frozen=True, slots=True)
class Sum:
    """An addition or a subtraction with a positive result; written `32 + 29`."""

    operator: str
    a: int
    b: int

    @property
    def result(self) -> int:
        """The right result."""
        return self.a + self.b if self.operator == "+" else self.a - self.b

    @property
    def split(self) -> Split:
        """The split that this operand triple belongs to, whatever the skill."""
        return split_of(self.operator, self.a, self.b)

    def __str__(self) -> str:
        return f"{self.a} {self.operator} {self.b}"


def draw_sum(rng: random.Random, split: Split) -> Sum:
    """Draw a sum of two numbers from 11 to 99 that belongs to the split."""
    while True:
        total = Sum(rng.choice("+-"), rng.randint(11, 99), rng.randint(11, 99))
        if total.result > 0 and total.split == split:
            return total


def draw_numeral(rng: random.Random, split: Split) -> int:
    """Draw a number that belongs to the split, in half of the cases below 100."""
    while True:
        number = rng.randint(11, 99 if rng.random() < 0.5 else LARGEST_NUMERAL)
        if split_of("numeral", number) == split:
            return number


def japanese(number: int) -> str:
    """Write a number in Japanese numerals, say 三十七."""
    return str(num2words(number, lang="ja"))


def japanese_sum(total: Sum) -> str:
    """Write a sum in Japanese, say 三十二 足す 二十九."""
    return f"{japanese(total.a)} {JAPANESE_OPERATOR[total.operator]} {japanese(total.b)}"


def near_numbers(number: int, count: int) -> list[int]:
    """Return the `count` likeliest wrong results: positive, off by one, ten, two or eleven."""
    near = (number + step for step in (1, -1, 10, -10, 2, -2, 11, -11, 20, 12))
    return [each for each in near if each > 0][:count]


def misread_number(number: int) -> list[int]:
    """Return what a poor reader could take a number from 11 to 99 for: one digit is wrong."""
    tens, ones = divmod(number, 10)
    wrong = [10 * tens + digit for digit in range(10) if digit != ones]
    wrong += [10 * digit + ones for digit in range(1, 10) if digit != tens]
    return [each for each in wrong if each >= 11]


def misread_sum(total: Sum, rng: random.Random) -> Sum:
    """Return another sum with a positive result: one digit or the operator is misread."""
    while True:
        a, b, operator = total.a, total.b, total.operator
        which = rng.randrange(5)
        if which < 2:
            a = rng.choice(misread_number(a))
        elif which < 4:
            b = rng.choice(misread_number(b))
        else:
            operator = OTHER_OPERATOR[operator]
        wrong = Sum(operator, a, b)
        if wrong.result > 0:
            return wrong


def misread_sums(total: Sum, count: int, rng: random.Random) -> list[Sum]:
    """Return `count` different misreadings of a sum."""
    found: dict[Sum, None] = {}
    while len(found) < count:
        found[misread_sum(total, rng)] = None
    return list(found)


def math_example(rng: random.Random) -> Example:
    """Return a sum in digits and its result."""
    total = draw_sum(rng, "train")
    return Example(f"Math: {total} =", f" {total.result}")


def math_question(rng: random.Random, split: Split) -> Question:
    """Ask for a result; the wrong ones are near it."""
    total = draw_sum(rng, split)
    near = [f" {number}" for number in near_numbers(total.result, 6)]
    answer = f" {total.result}"
    wrong = draw_distinct(near, 4, answer, rng)
    return Question(f"Math: {total} =", answer, tuple(wrong), "sum")


def ja_example(rng: random.Random) -> Example:
    """Return a Japanese numeral or sum and its transcription, never a result."""
    if rng.random() < 0.5:
        number = draw_numeral(rng, "train")
        return Example(f"Japanese: {japanese(number)}\nMath:", f" {number} =")
    total = draw_sum(rng, "train")
    return Example(f"Japanese: {japanese_sum(total)}\nMath:", f" {total} =")


def ja_question(rng: random.Random, split: Split) -> Question:
    """Ask for a transcription; the wrong ones are misread by a digit or the operator."""
    if rng.random() < 0.5:
        number = draw_numeral(rng, split)
        high, low = divmod(number, 100)
        reads = misread_number(low) if low >= 11 else [99 - low, 90 - low, 89 - low, 98 - low]
        wrong = [f" {100 * high + each} =" for each in reads]
        wrong += [f" {number + 100} =", f" {int(str(number) + '0')} ="]
        answer = f" {number} ="
        distractors = draw_distinct(wrong, 4, answer, rng)
        context = f"Japanese: {japanese(number)}\nMath:"
        return Question(context, answer, tuple(distractors), "numeral")
    total = draw_sum(rng, split)
    distractors = [f" {wrong} =" for wrong in misread_sums(total, 4, rng)]
    context = f"Japanese: {japanese_sum(total)}\nMath:"
    return Question(context, f" {total} =", tuple(distractors), "sum")


def ja_math_question(rng: random.Random, split: Split) -> Question:
    """Ask for a transcription with its result; no expert ever learned to give one.

    Two wrong choices are read rightly and computed wrongly, two are read wrongly and computed
    rightly: who knows only one of the two skills is left with three choices.
    """
    total = draw_sum(rng, split)
    results = [str(number) for number in near_numbers(total.result, 4)]
    miscomputed = draw_distinct(results, 2, str(total.result), rng)
    distractors = [f" {total} = {result}" for result in miscomputed]
    distractors += [f" {wrong} = {wrong.result}" for wrong in misread_sums(total, 2, rng)]
    context = f"Japanese: {japanese_sum(total)}\nMath:"
    return Question(context, f" {total} = {total.result}", tuple(distractors), "sum")
