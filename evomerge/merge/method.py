"""What a merge method is: a pure function of tensors, and a declaration of its parameters that search spaces read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from evomerge.recipe.schema import ParameterValue


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
    text: str = ""


@dataclass(frozen=True, slots=True)
class TensorInputs:
    """What a method sees of one tensor. All tensors are float32, of one shape, and must not be written to.

    Attributes:
        name: the tensor's canonical name: keys random masks.
        base: θ0.
        deltas: source name → δk = θk − θ0; a source that leaves the tensor alone maps to None (δ = 0).
        shared: parameters that hold for all sources, resolved for this tensor.
        per_source: source name → its parameters, resolved for this tensor.
        seed: the recipe's seed.
        thresholds: source name → |δ| below which entries are trimmed over the whole model, for methods with
            a global scope; empty otherwise.
    """

    name: str
    base: Tensor
    deltas: Mapping[str, Tensor | None]
    shared: Mapping[str, ParameterValue]
    per_source: Mapping[str, Mapping[str, ParameterValue]]
    seed: int
    thresholds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Method:
    """A published merge method as a named preset of primitives.

    Attributes:
        merge: inputs → merged tensor θ, float32, new memory.
        num_sources: least and most sources (None: no limit).
        global_trim: name of the per-source density parameter that is trimmed over the whole model when
            `scope` is `global`; None for methods that never look beyond one tensor.
        elementwise: whether θ[i] depends on the inputs at i (and masks) alone, so that any block can be merged apart.
    """

    name: str
    title: str
    paper: str
    merge: Callable[[TensorInputs], Tensor]
    parameters: tuple[Parameter, ...]
    num_sources: tuple[int, int | None] = (1, None)
    stochastic: bool = False
    global_trim: str | None = None
    elementwise: bool = False
