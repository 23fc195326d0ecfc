"""Which of mergekit's methods and parameters is which of ours.

Names are mergekit's where it has the method. Its defaults are not always ours (ours follow the papers), and some of
what it does it cannot be told to do otherwise: an imported recipe states both, an exported one has to agree with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evomerge.recipe.parameters import Scalar

Kind = Literal["number", "whole", "flag"]


@dataclass(frozen=True, slots=True)
class Term:
    """One of mergekit's parameters.

    Attributes:
        name: in both programs.
        default: mergekit's; None: it must be given.
        kind: `number`, `whole` number or `flag`.
        per_source: one value a model, or one for all.
        flag: our two choices for false and true, where mergekit has a flag and we have a choice.
        joined: a value a model with mergekit, one for all with us: the method takes one model.
    """

    name: str
    default: float | bool | None
    kind: Kind = "number"
    per_source: bool = False
    flag: tuple[str, str] | None = None
    joined: bool = False

    def ours(self, value: float | bool) -> Scalar:
        """mergekit's value as ours."""
        return self.flag[bool(value)] if self.flag is not None else value


BasePolicy = Literal["required", "optional", "input", "end"]
"""What `base_model` is to a method: θ0; θ0 or nothing; a model like any other; one of slerp's two ends."""


@dataclass(frozen=True, slots=True)
class Correspondence:
    """One method.

    Attributes:
        terms: its parameters.
        fixed: our parameters that mergekit has no word for → what it does.
        base: what `base_model` means.
        least, most: models beside the base (all models where the base is one like any other).
    """

    terms: tuple[Term, ...]
    fixed: Mapping[str, Scalar] = field(default_factory=dict)
    base: BasePolicy = "required"
    least: int = 1
    most: int | None = None

    @property
    def shared(self) -> tuple[Term, ...]:
        """Parameters with one value for all models."""
        return tuple(term for term in self.terms if not term.per_source)

    @property
    def per_source(self) -> tuple[Term, ...]:
        """Parameters with a value a model."""
        return tuple(term for term in self.terms if term.per_source)


IGNORED = ("int8_mask",)
"""Parameters that change how mergekit computes, not what."""
_WEIGHT = Term("weight", None, per_source=True)
_LAMBDA = Term("lambda", 1.0)
_ELECTION: Mapping[str, Scalar] = {"election": "mass", "sign_ties": "positive", "divisor": "signed"}


def _flag(name: str, default: bool) -> Term:
    return Term(name, default, "flag")


def _rescale(default: bool) -> Term:
    return Term("rescale", default, "flag", flag=("none", "l1"))


def _density() -> Term:
    return Term("density", 1.0, per_source=True)


def _task_vectors(normalize: bool, rescale: bool, *terms: Term, **fixed: Scalar) -> Correspondence:
    """mergekit's generalised task arithmetic."""
    shared = (_flag("normalize", normalize), _rescale(rescale), _LAMBDA)
    return Correspondence((*shared, _WEIGHT, _density(), *terms), fixed)


_GAMMA = Term("gamma", 0.01, per_source=True)
_EPSILON = Term("epsilon", 0.15, per_source=True)

METHODS: Mapping[str, Correspondence] = {
    "linear": Correspondence((_flag("normalize", True), _WEIGHT), base="input"),
    "task_arithmetic": Correspondence((_flag("normalize", False), _LAMBDA, _WEIGHT)),
    "ties": _task_vectors(True, False, scope="tensor", **_ELECTION),
    "dare_linear": _task_vectors(False, True),
    "dare_ties": _task_vectors(False, True, **_ELECTION),
    "breadcrumbs": _task_vectors(False, False, _GAMMA, scope="tensor"),
    "breadcrumbs_ties": _task_vectors(False, False, _GAMMA, scope="tensor", **_ELECTION),
    "della": _task_vectors(True, True, _EPSILON, scope="row", **_ELECTION),
    "della_linear": _task_vectors(False, True, _EPSILON, scope="row"),
    "slerp": Correspondence((Term("t", None),), base="end", least=2, most=2),
    "nuslerp": Correspondence(
        (_WEIGHT, _flag("nuslerp_flatten", True), _flag("nuslerp_row_wise", False)), base="optional", least=2, most=2
    ),
    "multislerp": Correspondence((_WEIGHT, _flag("normalize_weights", True), Term("eps", 1e-8)), base="optional"),
    "karcher": Correspondence((Term("max_iter", 10, "whole"), Term("tol", 1e-5)), {"weight": 1.0}, base="input"),
    "model_stock": Correspondence((_flag("filter_wise", False),), {"norm_floor": 1e-6}, least=2),
    "arcee_fusion": Correspondence((), {"iqr_factor": 1.5}, most=1),
    "nearswap": Correspondence((Term("t", None),), most=1),
    "sce": Correspondence((Term("select_topk", 1.0),), {"energy_floor": 1e-6}),
    "ram": Correspondence((Term("epsilon", 1e-5),), {"epsilon_unit": "absolute"}),
    "ramplus_tl": Correspondence(
        (Term("r", 0.1), Term("alpha", 0.2), Term("epsilon", 1e-5)), {"epsilon_unit": "absolute", "scope": "tensor"}
    ),
    "passthrough": Correspondence((Term("scale", 1.0, joined=True),), base="input", most=1),
}
