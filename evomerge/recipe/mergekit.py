"""Recipes as mergekit's YAML, for what mergekit (0.1.5) can express; the rest is refused, naming the field.

Where the two programs differ by default, the export says what we mean or refuses: mergekit trims and elects tensor by
tensor, settles even votes by +, divides by Σw instead of Σ|w|, matches the L1 norm after DARE, and reads a list of
values at its first entry for all tensors outside the layers. Random masks cannot be the same: a DARE merge has the same
distribution, not the same bytes. Tokenizer and config are the base's in both when the models are fine-tunes of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.recipe.document import dump_yaml_data
from evomerge.recipe.parameters import Scalar, at_depth, interpolate, stated
from evomerge.recipe.schema import ModelRef, Recipe, role_matches

LAYER = "{layer}"
LLAMA_MODULES: Mapping[str, str] = {
    "model.embed_tokens": "embedding",
    "model.layers.{layer}.input_layernorm": "norm.attention",
    "model.layers.{layer}.self_attn.q_proj": "attention.q",
    "model.layers.{layer}.self_attn.k_proj": "attention.k",
    "model.layers.{layer}.self_attn.v_proj": "attention.v",
    "model.layers.{layer}.self_attn.o_proj": "attention.o",
    "model.layers.{layer}.post_attention_layernorm": "norm.mlp",
    "model.layers.{layer}.mlp.gate_proj": "mlp.gate",
    "model.layers.{layer}.mlp.up_proj": "mlp.up",
    "model.layers.{layer}.mlp.down_proj": "mlp.down",
    "model.norm": "norm.final",
    "lm_head": "head",
}
"""Names of modules and their roles in Llama, Mistral and Qwen2; other families pass their own."""

DEFAULTS: Mapping[str, Mapping[str, Scalar]] = {
    "linear": {"weight": 1.0, "normalize": True},
    "task_arithmetic": {"weight": 1.0, "lambda": 1.0, "normalize": False},
    "slerp": {"t": 0.5},
    "ties": {
        "weight": 1.0,
        "density": 0.2,
        "lambda": 1.0,
        "normalize": True,
        "election": "mass",
        "sign_ties": "majority",
        "scope": "global",
        "rescale": "none",
        "divisor": "absolute",
    },
    "dare_linear": {"weight": 1.0, "density": 0.1, "lambda": 1.0, "normalize": False, "rescale": "inverse"},
    "dare_ties": {
        "weight": 1.0,
        "density": 0.1,
        "lambda": 1.0,
        "normalize": True,
        "election": "mass",
        "sign_ties": "majority",
        "rescale": "inverse",
        "divisor": "absolute",
    },
    "passthrough": {"scale": 1.0},
}
"""What a recipe means where it says nothing: as `evomerge.merge.methods` declares, a package above this one."""

Values = Mapping[str, tuple[float, ...]]
"""Module → a parameter's value in every layer; one value for a module outside the layers."""


def to_mergekit(
    recipe: Recipe,
    num_layers: int,
    *,
    modules: Mapping[str, str] = LLAMA_MODULES,
    adapters: Collection[str] | None = None,
) -> str:
    """The recipe as a configuration for `mergekit-yaml`.

    Args:
        num_layers: of the base model.
        modules: template of a module's name (`model.layers.{layer}.mlp.up_proj`) → its role.
        adapters: names of the sources that are LoRA adapters of the base; None looks for `adapter_config.json` there.

    Raises:
        InvalidInputError: mergekit has no words for something; names the recipe's field.
    """
    method = recipe.merge.method
    if method not in _EXPORTS:
        raise InvalidInputError("merge.method", method, f"a method that mergekit has too: {', '.join(_EXPORTS)}")
    _check_rules(recipe, num_layers, modules)
    config = _EXPORTS[method](_Reading(recipe, num_layers, modules))
    places = _places(recipe, adapters)
    data: dict[str, Any] = {"merge_method": config.method}
    if config.base is not None:
        data["base_model"] = places[config.base]
    listed = {name: config.per_source.get(name, {}) for name in config.models or recipe.sources}
    data["models"] = [{"model": places[name], **({"parameters": p} if p else {})} for name, p in listed.items()]
    if config.shared:
        data["parameters"] = config.shared
    data |= {"dtype": "float32", "out_dtype": recipe.dtype}
    return f"# evomerge recipe {recipe.digest}\n{dump_yaml_data(data)}"


@dataclass(frozen=True, slots=True)
class _Config:
    """What differs between methods in mergekit's file.

    Attributes:
        base: name of the model that is `base_model`: `""` is the recipe's base; None: there is none.
        models: names of the models listed; empty: all sources.
    """

    method: str
    base: str | None
    shared: dict[str, Any]
    per_source: dict[str, dict[str, Any]]
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reading:
    """A recipe's parameters as mergekit's settings."""

    recipe: Recipe
    num_layers: int
    modules: Mapping[str, str]

    def numbers(self, name: str, source: str | None = None) -> Values:
        """A number in every module and layer."""
        values: dict[str, tuple[float, ...]] = {}
        for module, role in self.modules.items():
            layers = range(self.num_layers) if LAYER in module else [None]
            found = [self.value(name, source, role, layer) for layer in layers]
            for value in found:
                if isinstance(value, bool | str):
                    raise InvalidInputError(self.field(name, source), value, "a number")
            values[module] = tuple(float(value) for value in found)
        return values

    def choice(self, name: str) -> Scalar:
        """A flag or choice, which must be the same everywhere."""
        found = {
            self.value(name, None, role, layer)
            for module, role in self.modules.items()
            for layer in (range(self.num_layers) if LAYER in module else [None])
        }
        if len(found) > 1:
            raise InvalidInputError(self.field(name, None), sorted(map(str, found)), "one value for the whole model")
        return found.pop()

    def value(self, name: str, source: str | None, role: str, layer: int | None) -> Scalar:
        merge = self.recipe.merge
        value = stated(merge, role, layer, source).get(name, DEFAULTS[merge.method][name])
        return at_depth(value, role, layer, self.num_layers)

    def require(self, name: str, value: Scalar, reason: str) -> None:
        if (found := self.choice(name)) != value:
            raise InvalidInputError(self.field(name, None), found, f"{value!r}: {reason}")

    def field(self, name: str, source: str | None) -> str:
        """Where the recipe states a parameter last; where it could, if it does not."""
        merge = self.recipe.merge
        for number in reversed(range(len(merge.rules))):
            if name in merge.rules[number].parameters and merge.rules[number].source in (None, source):
                return f"merge.rules[{number}].parameters.{name}"
        if source is not None and name in merge.sources.get(source, {}):
            return f"merge.sources.{source}.{name}"
        return f"merge.parameters.{name}"

    def setting(self, values: Values) -> Any:
        """Numbers as mergekit says them: one, a list over the layers, or filters by parts of names before these."""
        inside = [value for module, value in values.items() if LAYER in module]
        common = Counter(inside).most_common(1)[0][0]
        # Outside the layers mergekit 0.1.5 reads every list at its first entry.
        odd = {m: v for m, v in values.items() if v != (common if LAYER in m else common[:1])}
        default = self.gradient(common)
        return [*self.filters(odd, values), {"value": default}] if odd else default

    def filters(self, odd: Values, values: Values) -> list[dict[str, Any]]:
        filters: list[dict[str, Any]] = []
        pending = dict(odd)
        while pending:
            module, value = next(iter(pending.items()))
            needle, matched = self.needle(module, value, values)
            filters.append({"filter": needle, "value": self.gradient(value)})
            pending = {m: v for m, v in pending.items() if m not in matched}
        return filters

    def needle(self, module: str, value: tuple[float, ...], values: Values) -> tuple[str, set[str]]:
        """The shortest part of a name that only modules of one value contain, and these modules."""
        tail = module.rpartition(f"{LAYER}.")[2]
        for needle in (tail.partition(".")[0] if LAYER in module else tail.rpartition(".")[2], tail):
            matched = {m for m in values if needle in m}
            if all(values[m] == value for m in matched):
                return needle, matched
        raise InvalidInputError("merge.rules", module, "modules that mergekit can tell apart by a part of their names")

    def gradient(self, value: tuple[float, ...]) -> float | list[float]:
        """One number, the recipe's own knots, or a number a layer."""
        if len(set(value)) == 1:
            return value[0]
        last = self.num_layers - 1
        for knots in self.knots():
            if value == tuple(interpolate(knots, layer / last) for layer in range(self.num_layers)):
                return list(knots)
        return list(value)

    def knots(self) -> list[tuple[float, ...]]:
        merge = self.recipe.merge
        parameters = [merge.parameters, *merge.sources.values(), *(rule.parameters for rule in merge.rules)]
        return [value for stated in parameters for value in stated.values() if isinstance(value, tuple)]

    def per_source(self, *names: str) -> dict[str, dict[str, Any]]:
        return {s: {name: self.setting(self.numbers(name, s)) for name in names} for s in self.recipe.sources}


def _linear(reading: _Reading) -> _Config:
    return _Config("linear", None, {"normalize": reading.choice("normalize")}, reading.per_source("weight"))


def _task_arithmetic(reading: _Reading) -> _Config:
    shared = {"normalize": reading.choice("normalize"), "lambda": reading.setting(reading.numbers("lambda"))}
    return _Config("task_arithmetic", "", shared, reading.per_source("weight"))


def _slerp(reading: _Reading) -> _Config:
    names = tuple(reading.recipe.sources)
    models = ("", *names) if len(names) == 1 else names
    if len(models) != 2:
        raise InvalidInputError("sources", list(names), "one or two sources for slerp")
    return _Config("slerp", models[0], {"t": reading.setting(reading.numbers("t"))}, {}, models)


def _passthrough(reading: _Reading) -> _Config:
    return _Config("passthrough", None, {}, {})


def _ties(reading: _Reading) -> _Config:
    trims = any(d < 1 for s in reading.recipe.sources for v in reading.numbers("density", s).values() for d in v)
    if trims:
        reading.require("scope", "tensor", "mergekit trims each tensor apart")
    _check_election(reading)
    shared = {"normalize": reading.choice("normalize"), "lambda": reading.setting(reading.numbers("lambda"))}
    return _Config("ties", "", shared, reading.per_source("weight", "density"))


def _dare_linear(reading: _Reading) -> _Config:
    return _dare(reading, "dare_linear")


def _dare_ties(reading: _Reading) -> _Config:
    _check_election(reading)
    return _dare(reading, "dare_ties")


def _dare(reading: _Reading, method: str) -> _Config:
    """`rescale: l1` is mergekit's own. 1/p goes into the weights or, where these are divided by, into λ."""
    rescale, normalize = reading.choice("rescale"), reading.choice("normalize")
    shared = {"normalize": normalize, "rescale": rescale == "l1", "lambda": reading.setting(reading.numbers("lambda"))}
    per_source = reading.per_source("weight", "density")
    if rescale == "inverse":
        densities = {source: reading.numbers("density", source) for source in per_source}
        if not normalize:
            for source, density in densities.items():
                weights = _divide(reading.numbers("weight", source), density)
                per_source[source]["weight"] = reading.setting(weights)
        else:
            first = next(iter(densities.values()))
            if any(density != first for density in densities.values()):
                allowed = "'l1' or 'none', or normalize: false, or the same density for all sources"
                raise InvalidInputError(reading.field("rescale", None), rescale, allowed)
            shared["lambda"] = reading.setting(_divide(reading.numbers("lambda"), first))
    return _Config(method, "", shared, per_source)


def _divide(values: Values, by: Values) -> Values:
    """Entry by entry; 0 where nothing survives anyway."""
    return {m: tuple(v / d if d else 0.0 for v, d in zip(values[m], by[m], strict=True)) for m in values}


def _check_election(reading: _Reading) -> None:
    reading.require("election", "mass", "mergekit elects signs by the sum of entries")
    reading.require("sign_ties", "positive", "mergekit settles even votes by +")
    if reading.choice("normalize"):
        for source in reading.recipe.sources:
            low = min(min(value) for value in reading.numbers("weight", source).values())
            if low < 0:
                allowed = "weights from 0, or normalize: false: mergekit divides by Σw, which a negative weight upsets"
                raise InvalidInputError(reading.field("weight", source), low, allowed)


_EXPORTS: Mapping[str, Callable[[_Reading], _Config]] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "slerp": _slerp,
    "ties": _ties,
    "dare_linear": _dare_linear,
    "dare_ties": _dare_ties,
    "passthrough": _passthrough,
}


def _check_rules(recipe: Recipe, num_layers: int, modules: Mapping[str, str]) -> None:
    for number, rule in enumerate(recipe.merge.rules):
        if rule.layers is not None and rule.layers[1] >= num_layers:
            allowed = f"layers 0 to {num_layers - 1} of the base model"
            raise InvalidInputError(f"merge.rules[{number}].layers", list(rule.layers), allowed)
        for pattern in rule.roles:
            if not any(role_matches(role, (pattern,)) for role in modules.values()):
                allowed = f"a role of the base model: {', '.join(sorted(set(modules.values())))}"
                raise InvalidInputError(f"merge.rules[{number}].roles", pattern, allowed)


def _places(recipe: Recipe, adapters: Collection[str] | None) -> dict[str, Any]:
    """Name of a source (`""`: the base) → how mergekit names the model."""
    base = _path(recipe.base, "base")
    places: dict[str, Any] = {"": base}
    for name, ref in recipe.sources.items():
        path = _path(ref, f"sources.{name}")
        adapter = name in adapters if adapters is not None else (Path(ref.location) / "adapter_config.json").is_file()
        place = f"{base}+{path}" if adapter else path
        if place in places.values() and not (recipe.merge.method == "passthrough" and place == base):
            raise InvalidInputError(f"sources.{name}.location", ref.location, "models that differ from each other")
        places[name] = place
    return places


def _path(ref: ModelRef, where: str) -> str:
    path = ref.location.removeprefix("hub:")
    if path == ref.location and path.lower().endswith((".yaml", ".yml", ".json")):
        raise InvalidInputError(f"{where}.location", ref.location, "a model's directory: merge that recipe first")
    if "+" in path or "@" in path:
        raise InvalidInputError(
            f"{where}.location", ref.location, "a place without + and @, which mergekit reads apart"
        )
    return f"{path}@{ref.revision}" if ref.revision else path
