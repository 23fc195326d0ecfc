"""COMO-CMA-ES: the contract, what makes several kernels one search, fronts that are known."""

import numpy as np
import pytest

from evomerge.archive import hypervolume, improvement
from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.kernel import Kernel, Sample
from evomerge.optimizers.mo_cma import ComoCmaEs, Frame, Retired
from evomerge.optimizers.random import SobolSearch
from evomerge.testing.optimizer import LearningOptimizerContract
from tests.evomerge.optimizers.known_fronts import REFERENCES, run, two_peaks, volume, zdt1


class TestContract(LearningOptimizerContract):
    num_objectives = 2

    def make(self, problem, *, seed):
        return ComoCmaEs(problem, seed=seed, population=4, kernels=2)


@pytest.mark.slow
class TestContractWithThreeObjectives(TestContract):
    num_objectives = 3


@pytest.mark.slow
class TestContractWithOneObjective(TestContract):
    num_objectives = 1

    def make(self, problem, *, seed):
        return ComoCmaEs(problem, seed=seed, population=4)


# the measure


def frame(*points):
    result = Frame(len(points[0]))
    for point in points:
        result.add(point)
    return result


def test_improvement_over_the_others_by_hand():
    """Ranges are 1; the reference lies 0.3 below (0, 0). The others leave a square, and room at both ends."""
    others = np.array([[0.0, 1.0], [1.0, 0.0]])
    values = np.array([[0.5, 0.5], [0.0, 0.5], [-0.5, 1.0], [1.0, 0.2]])
    worth = frame((0.0, 1.0), (1.0, 0.0)).worth(values[:2], others)
    wide = frame((0.0, 1.0), (1.0, 0.0)).worth(values[3:], others)

    np.testing.assert_allclose(worth, [0.25, 0.0])
    np.testing.assert_allclose(wide, [0.2 * 1.0])


def test_beyond_the_reference_counts_the_way_back():
    measure = frame((0.0, 1.0), (1.0, 0.0))

    np.testing.assert_allclose(measure.worth(np.array([[0.1, 0.1]]), np.array([[0.5, 0.5]])), [-0.4])
    assert measure.worth(np.array([[-0.6, 0.9]]), np.array([[0.5, 0.5]]))[0] < 0


@pytest.mark.parametrize("objectives", [2, 3])
def test_worth_ranks_as_hypervolume_improvement_does(objectives):
    rng = np.random.default_rng(objectives)
    points = rng.random((12, objectives))
    measure = frame(*map(tuple, points))
    values, others = points[:6], points[6:]
    span = np.ptp(points, axis=0)
    reference = (points[[i for i in range(12) if not (points > points[i]).all(axis=1).any()]].min(axis=0)) - 0.3 * span
    expected = [improvement(v, others, reference) / span.prod() for v in values]

    worth = measure.worth(values, others)
    better = np.array(expected) > 0
    np.testing.assert_allclose(worth[better], np.array(expected)[better])
    assert (worth[~better] <= 0).all()


def test_contributions_are_what_a_front_loses():
    points = np.array([[0.0, 1.0], [0.05, 0.7], [0.6, 0.6], [1.0, 0.0]])

    assert frame(*map(tuple, points)).contributions(points).argmax() == 2
    assert frame(*map(tuple, points)).contributions(points).argmin() == 1


def test_of_retired_places_the_dominated_are_forgotten():
    retired = Retired(1, 2)
    for place, values in ((0.1, (0.0, 1.0)), (0.2, (0.5, 0.4)), (0.3, (0.6, 0.5))):
        retired.add((place,), values)

    assert retired.genomes() == [(0.1,), (0.3,)]


# the order of kernels


def test_first_come_means_start_and_seeds_then_steps_from_the_start():
    domain = Domain((0.5, 0.5), seeds=((1.0, 0.0), (0.0, 1.0)))
    optimizer = ComoCmaEs(Problem(domain, 2), seed=0, kernels=5, spread=0.05)
    first = [p.genome for p in optimizer.ask(6)]

    assert first[0] == (0.5, 0.5)
    np.testing.assert_allclose(first[1:3], domain.seeds, atol=1e-9)
    assert all(0 < np.abs(np.array(genome) - 0.5).max() < 0.2 for genome in first[3:5])


def test_kernels_take_turns_and_each_new_mean_is_evaluated_next():
    optimizer = ComoCmaEs(real((0.5,) * 3, 2), seed=0, kernels=2, population=4)
    owners = []
    for _ in range(18):
        (proposal,) = optimizer.ask(1)
        sample = optimizer._asked[proposal.trial]
        owners.append((sample.kernel, sample.mean))
        optimizer.tell([Evaluation(proposal.trial, two_peaks(proposal.genome))])

    generation = [(0, False)] * 4 + [(0, True)], [(1, False)] * 4 + [(1, True)]
    assert owners == [(0, True), (1, True), *generation[0], *generation[1], *generation[0], (1, False)]


def test_with_more_workers_than_samples_all_kernels_get_more():
    optimizer = ComoCmaEs(real((0.5,) * 3, 2), seed=0, kernels=3, population=4)
    optimizer.ask(3 + 12 + 6)

    assert [kernel.load for kernel in optimizer._kernels] == [6, 6, 6]


def test_an_old_means_answer_does_not_replace_a_new_ones():
    kernel = ComoCmaEs(real((0.5,) * 2, 2), seed=0, kernels=1, population=4)._kernels[0]
    point = kernel.draw()
    kernel.judge(Sample(0, 2, point, mean=True), Evaluation(1, (0.2, 0.2)))
    kernel.judge(Sample(0, 1, point, mean=True), Evaluation(0, (0.9, 0.9)))
    newest = kernel.incumbent
    kernel.judge(Sample(0, 3, point, mean=True), Evaluation(2, (0.5, 0.5), violation=1.0))

    assert isinstance(kernel, Kernel)
    assert newest == (0.2, 0.2)
    assert kernel.incumbent is None


# searches


def test_kernels_spread_over_the_front():
    """The front is the line between the peaks: means converge to it, and to different places."""
    optimizer = ComoCmaEs(real((0.45,) * 4, 2), seed=1, kernels=4)
    run(optimizer, two_peaks, 1000)
    places = np.array([*[k.place for k in optimizer._kernels if k.incumbent], *optimizer._retired.places])

    along, off = places.mean(axis=1), np.ptp(places, axis=1)
    assert np.median(off) < 0.07
    assert ((along > 0.25) & (along < 0.65)).all()
    assert np.histogram(along, bins=6, range=(0.3, 0.6))[0].astype(bool).sum() >= 5


def test_kernels_that_are_done_begin_again_and_leave_their_place_on_the_front():
    optimizer = ComoCmaEs(real((0.45,) * 3, 2), seed=0, kernels=2)
    run(optimizer, two_peaks, 600)

    assert len(optimizer._retired.places) >= 4
    for place, values in zip(optimizer._retired.genomes(), optimizer._retired.values, strict=True):
        np.testing.assert_allclose(two_peaks(place), values, atol=1e-9)


@pytest.mark.parametrize(("function", "gain"), [(zdt1, 0.4), (two_peaks, 0.1)])
def test_fronts_are_covered_better_than_at_random(function, gain):
    found = [volume(ComoCmaEs, function, 8, 500, seed) for seed in range(2)]
    by_chance = [volume(SobolSearch, function, 8, 500, seed) for seed in range(2)]

    assert min(found) > max(by_chance) + gain


@pytest.mark.slow
def test_a_crowd_of_workers_with_failures_costs_little():
    volumes = []
    for workers, failures in ((1, 0.0), (24, 0.1)):
        optimizer = ComoCmaEs(real((0.5,) * 8, 2, 600), seed=3)
        values, _ = run(optimizer, two_peaks, 600, workers=workers, failures=failures)
        volumes.append(hypervolume(values, REFERENCES[two_peaks]))

    assert volumes[1] > volumes[0] - 0.03  # of 0.94 at best


@pytest.mark.slow
def test_a_run_restored_all_the_time_is_the_undisturbed_run():
    runs = []
    for every in (0, 7):
        optimizer = ComoCmaEs(real((0.4,) * 4, 2), seed=2, kernels=2, population=4)
        runs.append(run(optimizer, two_peaks, 400, workers=7, failures=0.1, restore_every=every)[1])
        assert len(optimizer._retired.places) >= (not every)

    assert runs[0] == runs[1]
    assert runs[0][-1].generation > 10


def test_the_state_stays_small():
    optimizer = ComoCmaEs(real((0.5,) * 16, 2), seed=0, kernels=5)
    run(optimizer, two_peaks, 500)

    assert len(optimizer.state()) < 150_000


def test_one_objective_is_searched_by_one_kernel():
    optimizer = ComoCmaEs(real((0.1,) * 4), seed=0)
    values, _ = run(optimizer, lambda genome: (two_peaks(genome)[0],), 300)

    assert optimizer.num_kernels == 1
    assert max(values)[0] > -1e-3


def test_constraints_are_met_before_objectives_count():
    optimizer = ComoCmaEs(real((0.7, 0.3, 0.3), 2), seed=0, kernels=3)
    feasible = []
    for _ in range(300):
        (proposal,) = optimizer.ask(1)
        over = max(0.0, proposal.genome[0] - 0.2)
        feasible.append(not over)
        optimizer.tell([Evaluation(proposal.trial, two_peaks(proposal.genome), over)])

    assert np.mean(feasible[-100:]) > 0.4
    assert np.mean(feasible[:30]) < 0.2


def test_kernels_follow_the_budget():
    numbers = [ComoCmaEs(real((0.5,) * 16, 2, budget), seed=0).num_kernels for budget in (None, 100, 1000, 10**5)]

    assert numbers == [5, 3, 5, 20]


def test_what_it_does_not_search_is_refused():
    with pytest.raises(InvalidInputError, match="real numbers"):
        ComoCmaEs(Problem(Domain((0.25,), (GeneKind(choices=2),)), 2), seed=0)
    with pytest.raises(InvalidInputError, match="kernels"):
        ComoCmaEs(real((0.5,), 2), seed=0, kernels=0)
