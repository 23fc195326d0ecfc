"""Model Breadcrumbs: task vectors without their outliers and without their smallest entries."""

from __future__ import annotations

from evomerge.merge.method import Method
from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import DISJOINT_MEAN, ELECT
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.rescale import RESCALE
from evomerge.merge.stages.sparsify import BAND
from evomerge.merge.stages.sums import SUM, WEIGH
from evomerge.recipe.schema import ParameterValue

PAPER = (
    "Davari & Belilovsky 2023, Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, arXiv:2312.06795"
)
LAYERWISE: dict[str, ParameterValue] = {"scope": "tensor", "rescale": "none", "density": 0.144, "gamma": 0.006}
"""Per weight matrix, as the paper; the shares with which the authors' code begins its search: the largest 15 % less
the largest 0.6 %."""

BREADCRUMBS: Method = compose(
    "breadcrumbs", "Model Breadcrumbs", PAPER, (BAND, RESCALE, WEIGH, SUM, SCALE), defaults=LAYERWISE
)
BREADCRUMBS_TIES: Method = compose(
    "breadcrumbs_ties",
    "Model Breadcrumbs with TIES election",
    PAPER + "; election as in TIES, arXiv:2306.01708",
    (BAND, RESCALE, WEIGH, ELECT, DISJOINT_MEAN, SCALE),
    defaults=LAYERWISE,
)

METHODS = (BREADCRUMBS, BREADCRUMBS_TIES)
