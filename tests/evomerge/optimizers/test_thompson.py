"""Thompson sampling: the contract, what answers to single items are worth to it, and what few of them find."""

from __future__ import annotations

from itertools import product
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.archive.pareto import hypervolume, non_dominated
from evomerge.candidate import Evaluation, Genome, ItemAnswers
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.optimizer import uses_items
from evomerge.optimizers.sampled_front import gains
from evomerge.optimizers.thompson import ThompsonSearch
from evomerge.testing.optimizer import MixedOptimizerContract, OptimizerContract

Floats = NDArray[np.float64]
ITEMS = 120


class TestContractWhileTheDesignLasts(OptimizerContract):
    def make(self, problem: Problem, *, seed: int) -> ThompsonSearch:
        return ThompsonSearch(problem, seed=seed, design=1000)


@pytest.mark.slow
class TestContractOfTwoObjectives(OptimizerContract):
    num_objectives: ClassVar[int] = 2

    def make(self, problem: Problem, *, seed: int) -> ThompsonSearch:
        return ThompsonSearch(problem, seed=seed, most=24, pool=24)


@pytest.mark.slow
class TestContract(MixedOptimizerContract):
    def make(self, problem: Problem, *, seed: int) -> ThompsonSearch:
        return ThompsonSearch(problem, seed=seed, most=48, pool=48)


LEVELS = Problem(Domain((0.3, 0.3), (GeneKind(choices=5, ordered=True),) * 2), budget=80)
GENOMES = [*product((0.1, 0.3, 0.5, 0.7, 0.9), repeat=2)]


def everything(seed: int) -> dict[Genome, Floats]:
    """Genome → answers to all items: items differ in how hard and in where they are easy; one place is best."""
    rng = np.random.default_rng(seed)
    hard, places = rng.normal(0, 0.25, ITEMS), rng.normal(0.6, 0.25, (ITEMS, 2))
    near = {g: np.sqrt(((np.array(g) - places) ** 2).mean(axis=1)) for g in GENOMES}
    return {g: 0.6 - hard - near[g] + rng.normal(0, 0.05, ITEMS) for g in GENOMES}


def answers_to(values: Floats, items: NDArray[np.intp]) -> tuple[ItemAnswers, ...]:
    places = np.sort(items)
    return (ItemAnswers(tuple(places.tolist()), tuple(values[places].tolist()), (1 / ITEMS,) * len(items)),)


def searched(seed: int, candidates: int, items: int = 5, *, alone: bool = False) -> tuple[ThompsonSearch, float]:
    """A search, and how much worse than the best is what it believes in.

    Args:
        alone: it is told mean and error of each candidate's items instead of the answers.
    """
    table, rng = everything(seed), np.random.default_rng(100 + seed)
    search, best = ThompsonSearch(LEVELS, seed=seed), max(values.mean() for values in table.values())
    for _ in range(candidates):
        (proposal,) = search.ask(1)
        values, asked = table[proposal.genome], rng.permutation(ITEMS)[:items]
        found, error = values[asked].mean(), values[asked].std() / np.sqrt(items)
        told = None if alone else answers_to(values, asked)
        search.tell([Evaluation(proposal.trial, (float(found),), errors=(float(error),), answers=told)])
    beliefs = {g: belief.mean for g, belief in zip(GENOMES, search.believed(GENOMES), strict=True) if belief}
    return search, float(best - table[max(beliefs, key=lambda g: beliefs[g])].mean())


def test_answers_to_single_items_find_more_than_their_means_do() -> None:
    pooled, apart = (np.mean([searched(seed, 40, alone=alone)[1] for seed in range(3)]) for alone in (False, True))

    assert pooled < 0.5 * apart


def test_a_known_genome_is_asked_again_until_all_its_items_are_answered() -> None:
    search, table = ThompsonSearch(LEVELS, seed=1, design=2), everything(1)
    asked = list[Genome]()
    for number in range(40):
        (proposal,) = search.ask(1)
        asked.append(proposal.genome)
        items = np.arange(ITEMS) if number % 2 else np.arange(4)
        search.tell([Evaluation(proposal.trial, (0.0,), answers=answers_to(table[proposal.genome], items))])

    whole = {genome: k for k, genome in reversed([*enumerate(asked)]) if k % 2}
    assert all(genome not in asked[k + 1 :] for genome, k in whole.items() if k > 2)
    assert len(set(asked)) < len(asked)


def test_where_items_do_not_change_everybody_is_asked_in_the_end() -> None:
    search, table, asked = ThompsonSearch(LEVELS, seed=2), everything(2), list[Genome]()
    for _ in range(4 * len(GENOMES)):
        (proposal,) = search.ask(1)
        asked.append(proposal.genome)
        answers = answers_to(table[proposal.genome], np.arange(6))
        search.tell([Evaluation(proposal.trial, (0.0,), answers=answers)])

    assert set(asked) == set(GENOMES)


def test_what_is_believed_is_restored_to_the_last_bit() -> None:
    search, _ = searched(3, 50)
    table = everything(3)
    search.know(answers_to(table[GENOMES[0]], np.arange(ITEMS)))
    again = ThompsonSearch.from_state(search.state())

    assert again.believed(GENOMES) == search.believed(GENOMES)
    assert again.ask(4) == search.ask(4)
    assert again.state() == search.state()


def test_strangers_answers_count_and_are_no_candidates() -> None:
    search, _ = searched(4, 12)
    before = search.believed(GENOMES)
    search.know(answers_to(everything(4)[GENOMES[0]], np.arange(ITEMS)))
    after = search.believed(GENOMES)

    assert [a is None for a in before] == [a is None for a in after]
    assert all(a is None or b is None or a != b for a, b in zip(before, after, strict=True))


def test_failures_and_violations_keep_proposals_away() -> None:
    search = ThompsonSearch(real((0.5, 0.5)), seed=0, pool=32)
    late = []
    for _ in range(40):
        (proposal,) = search.ask(1)
        x, y = proposal.genome
        late.append(x)
        if x > 0.6:
            search.tell([Evaluation(proposal.trial, None if y > 0.5 else (x,), violation=0.2)])
        else:
            search.tell([Evaluation(proposal.trial, (x,))])

    assert np.mean(np.array(late[20:]) > 0.75) < 0.3  # the best that is legal lies at 0.6
    assert np.median(late[20:]) > 0.4


def test_of_too_many_genomes_the_worst_are_forgotten() -> None:
    search = ThompsonSearch(real((0.5, 0.5)), seed=0, most=12, pool=16)
    for _ in range(30):
        (proposal,) = search.ask(1)
        search.tell([Evaluation(proposal.trial, (-abs(proposal.genome[0] - 0.3),))])
    size = len(search.state())
    for _ in range(10):
        (proposal,) = search.ask(1)
        search.tell([Evaluation(proposal.trial, (-abs(proposal.genome[0] - 0.3),))])

    assert len(search.state()) < 1.2 * size


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((ItemAnswers((0,), (0.5,), (0.1,)),) * 2, "1 objectives"),
        ((ItemAnswers((0, 0), (0.5, 0.5), (0.1, 0.1)),), "each of one or more items"),
        ((ItemAnswers((0,), (0.5, 0.5), (0.1,)),), "each of one or more items"),
        ((ItemAnswers((0,), (float("nan"),), (0.1,)),), "finite"),
        ((ItemAnswers((-1,), (0.5,), (0.1,)),), "finite answers"),
        ((ItemAnswers((), (), ()),), "each of one or more items"),
    ],
)
def test_answers_that_cannot_be_used_are_refused_and_nothing_is_learnt(
    answers: tuple[ItemAnswers, ...], message: str
) -> None:
    search = ThompsonSearch(LEVELS, seed=0)
    search.ask(1)
    state = search.state()

    with pytest.raises(ValueError, match=message):
        search.tell([Evaluation(0, (0.5,), answers=answers)])
    assert search.state() == state


def test_it_is_for_three_objectives_at_most_and_says_that_it_uses_items() -> None:
    with pytest.raises(InvalidInputError, match="thompson"):
        ThompsonSearch(real((0.5,), 4), seed=0)
    assert uses_items(ThompsonSearch(real((0.5,)), seed=0))


def test_answers_travel_as_json() -> None:
    for shares in ((0.1, 0.1), (0.1, 0.2)):
        answers = ItemAnswers((3, 5), (0.25, 1.0), shares)

        assert ItemAnswers.load(answers.dump()) == answers


TWO = Problem(LEVELS.domain, 2, budget=80)


def of_two(seed: int, candidates: int) -> tuple[ThompsonSearch, float]:
    """A search for two objectives that answers five items of each, and the share of the front's volume that is on the
    front of what it believes."""
    tables, rng = (everything(seed), everything(50 + seed)), np.random.default_rng(seed)
    truth = {g: tuple(float(table[g].mean()) for table in tables) for g in GENOMES}
    search = ThompsonSearch(TWO, seed=seed)
    for _ in range(candidates):
        (proposal,) = search.ask(1)
        answers = [answers_to(table[proposal.genome], rng.permutation(ITEMS)[:5])[0] for table in tables]
        search.tell([Evaluation(proposal.trial, (0.0, 0.0), errors=(1.0, 1.0), answers=tuple(answers))])
    beliefs = [search.believed(GENOMES, k) for k in range(2)]
    known = {g: (a.mean, b.mean) for g, a, b in zip(GENOMES, *beliefs, strict=True) if a and b}
    kept = non_dominated([*known.values()])
    found = [truth[g] for g, on in zip(known, kept, strict=True) if on]
    corner = tuple(min(values) for values in zip(*truth.values(), strict=True))
    return search, hypervolume(found, corner) / hypervolume([*truth.values()], corner)


def test_a_few_answers_of_two_objectives_find_their_front() -> None:
    assert np.mean([of_two(seed, 40)[1] for seed in range(3)]) > 0.9


def test_a_search_of_two_objectives_is_restored_to_the_last_bit() -> None:
    search, _ = of_two(1, 30)
    again = ThompsonSearch.from_state(search.state())

    assert all(again.believed(GENOMES, k) == search.believed(GENOMES, k) for k in range(2))
    assert again.ask(3) == search.ask(3)
    assert again.state() == search.state()


def test_an_objective_without_answers_is_a_cost_that_is_known() -> None:
    search, table = ThompsonSearch(TWO, seed=0), everything(0)
    for _ in range(12):
        (proposal,) = search.ask(1)
        answers = (*answers_to(table[proposal.genome], np.arange(5)), ItemAnswers((), (), ()))
        cost = -proposal.genome[0]
        search.tell([Evaluation(proposal.trial, (0.0, cost), errors=(0.1, 0.0), answers=answers)])

    costs = {g: b.mean for g, b in zip(GENOMES, search.believed(GENOMES, 1), strict=True) if b}
    assert all(abs(mean + g[0]) < 0.02 for g, mean in costs.items())


def test_what_adds_most_is_what_widens_the_front_and_what_is_dominated_adds_nothing() -> None:
    known = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    found = gains(np.array([[0.9, 0.9], [0.6, 0.6], [0.4, 0.4], [0.5, 0.5]]), known, np.random.default_rng(0))

    assert found[0] > found[1] > 0
    assert found[2] < 0
    assert found[3] == 0
