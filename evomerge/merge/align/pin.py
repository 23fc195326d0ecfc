"""The files that a recipe's `align` section names, pinned."""

from __future__ import annotations

from pathlib import Path

from evomerge.merge.calibration.files import pin_file
from evomerge.recipe.align import Align, AlignByActivations, AlignByTransport


def pin_align(align: dict[str, Align], root: Path) -> dict[str, Align]:
    """The same section with every location absolute and every hash there.

    Args:
        root: relative locations are under it.

    Raises:
        CheckpointError: a file is missing or unreadable; names the field.
        HashMismatchError: another file lies there than the recipe names.
    """
    return {name: _pinned(name, spec, root) for name, spec in align.items()}


def _pinned(name: str, spec: Align, root: Path) -> Align:
    if not isinstance(spec, AlignByActivations | AlignByTransport) or spec.items is None:
        return spec
    return spec.model_copy(update={"items": pin_file(spec.items, f"align.{name}.items", root)})
