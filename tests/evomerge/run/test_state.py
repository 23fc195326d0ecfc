"""The run as a state machine, driven by a function in place of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.optimizers import make
from evomerge.optimizers.domain import real
from evomerge.run.dialogue import ReplayError, proposed
from evomerge.run.spec import RunSpec
from evomerge.run.state import MIN_FOR_SHARE, RunMachine
from evomerge.storage.store import Event

BASELINES = ("base", "source:a", "average")
START = (0.5, 0.5, 0.5)
Score = Callable[[tuple[float, ...]], tuple[float, ...] | None]


def spec_of(**changes: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "models": {"base": "b", "sources": {"a": "a"}},
            "space": {"kind": "parameter"},
            "objectives": [{"name": "skill", "eval_sets": ["s"]}],
            "budget": {"candidates": 20},
            "verify": {"top": 3},
        }
        | changes
    )


def machine_of(spec: RunSpec) -> RunMachine:
    optimizer = make("cma_es", real(START, len(spec.objectives)), seed=3, population=5)
    return RunMachine(spec, optimizer, BASELINES)


def sphere(genome: tuple[float, ...]) -> tuple[float, ...]:
    return (-sum((x - 0.8) ** 2 for x in genome),)


def two_ends(genome: tuple[float, ...]) -> tuple[float, ...]:
    return (-((genome[0] - 0.2) ** 2), -((genome[0] - 0.9) ** 2))


class Driver:
    """A controller without I/O: numbers events, applies them, answers what is open, oldest first."""

    def __init__(self, spec: RunSpec, score: Score = sphere) -> None:
        self.machine, self.score, self.events = machine_of(spec), score, list[Event]()
        self.commits = [0]  # where a controller's transactions end: a crash leaves the events up to one of these
        self.genomes: dict[int, tuple[float, ...]] = dict.fromkeys(range(len(BASELINES)), START)

    def put(self, *events: Event) -> None:
        for event in events:
            numbered = replace(event, seq=len(self.events) + 1)
            self.machine.apply(numbered)
            self.events.append(numbered)
        self.commits.append(len(self.events))

    def begin(self) -> None:
        proposals = [_proposed(number, "baseline", label, 0, ()) for number, label in enumerate(BASELINES)]
        self.put(*self.machine.start(), *(Event("candidate.proposed", data) for data in proposals))

    def propose(self) -> int:
        number, proposal = self.machine.dialogue.next()
        self.genomes[number] = proposal.genome
        data = _proposed(number, "search", "", proposal.generation, proposal.genome) | proposed(proposal)
        self.put(Event("candidate.proposed", data))
        return number

    def answer(self, number: int, task: str) -> None:
        values = self.score(self.genomes[number])
        if values is None:
            self.put(Event("candidate.failed", {"number": number, "task": task, "reason": "timeout", "message": "m"}))
            return
        names = [o.name for o in self.machine.spec.objectives]
        scores = {n: {"mean": v, "se": 0.1, "n": 10} for n, v in zip(names, values, strict=True)}
        if task == "subset":
            data = {"number": number, "kind": "search", "generation": 0, "scores": scores, "violation": 0.0}
            self.put(Event("candidate.scored", data))
        else:
            data = {"number": number, "split": task, "scores": scores, "violation": 0.0}
            self.put(Event("candidate.verified", data))

    def run(self, turns: int = 10_000) -> None:
        """Until the run is over or `turns` answers were given."""
        for _ in range(turns):
            while events := self.machine.advance() or self.machine.review():
                self.put(*events)
            if self.machine.verification.winners and not self.machine.open and self.machine.verification.result is None:
                self.put(Event("run.result", {"winner": self.machine.verification.winners[0]}))
                continue
            if self.machine.done or self.machine.phase == "paused":
                return
            if not self.machine.open and self.machine.may_propose:
                self.propose()
            self.answer(*next(iter(self.machine.open)))


def _proposed(number: int, kind: str, label: str, generation: int, genome: tuple[float, ...]) -> dict[str, Any]:
    return {
        "number": number, "kind": kind, "label": label, "generation": generation, "digest": str(genome),
        "genome": list(genome),
    }  # fmt: skip


def finished(spec: RunSpec | None = None, score: Score = sphere) -> Driver:
    driver = Driver(spec or spec_of(), score)
    driver.begin()
    driver.run()
    return driver


def test_a_run_scores_baselines_spends_its_budget_verifies_and_succeeds() -> None:
    driver = finished()

    states = [e.data["state"] for e in driver.events if e.type == "run.state"]
    assert states == ["starting", "running", "verifying", "succeeded"]
    assert driver.machine.proposed == 20
    assert set(driver.machine.scores) == set(range(23))
    assert len(driver.machine.verification.scores["search"]) == 3
    assert set(driver.machine.verification.scores["holdout"]) == {0, 1, 2, *driver.machine.verification.winners}


def test_the_first_candidate_is_the_start() -> None:
    driver = finished()

    assert driver.genomes[len(BASELINES)] == START


def test_the_winner_is_the_best_of_the_verified() -> None:
    driver = finished()

    best = max(driver.machine.verification.scores["search"].items(), key=lambda kv: kv[1]["skill"]["mean"])[0]
    assert driver.machine.verification.winners == (best,)


def test_nothing_is_proposed_before_the_baselines_are_scored() -> None:
    driver = Driver(spec_of())
    driver.begin()

    assert not driver.machine.may_propose
    driver.run(turns=2)
    assert not driver.machine.may_propose
    driver.run(turns=2)
    assert driver.machine.phase == "running"


@given(cut=st.integers(min_value=0, max_value=80))
@settings(max_examples=25, deadline=None)
def test_a_replay_from_any_point_asks_the_same_genomes(cut: int) -> None:
    whole = finished()
    resumed = Driver(spec_of())
    resumed.genomes |= whole.genomes
    cut = whole.commits[cut % len(whole.commits)]
    resumed.machine.replay(whole.events[:cut])
    resumed.events = list(whole.events[:cut])
    if cut == 0:
        resumed.begin()
    resumed.run()

    def genomes(driver: Driver) -> list[Any]:
        return [e.data["genome"] for e in driver.events if e.type == "candidate.proposed"]

    assert genomes(resumed) == genomes(whole)
    assert resumed.machine.summary() == whole.machine.summary()


def test_a_replay_from_a_snapshot_is_the_run() -> None:
    whole = finished()
    half = Driver(spec_of())
    half.begin()
    half.run(turns=12)
    state = half.machine.dialogue.optimizer.state()

    resumed = machine_of(spec_of())
    resumed.replay(whole.events, (type(half.machine.dialogue.optimizer).from_state(state), len(half.events)))

    assert resumed.summary() == whole.machine.summary()
    assert resumed.dialogue.optimizer.state() == whole.machine.dialogue.optimizer.state()


def test_a_replay_that_asks_another_genome_is_an_error() -> None:
    events = finished().events
    first = next(i for i, e in enumerate(events) if e.type == "candidate.proposed" and e.data["kind"] == "search")
    forged = replace(events[first], data=events[first].data | {"genome": [0.1, 0.1, 0.1]})

    with pytest.raises(ReplayError, match="does not follow"):
        machine_of(spec_of()).replay([*events[:first], forged])


def test_failed_candidates_are_told_and_the_run_goes_on() -> None:
    driver = finished(score=lambda g: None if g[0] < 0.45 else sphere(g))

    assert driver.machine.phase == "succeeded"
    assert driver.machine.failed
    assert len(driver.machine.failed) + len(driver.machine.scores) == 23


def test_too_many_failures_pause_the_run_once() -> None:
    driver = Driver(spec_of(max_failed_share=0.3), lambda g: sphere(g) if g == START else None)
    driver.begin()
    for _ in range(30):
        driver.run(turns=1)
        driver.put(*driver.machine.too_many_failures())
        if driver.machine.phase == "paused":
            break

    assert driver.machine.phase == "paused"
    assert "failed, more than the limit of 30%" in str(driver.machine.reason)
    assert len(driver.machine.failed) + len(driver.machine.scores) >= MIN_FOR_SHARE
    driver.put(*driver.machine.command("resume"))
    assert driver.machine.too_many_failures() == []


def test_a_run_without_any_scored_candidate_fails() -> None:
    driver = finished(score=lambda g: sphere(g) if g == START else None, spec=spec_of(budget={"candidates": 1}))
    assert driver.machine.phase == "succeeded"  # its one candidate is the start

    driver = Driver(spec_of(budget={"candidates": 3}))
    driver.begin()
    driver.run(turns=3)
    driver.score = lambda g: None
    driver.run()
    assert (driver.machine.phase, driver.machine.reason) == ("failed", "no candidate could be scored")


def test_without_the_base_there_is_no_run() -> None:
    driver = finished(score=lambda g: None)

    assert driver.machine.failed == {0}  # the other baselines were not waited for
    assert (driver.machine.phase, driver.machine.reason) == ("failed", "the base model could not be scored: m")


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "cancel"])
def test_a_finished_run_obeys_nothing(verb: Any) -> None:
    assert finished().machine.command(verb) == []


def test_stop_ends_with_a_verified_result() -> None:
    driver = Driver(spec_of())
    driver.begin()
    driver.run(turns=8)
    driver.put(*driver.machine.command("stop"))
    driver.run()

    assert (driver.machine.phase, driver.machine.reason) == ("succeeded", "stopped by request")
    assert driver.machine.proposed < 20


def test_pause_and_resume_change_nothing_in_what_is_asked() -> None:
    driver = Driver(spec_of())
    driver.begin()
    driver.run(turns=8)
    driver.put(*driver.machine.command("pause"))
    driver.run()
    assert driver.machine.phase == "paused"
    driver.put(*driver.machine.command("resume"))
    driver.run()

    assert driver.genomes == finished().genomes


def test_cancel_opens_nothing_more() -> None:
    driver = Driver(spec_of())
    driver.begin()
    driver.put(*driver.machine.command("cancel"))

    assert driver.machine.done
    assert not driver.machine.open


def test_two_objectives_keep_a_front_and_verify_it() -> None:
    objectives = [{"name": "left", "eval_sets": ["s"]}, {"name": "right", "eval_sets": ["s"]}]
    driver = finished(spec_of(objectives=objectives, budget={"candidates": 40}), two_ends)
    machine = driver.machine

    front = machine.archive.members
    assert len(front) > 1
    assert machine.archive.hypervolume > 0
    assert set(machine.verification.winners) <= set(machine.verification.scores["search"])
    for a in front:
        for b in front:
            left, right = machine.scores[a], machine.scores[b]
            assert not all(left[n]["mean"] > right[n]["mean"] for n in ("left", "right"))


def test_a_minimised_objective_is_minimised() -> None:
    objectives = [{"name": "skill", "eval_sets": ["s"], "direction": "minimize"}]
    driver = finished(spec_of(objectives=objectives), lambda g: (-sphere(g)[0],))

    best = driver.machine.best()["skill"]
    assert best["mean"] == min(s["skill"]["mean"] for n, s in driver.machine.scores.items() if n >= len(BASELINES))


def test_a_candidate_that_misses_a_guard_is_neither_best_nor_on_the_front() -> None:
    driver = Driver(spec_of())
    driver.begin()
    driver.run(turns=3)
    driver.run(turns=0)
    while events := driver.machine.advance():
        driver.put(*events)
    number = driver.propose()
    scores = {"skill": {"mean": 9.0, "se": 0.1, "n": 10}}
    driver.put(Event("candidate.scored", {"number": number, "generation": 0, "scores": scores, "violation": 0.2}))

    assert driver.machine.best() == {}
    assert driver.machine.archive.members == ()


def test_what_is_believed_of_the_best_is_reviewed_as_the_run_grows_and_when_the_search_ends() -> None:
    driver = finished()
    reviews = [event.data for event in driver.events if event.type == "belief.updated"]
    (asked,) = [e.data for e in driver.events if e.type == "verification.started" and e.data["task"] == "search"]

    assert [review["scored"] for review in reviews] == [8, 10, 13, 17, 20]
    assert driver.machine.summary()["believed"] == reviews[-1]["best"]
    assert set(driver.machine.verification.believed) == set(asked["numbers"])
    assert all(one["skill"]["se"] < 0.1 for one in driver.machine.verification.believed.values())  # told ones have 0.1


def test_beliefs_are_replayed_and_runs_from_before_there_were_any_too() -> None:
    driver = finished()
    kept = [replace(e, data={k: v for k, v in e.data.items() if k != "believed"}) for e in driver.events]
    now, before = machine_of(spec_of()), machine_of(spec_of())
    now.replay(driver.events)
    before.replay(event for event in kept if event.type != "belief.updated")

    assert (now.verification.believed, now.best_believed) == (
        driver.machine.verification.believed,
        driver.machine.best_believed,
    )
    assert (before.verification.believed, before.best_believed) == ({}, {})
    assert (before.phase, before.verification.winners) == (driver.machine.phase, driver.machine.verification.winners)


def test_exact_scores_are_not_reviewed() -> None:
    driver = Driver(spec_of())
    driver.begin()
    driver.run(turns=3)
    for event in driver.machine.advance():
        driver.put(event)
    for _ in range(10):
        number = driver.propose()
        scores = {"skill": {"mean": float(number), "se": 0.0, "n": 10}}
        driver.put(Event("candidate.scored", {"number": number, "generation": 0, "scores": scores, "violation": 0.0}))

    assert driver.machine.review() == []


def test_a_lucky_score_does_not_reach_the_target_what_is_believed_of_it_does() -> None:
    """All are as good as each other; their scores scatter by more than the error of one."""
    scatter = iter([0.0, 0.1, -0.1, 0.1, -0.1, 0.0, 0.1, -0.1, 0.2, -0.2, 0.15, -0.15, 0.1, -0.1, 0.0, 0.05] * 2)
    driver = Driver(spec_of(budget={"candidates": 20, "target": {"skill": 0.09}}), lambda genome: (next(scatter),))
    driver.begin()
    driver.run(20)
    machine = driver.machine
    best, believed = machine.best()["skill"], machine.best_believed["skill"]

    assert best["mean"] - best["se"] >= 0.09
    assert believed["mean"] - believed["se"] < 0.09
    assert machine.stop_reason(1.0, 1) is None


def test_what_is_believed_reaches_the_target() -> None:
    driver = Driver(spec_of(budget={"candidates": 20, "target": {"skill": 0.5}}), lambda genome: (0.9,))
    driver.begin()
    driver.run(20)

    assert "target" in str(driver.machine.stop_reason(1.0, 1))
