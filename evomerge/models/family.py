"""Families of models as data: which tensor names there are and what part each plays.

`families.json` holds, per `model_type` of a config.json: `modules` (name template → role; a module's weight and bias
have its role), `buffers` (whole tensor names that are copied), `layers` (the config's key for their number), `prefix`
(what some checkpoints leave off), `head` and `embedding`, `tied_by_default` (when the config does not say), `aliases`
(other spellings), `transposed` (roles whose matrices are stored (in × out)) and `like` (a family whose entries are
taken over first).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LAYER = "{layer}"
BUFFER = "buffer"


@dataclass(frozen=True, slots=True)
class Family:
    """One entry of `families.json`, complete."""

    name: str
    title: str
    layers: str
    prefix: str
    head: str
    embedding: str
    tied_by_default: bool
    modules: Mapping[str, str]
    buffers: frozenset[str]
    aliases: Mapping[str, str]
    transposed: frozenset[str]

    def canonical(self, name: str) -> str | None:
        """A tensor's full name in this family's own spelling; None where the family has no such tensor."""
        for spelling in (name, self.prefix + name):
            spelled = self.aliases.get(spelling, spelling)
            if self.role(spelled) is not None:
                return spelled
        return None

    def role(self, name: str) -> str | None:
        """The role of a tensor by its canonical name; None where the family has no such tensor."""
        template, _ = split_layer(name)
        if template in self.buffers:
            return BUFFER
        module, _, kind = template.rpartition(".")
        return self.modules.get(module) if kind in ("weight", "bias") else None

    def weights(self, *, in_layers: bool) -> set[str]:
        """Templates of the weights that every model of the family has, inside the layers or outside."""
        return {f"{module}.weight" for module in self.modules if (LAYER in module) == in_layers}


def split_layer(name: str) -> tuple[str, int | None]:
    """A tensor's name with its layer's number cut out, and the number.

    >>> split_layer("model.layers.11.mlp.up_proj.weight")
    ('model.layers.{layer}.mlp.up_proj.weight', 11)
    """
    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isascii() and part.isdigit():
            return ".".join([*parts[:at], LAYER, *parts[at + 1 :]]), int(part)
    return name, None


@cache
def families() -> Mapping[str, Family]:
    """Every known family by its `model_type`."""
    data: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("families.json").read_text("utf-8"))
    return {name: _family(name, _complete(name, data)) for name in data}


def _complete(name: str, data: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    entry = data[name]
    if "like" not in entry:
        return entry
    parent = _complete(entry["like"], data)
    return {**parent, **entry, "modules": {**parent["modules"], **entry.get("modules", {})}}


def _family(name: str, entry: Mapping[str, Any]) -> Family:
    return Family(
        name=name,
        title=entry["title"],
        layers=entry["layers"],
        prefix=entry["prefix"],
        head=entry["head"],
        embedding=entry["embedding"],
        tied_by_default=entry["tied_by_default"],
        modules=entry["modules"],
        buffers=frozenset(entry["buffers"]),
        aliases=entry.get("aliases", {}),
        transposed=frozenset(entry.get("transposed", ())),
    )
