"""Merges by singular values and vectors.

Embeddings, heads, norms and biases never go through a decomposition. What becomes of them is what each paper's code
does: the mean of the task vectors, their sum, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import DISJOINT_MEAN, ELECT
from evomerge.merge.stages.norms import MATCH_NORM
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.sparsify import TRIM
from evomerge.merge.stages.spectral import CENTRE, FLATTEN, JOINT_SVD, LIFT, TRIM_UNITS, TRUNCATE, WINSORISE
from evomerge.merge.stages.spectral_sums import COMMON_AND_OWN, POOL, PROJECT, SUM_MATRICES, TSV
from evomerge.merge.stages.sums import MEAN, SUM, WEIGH
from evomerge.recipe.schema import ParameterValue

STAR = compose(
    "star",
    "STAR",
    "Lee et al. 2025, STAR: Spectral Truncation and Rescale for Model Merging, arXiv:2502.10339",
    [TRUNCATE, WEIGH, MEAN, SCALE],
    fixed={"share_of": "nuclear", "keep_nuclear": True, "svd": "exact"},
)
LORE_ADAPT = compose(
    "lore_adapt",
    "LoRE-Adapt",
    "Fleshman and Van Durme 2024, RE-Adapt: Reverse Engineered Adaptation of Large Language Models, arXiv:2405.15007",
    [TRUNCATE, WEIGH, SUM],
    defaults={"spectrum_share": 0.5, "weight": 0.5},
    fixed={"share_of": "energy", "keep_nuclear": False, "svd": "exact", "normalize": False},
)
_TWIN: Mapping[str, ParameterValue] = {"share_of": "rank", "keep_nuclear": False}
TWIN_STATIC = compose(
    "twin_static",
    "Twin-Merging with fixed weights",
    "Lu et al. 2024, Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging, arXiv:2406.15479 "
    "(one model: fixed weights in place of the router's)",
    [CENTRE, TRUNCATE, WEIGH, SUM],
    defaults={"spectrum_share": 0.1, "normalize": True},
    fixed={**_TWIN, "anchor": "sum"},
)
CART = compose(
    "cart",
    "CART",
    "Choi et al. 2024, Revisiting Weight Averaging for Model Merging, arXiv:2412.12153",
    [CENTRE, TRUNCATE, WEIGH, SUM],
    defaults={"spectrum_share": 0.08, "weight": 0.5},
    fixed={**_TWIN, "anchor": "mean", "anchor_scale": 0.29, "normalize": False},
)
_TSV = "Gargiulo et al. 2025, Task Singular Vectors: Reducing Task Interference in Model Merging, arXiv:2412.00081"
TSV_M = compose("tsv_m", "TSV-M", _TSV, [TSV, SCALE], fixed={"rank_rule": "share"})
R_TSVM = compose(
    "r_tsvm",
    "TSV-M with outliers clipped and ranks by entropy",
    "after Yang et al. 2025, Mix Data or Merge Models? Balancing the Helpfulness, Honesty, and Harmlessness of Large "
    "Language Model via Model Merging, arXiv:2502.06876 (R-TSVM, later RESM; its code is not public, both rules are "
    "our reading); " + _TSV,
    [WINSORISE, TSV, SCALE],
    fixed={"rank_rule": "effective", "rank_share": 0.0, "svd": "exact"},
)
AXIS = compose(
    "axis",
    "AXIS",
    "Osial et al. 2025, Efficient Multi-Source Knowledge Transfer by Model Merging, arXiv:2508.19353 (its first, "
    "data-free stage)",
    [POOL, SCALE],
)
DRM = compose(
    "drm",
    "Decom-Renorm-Merge",
    "Chaichana et al. 2025, Decom-Renorm-Merge: Model Merging on the Right Space Improves Multitasking, "
    "arXiv:2505.23117",
    [JOINT_SVD, TRIM_UNITS, WEIGH, ELECT, DISJOINT_MEAN, SCALE],
    fixed={"election": "mass", "divisor": "absolute"},
)
KNOTS = compose(
    "knots",
    "KnOTS-TIES",
    "Stoica et al. 2025, Model merging with SVD to tie the Knots, arXiv:2410.19735; trim and election as in TIES, "
    "arXiv:2306.01708",
    [JOINT_SVD, TRIM, WEIGH, ELECT, DISJOINT_MEAN, SCALE],
    defaults={"direction": "horizontal", "lambda": 0.6},
    fixed={"tolerance": 1e-7, "divisor": "absolute"},
)
_ISO = (
    "Marczak et al. 2025, No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces, "
    "arXiv:2502.04959"
)
ISO_C = compose("iso_c", "Iso-C", _ISO, [WEIGH, SUM_MATRICES, FLATTEN, SCALE])
ISO_CTS = compose("iso_cts", "Iso-CTS", _ISO, [WEIGH, COMMON_AND_OWN, SCALE])
_BOOST = "Skorobogat et al. 2025, Subspace-Boosted Model Merging, arXiv:2506.16506"
BOOST = compose(
    "boost",
    "Task arithmetic with Subspace Boosting",
    _BOOST + "; task arithmetic: arXiv:2212.04089",
    [WEIGH, SUM, LIFT, SCALE],
)
BOOST_TIES = compose(
    "boost_ties",
    "TIES with Subspace Boosting",
    _BOOST + "; TIES: arXiv:2306.01708",
    [TRIM, WEIGH, ELECT, DISJOINT_MEAN, LIFT, SCALE],
)
OPCM = compose(
    "opcm",
    "OPCM",
    "Tang et al. 2025, Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model "
    "Merging, arXiv:2501.09522",
    [PROJECT, MATCH_NORM],
    fixed={"match": "l2", "norm_scope": "model"},
)

METHODS = (
    STAR, LORE_ADAPT, TWIN_STATIC, CART, TSV_M, R_TSVM, AXIS, DRM, KNOTS, ISO_C, ISO_CTS, BOOST, BOOST_TIES, OPCM
)  # fmt: skip
