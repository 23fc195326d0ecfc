"""M2N2: both contracts, what it crosses, when it asks for new items, and what its state and its options promise."""

import time

import numpy as np
import pytest

from evomerge.candidate import Descent, Evaluation
from evomerge.errors import EvomergeError, InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, LineageDomain, Problem, real
from evomerge.optimizers.m2n2 import M2n2
from evomerge.optimizers.random import SobolSearch
from evomerge.testing.lineage import LINEAGE, LineageContract, LineageDriver
from evomerge.testing.optimizer import LearningOptimizerContract


class TestContractOnGenomes(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return M2n2(problem, seed=seed, population=4, epoch=9)


class TestContractOnGenomesWithTwoObjectives(TestContractOnGenomes):
    num_objectives = 2


class TestContractOnLineages(LineageContract):
    def make(self, problem, *, seed):
        return M2n2(problem, seed=seed, population=6)


class TestContractOnLineagesWithNewItemsAndTwoObjectives(LineageContract):
    num_objectives = 2

    def make(self, problem, *, seed):
        return M2n2(problem, seed=seed, population=5, epoch=7, mutation=0.01)


def lineage(sources=3, units=(12, 5), objectives=1):
    return Problem(Domain((), lineage=LineageDomain(sources, units)), objectives)


def told(trial, solved, **more):
    scores = tuple(map(float, solved))
    return Evaluation(trial, (sum(scores) / len(scores),), responses=(scores,), **more)


def corners(**options):
    """Genomes that are all 0 or all 1, and nothing else to begin with."""
    start, seeds = (0.0,) * 6, ((1.0,) * 6, (0.0,) * 6, (1.0,) * 6)
    return M2n2(Problem(Domain(start, seeds=seeds)), seed=0, warmup=200, mutation=0.0, **options)


def test_a_child_of_genomes_is_mixed_at_t_left_of_a_split_and_at_1_minus_t_right_of_it():
    """Of 0 and 1 it has one number on the left and what is missing to 1 on the right."""
    children = {p.genome for p in corners().ask(204)[4:]}
    splits = set()
    for genome in children:
        changes = [i for i in range(1, 6) if genome[i] != genome[i - 1]]
        assert len(changes) <= 1
        assert not changes or genome[-1] == pytest.approx(1 - genome[0], abs=1e-15)
        splits.update(changes or [0])

    assert splits == set(range(6))


def test_without_a_split_one_ratio_holds_for_all_genes():
    assert all(len(set(p.genome)) == 1 for p in corners(split=False).ask(104)[4:])


def test_choices_come_from_one_parent_and_reals_are_mixed():
    kinds = (GeneKind(choices=4), GeneKind(), GeneKind(choices=3, ordered=True))
    ends = (0.125, 0.2, 1 / 6), (0.875, 0.8, 5 / 6)
    domain = Domain(ends[0], genes=kinds, seeds=(ends[1], *ends))
    children = [p.genome for p in M2n2(Problem(domain), seed=0, warmup=100, mutation=0.0).ask(104)]

    assert {g[0] for g in children} == {0.125, 0.875}
    assert {round(g[2], 9) for g in children} == {round(1 / 6, 9), round(5 / 6, 9)}
    assert len({g[1] for g in children}) > 40


def test_mutation_moves_reals_by_their_steps_and_finds_choices_that_no_parent_has():
    kinds = (GeneKind(choices=4), GeneKind(step=0.1), GeneKind(choices=5, ordered=True), GeneKind())
    start = (0.125, 0.5, 0.5, 0.5)
    domain = Domain(start, genes=kinds, seeds=(start,) * 3)
    optimizer = M2n2(Problem(domain), seed=0, warmup=500, mutation=0.1, crossover=False)
    genomes = np.array([p.genome for p in optimizer.ask(504)[4:]])

    assert set(genomes[:, 0].round(3)) == {0.125, 0.375, 0.625, 0.875}
    assert set(genomes[:, 2].round(3)) == {0.3, 0.5, 0.7}
    assert genomes[:, 1].std() == pytest.approx(0.01, rel=0.2)
    assert genomes[:, 3].std() == pytest.approx(0.1, rel=0.2)


def test_the_start_comes_first_then_the_seeds_and_where_these_are_few_points_around():
    start, seeds = (0.5, 0.1), ((1.0, 0.0), (0.0, 1.0))
    few = M2n2(Problem(Domain(start, seeds=seeds)), seed=0, population=9).ask(9)

    assert [p.genome for p in few[:3]] == [start, *seeds]
    assert len({p.genome for p in few}) == 9
    assert all(0.25 <= x <= 0.75 and 0 <= y <= 0.35 for x, y in (p.genome for p in few[3:]))


def test_after_the_sources_come_random_crossings_of_two_of_them():
    proposals = M2n2(lineage(), seed=0, warmup=300).ask(303)[3:]
    pairs = {p.descent.parents for p in proposals}
    splits = np.array([p.descent.splits for p in proposals])

    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert [set(column) for column in splits.T] == [set(range(12)), set(range(5))]
    assert np.mean([p.descent.mix for p in proposals]) == pytest.approx(0.5, abs=0.05)
    assert all(p.descent.noise == 0 for p in proposals)


def test_options_say_how_children_descend():
    whole = M2n2(lineage(), seed=0, split=False).ask(20)[3:]
    single = M2n2(lineage(), seed=0, crossover=False, mutation=0.01).ask(20)[3:]

    assert all(p.descent.splits == (0, 0) for p in whole)
    assert all(p.descent == Descent(None, (p.descent.parents[0],) * 2, (0, 0), 0.0, 0.01) for p in single)


def test_only_feasible_members_have_children():
    optimizer = M2n2(lineage(), seed=0, warmup=0)
    optimizer.tell([told(p.trial, [1, 1, 0]) for p in optimizer.ask(3)])
    optimizer.tell([told(p.trial, [1, 1, 1], violation=0.1) for p in optimizer.ask(5)])

    parents = {parent for p in optimizer.ask(50) for parent in p.descent.parents}
    assert parents == {0, 1, 2}
    assert len(optimizer.members) == 8


def test_failures_change_nothing_but_what_is_outstanding():
    optimizer = M2n2(lineage(), seed=0)
    optimizer.tell([told(p.trial, [p.trial % 2, 1, 0]) for p in optimizer.ask(25)])
    before = optimizer.members, optimizer.elite, optimizer.coverage, optimizer.entropy
    optimizer.tell([Evaluation(p.trial, None) for p in optimizer.ask(25)])

    assert (optimizer.members, optimizer.elite, optimizer.coverage, optimizer.entropy) == before


def test_coverage_and_entropy_are_those_of_the_archive():
    optimizer = M2n2(lineage(), seed=0)
    assert (optimizer.coverage, optimizer.entropy) == (0.0, 0.0)
    optimizer.ask(2)
    optimizer.tell([told(0, [1, 1, 0, 0]), told(1, [1, 0, 0, 0])])

    assert (optimizer.coverage, optimizer.entropy) == (0.5, 0.25)


def turned():
    """An optimizer whose archive must be scored on new items, what it held, and what it then asks first."""
    optimizer = M2n2(lineage(), seed=0, population=4, warmup=0, epoch=6)
    for trial, solved in enumerate(
        [[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    ):
        assert [p.trial for p in optimizer.ask(1)] == [trial]
        optimizer.tell([told(trial, solved)])
    return optimizer, optimizer.members


def test_after_an_epoch_the_members_and_the_best_come_again_with_new_items():
    optimizer, members = turned()
    again = optimizer.ask(7)
    count = len(members) + (optimizer.elite[0] not in members)

    assert {p.generation for p in again} == {1}
    expected = {m.trial for m in (*members, optimizer.elite[0])}
    assert {p.descent.parents for p in again[:count]} == {(t, t) for t in expected}
    assert all((p.descent.mix, p.descent.splits) == (0.0, (0, 0)) for p in again[:count])
    assert all(p.descent.parents[0] != p.descent.parents[1] for p in again[count:])


def test_the_new_archive_counts_when_its_members_were_scored_and_has_none_of_the_old_scores():
    optimizer, members = turned()
    again = optimizer.ask(len(members) + (optimizer.elite[0] not in members))
    optimizer.tell([told(p.trial, [0, 1, 0]) for p in again[2:]])  # of another number of items, too
    assert optimizer.members == members
    optimizer.tell([Evaluation(p.trial, None) for p in again[:2]])

    assert {m.trial for m in optimizer.members} == {p.trial for p in again[2:]}
    assert {m.mean for m in optimizer.elite} == {1 / 3}
    assert optimizer.ask(1)[0].generation == 1


def test_who_enters_the_old_archive_late_is_proposed_again_too():
    optimizer = M2n2(lineage(), seed=0, population=4, warmup=0, epoch=3)
    optimizer.tell([told(p.trial, [1, 0, 0, 0]) for p in optimizer.ask(3)[:2]])
    late = optimizer.ask(1)[0]
    optimizer.tell([told(2, [1, 0, 0, 0])])
    optimizer.tell([told(late.trial, [0, 1, 1, 0])])

    assert (late.trial, late.trial) in {p.descent.parents for p in optimizer.ask(4)}


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        (((1.0, 0.0),), r"\(3,\) items"),
        (None, r"\(3,\) items"),
        (((1.0, 0.0, float("nan")),), "finite"),
        (((1.0, 0.0, 1.0), (1.0,)), "1 objectives, got 2"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused_and_nothing_is_learnt(responses, message):
    optimizer = M2n2(lineage(), seed=0)
    optimizer.ask(4)
    optimizer.tell([told(0, [1, 0, 1])])
    state = optimizer.state()

    with pytest.raises(ValueError, match=message):
        optimizer.tell([told(1, [1, 1, 1]), Evaluation(2, (0.5,), responses=responses)])
    assert optimizer.state() == state


def asynchronous(evaluations, restore_every=None, **options):
    """A run on 24 workers of log-normal latency, a tenth of whose answers are failures."""
    optimizer = M2n2(lineage(), seed=4, **options)
    driver, rng, running = LineageDriver(optimizer, 1), np.random.default_rng(0), []
    for step in range(evaluations):
        running += [(step + 24 * rng.lognormal(0, 0.7), p) for p in driver.ask(24 - len(running))]
        running.sort(key=lambda r: (r[0], r[1].trial))
        _, proposal = running.pop(0)
        failed = rng.random() < 0.1
        driver.optimizer.tell([Evaluation(proposal.trial, None) if failed else driver.scored(proposal)])
        if restore_every and step % restore_every == 0:
            driver.optimizer = M2n2.from_state(driver.optimizer.state())
    return driver


def best(driver):
    return max(driver.weights(p.trial).__gt__(0.5).mean() for p in driver.proposals)


def test_a_run_restored_all_the_time_is_the_undisturbed_run():
    one, two = (asynchronous(600, every, population=8, epoch=60) for every in (None, 7))

    assert one.proposals == two.proposals
    assert one.proposals[-1].generation > 4
    assert one.optimizer.state() == two.optimizer.state()


def test_a_crowd_of_workers_finds_what_no_source_has():
    assert best(asynchronous(600)) >= 0.7  # no source solves more than 6 of 17 items


def test_the_state_does_not_grow_with_the_run():
    sizes = [len(asynchronous(evaluations).optimizer.state()) for evaluations in (300, 900)]

    assert sizes[1] < 1.1 * sizes[0] < 20_000


def test_a_thousand_steps_with_1437_items_are_quick_and_the_state_is_small():
    optimizer = M2n2(lineage(2, (19_210,)), seed=0, population=20, mutation=0.01)
    rng = np.random.default_rng(0)
    answers = [tuple((rng.random(1437) < 0.5).astype(float).tolist()) for _ in range(50)]
    began = time.process_time()
    for step in range(1200):
        (proposal,) = optimizer.ask(1)
        optimizer.tell([Evaluation(proposal.trial, (0.5,), responses=(answers[step % 50],))])

    assert time.process_time() - began < 6  # 1 s on a quiet machine
    assert len(optimizer.state()) < 20 * 1437 + 10_000


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"population": 1}, "population"),
        ({"alpha": -1.0}, "alpha"),
        ({"attraction": "off"}, "attraction"),
        ({"epoch": -1}, "epoch"),
        ({"crossover": False}, "mutation"),
        ({"pop_size": 8}, "pop_size"),
    ],
)
def test_wrong_options_are_named(options, field):
    with pytest.raises(InvalidInputError, match=f"optimizer.options.{field}"):
        M2n2(lineage(), seed=0, **options)


def test_a_single_source_needs_mutation():
    with pytest.raises(InvalidInputError, match="mutation"):
        M2n2(lineage(sources=1), seed=0)

    assert M2n2(lineage(sources=1), seed=0, mutation=0.01).ask(2)[1].descent.parents == (0, 0)


@pytest.mark.parametrize(
    "problem", [lineage(sources=0), lineage(units=()), lineage(units=(3, 0)), lineage(objectives=0), real(())]
)
def test_problems_without_anything_to_search_are_refused(problem):
    with pytest.raises(ValueError, match="expected"):
        M2n2(problem, seed=0)


def test_the_lineage_of_the_contract_is_what_it_says():
    driver = LineageDriver(M2n2(lineage(), seed=0), 1)
    driver.ask(3)

    assert [driver.weights(k).tolist() for k in range(3)] == [[float(i % 3 == k) for i in range(17)] for k in range(3)]
    assert LineageDomain(3, (12, 5)) == LINEAGE


def test_the_state_of_another_optimizer_is_refused():
    with pytest.raises(EvomergeError, match="m2n2/2"):
        M2n2.from_state(SobolSearch(real((0.5,)), seed=0).state())
