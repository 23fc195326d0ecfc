"""TIES: trim, elect signs, merge what agrees."""

from __future__ import annotations

from evomerge.merge.method import Method
from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import DISJOINT_MEAN, ELECT
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.rescale import RESCALE
from evomerge.merge.stages.sparsify import TRIM
from evomerge.merge.stages.sums import WEIGH

TIES: Method = compose(
    "ties",
    "TIES-Merging",
    "Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708",
    (TRIM, RESCALE, WEIGH, ELECT, DISJOINT_MEAN, SCALE),
    defaults={"rescale": "none"},
)

METHODS = (TIES,)
