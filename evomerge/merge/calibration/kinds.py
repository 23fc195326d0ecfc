"""What can be collected of a model: the kinds of statistics that a method may require, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from evomerge.errors import InvalidInputError
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.schema import Recipe

Per = Literal["entry", "matrix", "layer", "model", "tensor"]
"""What one statistic belongs to: every entry of a tensor; a linear map; a layer; the whole model; a tensor."""

WEIGHTS, COLUMNS, GATES = "learned_weights", "learned_columns", "learned_gates"
CHUNKS, MASK, CONVEX = "learned_chunks", "learned_mask", "learned_convex_weights"
ADAPTIVE, SOFT = "learned_adaptive_mask", "learned_soft_weights"
LEARNED = frozenset({WEIGHTS, COLUMNS, GATES, CHUNKS, MASK, CONVEX, ADAPTIVE, SOFT})
"""Coefficients that are learned by gradients, which depend on a recipe's parameters."""
ANCHORED = "anchored_scales"
"""Scales that a merge reads beside nothing else, learned of the models alone."""
ALL = ""
"""In place of a source's name: a learned mask, or scales, that all sources share."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of statistic.

    Attributes:
        name: as methods require it and find it in `Block.statistics[source]`.
        text: one line for people.
        per: what it belongs to: of kinds per `entry` a method sees the entries of its block; of all others the whole.
        model: which model is run: the source, or the base.
        items: on which items: the source's own, those of all sources, one after the other, or none.
        gradients: whether it needs backward passes.
    """

    name: str
    text: str
    per: Per
    model: Literal["source", "base"] = "source"
    items: Literal["own", "all", "none"] = "own"
    gradients: bool = False


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("gram", "XᵀX/n over all n tokens, X the inputs of a linear map; (in × in)", "matrix"),
        Kind("merged_gram", "the same of inputs that came through layers that are merged already", "matrix"),
        Kind("features", "mean input of a linear map over an item's tokens; (items × in)", "matrix"),
        Kind("base_features", "features of the base on the source's items; (items × in)", "matrix", model="base"),
        Kind("output_gram", "GᵀG/n over all n tokens, G the gradients of the log-likelihood by a linear map's outputs; "
             "(out × out)", "matrix", gradients=True),
        Kind("fisher", "mean over items of the squared gradient of the log-likelihood (diagonal Fisher)", "entry",
             gradients=True),
        Kind("second_moment", "Adam's running mean of squared gradients, from the user's file", "entry"),
        Kind("saliency", "mean over items of |θ·∂L/∂θ|", "entry", gradients=True),
        Kind("base_saliency", "saliency of the base on the source's items", "entry", model="base", gradients=True),
        Kind("votes", "θ·∂L/∂θ of the item in the middle: more than half of the items lie at or below it", "entry",
             gradients=True),
        Kind("hidden", "mean hidden state after a layer (embedding: before the first), an item a row, items of all "
             "sources; (items × hidden)", "layer", items="all"),
        Kind("loss", "mean over items of the negative log-likelihood per token; one number", "model"),
        Kind("logit_distance", "mean distance of logits to each source's own on that source's items; one number a "
             "source", "model", items="all"),
        Kind(WEIGHTS, "learned coefficient of a task vector; one number", "tensor", gradients=True),
        Kind(COLUMNS, "learned coefficients of a model's columns; (in)", "tensor", gradients=True),
        Kind(GATES, "learned coefficients of a task vector's columns; (in)", "tensor", gradients=True),
        Kind(CHUNKS, "learned coefficients of a task vector's chunks; (chunks)", "tensor", gradients=True),
        Kind(MASK, "learned mask over all task vectors, and a coefficient a source", "tensor", gradients=True),
        Kind(ADAPTIVE, "learned mask over all task vectors, and a coefficient a source that was learned under it",
             "tensor", gradients=True),
        Kind(SOFT, "coefficient of a task vector after steps of Frank-Wolfe towards several models; one number",
             "tensor", gradients=True),
        Kind(CONVEX, "convex weight of a model found by Frank-Wolfe; one number", "tensor", gradients=True),
        Kind(ANCHORED, "scales of the merged task vector that fit synthetic inputs of a layer's MLP", "entry",
             items="none", gradients=True),
    )
}  # fmt: skip

MOMENT = "second_moment"
MERGED_GRAM = "merged_gram"


def of_items(requires: frozenset[str]) -> frozenset[str]:
    """The kinds that a recipe must name items for."""
    return frozenset(kind for kind in requires if kind not in KINDS or KINDS[kind].items != "none")


def check(method: str, requires: frozenset[str], recipe: Recipe) -> None:
    """Refuse a recipe that lacks what its method has to look at, or changes the models that it would look at.

    Raises:
        InvalidInputError: no calibration section, or none of its fields covers a source; sources that are aligned or
            get another vocabulary first: statistics are of the models as they are stored; learned coefficients beside
            other statistics; names the field.
    """
    if requires and recipe.align:
        raise InvalidInputError("align", sorted(recipe.align), f"nothing: method {method} reads statistics of sources")
    if requires and recipe.tokenizer not in ("same", "base"):
        allowed = f"same: method {method} reads statistics of models, whose entries are in the models' own vocabulary"
        raise InvalidInputError("tokenizer", recipe.tokenizer, allowed)
    if (requires & LEARNED and requires - LEARNED) or (ANCHORED in requires and len(requires) > 1):
        allowed = "no other stage that reads statistics beside one whose coefficients are learned"
        raise InvalidInputError("merge.pipeline", list(recipe.merge.pipeline or ()), allowed)
    check_items(method, requires, recipe.calibration, recipe.sources)


def check_items(method: str, requires: frozenset[str], calibration: Calibration | None, sources: Iterable[str]) -> None:
    """The part of `check` that asks where statistics come from.

    Raises:
        InvalidInputError: as there.
    """
    requires = of_items(requires)
    if not requires:
        return
    wanted = f"method {method} reads statistics of the models ({', '.join(sorted(requires))})"
    if calibration is None:
        raise InvalidInputError("calibration", None, f"a section with `items`: {wanted}")
    for source in sources:
        for kind in sorted(kinds_of(requires, calibration, source)):
            if kind == MOMENT and source not in calibration.moments:
                allowed = f"a safetensors file with Adam's exp_avg_sq, or without_moments: fisher: {wanted}"
                raise InvalidInputError(f"calibration.moments.{source}", None, allowed)
            if kind != MOMENT and calibration.items_of(source) is None:
                allowed = f"a JSONL file of items, here or in calibration.items for all sources: {wanted}"
                raise InvalidInputError(f"calibration.sources.{source}", None, allowed)


def kinds_of(requires: frozenset[str], calibration: Calibration, source: str) -> frozenset[str]:
    """What is collected for a source: `fisher` takes the place of second moments that it may lack."""
    if MOMENT in requires and source not in calibration.moments and calibration.without_moments == "fisher":
        return requires - {MOMENT} | {"fisher"}
    return requires
