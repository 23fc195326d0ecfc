"""What of an answer is compared: extractors by name.

`first_line`, `whole`, `continuation`, `last_number`, `boxed`, `choice_letter`, `code`, `after_thinking`,
`regex:PATTERN` (its first match) and `last_regex:PATTERN` (its last). Names are chained with `|`, from left to right:
`after_thinking|boxed`; a pattern is the rest of the name, whatever is in it. Where there is nothing to extract, the
empty string comes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache

import regex

from evomerge.errors import InvalidInputError
from fitness.numerals import last_numeral

Extractor = Callable[[str], str]

PATTERN_TIMEOUT_S = 1.0
"""A pattern that needs longer on an answer does not match it: patterns may take for ever on unlucky texts."""


def extract(name: str, text: str) -> str:
    """What the extractor of this name takes from an answer. Never fails on a text.

    >>> extract("last_number", "12 + 30 is 42."), extract("regex:is ([0-9]+)", "12 + 30 is 42.")
    ('42', '42')
    """
    return extractor(name)(text)


@lru_cache(maxsize=1024)
def extractor(name: str) -> Extractor:
    """An extractor by name.

    Raises:
        InvalidInputError: no such extractor, or a pattern that is none.
    """
    steps = tuple(_step(part, name) for part in _parts(name))
    return steps[0] if len(steps) == 1 else lambda text: _chain(steps, text)


def _parts(name: str) -> list[str]:
    head, _, rest = name.partition("|")
    if not rest or head.strip().startswith(_PATTERNS):
        return [name]
    return [head, *_parts(rest)]


def _chain(steps: tuple[Extractor, ...], text: str) -> str:
    for step in steps:
        text = step(text)
    return text


def _step(part: str, name: str) -> Extractor:
    plain = part.strip()
    if plain in EXTRACTORS:
        return EXTRACTORS[plain]
    for prefix in _PATTERNS:
        if plain.startswith(prefix) and len(plain) > len(prefix):
            return _matcher(part.lstrip()[len(prefix) :], last=prefix == "last_regex:")
    allowed = f"{', '.join(EXTRACTORS)}, regex:PATTERN, last_regex:PATTERN, or several of them joined by |"
    raise InvalidInputError("extract", name, allowed)


def _matcher(pattern: str, *, last: bool) -> Extractor:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise InvalidInputError("extract", pattern, f"a regular expression ({error})") from error

    def match(text: str) -> str:
        try:
            matches = compiled.finditer(text, timeout=PATTERN_TIMEOUT_S)
            found = deque(matches, maxlen=1).pop() if last else next(matches)
        except (TimeoutError, StopIteration, IndexError):
            return ""
        groups = [group for group in found.groups() if group]
        return (groups[0] if groups else found[0] if not found.groups() else "").strip()

    return match


def whole(text: str) -> str:
    """All of it, without blanks around."""
    return text.strip()


def continuation(text: str) -> str:
    """All of it as it is; for code that goes on from the prompt."""
    return text


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return text.strip().split("\n", 1)[0].rstrip()


def last_number(text: str) -> str:
    """The last number, that of the last `\\boxed{}` before any other; in a plain form, see `fitness.numerals`."""
    return last_numeral(boxed(text)) or last_numeral(text)


def boxed(text: str) -> str:
    r"""What the last `\boxed{...}` holds.

    >>> boxed(r"so \boxed{\frac{1}{2}} it is")
    '\\frac{1}{2}'
    """
    starts = [found.end() for found in regex.finditer(r"\\f?boxed\s*\{", text)]
    for start in reversed(starts):
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[start:place].strip()
    return ""


_LETTER_PATTERNS = tuple(
    regex.compile(pattern)
    for pattern in (
        r"^[\s\W]*([A-Ja-j])[\s\W]*$",  # nothing else
        r"(?i:answer|choice|option)(?i:\s+is)?\s*:?\s*[\s*_({\[\"']*([A-J])(?![\w'’])",
        r"^[\s*_({\[\"']*([A-J])[)\].:,}*\n]",
        r"[(\[]([A-J])[)\]]",
        r"\b([B-HJ])\b",  # A and I are words
    )
)


def choice_letter(text: str) -> str:
    """The letter A to J of the chosen answer, upper case.

    The first of these that there is: an answer or a box that is one letter; the last `answer is (B)`; a letter that the
    answer begins with, `B) ...`; the last letter in brackets; the last single upper-case letter but A and I.

    >>> [choice_letter(t) for t in ("b", "The answer is (C).", "B) Paris", "I think D", "Paris")]
    ['B', 'C', 'B', 'D', '']
    """
    for part in (boxed(text), text):
        for pattern in _LETTER_PATTERNS:
            found = pattern.findall(part)
            if found:
                return str(found[-1]).upper()
    return ""


def code(text: str) -> str:
    """The first fenced block in Python, or else the first fenced block, or else all of it. A fence that was never
    closed holds what follows it."""
    blocks = regex.findall(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", text, regex.M | regex.S)
    if not blocks:
        return text
    python = [body for language, body in blocks if language.lower() in ("python", "python3", "py")]
    return str((python or [body for _, body in blocks])[0])


def after_thinking(text: str) -> str:
    """What follows the last `</think>`; nothing where thinking never ended."""
    done = regex.split(r"</think(?:ing)?>", text)
    return "" if regex.search(r"<think(?:ing)?>", done[-1]) else done[-1].strip()


EXTRACTORS: dict[str, Extractor] = {
    one.__name__: one
    for one in (first_line, whole, continuation, last_number, boxed, choice_letter, code, after_thinking)
}
_PATTERNS = ("regex:", "last_regex:")
