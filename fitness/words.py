"""Texts as words, for comparing what is written and not how: case, widths, blanks and most punctuation do not count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, kana and Han: written without blanks, so that each character counts as a word."""

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|(?<=[\d\s)])[-+*/=<>^×÷](?=[\d\s(]|$)")
"""Words, and operators between numbers or blanks: `37 + 15` and `37 - 15` are different questions."""


def words(text: str) -> list[str]:
    """The words of a text, normalised by Unicode NFKC and case folding.

    >>> words("It's 37 + 15 = ?"), words("千二百。")
    (['it', 's', '37', '+', '15', '='], ['千', '二', '百'])
    """
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def shingles(found: Sequence[str], n: int) -> Iterator[str]:
    """Each run of `n` words; all words together where there are fewer.

    >>> list(shingles(["a", "b", "c"], 2)), list(shingles(["a"], 2))
    (['a b', 'b c'], ['a'])
    """
    for first in range(max(1, len(found) - n + 1)):
        yield " ".join(found[first : first + n])
