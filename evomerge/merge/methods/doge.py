"""DOGE: task arithmetic on task vectors that were edited to interfere less."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.gaps import GAP_SUM

_PAPER = "Wei et al. 2025, Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent, arXiv:2501.01230"

DOGE = compose(
    "doge",
    "DOGE task arithmetic (closed form, no protected subspace)",
    _PAPER,
    (GAP_SUM,),
    fixed={"protected_share": 0.0},
)
DOGE_PROTECTED = compose(
    "doge_protected",
    "DOGE task arithmetic (the objective's minimum off the protected subspace)",
    _PAPER,
    (GAP_SUM,),
    defaults={"protected_share": 1 / 6},
)

METHODS = (DOGE, DOGE_PROTECTED)
