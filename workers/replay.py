"""Proof that a stored run follows from its spec: its events are asked for again, genome by genome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.candidate import Descent, Proposal
from evomerge.recipe.schema import Recipe
from evomerge.run.dialogue import ReplayError
from evomerge.run.spec import RunSpec
from evomerge.run.state import RunMachine
from evomerge.storage.store import Event, Store
from search_spaces.space import SearchSpace, recipe_of
from workers.drive import all_events
from workers.registry import Registry
from workers.setup import baseline_recipes, optimizer_of, pinned_models, space_of


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found: so many candidates were asked for again and so many evaluations told, all as stored."""

    candidates: int
    told: int
    events: int
    state: str


def replay(store: Store, run: str, registry: Registry) -> Replayed:
    """Run a stored search again from its spec and its answers, without any model: same genomes, same recipes.

    Models are hashed and their shapes are read; nothing is evaluated.

    Raises:
        ReplayError: a candidate does not follow: another genome is asked for, or the genome gives another recipe.
        EvomergeError: the models are not there any more, or are others.
    """
    row = store.run(run)
    assert row is not None, "the caller looked"
    spec = RunSpec.model_validate(row.spec)
    models = pinned_models(spec, registry)
    space = space_of(spec, models)
    baselines = baseline_recipes(spec, models)
    machine = RunMachine(spec, optimizer_of(spec, space), list(baselines))
    digests = _Digests(space, dict(enumerate(baselines.values())), len(baselines))
    told = 0
    events = all_events(store, run)
    for event in events:
        machine.apply(event)
        if event.type == "candidate.proposed":
            digests.check(event)
        told += event.type in ("candidate.scored", "candidate.failed") and event.data["number"] >= len(baselines)
    return Replayed(machine.proposed, told, len(events), machine.phase)


class _Digests:
    """Recipes of all candidates so far, made again."""

    def __init__(self, space: SearchSpace, baselines: Mapping[int, Recipe], first: int) -> None:
        self.space, self.recipes, self.first = space, dict(baselines), first

    def check(self, event: Event) -> None:
        number, data = event.data["number"], event.data
        if data["kind"] != "baseline":
            self.recipes[number] = self._recipe(number, data)
        if self.recipes[number].digest != data["digest"]:
            found = self.recipes[number].digest
            raise ReplayError(
                f"candidate {number} is another recipe than the stored one: its digest is {found}, "
                f"stored is {data['digest']}"
            )

    def _recipe(self, number: int, data: Mapping[str, Any]) -> Recipe:
        descent = Descent.load(data["descent"]) if "descent" in data else None
        proposal = Proposal(number - self.first, tuple(data["genome"]), data["generation"], descent)
        return recipe_of(self.space, proposal, lambda trial: self.recipes[self.first + trial])
