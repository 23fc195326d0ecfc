"""Which models are merged in every part of a configuration, and which of them is the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.merge.mergekit.config import Config, Input, Model, Part
from evomerge.merge.mergekit.methods import METHODS, Correspondence
from evomerge.recipe.document import DocumentPath


@dataclass(frozen=True, slots=True)
class MergedPart:
    """An output slice, or the whole model, with its models told apart.

    Attributes:
        part: what was written.
        base: the input that is θ0; None: there is none.
        sources: the models that are merged.
        flipped: slerp's ends stand in the other order than in the file: t is read from the other end.
    """

    part: Part
    base: Input | None
    sources: Mapping[Model, Input]
    flipped: bool = False

    @property
    def num_layers(self) -> int:
        """Of a slice."""
        first, last = next(at.layers for at in self.part.inputs if at.layers is not None)
        return last - first + 1


def recipe_base(config: Config) -> Model:
    """The model that donates config and tokenizer, and that deltas are taken from: `base_model`, else the first model.

    mergekit takes any of the models where there is no `base_model`.
    """
    own = [part.base for part in config.parts if part.base is not None]
    if config.base is not None or own:
        return config.base if config.base is not None else own[0]
    first = config.parts[0].inputs[0].model
    return Model(first.place, first.revision)


def merged_parts(config: Config, base: Model) -> list[MergedPart]:
    """Every part with its models told apart.

    Raises:
        InvalidInputError: too many or too few models, one twice, a base that is missing or changes between slices.
    """
    method = METHODS[config.method]
    found = []
    for part in config.parts:
        own = part.base if part.base is not None else config.base
        where = (*part.path, "base_model") if part.base is not None else ("base_model",)
        inputs = _inputs(config, part, own)
        if own is None and method.base in ("required", "end"):
            raise config.refuse(where, None, f"a model: {config.method} needs a base_model")
        if own is not None and own not in inputs and method.base != "input":
            raise config.refuse(where, str(own), f"one of the models of the slice: {', '.join(map(str, inputs))}")
        if own is not None and own != base and method.base in ("required", "optional"):
            raise config.refuse(where, str(own), f"{base} in all slices: a recipe has one base")
        merged = _told_apart(part, inputs, own, base, method)
        _check_count(
            config, part.path, method, len(merged.sources) + (method.base == "end" and merged.base is not None)
        )
        found.append(merged)
    return found


def _inputs(config: Config, part: Part, base: Model | None) -> dict[Model, Input]:
    """The models of a part; `models:` takes the base in where it is not listed."""
    inputs: dict[Model, Input] = {}
    for at in part.inputs:
        if at.model in inputs:
            raise config.refuse((*at.path, "model"), str(at.model), "every model once")
        inputs[at.model] = at
    lengths = {at.layers[1] - at.layers[0] + 1 for at in part.inputs if at.layers is not None}
    if len(lengths) > 1:
        raise config.refuse((*part.path, "sources"), sorted(lengths), "as many layers of every model")
    if base is not None and base not in inputs and not config.sliced:
        inputs[base] = Input(base, None, {}, ("base_model",))
    return inputs


def _told_apart(
    part: Part, inputs: Mapping[Model, Input], own: Model | None, base: Model, method: Correspondence
) -> MergedPart:
    if method.base == "input" or own is None:
        return MergedPart(part, None, inputs)
    others = {model: at for model, at in inputs.items() if model != own}
    if method.base == "end" and own != base:
        return MergedPart(part, None, inputs)  # both ends are sources; whether t turns depends on their names
    return MergedPart(part, inputs[own], others)


def _check_count(config: Config, path: DocumentPath, method: Correspondence, number: int) -> None:
    if number < method.least or (method.most is not None and number > method.most):
        most = "or more" if method.most is None else f"to {method.most}" if method.most > method.least else ""
        what = "models beside the base" if method.base in ("required", "optional") else "models"
        allowed = f"{method.least} {most} {what} for {config.method}".replace("  ", " ")
        raise config.refuse(path if path != ("models",) else ("models",), f"{number} models", allowed)
