"""When a search is over: the budget is spent, the target is reached, or nothing gets better any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.run.ranking import sign
from evomerge.run.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search has come.

    Attributes:
        items: answers of search candidates so far.
        hours: time in which the search was worked on; pauses do not count.
        workers: candidates that can be evaluated at the same time.
        unchanged: search candidates scored since the front last changed.
        best: objective → {mean, se, …} of the best feasible candidate; where scores have errors, of that of which most
            is believed: the best of many noisy scores is too good by more than its error.
    """

    items: int
    hours: float
    workers: int
    unchanged: int
    best: Mapping[str, Mapping[str, Any]]


def reason_to_stop(spec: RunSpec, progress: Progress) -> str | None:
    """Why the search proposes no more candidates, for a person; None while it goes on.

    The number of candidates is not looked at: a search that has proposed them all ends by itself.
    """
    budget = spec.budget
    if budget.items is not None and progress.items >= budget.items:
        return f"{progress.items} items are answered; the budget is {budget.items}"
    if budget.hours is not None and progress.hours >= budget.hours:
        return f"{progress.hours:.3g} hours are over; the budget is {budget.hours:g}"
    if budget.cost is not None:
        cost = progress.hours * progress.workers * (spec.workers.price_per_hour or 0.0)
        if cost >= budget.cost:
            return f"{cost:.4g} is spent on {progress.workers} workers; the budget is {budget.cost:g}"
    if budget.stagnation is not None and progress.unchanged >= budget.stagnation:
        return f"nothing got better in {progress.unchanged} candidates; the limit is {budget.stagnation}"
    return _reached(spec, progress.best)


def _reached(spec: RunSpec, best: Mapping[str, Mapping[str, Any]]) -> str | None:
    """All targets, each a standard error below what is known or believed."""
    wanted = spec.budget.target
    for objective in spec.objectives:
        if objective.name in wanted:
            if objective.name not in best:
                return None
            found, direction = best[objective.name], sign(objective)
            if direction * (found["mean"] - wanted[objective.name]) < found["se"]:
                return None
    if not wanted:
        return None
    return "the target is reached: " + ", ".join(f"{name} {best[name]['mean']:.4g}" for name in wanted)
