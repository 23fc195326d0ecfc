"""Merges that are fitted to their sources on synthetic inputs."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.anchored import ANCHOR
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.sums import SUM, WEIGH

FDA = compose(
    "fda",
    "Functional dual anchors (FDA)",
    "Shi et al. 2025, Model Merging with Functional Dual Anchors, arXiv:2510.21223",
    (WEIGH, SUM, SCALE, ANCHOR),
    defaults={"lambda": 0.5},
)

METHODS = (FDA,)
