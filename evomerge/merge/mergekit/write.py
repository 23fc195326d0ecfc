"""Recipes as mergekit's YAML, for what mergekit (0.1.5) can express; the rest is refused, naming the field.

Where the two programs differ by default, the export says what we mean or refuses: mergekit trims and elects tensor by
tensor, settles even votes by +, divides by Σw instead of Σ|w|, matches the L1 norm after DARE, and reads a list of
values at its first entry for all tensors outside the layers. Random masks cannot be the same: a DARE merge has the same
distribution, not the same bytes. Tokenizer and config are the base's in both when the models are fine-tunes of one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.merge.mergekit.methods import METHODS, Correspondence, Term
from evomerge.merge.mergekit.path import path_slices
from evomerge.merge.mergekit.segments import without_segments
from evomerge.merge.mergekit.spelling import Span, Spelling, Values
from evomerge.merge.mergekit.statements import Reading
from evomerge.models.family import families
from evomerge.recipe.document import dump_yaml_data
from evomerge.recipe.schema import ModelRef, Recipe, role_matches
from evomerge.recipe.slices import Layers, Slice

BASE = ""
"""Stands for the recipe's base among the names of its sources."""


def to_mergekit(
    recipe: Recipe,
    num_layers: int,
    *,
    modules: Mapping[str, str] | None = None,
    adapters: Collection[str] | None = None,
) -> str:
    """The recipe as a configuration for `mergekit-yaml`.

    Args:
        num_layers: of the base model.
        modules: template of a module's name (`model.layers.{layer}.mlp.up_proj`) → its role; by default those of Llama,
            Mistral and Qwen2.
        adapters: names of the sources that are LoRA adapters of the base; None looks for `adapter_config.json` there.

    Raises:
        InvalidInputError: mergekit has no words for something; names the recipe's field.
    """
    modules = families()["llama"].modules if modules is None else modules
    if recipe.path is not None:
        return _path(recipe, num_layers, modules, _places(recipe, adapters))
    if recipe.segments is not None and recipe.path is None:
        known = families()["llama"].modules if modules is None else modules
        plain = to_mergekit(without_segments(recipe, num_layers, known), num_layers, modules=known, adapters=adapters)
        return f"# evomerge recipe {recipe.digest}\n{plain.partition(chr(10))[2]}"
    method = recipe.merge.method
    if method not in METHODS:
        raise InvalidInputError("merge.method", method, f"a method that mergekit has too: {', '.join(METHODS)}")
    depth = sum(part.num_layers for part in recipe.slices) if recipe.slices else num_layers
    _check_rules(recipe, depth, modules)
    _check_rest(recipe)
    reading = Reading(recipe, depth, modules)
    writer = _Writer(recipe, reading, _places(recipe, adapters), METHODS[method])
    return _document(recipe, method, writer.models(), writer.vocabulary())


def _path(recipe: Recipe, num_layers: int, modules: Mapping[str, str], places: Mapping[str, str]) -> str:
    slices = path_slices(recipe, num_layers, modules, {**places, "base": places[BASE]})
    template = {} if recipe.chat_template is None else {"chat_template": recipe.chat_template}
    return _document(recipe, "passthrough", {"slices": slices}, template)


def _document(recipe: Recipe, method: str, models: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    data = {"merge_method": method, **models, "dtype": "float32", "out_dtype": recipe.dtype, **others}
    return f"# evomerge recipe {recipe.digest}\n{dump_yaml_data(data)}"


class _Writer:
    """One recipe on its way out."""

    def __init__(self, recipe: Recipe, reading: Reading, places: Mapping[str, str], method: Correspondence) -> None:
        self.recipe, self.reading, self.places, self.method = recipe, reading, places, method
        self._check_fixed()

    def models(self) -> dict[str, Any]:
        """`base_model`, and `models` or `slices` with their parameters."""
        if self.recipe.slices is not None:
            spans = enumerate(_spans(self.recipe.slices))
            slices = [self._slice(part, *span) for part, span in zip(self.recipe.slices, spans, strict=True)]
            # Where the base is no θ0, naming it would make it one, or an error.
            named = self.method.base != "optional" or self._takes_base(())
            return {**({"base_model": self.places[BASE]} if named else {}), "slices": slices}
        span = Span(0, self.reading.num_layers, first=True, last=True)
        sources = tuple(self.recipe.sources)
        base = self._base(sources)
        listed = (BASE, *sources) if self.method.base == "end" and len(sources) == 1 else sources
        self._check_number(sources, "sources")
        self._check_apart([*([BASE] if base == BASE else []), *sources])
        found = [{"model": self.places[name], **_under("parameters", self._own(name, span))} for name in listed]
        shared = _under("parameters", self._shared(span, sources))
        return {**({} if base is None else {"base_model": self.places[base]}), "models": found, **shared}

    def vocabulary(self) -> dict[str, Any]:
        """Tokenizer and chat template."""
        recipe = self.recipe
        template = {} if recipe.chat_template is None else {"chat_template": recipe.chat_template}
        if recipe.tokens is None and recipe.pad_to_multiple_of is None:
            if recipe.tokenizer == "same":
                return template
            return {"tokenizer_source": self._tokenizer(recipe.tokenizer), **template}
        tokens = {token: self._token(token) for token in recipe.tokens or {}}
        pad = {} if recipe.pad_to_multiple_of is None else {"pad_to_multiple_of": recipe.pad_to_multiple_of}
        return {
            "tokenizer": {"source": self._tokenizer(recipe.tokenizer), **_under("tokens", tokens), **pad},
            **template,
        }

    def _tokenizer(self, name: str) -> str:
        """mergekit matches rows by token for `base` as we do; where all models have one vocabulary, nothing changes."""
        return {"same": "base"}.get(name, name) if name in ("same", "base", "union") else self.places[name]

    def _token(self, token: str) -> dict[str, Any]:
        assert self.recipe.tokens is not None, "it is one of them"
        rule = self.recipe.tokens[token]
        if rule.fill in ("mean", "omp"):
            allowed = "zero, or a model's row: mergekit averages by itself where no rule says otherwise"
            raise InvalidInputError(f"tokens.{token}.fill", rule.fill, allowed)
        source: Any = {"kind": "zero"} if rule.fill == "zero" else None
        if rule.model is not None:
            source = self.places[BASE if rule.model == "base" else rule.model]
            if rule.token is not None or rule.token_id is not None:
                own = {"token": rule.token} if rule.token is not None else {"token_id": rule.token_id}
                source = {"kind": "model_token", "model": source, **own}
        return {**({} if source is None else {"source": source}), **({"force": True} if rule.force else {})}

    def _slice(self, part: Slice, number: int, span: Span) -> dict[str, Any]:
        sources = tuple(part.sources)
        ranges: dict[str, Layers] = dict(part.sources)
        if sources:
            self._check_number(sources, f"slices[{number}].sources")
        else:
            self._check_alone(span, number)
        if not sources or self._takes_base(sources):
            if part.base is None:
                raise InvalidInputError(f"slices[{number}].base", None, "layers of the base: mergekit needs them here")
            ranges = {BASE: part.base, **ranges}
        self._check_apart(list(ranges))
        start = {"base_model": self.places[sources[0]]} if self.method.base == "end" and len(sources) == 2 else {}
        found = []
        for name, (first, last) in ranges.items():
            own = _under("parameters", self._own(name, span) if sources else self._plain())
            found.append({"model": self.places[name], "layer_range": [first, last + 1], **own})
        return {"sources": found, **start, **_under("parameters", self._shared(span, sources))}

    def _base(self, sources: Sequence[str]) -> str | None:
        """Whose name stands at `base_model` beside `models`; None: nobody's, since that would be one more model."""
        if self.method.base == "end":
            return BASE if len(sources) == 1 else sources[0]
        return BASE if self._takes_base(sources) else None

    def _takes_base(self, sources: Sequence[str]) -> bool:
        if self.method.base == "end":
            return len(sources) == 1
        if self.method.base == "optional":
            return self.reading.choice("origin") == "base"
        return self.method.base == "required"

    def _own(self, name: str, span: Span) -> dict[str, Any]:
        """A source's parameters."""
        if name == BASE:
            return {}
        terms = {term.name: self._numbers(term, name) for term in self.method.per_source}
        return {key: self._spelled(values, span) for key, values in terms.items()}

    def _plain(self) -> dict[str, Any]:
        """What leaves a model that stands alone as it is."""
        return {"weight": 1.0} if any(term.name == "weight" for term in self.method.per_source) else {}

    def _shared(self, span: Span, sources: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for term in self.method.shared:
            if term.kind == "flag":
                found[term.name] = self._flag(term, sources)
            elif sources:
                found[term.name] = self._spelled(self._numbers(term, None), span)
        return found

    def _flag(self, term: Term, sources: Sequence[str]) -> bool:
        value = self.reading.choice(term.name)
        if term.flag is None:
            return bool(value)
        if value == "inverse" and self._folds_inverse:
            return False
        if value not in term.flag:
            raise InvalidInputError(self.reading.field(term.name, None), value, f"one of {', '.join(term.flag)}")
        return term.flag.index(str(value)) == 1

    @property
    def _folds_inverse(self) -> bool:
        """Whether 1/density can go into the weights or λ: where every survivor is scaled by it."""
        return any(t.name == "rescale" for t in self.method.terms) and not self.recipe.merge.method.startswith("della")

    def _numbers(self, term: Term, source: str | None) -> Values:
        """A number everywhere; with `rescale: inverse`, 1/density goes into the weights or, where these are divided
        by, into λ."""
        values = self.reading.numbers(term.name, source)
        folded = "lambda" if self._normalizes else "weight"
        if term.name != folded or not self._folds_inverse or self.reading.choice("rescale") != "inverse":
            return values
        densities = {s: self.reading.numbers("density", s) for s in self.recipe.sources}
        density = densities[source] if source is not None else next(iter(densities.values()))
        if source is None and any(other != density for other in densities.values()):
            allowed = "'l1' or 'none', or normalize: false, or the same density for all sources"
            raise InvalidInputError(self.reading.field("rescale", None), "inverse", allowed)
        return _divide(values, density)

    @property
    def _normalizes(self) -> bool:
        return any(t.name == "normalize" for t in self.method.terms) and bool(self.reading.choice("normalize"))

    def _spelled(self, values: Values, span: Span) -> Any:
        return Spelling(values, span, self.reading.knots()).setting()

    def _check_fixed(self) -> None:
        """What mergekit cannot be told must be what it does."""
        reading = self.reading
        for name, value in self.method.fixed.items():
            if name == "weight":  # karcher: equal weights, whatever they are
                self._check_equal_weights()
            elif name == "divisor":
                self._check_divisor()
            elif name == "scope" and value == "tensor" and not self._trims():
                continue
            else:
                reading.require(name, value, "mergekit does nothing else")

    def _trims(self) -> bool:
        """Whether the scope of a threshold matters: it does not where everything is kept."""
        if "density" not in {term.name for term in self.method.per_source}:
            return True
        return any(d < 1 for s in self.recipe.sources for v in self.reading.numbers("density", s).values() for d in v)

    def _check_divisor(self) -> None:
        """Σw and Σ|w| differ where a weight is negative."""
        if not self._normalizes or self.reading.choice("divisor") == "signed":
            return
        for source in self.recipe.sources:
            low = min(min(value) for value in self.reading.numbers("weight", source).values())
            if low < 0:
                allowed = "weights from 0, or divisor: signed, or normalize: false: mergekit divides by Σw"
                raise InvalidInputError(self.reading.field("weight", source), low, allowed)

    def _check_equal_weights(self) -> None:
        weights = {s: self.reading.numbers("weight", s) for s in self.recipe.sources}
        first = next(iter(weights.values()))
        for source, values in weights.items():
            if values != first:
                raise InvalidInputError(self.reading.field("weight", source), "other weights", "equal weights")

    def _check_apart(self, names: Sequence[str]) -> None:
        """mergekit tells models apart by their places alone."""
        for at, name in enumerate(names):
            if self.places[name] in [self.places[other] for other in names[:at]]:
                where = self.recipe.sources[name].location
                raise InvalidInputError(f"sources.{name}.location", where, "models that differ from each other")

    def _check_number(self, sources: Sequence[str], field: str) -> None:
        least, most = self.method.least, self.method.most
        if self.method.base == "end":
            least = 1
        if len(sources) < least or (most is not None and len(sources) > most):
            allowed = f"{least} {'or more' if most is None else f'to {most}' if most > least else ''}".strip()
            raise InvalidInputError(field, list(sources), f"{allowed} source(s): mergekit merges no other number")

    def _check_alone(self, span: Span, number: int) -> None:
        """A slice of the base alone stays as it is with us: mergekit must have a way to say so."""
        alone = self.method.base == "input" or (self.method.base == "required" and self.method.most is None)
        if not alone or self.method.least > 1:
            allowed = f"a source: mergekit's {self.recipe.merge.method} needs something to merge"
            raise InvalidInputError(f"slices[{number}].sources", {}, allowed)
        for term in self.method.shared:
            if term.joined and any(v != 1 for x in self.reading.numbers(term.name).values() for v in span.of(x)):
                allowed = "1 where a slice has the base alone: mergekit would apply it there too"
                raise InvalidInputError(self.reading.field(term.name, None), "another value", allowed)


def _under(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(values)} if values else {}


def _divide(values: Values, by: Values) -> Values:
    """Entry by entry; 0 where nothing survives anyway."""
    return {m: tuple(v / d if d else 0.0 for v, d in zip(values[m], by[m], strict=True)) for m in values}


def _spans(slices: Sequence[Slice]) -> list[Span]:
    spans, begin = [], 0
    for number, part in enumerate(slices):
        spans.append(Span(begin, part.num_layers, first=number == 0, last=number == len(slices) - 1))
        begin += part.num_layers
    return spans


def _check_rules(recipe: Recipe, num_layers: int, modules: Mapping[str, str]) -> None:
    for number, rule in enumerate(recipe.merge.rules):
        if rule.layers is not None and rule.layers[1] >= num_layers:
            allowed = f"layers 0 to {num_layers - 1} of the {'merged' if recipe.slices else 'base'} model"
            raise InvalidInputError(f"merge.rules[{number}].layers", list(rule.layers), allowed)
        for pattern in rule.roles:
            if not any(role_matches(role, (pattern,)) for role in modules.values()):
                allowed = f"a role of the base model: {', '.join(sorted(set(modules.values())))}"
                raise InvalidInputError(f"merge.rules[{number}].roles", pattern, allowed)


def _check_rest(recipe: Recipe) -> None:
    """Parts of a recipe that change the weights and that mergekit does not know."""
    for field in ("carry", "align", "calibration", "output"):
        if getattr(recipe, field) is not None:
            raise InvalidInputError(field, "a section", "none: mergekit has no such step")


def _places(recipe: Recipe, adapters: Collection[str] | None) -> dict[str, str]:
    """Name of a source (`BASE`: the base) → how mergekit names the model."""
    base = _place(recipe.base, "base")
    places: dict[str, str] = {BASE: base}
    for name, ref in recipe.sources.items():
        path = _place(ref, f"sources.{name}")
        adapter = name in adapters if adapters is not None else (Path(ref.location) / "adapter_config.json").is_file()
        places[name] = f"{base}+{path}" if adapter else path
    return places


def _place(ref: ModelRef, where: str) -> str:
    path = ref.location.removeprefix("hub:")
    if path == ref.location and path.lower().endswith((".yaml", ".yml", ".json")):
        raise InvalidInputError(f"{where}.location", ref.location, "a model's directory: merge that recipe first")
    if "+" in path or "@" in path:
        raise InvalidInputError(
            f"{where}.location", ref.location, "a place without + and @, which mergekit reads apart"
        )
    return f"{path}@{ref.revision}" if ref.revision else path
