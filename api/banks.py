"""Which of the stored banks of answers somebody means."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.errors import InvalidInputError
from evomerge.storage.blocks import Bank


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
