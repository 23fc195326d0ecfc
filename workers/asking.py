"""What a candidate is asked: a job from the run's plan, its state and the candidate's row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from evomerge.candidate import Estimate
from evomerge.optimizers.optimizer import uses_items
from evomerge.run.ranking import sign
from evomerge.run.spec import RunSpec
from evomerge.run.state import RunMachine
from evomerge.run.verification import Task
from evomerge.storage.store import CandidateRow
from fitness.measure import Control
from fitness.racing import MIN_FIELD, Race, Rivals
from workers.job import Job
from workers.setup import CONTROL, Search

Items = dict[str, tuple[str, ...]]


def job_of(search: Search, machine: RunMachine, row: CandidateRow, task: Task, control: Control | None) -> Job:
    """The job of one candidate's task."""
    recipe, items = row.recipe, _items(search, machine, row, task)
    deadline = search.spec.workers.deadline_s
    if task != "subset" or row.kind != "search":
        return Job(row.number, recipe, items, deadline)
    if search.linear is not None:
        slopes = search.plan.slopes(row.generation, machine.dialogue.fidelity(row.number))
        return Job(row.number, recipe, items, deadline, slopes)
    return Job(row.number, recipe, items, deadline, race=_race(search, machine, row, control))


def _items(search: Search, machine: RunMachine, row: CandidateRow, task: Task) -> Items:
    plan = search.plan
    if task != "subset":
        return plan.split_items(task)
    asked = plan.items(row.generation, machine.dialogue.fidelity(row.number))
    if row.kind == "baseline":
        asked |= plan.bank_items()
    # Guards compare every later generation with the base's answers, estimates with the control's.
    if row.number == 0:
        asked |= plan.guard_items()
    if row.label == CONTROL:
        asked |= plan.control_items()
    return asked


def _race(search: Search, machine: RunMachine, row: CandidateRow, control: Control | None) -> Race | None:
    """Whom a candidate runs against; None where all of its answers are wanted whatever they are."""
    shares = search.spec.subset.race
    whole = machine.dialogue.optimizer.uses_responses or uses_items(machine.dialogue.optimizer)
    if whole or len(machine.latest) < MIN_FIELD or not shares:
        return None
    laps = search.plan.laps(row.generation, machine.dialogue.fidelity(row.number), shares, control)
    if len(laps) == 1:
        return None
    own = _signed_costs(search.spec, search.costs.scores(row.recipe))
    return Race(laps, _rivals(tuple(o.is_cost for o in search.spec.objectives), tuple(machine.latest)), own)


@lru_cache(maxsize=8)
def _rivals(costs: tuple[bool, ...], latest: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]) -> Rivals:
    """The same for all candidates that are asked in one turn."""
    order = sorted(range(len(costs)), key=costs.__getitem__)  # costs last
    values, errors = zip(*latest, strict=True)
    return Rivals(*(tuple(tuple(row[k] for k in order) for row in rows) for rows in (values, errors)))


def _signed_costs(spec: RunSpec, costs: Mapping[str, Estimate]) -> tuple[float, ...]:
    return tuple(sign(o) * costs[o.name].mean for o in spec.objectives if o.is_cost)
