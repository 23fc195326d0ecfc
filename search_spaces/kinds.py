"""The kinds of search spaces by name, and how a run's `space` becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import TensorInfo
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.schema import Dtype, ModelRef
from search_spaces.data_flow import DataFlowSpec, data_flow_space
from search_spaces.hybrid import HybridSpec, hybrid_space
from search_spaces.lineage import LineageSpec, lineage_space
from search_spaces.parameter import ParameterSpec, parameter_space
from search_spaces.room import check_room
from search_spaces.setting import Setting
from search_spaces.space import SearchSpace


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of search space.

    Attributes:
        title: one line for people.
        make: (spec, setting) → space; raises InvalidInputError whose field is a key of the spec.
        schema: () → JSON schema of the spec.
    """

    title: str
    make: Callable[[Mapping[str, Any], Setting], SearchSpace]
    schema: Callable[[], dict[str, Any]]


KINDS: dict[str, Kind] = {
    "parameter": Kind(
        "merge methods; a weight (and more) per source, group of layers and group of roles",
        parameter_space,
        ParameterSpec.model_json_schema,
    ),
    "data_flow": Kind(
        "paths: which layers of which models a token goes through, each with a scale",
        data_flow_space,
        DataFlowSpec.model_json_schema,
    ),
    "hybrid": Kind(
        "both in one genome: paths may visit the layers of the merge",
        hybrid_space,
        HybridSpec.model_json_schema,
    ),
    "lineage": Kind(
        "descendants of the sources by crossings at split points (M2N2)",
        lineage_space,
        LineageSpec.model_json_schema,
    ),
}


def make_space(
    spec: Mapping[str, Any],
    *,
    base: ModelRef,
    sources: Mapping[str, ModelRef],
    architecture: Architecture,
    dtype: Dtype = "bfloat16",
    seed: int = 0,
    calibration: Calibration | None = None,
    tensors: Mapping[str, TensorInfo] | None = None,
    cache: Path | None = None,
    shared: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """The search space that a run asks for.

    Args:
        spec: a run's `space`; its `kind` is a key of `KINDS`, the rest is the kind's own.
        base, sources: go into every recipe.
        architecture: of the base: layers and roles to form groups of.
        dtype, seed: go into every recipe; one seed, so that candidates of random methods share their masks.
        calibration: goes into every recipe; methods that read statistics of the models need it.
        tensors: of the base, by name; spaces that look into tensors need them.
        cache: a folder for what is read of the models once.
        shared: what every recipe says beside models and merge (`evomerge.recipe.shared.shared_fields`).

    Raises:
        InvalidInputError: the spec asks for something that is not there; `field` begins with `space`, or is the one of
            `shared` that such a space has no room for.
    """
    setting = Setting(
        base=base,
        sources=dict(sorted(sources.items())),
        architecture=architecture,
        dtype=dtype,
        seed=seed,
        calibration=calibration,
        tensors=tensors or {},
        cache=cache,
        shared=shared or {},
    )
    kind = spec.get("kind", "parameter")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidInputError("space.kind", kind, f"one of {', '.join(KINDS)}")
    try:
        space = KINDS[kind].make(spec, setting)
    except InvalidInputError as error:
        field = "space" if error.field == "document" else f"space.{error.field}"
        raise InvalidInputError(field, error.value, error.allowed) from error
    check_room(space, setting)
    return space
