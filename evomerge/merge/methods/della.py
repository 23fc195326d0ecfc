"""DELLA: drop at random, but large entries less often."""

from __future__ import annotations

from evomerge.merge.method import Method
from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import DISJOINT_MEAN, ELECT
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.random import MAGPRUNE
from evomerge.merge.stages.sums import SUM, WEIGH

PAPER = (
    "Deep et al. 2024, DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling, "
    "arXiv:2406.11617"
)
AUTHORS = {"density": 0.7, "lambda": 1.1}
"""The authors' example merges at drop rate 0.3, window size 0.14 (epsilon is half of it) and λ = 1.1."""

DELLA: Method = compose("della", "DELLA", PAPER, (MAGPRUNE, WEIGH, ELECT, DISJOINT_MEAN, SCALE), defaults=AUTHORS)
DELLA_LINEAR: Method = compose(
    "della_linear", "DELLA without election", PAPER, (MAGPRUNE, WEIGH, SUM, SCALE), defaults=AUTHORS
)

METHODS = (DELLA, DELLA_LINEAR)
