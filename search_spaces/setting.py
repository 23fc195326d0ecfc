"""What every recipe of a search has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.models.architecture import Architecture
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.schema import Dtype, ModelRef


@dataclass(frozen=True, slots=True)
class Setting:
    """The models of a search and what its recipes share.

    Attributes:
        sources: in the order of their names.
        architecture: of the base.
        calibration: what methods that read statistics of the models may look at.
    """

    base: ModelRef
    sources: Mapping[str, ModelRef]
    architecture: Architecture
    dtype: Dtype
    seed: int
    calibration: Calibration | None = None
