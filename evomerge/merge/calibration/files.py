"""The files that a calibration section names: found, hashed, and held against the hashes that it gives."""

from __future__ import annotations

import hashlib
from pathlib import Path

from evomerge.errors import CheckpointError, HashMismatchError
from evomerge.recipe.calibration import Calibration, FileRef


def pin_calibration(calibration: Calibration, root: Path) -> Calibration:
    """The same section with every location absolute and every hash there.

    Args:
        root: relative locations are under it.

    Raises:
        CheckpointError: a file is missing or unreadable; names the field.
        HashMismatchError: another file lies there than the recipe names.
    """
    found = {field: pin_file(file, f"calibration.{field}", root) for field, file in calibration.files.items()}
    return calibration.model_copy(
        update={
            "items": found.get("items"),
            "sources": {name: found[f"sources.{name}"] for name in calibration.sources},
            "moments": {name: found[f"moments.{name}"] for name in calibration.moments},
        }
    )


def pin_file(file: FileRef, field: str, root: Path) -> FileRef:
    """One of them; `field` is where the recipe names it."""
    path = (root / file.location).resolve()
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{field}: {path}: cannot be read: {error.strerror or error}") from error
    if file.sha256 not in (None, digest):
        raise HashMismatchError(
            f"{field}: {path} has SHA-256 {digest}, the recipe expects {file.sha256}: another file lies there"
        )
    return FileRef(location=str(path), sha256=digest)
