"""Which of the stored banks of answers somebody means, and a bank as a response matrix, some subjects at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evomerge.errors import InvalidInputError
from evomerge.storage.blocks import Bank
from evomerge.storage.store import Store

if TYPE_CHECKING:
    from fitness.items import Item
    from fitness.matrix import ResponseMatrix

AT_ONCE = 500
"""Subjects that are read from the database at a time."""


def bank_named(banks: Sequence[Bank], eval_set: str | None, fingerprint: str | None) -> Bank:
    """The one bank of an eval set whose fingerprint begins like this.

    Raises:
        InvalidInputError: there is none, or there are several.
    """
    known = ", ".join(dict.fromkeys(bank.eval_set for bank in banks)) or "none that were answered"
    here = [bank for bank in banks if eval_set in (None, bank.eval_set)]
    if not here:
        raise InvalidInputError("eval_set", eval_set, f"one of {known}")
    exact = [bank for bank in here if bank.fingerprint == fingerprint]
    found = exact or [bank for bank in here if bank.fingerprint.startswith(fingerprint or "")]
    if len(found) == 1:
        return found[0]
    if found and len({bank.fingerprint for bank in found}) == 1:
        raise InvalidInputError("eval_set", eval_set, f"one of {', '.join(bank.eval_set for bank in found)}")
    choice = ", ".join(dict.fromkeys(bank.fingerprint[:16] for bank in found or here))
    raise InvalidInputError("fingerprint", fingerprint, f"the beginning of one of {choice}")


def pages_of(
    store: Store, bank: Bank, metric: str, items: Sequence[Item] | None = None, *, at_once: int = AT_ONCE
) -> Iterator[ResponseMatrix]:
    """The bank as of now, some subjects at a time in the order of their names, at least one page.

    Args:
        items: the columns; None: everything that was asked.
    """
    from fitness.bank import page_matrix  # numpy, which a command that lists banks is spared

    after, until = "", None
    while True:
        found = store.answer_page(bank.fingerprint, bank.eval_set, metric, after=after, limit=at_once, until=until)
        yield page_matrix(found, metric, items)
        if not found.more:
            return
        after, until = found.subjects[-1], found.until
