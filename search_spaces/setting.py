"""What every recipe of a search has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import TensorInfo
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.schema import Dtype, ModelRef


@dataclass(frozen=True, slots=True)
class Setting:
    """The models of a search and what its recipes share.

    Attributes:
        sources: in the order of their names.
        architecture: of the base.
        calibration: what methods that read statistics of the models may look at.
        tensors: of the base, by name.
        cache: a folder for what is read of the models once; None keeps nothing.
        shared: what every recipe says beside models and merge (`evomerge.recipe.shared.shared_fields`).
    """

    base: ModelRef
    sources: Mapping[str, ModelRef]
    architecture: Architecture
    dtype: Dtype
    seed: int
    calibration: Calibration | None = None
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    cache: Path | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
