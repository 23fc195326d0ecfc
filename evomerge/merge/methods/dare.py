"""DARE: drop entries of a task vector at random, rescale the rest."""

from __future__ import annotations

from evomerge.merge.method import Method
from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import DISJOINT_MEAN, ELECT
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.random import BERNOULLI
from evomerge.merge.stages.sums import SUM, WEIGH
from evomerge.recipe.schema import ParameterValue

PAPER = "Yu et al. 2024, Language Models are Super Mario (DARE), arXiv:2311.03099"
DROPPED: dict[str, ParameterValue] = {"density": 0.1}
"""The paper drops nine entries of ten."""

DARE_LINEAR: Method = compose("dare_linear", "DARE", PAPER, (BERNOULLI, WEIGH, SUM, SCALE), defaults=DROPPED)
DARE_TIES: Method = compose(
    "dare_ties",
    "DARE with TIES election",
    PAPER + "; election as in TIES, arXiv:2306.01708",
    (BERNOULLI, WEIGH, ELECT, DISJOINT_MEAN, SCALE),
    defaults=DROPPED,
)

METHODS = (DARE_LINEAR, DARE_TIES)
