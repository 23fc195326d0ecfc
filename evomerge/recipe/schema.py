"""Recipe schema v1: a complete, replayable description of one merged model, as frozen data.

The digest covers what decides the merged weights and nothing else: not where the sources lie (their hashes do that),
not the provenance.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from evomerge.recipe.align import Align, AlignByNames
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.carry import Carry, paired_by_names
from evomerge.recipe.output import Output
from evomerge.recipe.path import MERGED, LayerPath
from evomerge.recipe.segments import Segments
from evomerge.recipe.slices import Slice
from evomerge.recipe.tokens import TokenRule

RESERVED = ("base", "union", "same")
"""No names of sources: where a recipe names a model or a vocabulary they mean something else."""


class WrongFieldError(ValueError):
    """A check across fields found which one is wrong.

    Args:
        path: of the field, from the model whose check it is.
        value: what it holds.
        allowed: what would be accepted, in words.
    """

    def __init__(self, path: tuple[str | int, ...], value: object, allowed: str) -> None:
        self.path, self.value, self.allowed = path, value, allowed
        super().__init__(f"{'.'.join(map(str, path))}: got {value!r}; expected {allowed}")


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"another name: {', '.join(RESERVED)} mean something else in a recipe")
    return name


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
SourceName = Annotated[Name, AfterValidator(_not_reserved)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Dtype = Literal["float32", "bfloat16", "float16"]
Knots = Annotated[tuple[float, ...], Field(min_length=1)]
ParameterValue = bool | float | str | Knots
"""One value everywhere, or knots: floats spread evenly over the depth and interpolated linearly between.

Of n knots over a model of L layers, layer l reads position l·(n−1)/(L−1); tensors before the first layer read the
first knot, tensors after the last layer the last.
"""
Parameters = dict[str, ParameterValue]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def _json_value(value: Any) -> Any:
    """Tuples become lists; what JSON cannot hold is refused, so that every recipe can be written and read back."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("text as every key in provenance")
        return {_json_value(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    if isinstance(value, str):
        value.encode()  # a lone surrogate is a UnicodeEncodeError, hence a ValueError
        return value
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"text, finite numbers, true, false, null, lists and mappings in provenance, not {value!r}")


def _by_name(sources: dict[str, ModelRef]) -> dict[str, ModelRef]:
    return dict(sorted(sources.items()))


class ModelRef(_Frozen):
    """A model by place and content.

    Attributes:
        location: a directory (safetensors checkpoint, or a PEFT LoRA adapter), a recipe file, or `hub:owner/name`.
        revision: of a hub model.
        sha256: of the weights (`evomerge.models.checkpoint.content_hash`), or a recipe's digest. Materializing refuses
            a mismatch; without it, whatever lies there is taken.
    """

    location: str = Field(min_length=1, max_length=4096)
    revision: str | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _revision_of_the_hub(self) -> ModelRef:
        if self.revision is not None and not self.location.startswith("hub:"):
            raise WrongFieldError(
                ("revision",), self.revision, "none: only models of the hub (hub:OWNER/NAME) have one"
            )
        return self


class Rule(_Frozen):
    """Narrows parameters to layers, roles or one source. Later rules win over earlier ones.

    Attributes:
        layers: first and last layer, both included; None is every tensor, also those outside the layers.
        roles: role names or their prefixes (`attention` covers `attention.q`); empty is every role.
        source: with a source, the parameters are that source's; without, they hold for all.
    """

    layers: tuple[int, int] | None = None
    roles: tuple[str, ...] = ()
    source: str | None = None
    parameters: Parameters

    @field_validator("layers")
    @classmethod
    def _ordered(cls, layers: tuple[int, int] | None) -> tuple[int, int] | None:
        if layers is not None and not 0 <= layers[0] <= layers[1]:
            raise ValueError("[first, last] with 0 <= first <= last")
        return layers


class Merge(_Frozen):
    """The parameter-space part: a merge method and its parameters.

    Attributes:
        method: a published method's name, or `pipeline`.
        pipeline: for `pipeline`: names of stages, in the order in which they are run.
    """

    method: str
    pipeline: tuple[str, ...] | None = None
    parameters: Parameters = Field(default_factory=dict)
    sources: dict[str, Parameters] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _stages_for_a_pipeline(self) -> Merge:
        if (self.method == "pipeline") != bool(self.pipeline):
            stages = None if self.pipeline is None else list(self.pipeline)
            raise WrongFieldError(
                ("pipeline",), stages, f"stages with method 'pipeline' and only there, not with {self.method!r}"
            )
        return self


NO_MERGE = Merge(method="linear")
"""Stands in a recipe whose path does without its parameter-space part, and has no meaning there."""


class Recipe(_Frozen):
    """One merged model. The base donates config, tokenizer and chat template.

    Sources are kept sorted by name, so that equal recipes add up in the same order and give the same bytes: where the
    order of two sources matters (slerp), it is the order of their names.

    Attributes:
        merge: may be left out where a path does not visit what it gives.
        slices: of which layers of which models the merged model is stacked; None: layer by layer.
        segments: weights of the sources themselves, segment by segment: what a lineage of crossings comes to. `merge`
            then says no more than `linear`.
        path: the way through layers of several models, what `merge` gives among them; None: the merged model is what
            `merge` gives.
        tokenizer: whose vocabulary the merged model has. `same`: that of all models, which must not differ; `base`, a
            source's name, or the `union` of all of them: rows of embedding and head are matched by token.
        tokens: token → where its rows in embedding and head come from, where the tokenizer is not the base's.
        pad_to_multiple_of: rows of embedding and head are padded to a multiple of this.
        output: what is written, if not the merged model as it is.
        chat_template: a template's text, or `auto`: the one that most of the models have; None: the base's.
        align: source name → how its units are put into the base's order; sources without an entry are taken as they
            are.
        carry: which tensors that only one source has go into the result; such a source is aligned by names.
    """

    schema_: Literal["evomerge.recipe/1"] = Field(default="evomerge.recipe/1", alias="schema")
    base: ModelRef
    sources: Annotated[dict[SourceName, ModelRef], AfterValidator(_by_name)] = Field(min_length=1)
    merge: Merge
    align: dict[Name, Align] | None = Field(default=None, min_length=1)
    carry: Carry | None = None
    calibration: Calibration | None = None
    slices: tuple[Slice, ...] | None = Field(default=None, min_length=1)
    segments: Segments | None = None
    path: LayerPath | None = None
    tokenizer: str = "same"
    tokens: dict[Annotated[str, StringConstraints(min_length=1)], TokenRule] | None = Field(default=None, min_length=1)
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    chat_template: str | None = Field(default=None, min_length=1)
    output: Output | None = None
    dtype: Dtype = "bfloat16"
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard_bytes: int = Field(default=5_000_000_000, gt=0)
    provenance: Annotated[dict[str, Any], AfterValidator(_json_value)] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _merge_where_it_counts(cls, data: Any) -> Any:
        """A path that does not visit what `merge` gives can do without it."""
        if not isinstance(data, dict) or "merge" in data or not isinstance(data.get("path"), dict | LayerPath):
            return data
        try:
            uses_merged = LayerPath.model_validate(data["path"]).uses_merged
        except ValueError:
            uses_merged = False  # what is wrong with the path is found again, and said, where it stands
        return data if uses_merged else {**data, "merge": NO_MERGE}

    @model_validator(mode="before")
    @classmethod
    def _carried_by_names(cls, data: Any) -> Any:
        return paired_by_names(data) if isinstance(data, dict) and data.get("carry") is not None else data

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        for path, name in self._named():
            if name not in self.sources:
                raise WrongFieldError(path, name, f"one of the recipe's sources: {', '.join(self.sources)}")
        return self

    @model_validator(mode="after")
    def _path_alone(self) -> Recipe:
        if self.path is None:
            return self
        if MERGED in self.sources:
            allowed = f"another name: in a recipe with a path, {MERGED} is what `merge` gives"
            raise WrongFieldError(("sources", MERGED), MERGED, allowed)
        for field in ("slices", "output"):
            if getattr(self, field) is not None:
                raise WrongFieldError((field,), f"{field} and a path", f"a path or {field}, not both")
        for field, plain in {"tokenizer": ("same", "base"), "tokens": (None,), "pad_to_multiple_of": (None,)}.items():
            if self.path.host != MERGED and getattr(self, field) not in plain:
                allowed = f"none where the path's host is {self.path.host}: the model has its host's vocabulary"
                raise WrongFieldError((field,), getattr(self, field), allowed)
        for name in sorted(set(self.align or ()).intersection(self.path.models)):
            allowed = "a source that the path does not visit: a layer that is visited stays as it is"
            raise WrongFieldError(("align", name), name, allowed)
        for number, scale, allowed in self.path.wrong_scales():
            raise WrongFieldError(("path", "layers", number, "scale"), scale, allowed)
        return self

    @model_validator(mode="after")
    def _segments_alone(self) -> Recipe:
        if self.segments is None:
            return self
        if self.merge.method != "linear":
            allowed = "linear: with segments, a model is a sum of its sources"
            raise WrongFieldError(("merge", "method"), self.merge.method, allowed)
        for field in ("parameters", "sources", "rules"):
            if getattr(self.merge, field):
                raise WrongFieldError(("merge", field), f"{field} and segments", "none: the segments say the weights")
        for field, plain in {"slices": (None,), "tokenizer": ("same", "base"), "tokens": (None,),
                             "pad_to_multiple_of": (None,)}.items():  # fmt: skip
            if getattr(self, field) not in plain:
                allowed = "none with segments: they are about the base's tensors as they are"
                raise WrongFieldError((field,), getattr(self, field), allowed)
        for path, value, allowed in self.segments.wrong(self.sources):
            raise WrongFieldError(path, value, allowed)
        return self

    @model_validator(mode="after")
    def _carry_alone(self) -> Recipe:
        if self.carry is None:
            return self
        host = self.carry.host
        if host not in (None, *self.carry.sources):
            allowed = f"a source that is carried from: {', '.join(self.carry.sources)}"
            raise WrongFieldError(("carry", "host"), host, allowed)
        for field in ("slices", "segments", "path", "output"):
            if getattr(self, field) is not None:
                raise WrongFieldError((field,), f"{field} and carry", f"carry or {field}, not both")
        for name in self.carry.sources:
            if not isinstance(how := (self.align or {})[name], AlignByNames):
                allowed = "names, or no entry: a source with tensors of its own is paired with the base by names"
                raise WrongFieldError(("align", name, "method"), how.method, allowed)
        return self

    def _named(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Where sources are named, and how."""
        yield from ((("merge", "sources", name), name) for name in self.merge.sources)
        for number, rule in enumerate(self.merge.rules):
            if rule.source is not None:
                yield ("merge", "rules", number, "source"), rule.source
        if self.carry is not None:
            yield from ((("carry", "sources", name), name) for name in self.carry.sources)
        yield from ((("align", name), name) for name in self.align or ())
        for number, part in enumerate(self.slices or ()):
            yield from ((("slices", number, "sources", name), name) for name in part.sources)
        if self.path is not None:
            own = ("base", MERGED)
            hops = ((("path", "layers", number, "model"), hop.model) for number, hop in enumerate(self.path.layers))
            yield from ((at, name) for at, name in ((("path", "host"), self.path.host), *hops) if name not in own)
        if self.tokenizer not in RESERVED:
            yield ("tokenizer",), self.tokenizer
        for token, asked in (self.tokens or {}).items():
            if asked.model not in (None, "base"):
                yield ("tokens", token, "model"), asked.model
        if self.calibration is not None:
            yield from ((("calibration", "sources", name), name) for name in self.calibration.sources)
            yield from ((("calibration", "moments", name), name) for name in self.calibration.moments)

    def canonical(self) -> dict[str, Any]:
        """What decides the weights, JSON-ready: locations only where no hash pins the content."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"provenance", "shard_bytes"})
        for ref in [data["base"], *data["sources"].values()]:
            if "sha256" in ref:
                ref.pop("location")
                ref.pop("revision", None)
        if self.tokenizer == "same":
            data["tokenizer"] = "base"  # where models have the same vocabulary, the base's is what both give
        if self.calibration is not None:
            _forget_places(data["calibration"])
        for align in data.get("align", {}).values():
            if "sha256" in (items := align.get("items", {})):
                items.pop("location")
        if self.segments is not None:
            data["segments"].pop("angle", None)
        if self.path is not None:
            _forget_what_no_path_visits(data, self.path)
        return data

    @property
    def parameter_part(self) -> Recipe:
        """The recipe without its path: what a path calls `merged`."""
        return self.model_copy(update={"path": None})

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal; the recipe's name in stores and caches."""
        return hashlib.sha256(canonical_json(self.canonical()).encode()).hexdigest()


def _forget_places(calibration: dict[str, Any]) -> None:
    """Drop the locations of files that a hash pins."""
    files = [calibration.get("items", {}), *calibration["sources"].values(), *calibration["moments"].values()]
    for file in files:
        if "sha256" in file:
            file.pop("location")


def _forget_what_no_path_visits(data: dict[str, Any], path: LayerPath) -> None:
    """Recipes of one path and one digest: what has no part in it counts for nothing, and semantics only with scales."""
    if not path.scaled:
        data["path"]["semantics"] = "stream"
    if path.uses_merged:
        return
    for field in ("merge", "align", "calibration", "segments", "seed", "tokenizer"):
        data.pop(field, None)
    if data.get("chat_template") == "auto":
        return  # all models have a vote
    data["sources"] = {name: ref for name, ref in data["sources"].items() if name in path.models}


def canonical_json(value: Any) -> str:
    """The one JSON text of equal values; what digests are made of."""
    return _CANONICAL(_normal(value))


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_NORMALISED = (float, dict, list, tuple)


def _normal(value: Any) -> Any:
    """Floats that are whole numbers become ints (YAML `1` and `1.0` are one value); -0.0 becomes 0."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {k: _normal(v) if isinstance(v, _NORMALISED) else v for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(v) if isinstance(v, _NORMALISED) else v for v in value]
    return value


def role_matches(role: str, patterns: tuple[str, ...]) -> bool:
    """Whether a role is one of `patterns` or lies under one; no patterns match everything.

    >>> role_matches("attention.q", ("attention",)), role_matches("attention.q", ("mlp",)), role_matches("norm", ())
    (True, False, True)
    """
    return not patterns or any(role == p or role.startswith(p + ".") for p in patterns)
