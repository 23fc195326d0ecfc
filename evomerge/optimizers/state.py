"""An optimizer's state as bytes: an uncompressed npz of plain arrays, one of which is JSON. Never a pickle.

Floats keep all their bits, and equal states are equal bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import EvomergeError
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.options import Option

_HEAD = "head"


def pack(schema: str, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes that `unpack` with the same schema reads.

    Args:
        schema: name and version of the layout, such as `evomerge.optimizer.random/1`.
        head: what fits JSON.
        arrays: numbers only.
    """
    text = json.dumps({"schema": schema, **head}, sort_keys=True, allow_nan=False)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_HEAD: np.frombuffer(text.encode(), np.uint8), **arrays})
    return buffer.getvalue()


def unpack(schema: str, state: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Head and arrays.

    Raises:
        EvomergeError: these are not bytes that `pack` made, or they hold another schema.
    """
    try:
        with np.load(io.BytesIO(state), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays.pop(_HEAD).tobytes())
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise EvomergeError(f"expected an optimizer's state of {schema!r}, got bytes that hold none") from error
    if (found := head.pop("schema")) != schema:
        raise EvomergeError(f"expected an optimizer's state of {schema!r}, got {found!r}")
    return head, arrays


class Restorable(ABC):
    """An optimizer whose state's head holds `problem`, `seed` and `options`."""

    SCHEMA: ClassVar[str]

    @abstractmethod
    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        """See `Optimizer`."""

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        """See `Optimizer`."""
        head, arrays = unpack(cls.SCHEMA, state)
        optimizer = cls(Problem.load(head["problem"]), seed=head["seed"], **head["options"])
        optimizer._restore(head, arrays)
        return optimizer

    @abstractmethod
    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Read what was told and asked, into a fresh optimizer."""
