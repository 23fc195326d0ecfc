"""Published merge methods as presets of primitives: `METHODS` by name."""

from __future__ import annotations

from evomerge.errors import InvalidInputError
from evomerge.merge.method import Method
from evomerge.merge.methods.dare import DARE_LINEAR, DARE_TIES
from evomerge.merge.methods.linear import LINEAR
from evomerge.merge.methods.passthrough import PASSTHROUGH
from evomerge.merge.methods.slerp import NUSLERP, SLERP
from evomerge.merge.methods.task_arithmetic import TASK_ARITHMETIC
from evomerge.merge.methods.ties import TIES

METHODS: dict[str, Method] = {
    method.name: method
    for method in (LINEAR, TASK_ARITHMETIC, SLERP, NUSLERP, TIES, DARE_LINEAR, DARE_TIES, PASSTHROUGH)
}


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        InvalidInputError: there is none; the message lists those that there are.
    """
    if name not in METHODS:
        raise InvalidInputError("merge.method", name, f"one of {', '.join(METHODS)}")
    return METHODS[name]
