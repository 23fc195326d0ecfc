"""Families of models as data: which tensor names there are and what part each plays.

`families.json` holds, per `model_type` of a config.json: `modules` (name template → role; a module's weight and bias
have its role), `buffers` (whole tensor names that are copied), `layers` (the config's key for their number), `prefix`
(what some checkpoints leave off), `head` and `embedding`, `tied_by_default` (when the config does not say), `aliases`
(other spellings), `transposed` (roles whose matrices are stored (in × out)) and `like` (a family whose entries are
taken over first; a module whose role is null is taken out again). `flow` says which roles in a layer read the residual
stream through a norm and which write to it, or why layers of that family cannot be put on a path.

Mixtures of experts add `experts` (the config's keys for their number, the first that is there counts), `alternatives`
(lists of roles of which a layer has one whole and nothing of the others: dense layers between sparse ones) and `fused`
(a live tensor in which transformers stacks the experts → the matrices that lie under each other for one expert).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from evomerge.errors import ArchitectureError

LAYER = "{layer}"
EXPERT = "{expert}"
BUFFER = "buffer"
KINDS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Flow:
    """How a layer h + f(norm(h)) is tied to the residual stream h: all else in it is between these.

    Attributes:
        norms: roles of the RMSNorms through which it reads; they do not see a scale of h (up to their epsilon).
        attention, mlp: roles, in attention and in the MLP, whose outputs are added to h.
    """

    norms: tuple[str, ...]
    attention: tuple[str, ...]
    mlp: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One entry of `families.json`, complete; or what `evomerge.models.inferred` read off one model.

    Attributes:
        tensors: templates of whole names → role, of tensors that are neither a weight nor a bias.
        stacks: of an inferred family: what stands before the number of a layer, where other modules have numbers, too.
    """

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
    flow: Flow | str
    experts: tuple[str, ...] = ()
    alternatives: tuple[tuple[str, ...], ...] = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    stacks: tuple[str, ...] = ()

    @property
    def layer_flow(self) -> Flow:
        """`flow` of a family whose layers can be put on a path.

        Raises:
            ArchitectureError: names the family, and why not.
        """
        if isinstance(self.flow, str):
            raise ArchitectureError(f"layers of {self.title} ({self.name}) cannot be put on a path: {self.flow}")
        return self.flow

    @property
    def inferred(self) -> bool:
        """Whether nobody described it: of its structure only what names say is known."""
        return bool(self.stacks)

    def canonical(self, name: str) -> str | None:
        """A tensor's full name in this family's own spelling; None where the family has no such tensor."""
        for spelling in (name, self.prefix + name):
            template, layer, expert = split_numbers(spelling)
            spelled = fill_numbers(self.aliases.get(template, template), layer, expert)
            if self.role(spelled) is not None:
                return spelled
        return None

    def role(self, name: str) -> str | None:
        """The role of a tensor by its canonical name; None where the family has no such tensor."""
        template, *_ = split_numbers(name)
        if template in self.buffers:
            return BUFFER
        if template in self.tensors:
            return self.tensors[template]
        module, _, kind = template.rpartition(".")
        return self.modules.get(module) if kind in KINDS else None

    def weights(self, *, in_layers: bool) -> set[str]:
        """Templates of the weights that every model of the family has, inside the layers or outside."""
        return {f"{module}.weight" for module in self.modules if (LAYER in module) == in_layers}

    def foreign(self, templates: set[str]) -> set[str]:
        """Templates that a layer with these does not have, since it has another of the `alternatives`.

        Of a layer that has none or several of them, the first that it has anything of counts, in the family's order.
        """
        roles = [{role for t in templates if (role := self.role(t)) in group} for group in self.alternatives]
        kept = max(range(len(roles)), key=lambda i: bool(roles[i]), default=None)
        others = {role for i, group in enumerate(self.alternatives) if i != kept for role in group}
        return {f"{module}.{kind}" for module, role in self.modules.items() if role in others for kind in KINDS}

    def num_experts(self, config: Mapping[str, Any]) -> int:
        """How many experts each sparse layer has, by config.json; 0 in a family without any.

        Raises:
            ArchitectureError: the config does not say.
        """
        if not self.experts:
            return 0
        key = next((key for key in self.experts if key in config), self.experts[0])
        number = config.get(key)
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ArchitectureError(f"config.json: {key} is {number!r}; expected a whole number from 1")
        return number


@cache
def split_numbers(name: str) -> tuple[str, int | None, int | None]:
    """A tensor's name with its layer's and its expert's number cut out, and the two numbers.

    >>> split_numbers("model.layers.11.mlp.experts.3.up_proj.weight")
    ('model.layers.{layer}.mlp.experts.{expert}.up_proj.weight', 11, 3)
    >>> split_numbers("model.norm.weight")
    ('model.norm.weight', None, None)
    """
    parts = name.split(".")
    numbered = [at for at, part in enumerate(parts) if part.isascii() and part.isdigit()][:2]
    numbers = [int(parts[at]) for at in numbered]
    for at, place in zip(numbered, (LAYER, EXPERT), strict=False):
        parts[at] = place
    layer, expert = [*numbers, None, None][:2]
    return ".".join(parts), layer, expert


def fill_numbers(template: str, layer: int | None, expert: int | None = None) -> str:
    """The name that `split_numbers` takes apart."""
    return template.replace(LAYER, str(layer)).replace(EXPERT, str(expert))


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
    modules = {**parent["modules"], **entry.get("modules", {})}
    return {**parent, **entry, "modules": {module: role for module, role in modules.items() if role is not None}}


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
        flow=_flow(entry["flow"]),
        experts=tuple(entry.get("experts", ())),
        alternatives=tuple(map(tuple, entry.get("alternatives", ()))),
        fused={live: tuple(parts) for live, parts in entry.get("fused", {}).items()},
    )


def _flow(entry: str | Mapping[str, Any]) -> Flow | str:
    return entry if isinstance(entry, str) else Flow(**{key: tuple(roles) for key, roles in entry.items()})
