"""Which merges the table holds: a grid of weights of task arithmetic, and what stands beside it for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.seeds import generator

ZOO = Path(__file__).resolve().parent.parent / "zoo"
SOURCES = ("math", "ja", "es", "geo")
SKILLS = ("ja_math", *SOURCES)
STAGES = ((0.0, 0.3, 0.6, 0.9), (0.0, 0.3, 0.6, 0.9, 1.2))
"""Levels of math, of ja, and of es and geo alike: what is collected first, then what it is extended to. A complete grid
is a space that a run can search: three ordered choices."""


@dataclass(frozen=True, slots=True, order=True)
class Weights:
    """One merge: the base plus so much of each source's task vector."""

    math: float
    ja: float
    es: float
    geo: float

    @property
    def name(self) -> str:
        """Unique, and the same for a baseline and for the merge of the grid that it is."""
        return "_".join(f"{getattr(self, source):g}" for source in SOURCES)


BASELINES = {
    "base": Weights(0.0, 0.0, 0.0, 0.0),
    "average": Weights(0.25, 0.25, 0.25, 0.25),
    **{source: Weights(**(dict.fromkeys(SOURCES, 0.0) | {source: 1.0})) for source in SOURCES},
}


def grid(levels: tuple[float, ...] = STAGES[-1]) -> list[Weights]:
    """All merges of the grid, in order."""
    return [Weights(math, ja, other, other) for math, ja, other in product(levels, repeat=3)]


def rows(seed: int = 0) -> list[Weights]:
    """The baselines, then stage after stage, each shuffled: what is done of a stage is a random sample of it."""
    found = list(BASELINES.values())
    for levels in STAGES:
        rest = [weights for weights in grid(levels) if weights not in found]
        order = generator(seed, "rows of the table").permutation(len(rest))
        found += [rest[place] for place in order]
    return found


def recipe(weights: Weights, base: Path) -> Recipe:
    """The merge as evomerge makes it; the adapters lie in the zoo."""
    sources = {name: ModelRef(location=str(ZOO / "adapters" / name)) for name in SOURCES}
    merge = Merge(method="task_arithmetic", sources={name: {"weight": getattr(weights, name)} for name in SOURCES})
    return Recipe(base=ModelRef(location=str(base)), sources=sources, merge=merge, dtype="bfloat16")
