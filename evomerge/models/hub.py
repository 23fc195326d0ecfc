"""Where a model lies: a local directory, or a copy that the hub's client keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import httpx2 as httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from evomerge.errors import CheckpointError

HUB = "hub:"
ALLOWED = ("*.safetensors", "*.json", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "*.jinja")
"""Weights as safetensors, configs, tokenizer files: nothing that could run."""


class Located(Protocol):
    """What has a place: a recipe's `ModelRef`."""

    @property
    def location(self) -> str:
        """A directory, a recipe file, or `hub:owner/name`."""

    @property
    def revision(self) -> str | None:
        """Of a hub model."""


def locate(ref: Located, root: Path) -> Path:
    """The local directory (or recipe file) of a model.

    Args:
        ref: where it is said to be; relative places are under `root`.
        root: usually the directory of the recipe.

    Raises:
        CheckpointError: nothing is there, or the hub cannot be reached or refuses.
    """
    if ref.location.startswith(HUB):
        return _download(ref.location.removeprefix(HUB), ref.revision)
    path = root / ref.location
    if not path.exists():
        raise CheckpointError(f"{path}: no such directory; expected a model there (location {ref.location!r})")
    return path


def _download(repository: str, revision: str | None) -> Path:
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(ALLOWED), ignore_patterns=["*/*"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{HUB}{repository}{f' at revision {revision!r}' if revision else ''}: cannot be had from the hub and is "
            f"not in the local cache: {reason}"
        ) from error
