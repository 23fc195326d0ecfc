"""WIDEN: weights for every column, from how much its length and its direction changed."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.columns import COLUMN_SUM

WIDEN = compose(
    "widen",
    "WIDEN",
    "Yu et al. 2024, Extend Model Merging from Fine-Tuned to Pre-Trained Large Language Models via Weight "
    "Disentanglement, arXiv:2408.03092",
    (COLUMN_SUM,),
)

METHODS = (WIDEN,)
