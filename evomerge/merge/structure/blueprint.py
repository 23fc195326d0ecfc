"""What a mixture of experts is built of, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from evomerge.errors import InvalidInputError
from evomerge.merge.structure.experts import MATRICES
from evomerge.merge.structure.gates import GATES, STATES, TOKENS, Prompts
from evomerge.merge.structure.targets import Target
from evomerge.models.architecture import Architecture

BASE = "base"
"""The base model's name among the experts."""
DENSE = tuple(f"mlp.{matrix}" for matrix in MATRICES)
"""Roles of what becomes experts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a mixture is built.

    Attributes:
        to: the family: `mixtral`, `qwen2_moe` or `qwen3_moe`.
        experts_per_token: how many experts each token takes.
        gate: where the routers' rows come from: `hidden` states or cheap embeddings (`cheap_embed`) of prompts,
            `random` standard normal numbers, or `uniform`: 0, so that all experts are alike.
        prompts: for the first two: a YAML file, `NAME: {positive: [...], negative: [...]}` for each expert.
        states: for `hidden`: what enters the `mlp` or the `layer`.
        tokens: for `hidden`: `mean` of a prompt's tokens, or the `last`.
        with_base: the base's MLPs are experts too, the first ones.
        expand: how many further experts are bred from the others.
        density: the share of entries that breeding keeps.
    """

    to: str
    experts_per_token: int = 2
    gate: str = "hidden"
    prompts: Path | None = None
    states: str = "mlp"
    tokens: str = "mean"
    with_base: bool = False
    expand: int = 0
    density: float = 0.5

    def __post_init__(self) -> None:
        for name, options in (("gate", GATES), ("states", STATES), ("tokens", TOKENS)):
            if getattr(self, name) not in options:
                raise InvalidInputError(name, getattr(self, name), f"one of {', '.join(options)}")
        if (self.prompts is None) == (self.gate in ("hidden", "cheap_embed")):
            value = None if self.prompts is None else str(self.prompts)
            raise InvalidInputError("prompts", value, "a file with gate hidden or cheap_embed, and only there")
        if self.experts_per_token < 1:
            raise InvalidInputError("experts_per_token", self.experts_per_token, "1 or more")
        if self.expand < 0:
            raise InvalidInputError("expand", self.expand, "0 or more")
        if not 0 < self.density <= 1:
            raise InvalidInputError("density", self.density, "a share above 0, at most 1")

    @property
    def plain(self) -> dict[str, object]:
        """What decides the weights, without the place of a file, whose content is what counts."""
        return {name: value for name, value in asdict(self).items() if name != "prompts"}


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A mixture, all of it known but its weights.

    Attributes:
        names: of all experts, in their order; the children come last.
        originals: how many of them are models of the recipe.
        mlps: layer → matrix → the base's tensor.
        prompts: of the originals.
    """

    target: Target
    settings: Settings
    names: tuple[str, ...]
    originals: int
    mlps: tuple[Mapping[str, str], ...]
    prompts: Mapping[str, Prompts]
    seed: int


def mlps_of(architecture: Architecture) -> tuple[Mapping[str, str], ...]:
    """The dense MLPs: layer → matrix → tensor."""
    found: list[dict[str, str]] = [{} for _ in range(architecture.num_layers)]
    for name, part in architecture.parts.items():
        if part.layer is not None and part.role in DENSE:
            found[part.layer][part.role.rpartition(".")[2]] = name
    return tuple(found)
