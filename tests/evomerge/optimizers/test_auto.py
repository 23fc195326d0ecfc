"""The default optimizer: what it picks, and that it is its pick in everything."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.candidate import Evaluation, ItemAnswers
from evomerge.errors import InvalidInputError
from evomerge.optimizers import make
from evomerge.optimizers.auto import Auto, choose
from evomerge.optimizers.domain import Domain, GeneKind, LineageDomain, Problem, real
from evomerge.optimizers.optimizer import uses_items
from evomerge.testing.optimizer import LearningOptimizerContract

BITS = Domain((0.25, 0.5), genes=(GeneKind(choices=2), GeneKind()))
LEVELS = Domain((0.1, 0.5), genes=(GeneKind(choices=5, ordered=True), GeneKind(choices=3, ordered=True)))
LINEAGE = Domain((), lineage=LineageDomain(3, (10,)))


class TestContract(LearningOptimizerContract):
    def make(self, problem: Problem, *, seed: int) -> Auto:
        return Auto(problem, seed=seed)


@pytest.mark.parametrize(
    ("problem", "name"),
    [
        (real((0.5,) * 4, budget=200), "cma_es"),
        (real((0.5,) * 4, 2, 200), "cma_es"),
        (real((0.5,) * 4, 3, 200), "cma_es"),
        (real((0.5,) * 16, 2, 200), "nsga2"),
        (real((0.5,) * 16, 2, 50), "cma_es"),
        (real((0.5,) * 16, 4, 200), "cma_es"),
        (Problem(BITS, 1, 200), "catcma"),
        (Problem(BITS, 2, 200), "nsga2"),
        (Problem(BITS, 3, 200), "nsga2"),
        (Problem(LEVELS, 1, 200), "thompson"),
        (Problem(LEVELS, 1, 23), "catcma"),
        (Problem(LEVELS, 1, 2000), "catcma"),
        (Problem(LEVELS, 1), "catcma"),
        (Problem(LEVELS, 2, 200), "thompson"),
        (Problem(LEVELS, 2, 23), "nsga2"),
        (Problem(LEVELS, 4, 200), "nsga2"),
        (Problem(LINEAGE, 1, 200), "m2n2"),
        (Problem(LINEAGE, 2, 200), "m2n2"),
    ],
)
def test_the_pick_follows_from_the_problem_and_is_explained(problem: Problem, name: str) -> None:
    auto = Auto(problem, seed=3)

    assert choose(problem).name == name
    assert auto.explanation.startswith(f"auto took {name}: ")
    assert auto.ask(5) == make(name, problem, seed=3, **choose(problem).options).ask(5)


def test_few_evaluations_for_many_genes_learn_variances_only() -> None:
    options: list[dict[str, Any]] = [choose(real((0.5,) * 20, 1, budget)).options for budget in (399, 400)]

    assert [option.get("diagonal", False) for option in options] == [True, False]


def test_one_objective_is_searched_close_to_the_start_first() -> None:
    options: list[dict[str, Any]] = [choose(real((0.5,) * 20, budget=budget)).options for budget in (399, 400)]

    assert options == [{"diagonal": True, "sigma": 0.05}, {"sigma": 0.05}]


def test_it_learns_from_items_where_its_pick_does() -> None:
    answers = (ItemAnswers((0, 1), (0.2, 0.4), (0.25, 0.25)),)
    for problem, uses in ((Problem(LEVELS, 1, 200), True), (real((0.5,)), False)):
        auto = Auto(problem, seed=0)
        (proposal,) = auto.ask(1)
        auto.know(answers)
        auto.tell([Evaluation(0, (0.3,), answers=answers)])
        (found,) = auto.believed([proposal.genome])

        assert uses_items(auto) == uses_items(Auto.from_state(auto.state())) == uses
        assert (found is not None) == uses


def test_it_has_no_options() -> None:
    with pytest.raises(InvalidInputError, match=r"optimizer\.options\.sigma"):
        Auto(real((0.5,)), seed=0, sigma=0.1)
