"""The run's last word: the winners' holdout scores beside every baseline's, and how far the search was misled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from evomerge.run.state import RunMachine
from evomerge.storage.store import CandidateRow
from fitness.evaluator import Responses
from workers.setup import Search

RowOf = Callable[[int], CandidateRow]


def result_of(search: Search, machine: RunMachine, row_of: RowOf) -> dict[str, Any]:
    """The event `run.result`.

    Returns:
        `winner` and `winners` (numbers), `table` (a row each for winners and baselines: `search` and `holdout` scores
        as {name: {mean, se, n, low, high}}, 95 % intervals), `paired` (the winner against every baseline on the holdout
        items) and `inflation` of the winner: its unbiased `estimate` on its own items, what the search `believed` of it
        with the standard error `se`, what all search items say (`verified`), and the `difference`, believed − verified.
    """
    plan = search.report
    winner = machine.verification.winners[0]
    rows = {n: row_of(n) for n in (*machine.verification.winners, *range(len(machine.baselines)))}
    answers = {n: responses_of(row, "holdout") for n, row in rows.items()}
    return {
        "winner": winner,
        "winners": list(machine.verification.winners),
        "table": [
            {
                "number": n,
                "kind": row.kind,
                "label": row.label,
                "search": _scores(search, row, responses_of(row, "search")),
                "holdout": _scores(search, row, answers[n]),
            }
            for n, row in rows.items()
        ],
        "paired": [
            {"against": rows[n].label, "objective": name, **asdict(plan.paired(name, answers[winner], answers[n]))}
            for n in range(len(machine.baselines))
            if answers[n] and answers[winner]
            for name in plan.names
        ],
        "inflation": _inflation(search, machine, winner),
    }


def responses_of(row: CandidateRow, task: str) -> dict[str, Responses]:
    """A candidate's stored responses of one task, by eval set; empty when it has none."""
    return {
        name: Responses(tuple(r["item_ids"]), {m: tuple(v) for m, v in r["values"].items()}, 0.0, 0)
        for name, r in row.responses.get(task, {}).items()
    }


def _scores(search: Search, row: CandidateRow, responses: dict[str, Responses]) -> dict[str, dict[str, float]] | None:
    if not responses:
        return None
    scores = {}
    for name, estimate in search.report.full_scores(responses).items():
        low, high = search.report.interval(name, estimate)
        scores[name] = {**asdict(estimate), "low": low, "high": high}
    for name, cost in search.costs.scores(row.recipe).items():
        scores[name] = {**asdict(cost), "low": cost.mean, "high": cost.mean}
    return scores


def _inflation(search: Search, machine: RunMachine, winner: int) -> dict[str, dict[str, float]]:
    found = {}
    for objective in search.spec.objectives:
        estimate = machine.scores[winner][objective.name]
        believed = machine.verification.believed.get(winner, {}).get(
            objective.name, estimate
        )  # runs that ended before had none
        verified = machine.verification.scores["search"][winner][objective.name]["mean"]
        found[objective.name] = {
            "estimate": estimate["mean"], "believed": believed["mean"], "se": believed["se"], "verified": verified,
            "difference": believed["mean"] - verified,
        }  # fmt: skip
    return found
