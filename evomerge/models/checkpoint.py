"""A model's directory: its config and its tensors by name. Nothing is loaded until it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.content import content_hash
from evomerge.models.weights import Place, TensorInfo, Weights, open_weights, read_json

__all__ = ["MERGED_DTYPES", "Checkpoint", "TensorInfo", "content_hash", "is_merged", "open_checkpoint"]

MERGED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Tensors of these dtypes are merged; integers and booleans are buffers, copied from the base; the rest is refused."""


def is_merged(info: TensorInfo) -> bool:
    """Whether a tensor takes part in merging, by its dtype; what does not is copied from the base model."""
    return info.dtype in MERGED_DTYPES


class Checkpoint:
    """A safetensors checkpoint, memory-mapped.

    Attributes:
        path: its directory.
        config: config.json.
    """

    def __init__(self, path: Path, config: dict[str, Any], weights: Weights) -> None:
        self.path = path
        self.config = config
        self._weights = weights

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Tensor name → what is stored, in file order."""
        return self._weights.tensors

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most weights, by number of entries."""
        entries: Counter[torch.dtype] = Counter()
        for info in filter(is_merged, self.tensors.values()):
            entries[info.dtype] += torch.Size(info.shape).numel()
        return entries.most_common(1)[0][0]

    def read(self, name: str) -> Tensor:
        """The tensor as stored: a view of the mapped file that must not be written to."""
        return self._weights.read(name)

    def place(self, name: str) -> Place:
        """Where a tensor's bytes lie; valid until the checkpoint is closed."""
        return self._weights.place(name)

    def close(self) -> None:
        """Let the files go; tensors that were read stay valid."""
        self._weights.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a directory with `config.json` and safetensors weights, one file or shards with an index.

    Raises:
        CheckpointError: a file is missing, corrupt or not in agreement with the index, or the weights are quantised;
            the message names the file.
    """
    weights = open_weights(path, "model")
    config = read_json(path / "config.json")
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{path / 'config.json'}: has a `quantization_config`; only unquantised weights are merged"
        )
    for info in weights.tensors.values():
        _check_dtype(info, path)
    if not any(map(is_merged, weights.tensors.values())):
        raise CheckpointError(f"{path}: holds no weights")
    return Checkpoint(path, config, weights)


def _check_dtype(info: TensorInfo, path: Path) -> None:
    if is_merged(info):
        return
    if info.dtype.is_floating_point or info.name.endswith(".weight"):
        raise CheckpointError(
            f"{path / info.file}: tensor {info.name!r} is {info.dtype}; expected float32, bfloat16 or float16"
        )
