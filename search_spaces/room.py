"""Whether a kind of space has room for what all recipes of a search say beside models and merge."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.recipe.path import MERGED
from evomerge.recipe.shared import VOCABULARY, keeps_vocabulary
from search_spaces.data_flow import DataFlowSpace
from search_spaces.hybrid import HybridSpace
from search_spaces.lineage import CrossingSpace
from search_spaces.paths import Paths
from search_spaces.setting import Setting
from search_spaces.space import SearchSpace
from search_spaces.template import TemplateSpace


def check_room(space: SearchSpace, setting: Setting) -> None:
    """Refuse what some recipe of a space could not say.

    Raises:
        InvalidInputError: the field of the search, what it holds, and what would do.
    """
    if isinstance(space, DataFlowSpace | HybridSpace):
        _check_paths(space.paths, setting)
    if isinstance(space, CrossingSpace):
        _check_carry(setting, "lineage")
        _check_vocabulary(setting, "the base's vocabulary: a lineage is about the sources' entries as they are")
    merge = space.merge if isinstance(space, HybridSpace) else space
    if isinstance(merge, TemplateSpace):
        _check_methods([form.method for form in merge.forms], setting)


def _check_paths(paths: Paths, setting: Setting) -> None:
    _check_carry(setting, "data_flow or hybrid")
    for name in sorted(set(setting.shared.get("align", {})).intersection(paths.models)):
        allowed = "a source that no path visits: a layer that is visited stays as it is; name the others in `models`"
        raise InvalidInputError(f"align.{name}", setting.shared["align"][name]["method"], allowed)
    if paths.host != MERGED:
        _check_vocabulary(setting, f"the base's vocabulary where the path's host is {paths.host}, which has its own")


def _check_carry(setting: Setting, kind: str) -> None:
    if (carry := setting.shared.get("carry")) is not None:
        allowed = f"none with a space of kind {kind}; a space of kind parameter has room for it"
        raise InvalidInputError("carry", sorted(carry["sources"]), allowed)


def _check_vocabulary(setting: Setting, allowed: str) -> None:
    if not keeps_vocabulary(setting.shared):
        field = next(name for name in reversed(VOCABULARY) if setting.shared.get(name))
        raise InvalidInputError(field, setting.shared[field], allowed)


def _check_methods(methods: Sequence[str], setting: Setting) -> None:
    """Statistics are of the models as they are stored."""
    reading = next((name for name in methods if METHODS[name].requires), None)
    if reading is None:
        return
    if align := setting.shared.get("align"):
        allowed = f"none: {reading} reads statistics of the sources as they are stored"
        raise InvalidInputError("align", sorted(align), allowed)
    _check_vocabulary(setting, f"the base's vocabulary: {reading} reads statistics of the models in their own")
