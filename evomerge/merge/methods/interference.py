"""Merges by least interference: the WUDI family and OptMerge, in closed form."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.merge.stage import compose
from evomerge.merge.stages.interference import DENOISED, LEAST_INTERFERENCE
from evomerge.merge.stages.post import SCALE
from evomerge.recipe.schema import ParameterValue

_WUDI = (
    "Cheng et al. 2025, Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task "
    "Vectors, arXiv:2503.08099"
)
_SPECTRAL = "Wei et al. 2026, Closed-Form Spectral Regularization for Multi-Task Model Merging, arXiv:2606.07289"
_ALL: Mapping[str, ParameterValue] = {"directions": "all", "direction_share": 1.0}
_UNFILTERED: Mapping[str, ParameterValue] = {"filter": "none", "ridge": 0.01, "steps": 300.0, "time": 300.0}

WUDI = compose(
    "wudi",
    "WUDI-Merging, solved exactly",
    _WUDI + " (its objective's minimum in place of 300 steps of Adam)",
    [LEAST_INTERFERENCE, SCALE],
    fixed={**_UNFILTERED, **_ALL},
)
IWUDI = compose(
    "iwudi",
    "IWUDI",
    _SPECTRAL,
    [LEAST_INTERFERENCE, SCALE],
    defaults={"filter": "exponential"},
    fixed=_ALL,
)
SWUDI = compose(
    "swudi",
    "SWUDI",
    _SPECTRAL,
    [LEAST_INTERFERENCE, SCALE],
    fixed={"filter": "exponential", "ridge": 0.01, "steps": 300.0, "directions": "share"},
)
ASWUDI = compose(
    "aswudi",
    "ASWUDI",
    _SPECTRAL,
    [LEAST_INTERFERENCE, SCALE],
    defaults={"directions": "participation"},
    fixed=_UNFILTERED,
)
OPTMERGE = compose(
    "optmerge",
    "OptMerge, in closed form",
    "Wei et al. 2025, OptMerge: Unifying Multimodal LLM Capabilities and Modalities via Model Merging, "
    "arXiv:2505.19892 (gradient flow on its objective in place of 300 steps of Adam; filter: none is its minimum)",
    [DENOISED, SCALE],
    defaults={"initial": "mean", "filter": "exponential"},
)

METHODS = (WUDI, IWUDI, SWUDI, ASWUDI, OPTMERGE)
