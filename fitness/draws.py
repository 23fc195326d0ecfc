"""The items of a run's generations: drawn once, the same for all who answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from evomerge.run import spec
from fitness.estimate import design
from fitness.items import EvalSet, Item, Split
from fitness.racing import nested
from fitness.subset import Subset, draw
from fitness.survey import Design

INFORMED = ("informed", "parent_neyman", "hybrid", "adaptive")
"""Policies that draw by how the baselines answered: these answer all search items."""


class Draws:
    """Subsets of eval sets by generation and fidelity.

    Args:
        asked: eval set → items that a candidate answers; None is all of them.
        policy: of the run.
        seed: the run's.
    """

    def __init__(
        self, eval_sets: Mapping[str, EvalSet], asked: Mapping[str, int | None], policy: spec.Subset, seed: int
    ) -> None:
        self.asked = dict(asked)
        self.fixed_by_answers = not policy.rotate and policy.policy in INFORMED
        """Whether all candidates answer the same items, drawn when the baselines have answered everything."""
        self._sets, self._policy, self._seed = dict(eval_sets), policy, seed
        self._strata: dict[str, Mapping[str, str]] = {}
        self._deviations: dict[str, Mapping[str, float]] = {}
        self._learnt: dict[tuple[str, int], Mapping[str, float]] = {}
        self._shared: dict[tuple[str, Subset], Mapping[str, float]] = {}  # by which subsets were shared out
        self._chosen: dict[tuple[str, int], frozenset[str]] = {}
        self._drawn: dict[tuple[str, int, float], Subset] = {}
        self._whole: dict[tuple[str, Split], Subset] = {}
        self._designs: dict[tuple[str, Split, Subset], Design] = {}

    def population(self, eval_set: str, split: Split = "search") -> tuple[Item, ...]:
        """All items of a split, in file order."""
        return self._sets[eval_set].split(split)

    def stratify(self, eval_set: str, strata: Mapping[str, str], deviations: Mapping[str, float] | None = None) -> None:
        """From generation 1 on, draw by these strata (item → stratum) in the place of the items' groups; at once, where
        items are fixed by the baselines' answers.

        Args:
            deviations: stratum → standard deviation, where items are to be shared out by Neyman's rule, until `share`
                knows better.
        """
        self._strata[eval_set] = {item: _named(stratum) for item, stratum in strata.items()}
        if deviations is not None:
            self._deviations[eval_set] = {_named(stratum): found for stratum, found in deviations.items()}
        self._forget(eval_set)

    def choose(self, generation: int, chosen: Mapping[str, Sequence[str]]) -> None:
        """Have a generation answer these items for certain; the rest of its items is drawn from the others. Before any
        of its candidates is asked."""
        for name, ids in chosen.items():
            self._chosen[name, self.number(generation)] = frozenset(ids)
            self._forget(name, self.number(generation))

    def share(self, generation: int, deviations: Mapping[str, Mapping[str, float]]) -> None:
        """Have a generation's items shared out by these deviations (eval set → stratum → deviation). Before any of
        its candidates is asked."""
        for name, found in deviations.items():
            self._learnt[name, self.number(generation)] = {_named(stratum): value for stratum, value in found.items()}
            self._forget(name, self.number(generation))

    def subset(self, eval_set: str, generation: int, fidelity: float = 1.0) -> Subset:
        """What a generation is asked; below fidelity 1, up to the end of a race's block."""
        if fidelity < 1:
            found = self.part(eval_set, generation, fidelity)
            assert found is not None, "races end at shares that hold enough items"
            return found
        key = (eval_set, self.number(generation), fidelity)
        if key not in self._drawn:
            self._drawn[key] = self._draw(*key)
        return self._drawn[key]

    def part(self, eval_set: str, generation: int, share: float) -> Subset | None:
        """A share of the usual number; None where it is too small to judge by."""
        key = (eval_set, self.number(generation), share)
        if key not in self._drawn:
            whole = self.subset(eval_set, generation)
            shared = self._shared.get((eval_set, whole))
            least = 1 if shared is None else 2
            found = nested(whole, share, seed=self._seed, generation=key[1], eval_set=eval_set, least=least)
            if found is None:
                return None
            if shared is not None:
                self._shared[eval_set, found] = shared
            self._drawn[key] = found
        return self._drawn[key]

    def everything(self, eval_set: str, split: Split) -> Subset:
        """All items of a split."""
        if (eval_set, split) not in self._whole:
            population = self.population(eval_set, split)
            self._whole[eval_set, split] = draw(population, None, policy=self._kind, seed=0, generation=0)
        return self._whole[eval_set, split]

    def design(self, eval_set: str, split: Split, subset: Subset) -> Design:
        """What a subset's items stand for."""
        key = (eval_set, split, subset)
        if key not in self._designs:
            population = self.population(eval_set, split)
            strata = self._strata.get(eval_set, {})
            if split == "search" and not set(strata.values()).isdisjoint(subset.strata):
                population = _relabelled(population, strata)
            found = design(subset, population)
            if (shared := self._shared.get((eval_set, subset))) is not None:
                expected = np.asarray([shared[stratum] for stratum in sorted(set(subset.strata))])
                found = replace(found, separate=True, deviations=expected)
            self._designs[key] = found
        return self._designs[key]

    def number(self, generation: int) -> int:
        """Of the draw that a generation answers."""
        return generation if self._policy.rotate else 0

    def _learns(self, number: int) -> bool:
        """Whether a draw comes after the baselines' answers."""
        return number > 0 or self.fixed_by_answers

    def _forget(self, eval_set: str, number: int | None = None) -> None:
        """One draw or all, made knowing less, for nobody but baselines: those answer everything."""
        stale = {k for k in self._drawn if k[0] == eval_set and self._learns(k[1]) and number in (None, k[1])}
        self._drawn = {key: found for key, found in self._drawn.items() if key not in stale}

    @property
    def _kind(self) -> spec.DrawPolicy:
        return "random" if self._policy.policy == "random" else "stratified"

    def _draw(self, eval_set: str, generation: int, fidelity: float) -> Subset:
        population, asked = self.population(eval_set), self.asked[eval_set]
        if self._learns(generation) and eval_set in self._strata:
            population = _relabelled(population, self._strata[eval_set])
        chosen = self._chosen.get((eval_set, generation), frozenset())
        left = [item for item in population if item.id not in chosen]
        n = None if asked is None else max(1, asked - len(chosen))
        deviations = None
        if self._learns(generation) and eval_set in self._deviations:
            deviations = self._learnt.get((eval_set, generation), self._deviations[eval_set])
        found = draw(
            left, n, policy=self._kind, seed=self._seed, generation=generation, eval_set=eval_set, fidelity=fidelity,
            deviations=deviations,
        )  # fmt: skip
        found = found.beside(chosen)
        if deviations is not None and set(found.strata) <= deviations.keys():  # else too few items for strata
            self._shared[eval_set, found] = deviations
        return found


def _named(stratum: str) -> str:
    return f"\0{stratum}"  # no group's name


def _relabelled(population: Sequence[Item], strata: Mapping[str, str]) -> tuple[Item, ...]:
    return tuple(replace(item, group=strata[item.id]) for item in population)
