"""Page cursors: where the page before ended, opaque to clients and checked when they come back."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

from evomerge.errors import InvalidInputError

_LARGEST = 2**63 - 1


def encode(order: str, *key: str | float | None) -> str:
    """A cursor for rows in `order` after the row with `key`.

    >>> decode(encode("number", 7), "number", int)
    (7,)
    """
    text = json.dumps([order, *key], separators=(",", ":"), allow_nan=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, order: str, *types: type) -> tuple[Any, ...]:
    """The key in a cursor; `float` also takes None (rows without a score).

    Raises:
        InvalidInputError: the cursor was not made by `encode`, or for another order.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        fields = json.loads(base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError, RecursionError) as error:
        raise _invalid(cursor) from error
    if not isinstance(fields, list) or len(fields) != 1 + len(types) or fields[0] != order:
        raise _invalid(cursor)
    if not all(_fits(value, kind) for value, kind in zip(fields[1:], types, strict=True)):
        raise _invalid(cursor)
    return tuple(fields[1:])


def _fits(value: object, kind: type) -> bool:
    if kind is float:
        return value is None or (type(value) in (int, float) and math.isfinite(_as_float(value)))
    if kind is int:
        return type(value) is int and 0 <= value <= _LARGEST
    return isinstance(value, kind)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _invalid(cursor: str) -> InvalidInputError:
    return InvalidInputError("cursor", cursor[:80], "the next_cursor of a page of the same list in the same order")
