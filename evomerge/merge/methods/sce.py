"""SCE: select the entries in which sources differ, calculate weights from their energy, erase minority signs."""

from __future__ import annotations

from evomerge.merge.method import Method
from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import ENERGY_MEAN
from evomerge.merge.stages.sparsify import SELECT

SCE: Method = compose(
    "sce",
    "SCE",
    "Wan et al. 2024, FuseChat: Knowledge Fusion of Chat Models, arXiv:2408.07990",
    (SELECT, ENERGY_MEAN),
    num_sources=(2, None),
)

METHODS = (SCE,)
