"""LiNeS: the deeper the layer, the more of the task vector."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.schedule import LAYERS
from evomerge.merge.stages.sums import SUM, WEIGH

LINES = compose(
    "lines",
    "Task arithmetic with LiNeS",
    "Wang et al. 2024, LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging, "
    "arXiv:2410.17146",
    (WEIGH, SUM, LAYERS),
)

METHODS = (LINES,)
