"""Stages: groups of genes one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.stages import Staged
from evomerge.testing.optimizer import MixedOptimizerContract

DENSITY, WEIGHT = GeneKind(group="density"), GeneKind(group="weight")
SPACE = Domain((1.0, 0.5, 1.0, 0.5), (DENSITY, WEIGHT, DENSITY, WEIGHT))


def staged(budget: int | None = 120, domain: Domain = SPACE, **options: Any) -> Staged:
    return Staged(Problem(domain, budget=budget), seed=3, population=5, **options)


def score(genome: Genome, best: Genome = (0.3, 0.8, 0.6, 0.1)) -> float:
    return -sum((gene - target) ** 2 for gene, target in zip(genome, best, strict=True))


def run(optimizer: Staged, number: int) -> list[Proposal]:
    proposals = []
    for _ in range(number):
        (proposal,) = optimizer.ask(1)
        optimizer.tell([Evaluation(proposal.trial, (score(proposal.genome),))])
        proposals.append(proposal)
    return proposals


class TestContract(MixedOptimizerContract):
    """With a change of stage early on."""

    def make(self, problem: Problem, *, seed: int) -> Staged:
        domain = problem.domain
        kinds = tuple(
            replace(kind, group="density" if number % 2 else "weight") for number, kind in enumerate(domain.kinds)
        )
        several = {"order": "density,weight", "shares": "1,9"} if len(kinds) > 1 else {}
        return Staged(
            replace(problem, domain=replace(domain, genes=kinds), budget=120), seed=seed, population=4, **several
        )


def test_each_stage_moves_its_genes_alone_from_the_best_of_the_one_before() -> None:
    optimizer = staged()
    first, then = run(optimizer, 40), run(optimizer, 80)
    best = max(first, key=lambda p: score(p.genome)).genome

    assert {(p.genome[1], p.genome[3]) for p in first} == {(0.5, 0.5)}
    assert {(p.genome[0], p.genome[2]) for p in then} == {(best[0], best[2])}
    assert then[0].genome == best
    assert len({p.genome for p in first}) == 40
    assert max(score(p.genome) for p in then) > score(best) > score(SPACE.start)
    assert then[0].generation > first[-1].generation


def test_the_budget_is_shared_out_as_asked() -> None:
    assert [s.evaluations for s in staged(120).stages] == [40, 80]
    assert [s.evaluations for s in staged(None).stages] == [400, 800]
    assert [s.evaluations for s in staged(120, order="weight,density", shares="3,1").stages] == [90, 30]
    assert (
        staged().explanation
        == "staged searches density (2 genes, 40 evaluations), then weight (2 genes, 80 evaluations)"
    )


def test_genes_of_other_groups_go_with_the_last_stage() -> None:
    domain = Domain((0.5, 0.5, 0.25), (GeneKind(), DENSITY, GeneKind(choices=2, group="election")))

    assert [(s.name, s.genes) for s in staged(domain=domain, order="density").stages] == [("density", (0, 1, 2))]
    assert [(s.name, s.genes) for s in staged(domain=domain, order="density,election").stages] == [
        ("density", (1,)),
        ("election", (0, 2)),
    ]
    assert [s.name for s in staged(domain=Domain((0.5, 0.5))).stages] == ["all"]


def test_a_late_answer_to_an_earlier_stage_counts_for_the_best_only() -> None:
    optimizer, silent = staged(), staged()
    late = optimizer.ask(2)
    silent.ask(2)
    for one in (optimizer, silent):
        run(one, 40)
    optimizer.tell([Evaluation(late[1].trial, (5.0,))])

    assert optimizer.ask(6) == silent.ask(6)


def test_seeds_are_evaluated_whole_and_may_be_where_the_next_stage_begins() -> None:
    seed = (0.3, 0.8, 0.6, 0.1)
    optimizer = staged(domain=replace(SPACE, seeds=(seed,)))
    proposals = run(optimizer, 41)

    assert [p.genome for p in proposals[:2]] == [SPACE.start, seed]
    assert proposals[40].genome == seed


def test_nothing_but_failures_leaves_the_start_where_it_is() -> None:
    optimizer = staged()
    for _ in range(45):
        optimizer.tell([Evaluation(p.trial, None) for p in optimizer.ask(1)])

    assert {(p.genome[0], p.genome[2]) for p in optimizer.ask(10)} == {(1.0, 1.0)}


def test_feasible_is_better_than_infeasible() -> None:
    optimizer = staged(4, shares="2,1")
    proposals = optimizer.ask(3)
    optimizer.tell([Evaluation(p.trial, (9.0 - p.trial,), violation=float(p.trial < 2)) for p in proposals])

    assert optimizer.ask(1)[0].genome == proposals[2].genome


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"order": "densty,weight"}, "order"),
        ({"order": "weight,weight"}, "order"),
        ({"shares": "1"}, "shares"),
        ({"shares": "1,x"}, "shares"),
        ({"shares": "1,-1"}, "shares"),
        ({"sigma": 2.0}, "sigma"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        staged(**options)

    assert caught.value.field == f"optimizer.options.{field}"


def test_several_objectives_have_no_best() -> None:
    with pytest.raises(InvalidInputError, match="an optimizer for 2 objectives"):
        Staged(real((0.5, 0.5), 2), seed=0)
