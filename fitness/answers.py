"""How an extracted answer is compared with references."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import regex

from fitness.numerals import value

_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\w--[_]]+", regex.V1)
"""A word; a character in scripts that put no blanks between words."""


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if an answer equals one of the references after `normalise`."""
    return float(normalise(answer) in {normalise(reference) for reference in references})


def number_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer's last number equals a reference's, exactly: 0.5 is 1/2, 0.33 is not 1/3."""
    found = value(answer)
    return float(found is not None and found in {value(reference) for reference in references})


def contains(answer: str, references: Sequence[str]) -> float:
    """1 if a reference occurs in the answer, both normalised; 61 does not occur in 161, nor art in party."""
    text = normalise(answer)
    return float(any(_occurs(normalise(reference), text) for reference in references))


def _occurs(word: str, text: str) -> bool:
    if not word:
        return False
    before = r"(?<![^\W_])" if word[0].isascii() and word[0].isalnum() else ""
    after = r"(?![^\W_])" if word[-1].isascii() and word[-1].isalnum() else ""
    return re.search(before + re.escape(word) + after, text) is not None


def f1(answer: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words, the best over the references, in [0, 1].

    Source: Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, section 6.1; but articles count, as answers may be in any
    language, and scripts without blanks are compared by character.
    """
    said = words(answer)
    return max((_f1(said, words(reference)) for reference in references), default=0.0)


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def chrf(answer: str, references: Sequence[str]) -> float:
    """chrF2 of one answer, in [0, 1]; needs the extra `translation`.

    Source: Popović 2015, chrF: character n-gram F-score for automatic MT evaluation, W15-3049.
    """
    return float(_sacrebleu().sentence_chrf(answer, list(references)).score) / 100


def bleu(answer: str, references: Sequence[str]) -> float:
    """BLEU of one answer, smoothed, in [0, 1]; needs the extra `translation`. A mean of these is not a corpus' BLEU.

    Source: Papineni et al. 2002, P02-1040; smoothing `exp` and effective order of sacrebleu (Post 2018, W18-6319).
    """
    return min(1.0, float(_sacrebleu().sentence_bleu(answer, list(references)).score) / 100)


@cache
def _sacrebleu() -> Any:
    return importlib.import_module("sacrebleu")  # at its first use: seconds, and an extra


COMPARISONS: dict[str, Callable[[str, Sequence[str]], float]] = {
    one.__name__: one for one in (exact_match, number_match, contains, f1)
}
"""By the name of the metric; cheap ones."""

TRANSLATION: dict[str, Callable[[str, Sequence[str]], float]] = {one.__name__: one for one in (chrf, bleu)}
"""Those that need the extra `translation`."""


def words(text: str) -> list[str]:
    """Words of a text after `normalise`.

    >>> words("The  Eiffel-Tower."), words("東京 Tower")
    (['the', 'eiffel', 'tower'], ['東', '京', 'tower'])
    """
    return list(_WORD.findall(normalise(text)))


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, blanks collapsed, without quotes around and punctuation behind; signs stay.

    >>> normalise('  "The  Answer." '), normalise("-5."), normalise("６１")
    ('the answer', '-5', '61')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", folded).strip(" \"'`“”‘’").rstrip(" .,;:!?。、").strip(" \"'`“”‘’")
