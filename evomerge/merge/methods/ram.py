"""RAM: average what several sources change, keep (or amplify) what one alone changes."""

from __future__ import annotations

from evomerge.merge.method import Method
from evomerge.merge.stage import compose
from evomerge.merge.stages.elect import AMPLIFY, DISJOINT_MEAN
from evomerge.merge.stages.sparsify import CHANGED
from evomerge.recipe.schema import ParameterValue

PAPER = "Yuan et al. 2026, Behavior Knowledge Merge in Reinforced Agentic Models, arXiv:2601.13572"
COUNTED: dict[str, ParameterValue] = {"normalize": True, "divisor": "absolute"}

RAM: Method = compose("ram", "RAM", PAPER, (CHANGED, DISJOINT_MEAN), fixed=COUNTED)
RAM_PLUS: Method = compose("ram_plus", "RAM+", PAPER, (CHANGED, AMPLIFY, DISJOINT_MEAN), fixed=COUNTED)
RAMPLUS_TL: Method = compose(
    "ramplus_tl",
    "RAM+, tensor by tensor",
    PAPER + "; as in mergekit, arXiv:2403.13257",
    (CHANGED, AMPLIFY, DISJOINT_MEAN),
    defaults={"r": 0.1, "alpha": 0.2, "scope": "tensor"},
    fixed=COUNTED,
)

METHODS = (RAM, RAM_PLUS, RAMPLUS_TL)
