"""Numbers in running text: signs, separators of thousands, decimals, fractions, LaTeX, digits of any script."""

from __future__ import annotations

import unicodedata
from collections import deque
from fractions import Fraction

import regex

_UNSIGNED = (
    r"(?:\d{1,3}(?:\.\d{3})+,\d+"  # 1.234,5
    r"|\d{1,3}(?:\.\d{3}){2,}"  # 1.234.567
    r"|\d{1,3}(?:[,'_]\d{3})+(?!\d)(?:\.\d+)?"  # 1,234.5
    r"|\d+(?:\.\d+)?|\.\d+)"
)
_NUMBER = regex.compile(
    r"(?P<sign>(?<![\w)\]}.])[-+]\s?)?(?:[$€£¥]\s?)?(?<![\d.])"
    rf"(?P<top>{_UNSIGNED})"
    rf"(?:(?P<power>[eE][-+]?\d{{1,3}})(?!\w)|\s?/\s?(?P<below>{_UNSIGNED}))?"
)
_SIGNS = {ord("\u2212"): "-", ord("\u066b"): ".", ord("\u2044"): "/", ord("’"): "'"}
_MOST = 400
"""Digits of a number; longer runs are no answer, and cost time that grows with their square."""


def last_numeral(text: str) -> str:
    """The last number of a text, in a plain form: `-1234.5`, `3/4`, `1e5`; empty without one.

    Commas and apostrophes before groups of three digits, blanks that break no line and dots before several such groups
    separate thousands; otherwise a dot is a decimal point. A minus counts unless it follows a word, a digit or a
    closing bracket.

    >>> last_numeral("from 3 to -1,234.50 dollars."), last_numeral("it is ½"), last_numeral("5-3"), last_numeral("٤٢")
    ('-1234.50', '1/2', '3', '42')
    """
    last = deque(_NUMBER.finditer(_plain(text)), maxlen=1)
    if not last:
        return ""
    found = last[0]
    sign = "-" if (found["sign"] or "").startswith("-") else ""
    below = f"/{_joined(found['below'])}" if found["below"] else ""
    return f"{sign}{_joined(found['top'])}{found['power'] or ''}{below}"


def value(text: str) -> Fraction | None:
    """The last number of a text as it is, without rounding; None without one.

    >>> value("1,000"), value("0.50") == value("1/2"), value("50 %"), value("none")
    (Fraction(1000, 1), True, Fraction(50, 1), None)
    """
    numeral = last_numeral(text)
    top, _, below = numeral.partition("/")
    if not top or len(numeral) > _MOST:
        return None
    bottom = Fraction(below) if below else Fraction(1)
    return Fraction(top) / bottom if bottom else None


def _plain(text: str) -> str:
    """ASCII digits, signs and fractions."""
    text = regex.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    separated = regex.sub(r"(?<=\d)[\u00a0\u2009\u202f\u066c](?=\d{3}(?!\d))", ",", text)
    text = unicodedata.normalize("NFKC", separated).translate(_SIGNS)
    text = regex.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1/\2 ", text)
    text = regex.sub(r"(?<=\d)(?:\\[,!; ]|\{,\})(?=\d{3}(?!\d))", ",", text)
    return str(regex.sub(r"[^\x00-\x7f]", lambda digit: _digit(digit[0]), text))


def _digit(letter: str) -> str:
    number = unicodedata.decimal(letter, None)
    return letter if number is None else str(number)


def _joined(numeral: str) -> str:
    """Without separators of thousands.

    >>> _joined("1,234.5"), _joined("1.234,5"), _joined("1.234.567"), _joined(".5")
    ('1234.5', '1234.5', '1234567', '0.5')
    """
    if "," in numeral and numeral.find(".") < numeral.find(",") and "." in numeral:
        numeral = numeral.replace(".", "").replace(",", ".")
    elif numeral.count(".") > 1:
        numeral = numeral.replace(".", "")
    numeral = regex.sub(r"[,'_]", "", numeral)
    return f"0{numeral}" if numeral.startswith(".") else numeral
