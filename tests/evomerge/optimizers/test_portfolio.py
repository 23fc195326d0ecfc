"""Several optimizers on one run: who is asked, what is shared, what is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers import make
from evomerge.optimizers.bandit import Bandit
from evomerge.optimizers.domain import Domain, GeneKind, LineageDomain, Problem, real
from evomerge.optimizers.portfolio import Portfolio
from evomerge.testing.optimizer import LearningOptimizerContract, MixedOptimizerContract, score


class TestContract(LearningOptimizerContract):
    def make(self, problem: Problem, *, seed: int) -> Portfolio:
        return Portfolio(problem, seed=seed)


@pytest.mark.slow
class TestContractWithTwoObjectives(LearningOptimizerContract):
    num_objectives = 2

    def make(self, problem: Problem, *, seed: int) -> Portfolio:
        return Portfolio(problem, seed=seed)


@pytest.mark.slow
class TestContractWithMixedGenes(MixedOptimizerContract):
    def make(self, problem: Problem, *, seed: int) -> Portfolio:
        return Portfolio(problem, seed=seed)


@pytest.mark.slow
class TestContractWithoutItemScores(LearningOptimizerContract):
    def make(self, problem: Problem, *, seed: int) -> Portfolio:
        return Portfolio(problem, seed=seed, members="swarm, genome, random")


def _run(
    portfolio: Portfolio, evaluations: int, answer: Callable[[Proposal], Evaluation], at_once: int = 1
) -> list[Proposal]:
    proposals: list[Proposal] = []
    while len(proposals) < evaluations:
        asked = portfolio.ask(at_once)
        portfolio.tell([answer(proposal) for proposal in asked])
        proposals += asked
    return proposals


def _score(proposal: Proposal) -> Evaluation:
    return Evaluation(proposal.trial, score(proposal.genome, 1))


def test_asks_move_to_the_member_that_finds_more() -> None:
    portfolio = Portfolio(real((0.9, 0.1, 0.9, 0.1)), seed=0, members="cma_es,random")
    even = portfolio.shares
    _run(portfolio, 250, _score)

    assert even == {"cma_es": 0.5, "random": 0.5}
    assert portfolio.shares["cma_es"] > 0.75
    assert portfolio.shares["random"] >= 0.1
    assert sum(portfolio.shares.values()) == pytest.approx(1)


def test_a_floor_is_kept_and_asks_follow_the_shares() -> None:
    bandit = Bandit(3)
    for _ in range(100):
        bandit.learn(0, 1.0)
        bandit.learn(1, 0.0)
        bandit.learn(2, None)
    shares = bandit.shares
    picks = [bandit.pick() for _ in range(1000)]

    assert shares[0] > 0.75
    assert min(shares) >= 0.1
    assert [picks.count(arm) / 1000 for arm in range(3)] == pytest.approx(shares, abs=0.01)


def test_equal_answers_give_equal_shares() -> None:
    bandit = Bandit(2)
    for _ in range(20):
        bandit.learn(0, 0.5)
        bandit.learn(1, 0.5)

    assert bandit.shares == [0.5, 0.5]


class _Mute(Portfolio):
    """Shares nothing."""

    def _share(self, *_: Any) -> None:
        return


def _valley(proposal: Proposal) -> Evaluation:
    """0 on a plateau around the start, where a strategy has nothing to follow; beyond it a hill."""
    first, *rest = proposal.genome
    near = max(0.0, 1 - 3 * abs(first - 0.9))
    return Evaluation(proposal.trial, (near * math.exp(-2 * sum((gene - 0.3) ** 2 for gene in rest)),))


def test_sharing_helps_where_members_differ() -> None:
    """Random points find where the plateau ends, the strategy climbs from there once it is told."""

    def best(kind: type[Portfolio], seed: int) -> float:
        portfolio = kind(real((0.2, *(0.6,) * 5)), seed=seed, members="random,catcma")
        found = [_valley(p).values for p in _run(portfolio, 240, _valley, at_once=4)]
        return max(values[0] for values in found if values)

    shared, mute = ([best(kind, seed) for seed in range(3)] for kind in (Portfolio, _Mute))

    assert min(shared) > max(mute)
    assert sum(shared) / 3 > sum(mute) / 3 + 0.08


def test_a_restored_portfolio_goes_on_in_the_middle_of_a_run() -> None:
    portfolio = Portfolio(real((0.9, 0.1, 0.9), 2, 200), seed=4)
    outstanding = portfolio.ask(9)
    for _ in range(15):
        portfolio.tell([Evaluation(p.trial, score(p.genome, 2)) for p in outstanding[3:]])
        outstanding = outstanding[:3] + portfolio.ask(6)
    restored = Portfolio.from_state(portfolio.state())

    def go_on(one: Portfolio) -> list[Proposal]:
        one.tell([Evaluation(p.trial, score(p.genome, 2)) for p in outstanding])
        return _run(one, 60, lambda p: Evaluation(p.trial, score(p.genome, 2)), at_once=4)

    assert go_on(restored) == go_on(portfolio)
    assert restored.state() == portfolio.state()


def test_a_member_that_meets_failures_only_keeps_its_least_share_and_stops_nobody() -> None:
    portfolio = Portfolio(real((0.9, 0.1, 0.9)), seed=0, members="cma_es,random")
    owners: dict[int, int] = {}

    def answer(proposal: Proposal) -> Evaluation:
        ((owner, _), *others) = portfolio._asked[proposal.trial].owners
        owners[proposal.trial] = owner
        failed = owner == 1 and not others
        return Evaluation(proposal.trial, None) if failed else _score(proposal)

    proposals = _run(portfolio, 300, answer)
    found = [p for p in proposals if owners[p.trial] == 0]

    assert 25 <= len(proposals) - len(found) <= 60
    assert max(score(p.genome, 1)[0] for p in found) > -1e-3


def test_the_beginning_is_asked_once_and_told_to_all() -> None:
    start, seeds = (0.5, 0.5), ((0.2, 0.8), (0.8, 0.2))
    portfolio = Portfolio(Problem(Domain(start, seeds=seeds)), seed=0)
    first = portfolio.ask(3)
    told = {owner for p in first for owner, _ in portfolio._asked[p.trial].owners}
    genomes = [p.genome for p in (*first, *_run(portfolio, 40, _score))]

    assert [p.genome for p in first] == [start, *seeds]
    assert told == {0, 1}
    assert all(genomes.count(genome) == 1 for genome in (start, *seeds))


def test_only_what_is_outstanding_is_remembered() -> None:
    portfolio = Portfolio(real((0.5,) * 5, 1, 750), seed=0)
    sizes = []
    for _ in range(3):
        _run(portfolio, 250, _score, at_once=8)
        sizes.append(len(portfolio.state()))

    assert not portfolio._asked
    assert max(sizes) < 1.2 * min(sizes)


def test_the_generation_stays_where_scores_on_items_are_compared_and_else_follows_the_answers() -> None:
    with_items, without = (Portfolio(real((0.5,) * 3), seed=0, members=m) for m in ("cma_es,m2n2", "cma_es,genome"))

    assert (with_items.uses_responses, without.uses_responses) == (True, False)
    assert {p.generation for p in _run(with_items, 80, _score)} == {0}
    assert [p.generation for p in _run(without, 80, _score)] == [i // 16 for i in range(80)]


def _responses(proposal: Proposal) -> Evaluation:
    items = tuple(float(gene > 0.5) for gene in proposal.genome)
    return Evaluation(proposal.trial, (sum(items) / len(items),), responses=(items,))


def test_niches_get_the_scores_on_items_of_what_others_found() -> None:
    portfolio = Portfolio(real((0.48,) * 6), seed=2, members="cma_es,m2n2")
    _run(portfolio, 60, _responses)
    niches: Any = portfolio._members[1]

    assert len(niches.elite[0].genome) == 6
    assert any(member.trial < 0 for member in (*niches.elite, *niches.members))


BITS = Domain((0.25, 0.5), genes=(GeneKind(choices=2), GeneKind()))


@pytest.mark.parametrize(
    ("problem", "names"),
    [
        (real((0.5,) * 4), ("cma_es", "m2n2")),
        (real((0.5,) * 4, 2), ("cma_es", "m2n2", "nsga2")),
        (Problem(BITS), ("catcma", "m2n2")),
    ],
)
def test_members_follow_from_the_problem_and_are_named(problem: Problem, names: Sequence[str]) -> None:
    portfolio = Portfolio(problem, seed=0)

    assert portfolio.names == names
    assert ", ".join(names) in portfolio.explanation


@pytest.mark.parametrize("members", ["cma_es", "cma_es,cma_es", "cma_es,nobody", "auto,m2n2", "portfolio,m2n2", ","])
def test_members_that_are_no_portfolio_are_refused(members: str) -> None:
    with pytest.raises(InvalidInputError, match=r"optimizer\.options\.members"):
        make("portfolio", real((0.5,)), seed=0, members=members)


def test_what_a_member_does_not_solve_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="genome"):
        make("portfolio", real((0.5,), 2), seed=0, members="cma_es,genome")


def test_lineages_are_for_m2n2_alone() -> None:
    with pytest.raises(InvalidInputError, match="m2n2"):
        make("portfolio", Problem(Domain((), lineage=LineageDomain(3, (10,)))), seed=0)


def test_start_is_a_genome_of_plain_floats() -> None:
    start = cast("Genome", (1, 0))
    (first,) = make("portfolio", real(start), seed=0).ask(1)

    assert all(type(gene) is float for gene in first.genome)
