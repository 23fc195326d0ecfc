"""The greedy soup: sources join an average, the best first, as long as it gets no worse."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.optimizers.checks import check_evaluation, check_problem, objective_weights
from evomerge.optimizers.corners import corners
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import as_genome
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import Restorable, pack
from evomerge.seeds import generator

Counts = tuple[int, ...]
"""How often each source is in a soup; () is a genome that is none."""

Standing = tuple[float, float]
"""What is compared: (-violation, value), larger is better (Deb 2000)."""

FAILED: Standing = (-np.inf, -np.inf)

AHEAD = 64
"""So many soups are asked at most before it is known whether they are needed."""

MOST = 1 << 20
"""Beyond so many servings a further one changes nothing."""

TRIES = 20
"""To find a random soup that nobody asked for."""

SAME = 1e-3
"""Genes no further apart are equal: spaces have grids."""


class SoupOptions(Options):
    """Options of `GreedySoup`."""

    weights: str = Field(default="", description="of the objectives in their sum, with commas between; none: 1 each")


class GreedySoup(Restorable):
    """Model soups: sources are sorted by what they score alone, and join an average if that gets no worse.

    The sources are the domain's seeds (a run that asks for this optimizer adds each source alone), or without two of
    them the start with one gene at 0 or 1; a soup is the mean of their genomes, one for the whole model.

    1. Every source alone, and the uniform soup (the start).
    2. One pass in the order of their scores: the next one joins if the soup with it is at least as good. That is the
       paper's greedy soup, after 2K answers for K sources, all on the same items.
    3. What remains of the budget goes on as Caruana et al. 2004 (Ensemble Selection from Libraries of Models, ICML) do,
       with replacement: in each round the soup itself and the soup with one more serving of each source are scored on
       new items, and the best is the next soup. If that is the soup itself, all its servings are doubled, so that the
       next one is half as large.

    - **Order of arrival**: in the pass the soups are asked, too, that will be needed if answers under way turn out one
      way or the other; when there is nothing more to know, random soups are, and in a round these may win, too.
    - **Failures** and infeasible answers are worse than all others; a source that fails alone does not join.
    - **Several objectives** are added up with `weights`.

    State is the answers of the present round, the soup, and the proposals without an answer.

    Args:
        problem: real genes; its start is the first proposal, its seeds are the sources.
        seed: of random soups.
        options: see `SoupOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, genes that are not real, or a lineage.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Wortsman et al. 2022, Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time, arXiv:2203.05482, recipe 1.
    """

    Options: ClassVar[type[Options]] = SoupOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.greedy_soup/1"
    uses_responses: ClassVar[bool] = False
    mixes_sources: ClassVar[bool] = True

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("greedy_soup", problem)
        self._problem, self._seed = problem, seed
        self._given = read(SoupOptions, options)
        self._weights = objective_weights(self._given.weights, problem.num_objectives)
        self._sources = corners(problem.domain)
        self._trials = self._round = 0
        self._order: list[int] | None = None  # of the pass; None before it
        self._next = 0  # place in the order of who may join next
        self._soup: Counts = (1,) * len(self._sources)
        self._known: dict[Counts, Standing] = {}  # of the present round
        self._asked: dict[int, tuple[int, Counts]] = {}  # trial → round, soup
        self._open: set[Counts] = set()  # asked in the present round, known or not

    @property
    def soup(self) -> Counts:
        """How often each source is in the soup as it stands."""
        return self._soup

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        counts = self._uniform() if trial == 0 else self._wanted(trial)
        genome = self._problem.start if trial == 0 else self._genome(counts)
        self._asked[trial] = self._round, counts
        self._open.add(counts)
        return Proposal(trial, tuple(map(float, genome)), self._round)

    def _uniform(self) -> Counts:
        """The start as a soup, if it is one."""
        mean = self._sources.mean(axis=0)
        return (1,) * len(mean) if np.allclose(mean, self._problem.start, rtol=0, atol=SAME) else ()

    def _genome(self, counts: Counts) -> Genome:
        shares = np.array(counts, dtype=np.float64) / sum(counts)
        return as_genome(np.clip(shares @ self._sources, 0.0, 1.0))

    def _wanted(self, trial: int) -> Counts:
        for counts in self._needed():
            if counts not in self._open:
                return counts
        return self._random(generator(self._seed, "greedy_soup", trial))

    def _random(self, rng: np.random.Generator) -> Counts:
        """A soup that nobody asked for: some of the sources, later with ever more servings beside those that are in."""
        base = np.array(self._soup) if self._round else np.zeros(len(self._sources), dtype=np.int64)
        most = 1 + int(base.max())
        for wider in range(TRIES):
            counts = tuple((base + rng.integers(0, most + 1 + wider, size=len(base))).tolist())
            if any(counts) and counts not in self._open:
                break
        return counts if any(counts) else (1,) * len(base)

    def _needed(self) -> Iterator[Counts]:
        """What must be known, the likeliest first; more than once if need be."""
        if self._order is None:
            yield from self._alone()
        elif self._round:
            yield from self._servings()
        else:
            yield from self._ahead()

    def _alone(self) -> list[Counts]:
        return [_served((0,) * len(self._sources), source) for source in range(len(self._sources))]

    def _servings(self) -> list[Counts]:
        return [self._soup, *(_served(self._soup, source) for source in range(len(self._sources)))]

    def _ahead(self) -> Iterator[Counts]:
        """The soups of the pass, whatever answers under way will be; of two ways the one in which a source joins."""
        assert self._order is not None, "the pass has begun"
        ways, count = deque([(self._soup, self._next)]), 0
        while ways and count < AHEAD:
            soup, place = ways.popleft()
            if place == len(self._order):
                continue
            larger = _served(soup, self._order[place])
            joins = self._joins(soup, larger)
            if joins is None:
                count += 1
                yield larger
            ways += [(s, place + 1) for s, way in ((larger, True), (soup, False)) if joins in (way, None)]

    def _joins(self, soup: Counts, larger: Counts) -> bool | None:
        """Whether a soup is replaced by a larger one; None as long as that is not known."""
        if soup in self._known and larger in self._known:
            return self._known[larger] >= self._known[soup]
        return None

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
        for evaluation in evaluations:
            number, counts = self._asked.pop(evaluation.trial, (-1, ()))
            if number == self._round and counts:
                self._known[counts] = self._standing(evaluation)
                while self._settle():
                    pass

    def _standing(self, evaluation: Evaluation) -> Standing:
        if evaluation.values is None:
            return FAILED
        return -evaluation.violation, float(np.dot(self._weights, evaluation.values))

    def _settle(self) -> bool:
        """Take the next step if all is known that it depends on."""
        if self._order is None:
            return self._begin_pass()
        return self._end_round() if self._round else self._join()

    def _begin_pass(self) -> bool:
        alone = self._alone()
        if not all(counts in self._known for counts in alone):
            return False
        standings = [self._known[counts] for counts in alone]
        able = [source for source, standing in enumerate(standings) if standing > FAILED]
        self._order = sorted(able, key=standings.__getitem__, reverse=True)  # equals stay in the order of the sources
        if able:
            self._soup, self._next = alone[self._order[0]], 1
        return True

    def _join(self) -> bool:
        assert self._order is not None, "the pass has begun"
        if self._next >= len(self._order):
            self._begin_round()
            return False
        larger = _served(self._soup, self._order[self._next])
        joins = self._joins(self._soup, larger)
        if joins is None:
            return False
        self._soup, self._next = larger if joins else self._soup, self._next + 1
        return True

    def _end_round(self) -> bool:
        if not all(counts in self._known for counts in self._servings()):
            return False
        best = max(self._known, key=self._known.__getitem__)
        if self._known[best] > self._known[self._soup]:
            self._soup = best
        elif sum(self._soup) < MOST:
            self._soup = tuple(2 * count for count in self._soup)
        self._begin_round()
        return False

    def _begin_round(self) -> None:
        self._round += 1
        self._known, self._open = {}, set()

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._given.model_dump(),
            "trials": self._trials,
            "round": self._round,
            "order": self._order,
            "next": self._next,
            "soup": self._soup,
            "known": list(self._known),
            "asked": [[trial, number, counts] for trial, (number, counts) in self._asked.items()],
        }
        standings = np.reshape(list(self._known.values()), (-1, 2)).astype(np.float64)
        return pack(self.SCHEMA, head, {"standings": standings})

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._round, self._next = head["trials"], head["round"], head["next"]
        self._order, self._soup = head["order"], tuple(head["soup"])
        found = zip(map(tuple, head["known"]), arrays["standings"].tolist(), strict=True)
        self._known = {counts: (violation, value) for counts, (violation, value) in found}
        self._asked = {trial: (number, tuple(counts)) for trial, number, counts in head["asked"]}
        self._open = {*self._known, *(counts for number, counts in self._asked.values() if number == self._round)}


def _served(soup: Counts, source: int) -> Counts:
    """A soup with one more serving of a source."""
    return tuple(count + (place == source) for place, count in enumerate(soup))
