"""The parameters that several methods share, declared once."""

from __future__ import annotations

from evomerge.merge.method import Parameter
from evomerge.recipe.schema import ParameterValue

LAMBDA = Parameter(
    "lambda", 1.0, low=0.2, high=2.0, text="scales the merged task vector before it is added to the base (λ)"
)


def weight(default: float = 1.0) -> Parameter:
    """How much a source counts. Negative values subtract what it learnt."""
    return Parameter(
        "weight", default, low=-0.5, high=1.5, per_source=True, text="how much the source counts; negative subtracts it"
    )


def density(default: float, low: float) -> Parameter:
    """The share of a source's task vector that survives."""
    return Parameter(
        "density", default, low=low, high=1.0, per_source=True, legal=(0.0, 1.0), text="share of entries that survive"
    )


def normalize(default: ParameterValue) -> Parameter:
    """Whether weights are divided by their sum."""
    return Parameter("normalize", default, text="divide by the sum of the weights")


SIGN_TIES = Parameter(
    "sign_ties",
    "majority",
    choices=("majority", "positive"),
    text="the sign of an entry whose votes are even: the majority of all elected signs (the paper), or + (mergekit)",
)
SCOPE = Parameter(
    "scope",
    "global",
    choices=("global", "tensor"),
    text="measure over the whole model as one vector (the papers), or over each tensor apart (mergekit)",
)
ORDER = Parameter(
    "order",
    0.0,
    low=0.0,
    high=1.0,
    per_source=True,
    text="position among the sources, smaller first; equal ones in the order of their names",
)
ELECTION = Parameter(
    "election",
    "mass",
    choices=("mass", "count"),
    text="elect signs by the sum of weighted entries, or by the number of sources",
)
RESCALE = Parameter(
    "rescale",
    "inverse",
    choices=("inverse", "l1", "l2", "linf", "none"),
    text="what makes up for dropped entries: one over the probability to be kept, or a norm of the task vector",
)
DIVISOR = Parameter(
    "divisor",
    "absolute",
    choices=("absolute", "signed"),
    text="what a disjoint mean divides by: the sum of |w| of the entries that agree, or of w (mergekit)",
)
