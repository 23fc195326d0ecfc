"""What a merge method is: a pure function of tensors, and a declaration of its parameters that search spaces read.

A method may first *measure* a whole tensor (or the whole model): a trim threshold, a norm, an angle: a few floats. Then
it *merges*. Methods of grain `entry` see a tensor as a flat float32 vector, in blocks, and merge elementwise with the
measured floats at hand: they need the memory of a few blocks, however large the tensor, and a block gives the same
bytes wherever, whenever and beside whatever else it is computed. Methods of grain `tensor` (ranks within rows,
singular values, least squares) see a whole tensor at a time, in its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from evomerge.merge.workspace import RESULT, Workspace
from evomerge.models.factors import Factors
from evomerge.recipe.parameters import Scalar
from evomerge.recipe.schema import ParameterValue, role_matches

Values = Mapping[str, Scalar]
"""Parameters resolved for one tensor: no knots any more."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method: its default, the range worth searching and how the range is spaced.

    Attributes:
        name: as recipes spell it.
        default: the published default.
        low, high: the range a search may use (a recipe may go beyond it within `legal`); None for flags and choices.
        scale: spacing of the search range.
        per_source: one value a source, or one for all.
        choices: for a choice, its options.
        legal: bounds outside which a recipe is refused, both included; None where any float is.
        whole: whether it counts something: searches try whole numbers.
        text: one line for people.
    """

    name: str
    default: ParameterValue
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    per_source: bool = False
    choices: tuple[str, ...] = ()
    legal: tuple[float, float] | None = None
    whole: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """What a method sees: one tensor, or consecutive entries of it. Float32 tensors of one shape, on one device, that
    must not be written to: flat for grain `entry`, of the tensor's own shape for grain `tensor`. Matrices are
    (out × in), also where a family stores them the other way round.

    Attributes:
        name: the tensor's canonical name: keys random masks.
        offset: index of the first entry within the tensor: the counter of random masks.
        base: θ0.
        deltas: source name → δk = θk − θ0, for methods of domain `delta`; a source that leaves the tensor alone maps
            to None (δ = 0). Sources come in the order of their names.
        models: source name → θk, for methods of domain `weights`; None where θk = θ0.
        shared: parameters that hold for all sources, resolved for this tensor.
        per_source: source name → its parameters, resolved for this tensor.
        seed: the recipe's seed.
        measured: what `Method.measure` found.
        shape: of the whole tensor.
        role, layer: its part in the architecture; layer None outside the layers.
        num_layers: of the model.
        statistics: source name (`""`: the base) → kind → what calibration collected for this tensor, for methods that
            require it.
        factors: for methods that read them: source name → the two factors of its δ, None where δ = 0; `deltas` then
            hold nothing. Empty where no source has factors (an adapter's norms, say): then there are `deltas` as usual.
    """

    name: str
    base: Tensor
    shared: Values
    per_source: Mapping[str, Values]
    deltas: Mapping[str, Tensor | None] = field(default_factory=dict)
    models: Mapping[str, Tensor | None] = field(default_factory=dict)
    offset: int = 0
    seed: int = 0
    measured: Mapping[str, float] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    role: str = ""
    layer: int | None = None
    num_layers: int = 0
    statistics: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    factors: Mapping[str, Factors | None] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What the tensor is, for methods that treat matrices, vocabularies and vectors apart."""
        return kind_of(self.shape, self.role)


Kind = Literal["matrix", "vocabulary", "vector"]
"""A linear map inside the model; a table with a row for each token or position; all else (norms, biases, …)."""
VOCABULARY = ("embedding", "head", "position")
"""Roles whose matrices are tables of tokens or positions."""


def kind_of(shape: tuple[int, ...], role: str) -> Kind:
    """What a tensor of a shape and a role is."""
    if len(shape) != 2:
        return "vector"
    return "vocabulary" if role_matches(role, VOCABULARY) else "matrix"


Blocks = Callable[[], Iterable[Block]]
"""A tensor (or a model) in blocks, in order; every call begins again, so that a measurement may take several passes."""


Grain = Literal["entry", "tensor"]
Scope = Literal["nothing", "tensor", "model"]
Cost = Literal["elementwise", "sort", "svd", "solve", "training"]


class Asked(Protocol):
    """What is asked for one tensor: what a `Block` of it says, before anything is read."""

    @property
    def name(self) -> str: ...

    @property
    def shared(self) -> Values: ...

    @property
    def per_source(self) -> Mapping[str, Values]: ...


How = Literal["affine", "combination", "weighted_sum"]


@dataclass(frozen=True, slots=True)
class ByRows:
    """A combination with coefficients of its own for every vector along a tensor's last dimension; tensors of one
    dimension have one row.

    Attributes:
        coefficients: parameters and the rows' inner products [rows, n, n] → [rows, n].
        anchor: parameters → index of the vector that the others are taken from.
        holds: whether, given the shared parameters, the merge is of this form.
    """

    coefficients: Callable[[Asked, npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    anchor: Callable[[Asked], int]
    holds: Callable[[Values], bool]


@dataclass(frozen=True, slots=True)
class Combination:
    """A merge in the span of the models: θ = Σ c·x, or θ0 + Σ c·x, where the coefficients c follow from the parameters
    and the inner products of the vectors x, each a whole tensor.

    One declaration gives the measurement, the merge, and a compiled loop for both.

    Attributes:
        coefficients: parameters and the vectors' inner products [n, n] → vector → c.
        measured: whether the coefficients need the inner products, given the shared parameters; if not, they get zeros.
        origin: `zero`: x = θ; `base`: x = θ − θ0, and θ0 is added to their sum.
        how: `affine`, `combination` or `weighted_sum` of `primitives.aggregate`, given the shared parameters.
        two_ends: whether, of one source, θ0 (`""`) is the vector before it.
        holds: whether, given the shared parameters, the merge is of this form.
        rows: how rows are combined, where the merge may have that form instead.
    """

    coefficients: Callable[[Asked, npt.NDArray[np.float64]], Mapping[str, float]]
    measured: Callable[[Values], bool]
    origin: Callable[[Values], Literal["zero", "base"]]
    how: Callable[[Values], How]
    two_ends: bool = False
    holds: Callable[[Values], bool] = lambda shared: True
    rows: ByRows | None = None

    def vectors(self, asked: Asked) -> tuple[str, ...]:
        """The vectors' names, in order: the sources, and `""` for θ0."""
        names = tuple(asked.per_source)
        return ("", *names) if self.two_ends and len(names) == 1 else names


def _nothing(shared: Values) -> Scope:
    return "nothing"


def _always(shared: Values) -> bool:
    return True


def _entire(shared: Values) -> bool:
    return False


def _never(num_sources: int, shared: Mapping[str, ParameterValue]) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Method:
    """A published merge method as a named preset of primitives.

    Attributes:
        name: as recipes spell it.
        title, paper: for people; the paper with its arXiv number.
        merge: block → merged entries θ, float32, new memory; θ[i] depends on the inputs at i, the masks at i and
            `measured` alone.
        parameters: what recipes may set.
        domain: what the method works on: differences from the base, or the models' own weights.
        num_sources: least and most sources (None: no limit).
        stochastic: whether the recipe's seed matters.
        measure: blocks → floats that `merge` needs.
        measures: over what `measure` runs, given the shared parameters.
        check: raises InvalidInputError where one tensor's parameters are legal each but not together.
        keeps_base: whether, given the shared parameters, a tensor that no source changes is θ0 exactly.
        baseless: whether, of so many sources and given the shared parameters, the result is the same whatever the base
            is.
        grain: what one call of `merge` sees: some entries of a tensor, or the whole tensor.
        requires: kinds of calibration statistics that it reads; empty: it needs no data.
        factored: it reads LoRA factors, so that every source must be an adapter.
        combine: block with factors → factors of the merged task vector, for methods whose result stays of low rank: an
            adapter is made of them without a singular value decomposition.
        ordered: whether the sources' order matters (beyond that of two ends): it reads their parameter `order`.
        cost: the dearest thing that it does with a tensor, for planning and for tables.
        workspace: for methods of grain `tensor`: what `merge` (and `measure`) hold beside what they are given, the
            result included.
        rowwise: whether, given the shared parameters, a method of grain `tensor` may be shown some rows at a time
            (slices of the tensor's first dimension; a vector is one row).
        stages: names of the stages that it is a chain of, where recipes can set all of their parameters.
        combination: for methods whose merge is one: where it holds, whatever the grain, entries can be merged by
            themselves.
    """

    name: str
    title: str
    paper: str
    merge: Callable[[Block], Tensor]
    parameters: tuple[Parameter, ...]
    domain: Literal["delta", "weights"] = "delta"
    num_sources: tuple[int, int | None] = (1, None)
    stochastic: bool = False
    measure: Callable[[Blocks], Mapping[str, float]] | None = None
    measures: Callable[[Values], Scope] = _nothing
    check: Callable[[Values, Mapping[str, Values]], None] | None = None
    keeps_base: Callable[[Values], bool] = _always
    baseless: Callable[[int, Mapping[str, ParameterValue]], bool] = _never
    grain: Grain = "entry"
    requires: frozenset[str] = frozenset()
    factored: bool = False
    combine: Callable[[Block], Factors] | None = None
    ordered: bool = False
    cost: Cost = "elementwise"
    workspace: Workspace = RESULT
    rowwise: Callable[[Values], bool] = _entire
    stages: tuple[str, ...] = ()
    combination: Combination | None = None

    def grain_of(self, shared: Values) -> Grain:
        """What one call of `merge` sees, given the shared parameters."""
        return "entry" if self.combination_for(shared) is not None else self.grain

    def combination_for(self, shared: Values) -> Combination | None:
        """The combination that the merge is, given the shared parameters; None where it is none."""
        return self.combination if self.combination is not None and self.combination.holds(shared) else None
