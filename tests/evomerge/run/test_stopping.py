"""When a search is over, by every rule that a budget knows."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.run.spec import RunSpec
from evomerge.run.stopping import Progress, reason_to_stop


def spec_of(budget: dict[str, Any], **changes: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "models": {"base": "b", "sources": {"a": "a"}},
            "space": {"kind": "parameter"},
            "objectives": [
                {"name": "skill", "eval_sets": ["s"]},
                {"name": "length", "eval_sets": ["s"], "direction": "minimize"},
            ],
            "budget": budget,
        }
        | changes
    )


def progress(**changes: Any) -> Progress:
    best = {"skill": {"mean": 0.7, "se": 0.05}, "length": {"mean": 20.0, "se": 2.0}}
    return Progress(**{"items": 900, "hours": 2.0, "workers": 4, "unchanged": 30, "best": best} | changes)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"items": 900}, "900 items"),
        ({"items": 901}, None),
        ({"hours": 2}, "2 hours"),
        ({"hours": 2.1}, None),
        ({"stagnation": 30}, "30 candidates"),
        ({"stagnation": 31}, None),
        ({"target": {"skill": 0.64}}, "skill 0.7"),
        ({"target": {"skill": 0.66}}, None),
        ({"target": {"length": 22}}, "length 20"),
        ({"target": {"length": 21}}, None),
        ({"target": {"skill": 0.64, "length": 22}}, "skill 0.7, length 20"),
        ({"target": {"skill": 0.64, "length": 21}}, None),
        ({}, None),
    ],
)
def test_each_limit_stops_when_it_is_reached_and_not_before(budget: dict[str, Any], said: str | None) -> None:
    reason = reason_to_stop(spec_of(budget), progress())

    assert (reason is None) if said is None else (reason is not None and said in reason)


def test_money_is_hours_times_workers_times_price() -> None:
    workers = {"price_per_hour": 1.5}

    assert reason_to_stop(spec_of({"cost": 12}, workers=workers), progress()) is not None
    assert reason_to_stop(spec_of({"cost": 12.1}, workers=workers), progress()) is None


def test_a_target_without_any_feasible_candidate_is_not_reached() -> None:
    assert reason_to_stop(spec_of({"target": {"skill": 0.0}}), progress(best={})) is None


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"target": {"speed": 1.0}}, "skill, length"),
        ({"cost": 5}, "price_per_hour"),
        ({"items": 0}, "greater than or equal to 1"),
        ({"hours": 0}, "greater than 0"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec_of(budget)
