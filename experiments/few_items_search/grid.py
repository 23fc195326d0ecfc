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


@dataclass(frozen=True, slots=True)
class Stage:
    """A grid that is collected as a whole.

    Attributes:
        levels: of math, of ja, and of es and geo alike: a space that a run can search, three ordered choices.
        most: of es and geo; higher levels of theirs are answered like this one.
    """

    levels: tuple[float, ...]
    most: float

    def merges(self) -> list[Weights]:
        """All of them, in order."""
        others = [level for level in self.levels if level <= self.most]
        return [Weights(math, ja, other, other) for math, ja, other in product(self.levels, self.levels, others)]

    def answering(self, weights: Weights) -> Weights:
        """The merge whose answers stand for a merge of the levels."""
        return Weights(weights.math, weights.ja, min(weights.es, self.most), min(weights.geo, self.most))


_FOUR, _FIVE, _SIX = (0.0, 0.3, 0.6, 0.9), (0.0, 0.3, 0.45, 0.6, 0.9), (0.0, 0.3, 0.45, 0.6, 0.75, 0.9)
STAGES = (Stage(_FOUR, 0.6), Stage(_FOUR, 0.9), Stage(_FIVE, 0.9), Stage(_SIX, 0.9))
"""What is collected first, then what it is extended to: 48, 64, 125 and 216 merges."""


def rows(seed: int = 0) -> list[Weights]:
    """The baselines, then stage after stage, each shuffled."""
    found = list(BASELINES.values())
    for stage in STAGES:
        rest = [weights for weights in stage.merges() if weights not in found]
        order = generator(seed, "rows of the table").permutation(len(rest))
        found += [rest[place] for place in order]
    return found


def recipe(weights: Weights, base: Path) -> Recipe:
    """The merge as evomerge makes it; the adapters lie in the zoo."""
    sources = {name: ModelRef(location=str(ZOO / "adapters" / name)) for name in SOURCES}
    merge = Merge(method="task_arithmetic", sources={name: {"weight": getattr(weights, name)} for name in SOURCES})
    return Recipe(base=ModelRef(location=str(base)), sources=sources, merge=merge, dtype="bfloat16")
