"""Merges of models that changed few entries, and of the largest changes."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import ELECT
from evomerge.merge.stages.pick import HEADS, MAX_ABS
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.sparsify import TRIM
from evomerge.merge.stages.sums import SUM, WEIGH

SFT = compose(
    "sft",
    "Composable sparse fine-tuning",
    "Ansell et al. 2022, Composable Sparse Fine-Tuning for Cross-Lingual Transfer, arXiv:2110.07560",
    (TRIM, WEIGH, HEADS, SUM),
    defaults={"density": 1.0},
    fixed={"normalize": False},
)
SHIRA = compose(
    "shira",
    "SHiRA (sparse high-rank adapters) added up",
    "Bhardwaj et al. 2024, Sparse High Rank Adapters, arXiv:2406.13175",
    (WEIGH, SUM),
    fixed={"normalize": False},
)
MAGMAX = compose(
    "magmax",
    "MagMax",
    "Marczak et al. 2024, MagMax: Leveraging Model Merging for Seamless Continual Learning, arXiv:2407.06322",
    (MAX_ABS, SCALE),
)
HI_MERGING = compose(
    "hi_merging",
    "Hi-Merging, model-wise stage",
    "Fu et al. 2025, Training-free LLM Merging for Multi-task Learning, arXiv:2506.12379: pruning and scaling of whole "
    "models with TIES as in mergekit; not its layer-wise stage, which needs evaluations",
    (TRIM, WEIGH, ELECT, SUM),
    defaults={"scope": "tensor", "sign_ties": "positive", "density": 0.5},
    fixed={"normalize": False},
)

METHODS = (SFT, SHIRA, MAGMAX, HI_MERGING)
