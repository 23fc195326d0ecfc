"""mergekit's YAML as recipes that mean the same merge (`evomerge import`).

Filters and gradients are evaluated at every tensor, as mergekit does it, and said again as rules by layer and role.
What mergekit does by default, or always, the recipe states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.merge.mergekit.config import Config, Model, parse_config
from evomerge.merge.mergekit.inputs import MergedPart, merged_parts, recipe_base
from evomerge.merge.mergekit.methods import METHODS
from evomerge.merge.mergekit.parameters import Reading
from evomerge.merge.mergekit.references import file_names, model_ref, names_of, nearby
from evomerge.merge.mergekit.shape import UNKNOWN, Shape, shape_at
from evomerge.merge.mergekit.vocabulary import vocabulary
from evomerge.recipe.document import parse_yaml_stream
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.slices import Slice

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_DTYPE = "bfloat16"


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file of mergekit says.

    Attributes:
        recipe: the merge, the last one where there are several.
        files: name of a recipe file → recipe: merges that the others use as models; they belong beside `recipe`.
        notes: what is worth knowing, for people.
    """

    recipe: Recipe
    files: Mapping[str, Recipe]
    notes: tuple[str, ...]


def read_mergekit(text: str, where: str = "<text>", *, config: Path | None = None) -> Imported:
    """Recipes of a text for `mergekit-yaml` or, of several documents, for `mergekit-multi`.

    Args:
        where: its name, for messages.
        config: a config.json that says what tensors the models have, where they are not on this machine.

    Raises:
        InvalidInputError: it is no such text, or says what recipes cannot; names file, line and field.
    """
    documents = parse_yaml_stream(text, where)
    configs = [parse_config(document) for document in documents if document.data is not None]
    if not configs:
        raise InvalidInputError(where, "nothing", "a configuration of mergekit")
    return _Importer(configs, config).imported()


@dataclass(slots=True)
class _Importer:
    """One file: its merges by name, and what they have in common."""

    configs: list[Config]
    config_file: Path | None
    files: dict[str, Recipe] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    named: dict[str, Config] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    def imported(self) -> Imported:
        for config in self.configs:
            if config.name is not None and config.name in self.named:
                raise config.refuse(("name",), config.name, "a name that no other document has")
            if config.name is not None:
                self.named[config.name] = config
        last = self.last()
        self.places = file_names([name for name in self.named if self.named[name] is not last], {})
        recipe = self.recipe(last)
        for name, config in self.named.items():  # also those that nothing uses: mergekit makes them too
            if name in self.places and self.places[name] not in self.files:
                self.files[self.places[name]] = self.recipe(config)
        for config in self.configs:
            self.notes += config.notes
        return Imported(recipe, self.files, tuple(dict.fromkeys(self.notes)))

    def last(self) -> Config:
        """The document without a name, else the one that no other uses."""
        unnamed = [config for config in self.configs if config.name is None]
        if len(unnamed) > 1:
            raise unnamed[1].refuse(("name",), None, "a name: one document only, the last merge, may go without")
        used = {m.place for c in self.configs for m in _models(c)}
        ends = unnamed or [config for name, config in self.named.items() if name not in used]
        if not ends:
            names = list(self.named)
            raise self.configs[0].refuse(("name",), names, "merges that do not use each other in a circle")
        if len(ends) > 1:
            names = [str(config.name) for config in ends]
            raise self.configs[0].refuse(("name",), names, "one merge that no other uses: the last one")
        return ends[0]

    def recipe(self, config: Config) -> Recipe:
        if config.method not in METHODS:
            allowed = f"a method of mergekit 0.1.5: {', '.join(METHODS)}"
            raise config.refuse(("merge_method",), config.method, allowed)
        with _waiting(self, config):
            base = recipe_base(config)
            parts = merged_parts(config, base)
            names = names_of(model for part in parts for model in part.sources)
            data = {
                "base": self.ref(config, base, None),
                "sources": {name: self.ref(config, model, base) for model, name in names.items()},
            }
            shape = self.shape(config, base)
            merge = Reading(config, base, parts, names, shape).merge()
            slices = tuple(_slice(part, names) for part in parts) if config.sliced else None
            return Recipe(
                **data,
                merge=merge,
                slices=slices,
                **vocabulary(config, base, names),
                dtype=self.dtype(config, shape),
            )

    def ref(self, config: Config, model: Model, base: Model | None) -> ModelRef:
        """Where a model lies; an adapter of the base is one, others become recipes that fold them in."""
        if model.lora is None:
            return self.plain_ref(config, model)
        adapter = self.located(config, model.lora, model.lora_revision)
        plain = Model(model.place, model.revision)
        if plain == base:
            return adapter
        name = next(iter(names_of([model]).values()))
        file = file_names(
            [f"{names_of([plain])[plain]}-with-{name}"], {**self.files, **dict.fromkeys(self.places.values())}
        )
        where = next(iter(file.values()))
        found = self.shape(config, plain)
        folded = Recipe(
            base=self.plain_ref(config, plain),
            sources={name: adapter},
            merge=Merge(method="passthrough"),
            dtype=found.dtype or DEFAULT_DTYPE,
        )
        same = next((at for at, known in self.files.items() if known == folded), None)
        if same is None:
            self.files[where] = folded
        return ModelRef(location=same or where)

    def plain_ref(self, config: Config, model: Model) -> ModelRef:
        if model.place not in self.places:
            if model.place in self.named:
                raise config.refuse(("name",), model.place, "merges that do not use each other in a circle")
            return self.located(config, model.place, model.revision)
        file = self.places[model.place]
        if file not in self.files:
            self.files[file] = self.recipe(self.named[model.place])
        return ModelRef(location=file)

    def located(self, config: Config, place: str, revision: str | None) -> ModelRef:
        try:
            return model_ref(place, revision)
        except ValueError as error:
            raise config.refuse((), f"{place}@{revision}", str(error)) from error

    def shape(self, config: Config, model: Model) -> Shape:
        """What tensors a model has; unknown where neither it nor a config is at hand."""
        if model.place in self.named:
            below = self.named[model.place]
            inner = self.shape(below, recipe_base(below))
            layers = sum(part.num_layers for part in merged_parts(below, recipe_base(below)) if below.sliced)
            return inner.with_layers(layers) if below.sliced else inner
        try:
            place = self.config_file or nearby(model_ref(model.place, model.revision))
            return UNKNOWN if place is None else shape_at(place)
        except (ValueError, EvomergeError) as error:
            if self.config_file is not None:
                raise InvalidInputError("--config", str(self.config_file), f"a config.json ({error})") from error
            self.notes.append(f"{model}: not read ({error})")
            return UNKNOWN

    def dtype(self, config: Config, shape: Shape) -> str:
        for key, value in (("dtype", config.dtype), ("out_dtype", config.out_dtype)):
            if value is not None and value.removeprefix("torch.") not in DTYPES:
                raise config.refuse((key,), value, f"one of {', '.join(DTYPES)}")
        if config.dtype is not None and config.dtype.removeprefix("torch.") != "float32":
            self.notes.append(
                f"dtype {config.dtype}: mergekit rounds what it reads and what it computes to it; evomerge computes in "
                "float32 and rounds the result once"
            )
        asked = config.out_dtype or config.dtype
        if asked is None:
            found = shape.dtype or DEFAULT_DTYPE
            self.notes.append(f"no dtype: {found}, {'as the base' if shape.dtype else 'a guess'}")
            return found
        return asked.removeprefix("torch.")


def _models(config: Config) -> list[Model]:
    bases = [config.base, *(part.base for part in config.parts)]
    return [m for m in bases if m is not None] + [at.model for part in config.parts for at in part.inputs]


def _slice(part: MergedPart, names: Mapping[Model, str]) -> Slice:
    sources = {names[model]: at.layers for model, at in part.sources.items() if at.layers is not None}
    return Slice(base=part.base.layers if part.base is not None else None, sources=sources)


@contextmanager
def _waiting(importer: _Importer, config: Config) -> Iterator[None]:
    """Refuses a merge that waits for itself."""
    name = config.name or ""
    if name in importer.waiting:
        circle = " → ".join([*importer.waiting, name])
        raise config.refuse(("name",), name, f"merges that do not use each other in a circle ({circle})")
    importer.waiting.append(name)
    try:
        yield
    finally:
        importer.waiting.pop()
