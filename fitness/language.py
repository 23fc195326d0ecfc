"""Which language a text is in; needs the extra `language` (py3langid, a naive Bayes classifier over byte n-grams with
its model beside it: Lui & Baldwin 2012, langid.py, P12-3005)."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import regex

LEAST_LETTERS = {"plain": 12, "dense": 4}
"""Fewer letters tell no language: names, numbers and single words belong to several. `dense` are scripts in which a
letter is a syllable or a word."""

LANGUAGES = (
    "af", "ar", "az", "be", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "eo", "es", "et", "eu",
    "fa", "fi", "fr", "ga", "gl", "gu", "he", "hi", "hr", "hu", "hy", "id", "is", "it", "ja", "ka", "kk",
    "km", "kn", "ko", "lt", "lv", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "no", "pa", "pl",
    "ps", "pt", "ro", "ru", "si", "sk", "sl", "sq", "sr", "sv", "sw", "ta", "te", "th", "tl", "tr", "uk",
    "ur", "uz", "vi", "xh", "zh", "zu",
)  # fmt: skip
"""ISO 639-1 codes that are told apart. The classifier knows twice as many; without regional ones, a short Spanish
sentence is not taken for Extremaduran."""

_NOISE = regex.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\$[^$\n]+\$|https?://\S+|\S+@\S+", regex.S)
_DENSE = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
_LETTER = regex.compile(r"\p{L}")


def is_in(language: str, text: str) -> bool:
    """Whether a text is in a language (ISO 639-1). One that is too short to tell is in every language; an empty one in
    none. Code, formulas and addresses do not count.

    Raises:
        ImportError: the extra `language` is missing.
    """
    plain = _NOISE.sub(" ", text)
    letters, dense = len(_LETTER.findall(plain)), len(_DENSE.findall(plain))
    if letters < LEAST_LETTERS["plain"] and dense < LEAST_LETTERS["dense"]:
        return bool(text.strip())
    found, _ = _identifier().classify(plain)
    return str(found) == language.lower()


@cache
def _identifier() -> Any:
    langid = importlib.import_module("py3langid.langid")  # at its first use: an extra, and megabytes
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    identifier.set_languages(LANGUAGES)
    return identifier
