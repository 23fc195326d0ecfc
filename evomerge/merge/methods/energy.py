"""Averages of models weighed by how far each moved from the base."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.energy import ENERGY
from evomerge.merge.stages.norms import NORM
from evomerge.merge.stages.sums import SUM

VARM = compose(
    "varm",
    "VaRM (variation ratio merge)",
    "Wan et al. 2024, FuseChat: Knowledge Fusion of Chat Models, arXiv:2408.07990",
    (ENERGY, SUM),
    fixed={"exponent": 1.0, "normalize": False},
)
ENERGY_WEIGHTED = compose(
    "energy_weighted",
    "Energy-weighted average",
    "inspired by, not equal to: Zhang et al. 2025, CoDiEmb: A Collaborative yet Distinct Framework for Unified "
    "Representation Learning, arXiv:2508.11442; weights as in VaRM, arXiv:2408.07990, to a power",
    (ENERGY, SUM),
    fixed={"normalize": False},
)
METAGPT = compose(
    "metagpt",
    "MetaGPT",
    "Zhou et al. 2024, MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic, arXiv:2406.11385",
    (NORM, SUM),
    fixed={"power": 2.0, "norm_scope": "model", "normalize": False},
)

METHODS = (VARM, ENERGY_WEIGHTED, METAGPT)
