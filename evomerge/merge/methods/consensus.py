"""Consensus merging with TALL masks: drop what no source needs, and what only one does."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.consensus import CONSENSUS
from evomerge.merge.stages.elect import ELECT
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.sparsify import TRIM
from evomerge.merge.stages.sums import SUM

PAPER = (
    "Wang et al. 2024, Localizing Task Information for Improved Model Merging and Compression (TALL masks, Consensus), "
    "arXiv:2405.07813"
)

TALL_CONSENSUS = compose(
    "tall_consensus",
    "Consensus task arithmetic (TALL masks)",
    PAPER,
    (SUM, CONSENSUS, SCALE),
    defaults={"lambda": 0.3},
    fixed={"normalize": False},
)
TALL_CONSENSUS_TIES = compose(
    "tall_consensus_ties",
    "Consensus TIES (TALL masks)",
    PAPER + "; the merged vector as in TIES, arXiv:2306.01708, added up",
    (TRIM, ELECT, SUM, CONSENSUS, SCALE),
    defaults={"lambda": 0.3},
    fixed={"normalize": False},
)

METHODS = (TALL_CONSENSUS, TALL_CONSENSUS_TIES)
