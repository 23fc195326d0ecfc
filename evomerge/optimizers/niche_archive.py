"""The population of M2N2: as many candidates as there are places, and who leaves when another one comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Genome
from evomerge.optimizers.niches import Contest, Rules, Vector, contest, roulette


@dataclass(frozen=True, slots=True)
class Member:
    """A candidate that was scored.

    Attributes:
        trial: its number.
        genome: empty in a lineage.
        violation: by how much it misses constraints; 0: feasible.
        mean: the mean over objectives of its mean score on their items, as told.
    """

    trial: int
    genome: Genome
    violation: float
    mean: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Feasible before infeasible, then by mean, then the earlier one; larger is better."""
        return -self.violation, self.mean, -self.trial


class NicheArchive:
    """Members that compete for items, all scored on the same ones.

    A child takes an empty place, or the place of the one whose shared fitness is the smallest when the child is counted
    in; the first one at a tie, so the child wins ties. It may be the child itself. Infeasible members leave before any
    feasible one, the worst first, and do not compete with feasible ones (Deb 2000). The members that are best by mean
    may well be evicted: they fill niches that are crowded. They are remembered as `elite`, from which nobody breeds.

    Args:
        places: P.
        rules: of the competition.
        generation: whose items these are.

    Attributes:
        members: in their places.
        elite: the best by mean that there ever were, as many as there are places, best first.
        layout: items of each objective; None: not known yet; (): there are means only.
    """

    def __init__(self, places: int, rules: Rules, generation: int) -> None:
        self.places, self.rules, self.generation = places, rules, generation
        self.members: tuple[Member, ...] = ()
        self.elite: tuple[Member, ...] = ()
        self.layout: tuple[int, ...] | None = None
        self._raw = np.empty((0, 0))
        self._contest: Contest | None = None

    def __len__(self) -> int:
        return len(self.members)

    @property
    def full(self) -> bool:
        """Whether no place is empty."""
        return len(self) >= self.places

    @property
    def scores(self) -> NDArray[np.float64]:
        """Shape [members, items], as told."""
        return self._raw

    @property
    def contest(self) -> Contest:
        """Of the feasible members, or of all where none is; at least one member."""
        if self._contest is None:
            rivals = self._rivals()
            self._contest = self._compete(self._raw[rivals])
        return self._contest

    def add(self, trial: int, genome: Genome, violation: float, blocks: Sequence[Sequence[float]]) -> bool:
        """Whether the candidate stays.

        Args:
            blocks: for each objective its scores; one score each where means only are known.
        """
        mean = float(np.mean([np.mean(block) for block in blocks]))
        child = Member(trial, genome, violation, mean)
        self.elite = tuple(sorted((*self.elite, child), key=lambda m: m.rank, reverse=True)[: self.places])
        row = np.concatenate([np.asarray(block, float) for block in blocks])
        raw = np.vstack([self._raw, row]) if len(self) else row[None]
        family = (*self.members, child)
        leaves = self._worst(family, raw) if self.full else None
        if leaves == len(self.members):
            return False
        if leaves is not None:  # the child takes the very place: of equals, the first one leaves
            raw, family = raw[:-1], (*family[:leaves], child, *family[leaves + 1 : -1])
            raw[leaves] = row
        self._raw, self.members, self._contest = raw, family, None
        return True

    def _worst(self, family: tuple[Member, ...], raw: NDArray[np.float64]) -> int:
        violations = [member.violation for member in family]
        if any(violations):
            return violations.index(max(violations))
        return int(self._compete(raw).fitness.argmin())

    def _compete(self, raw: NDArray[np.float64]) -> Contest:
        layout = self.layout or ()
        return contest(raw, layout or (1,) * raw.shape[1], self.rules, means=not layout)

    def _rivals(self) -> list[int]:
        feasible = [i for i, member in enumerate(self.members) if not member.violation]
        return feasible or list(range(len(self)))

    def parents(self, rng: np.random.Generator) -> tuple[Member, Member]:
        """Two different members: one by shared fitness, the other by what it adds to the first (eq. 4).

        Where nobody adds anything (the authors' program divides 0 by 0 there) the second is any other one.
        """
        rivals = self._rivals()
        fitness = self.contest.fitness
        feasible = not self.members[rivals[0]].violation
        first = roulette(fitness if feasible else np.ones_like(fitness), rng)
        return self.members[rivals[first]], self._partner(rivals, first, fitness, rng)

    def _partner(self, rivals: list[int], first: int, fitness: Vector, rng: np.random.Generator) -> Member:
        others = [i for i in range(len(self)) if i != rivals[first]]
        if len(rivals) == 1:
            return self.members[others[int(rng.integers(len(others)))]]
        weights = fitness.copy() if self.rules.attraction == "none" else self.contest.attraction(first)
        weights[first] = 0.0
        if not weights.any():
            weights[:] = 1.0
            weights[first] = 0.0
        return self.members[rivals[roulette(weights, rng)]]

    def dump(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What fits JSON, and arrays; `load` reads them. Scores of 0 and 1 take a byte each."""
        raw, people = self._raw, (*self.members, *self.elite)
        head = {
            "generation": self.generation,
            "layout": self.layout,
            "trials": [m.trial for m in people],
            "members": len(self.members),
        }
        arrays = {
            "raw": raw.astype(bool) if bool(((raw == 0) | (raw == 1)).all()) else raw,
            "genomes": np.array([m.genome for m in people], float),
            "ranks": np.array([(m.violation, m.mean) for m in people], float),
        }
        return head, arrays

    @classmethod
    def load(cls, places: int, rules: Rules, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `dump` wrote."""
        archive = cls(places, rules, head["generation"])
        archive.layout = None if head["layout"] is None else tuple(head["layout"])
        people = [
            Member(trial, tuple(genome.tolist()), violation, mean)
            for trial, genome, (violation, mean) in zip(
                head["trials"], arrays["genomes"], arrays["ranks"].tolist(), strict=True
            )
        ]
        archive.members, archive.elite = tuple(people[: head["members"]]), tuple(people[head["members"] :])
        archive._raw = arrays["raw"].astype(float)
        return archive
