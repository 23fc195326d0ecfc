"""What evolution strategies share: ordered genes, steps, seeds, restarts, and items that grow with the noise."""

from itertools import pairwise

import numpy as np
import pytest

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.catcma import CatCma
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.noise import RankNoise, doubtful
from evomerge.optimizers.restarts import Restarts
from evomerge.testing.optimizer import MixedOptimizerContract


class TestCmaEsWithOrderedGenes(MixedOptimizerContract):
    names = False

    def make(self, problem, *, seed):
        return CmaEs(problem, seed=seed, population=4, restarts="bipop")


def told(proposals, function):
    return [Evaluation(p.trial, (function(p.genome),)) for p in proposals]


def best_of(optimizer, function, evaluations):
    values = []
    while len(values) < evaluations:
        answers = told(optimizer.ask(optimizer.generation_size), function)
        optimizer.tell(answers)
        values += [a.values[0] for a in answers]
    return max(values)


def test_categories_need_another_optimizer():
    domain = Domain((1 / 6, 0.5), (GeneKind(choices=3), GeneKind()))

    with pytest.raises(InvalidInputError, match="catcma"):
        CmaEs(Problem(domain), seed=0)


def test_ordered_choices_beside_reals_are_found():
    """The optimum's choices are neighbours of those where the real genes would like to stay."""
    kinds = (*(GeneKind(choices=n, ordered=True) for n in (3, 5, 9, 20)), GeneKind(), GeneKind())
    start = (0.5, 0.5, 0.5, 0.525, 0.5, 0.5)
    target = (5 / 6, 0.1, 17 / 18, 0.125, 0.8, 0.3)

    def near(genome):
        return -sum((gene - wanted) ** 2 for gene, wanted in zip(genome, target, strict=True))

    found = [best_of(CmaEs(Problem(Domain(start, kinds)), seed=seed), near, 400) for seed in range(3)]
    assert max(found) > -1e-5
    assert sorted(found)[1] > -0.02  # at most one choice beside


def test_a_choice_is_never_stuck():
    """All information is in one ordered gene whose fitness is flat in between: it must go on stepping."""
    domain = Domain((0.5, 0.05), (GeneKind(), GeneKind(choices=10, ordered=True)))
    optimizer = CmaEs(Problem(domain), seed=0)
    for _ in range(60):
        optimizer.tell(told(optimizer.ask(6), lambda g: -((g[0] - 0.5) ** 2)))

    assert len({p.genome[1] for p in optimizer.ask(200)}) > 1


@pytest.mark.parametrize("kind", [CmaEs, CatCma])
def test_first_steps_follow_the_kinds_of_genes(kind):
    domain = Domain((0.5, 0.5, 0.5), (GeneKind(), GeneKind(step=0.1), GeneKind(step=0.5)))
    genomes = [p.genome for p in kind(Problem(domain), seed=0, sigma=0.1).ask(500)[1:]]

    assert np.std(genomes, axis=0) == pytest.approx([0.1, 0.01, 0.05], rel=0.15)


def test_seeds_come_after_the_start_and_draw_the_search():
    seeds = ((0.9, 0.9, 0.9), (0.0, 1.0, 0.5))
    optimizer = CmaEs(Problem(Domain((0.2, 0.2, 0.2), seeds=seeds)), seed=0, sigma=0.1)
    alone = CmaEs(real((0.2, 0.2, 0.2)), seed=0, sigma=0.1)
    first = optimizer.ask(3)
    optimizer.tell(told(first, sum))
    for search in (optimizer, alone):
        for _ in range(3):
            search.tell(told(search.ask(7), sum))

    assert [p.genome for p in first] == [(0.2, 0.2, 0.2), pytest.approx(seeds[0]), pytest.approx(seeds[1])]
    means = [np.mean([p.genome for p in search.ask(50)]) for search in (optimizer, alone)]
    assert means[0] > means[1] + 0.02


def test_a_far_seed_does_not_blow_up_the_steps():
    seeds = ((1.0,) * 6,)
    optimizer = CmaEs(Problem(Domain((0.05,) * 6, seeds=seeds)), seed=0, sigma=0.02)
    optimizer.tell(told(optimizer.ask(9), sum))

    assert np.std([p.genome for p in optimizer.ask(200)], axis=0).max() < 0.08


def regimes(policy, lengths):
    restarts = Restarts(policy, 8, 0.2, seed=3)
    seen = [restarts.current]
    for length in lengths:
        restarts.spend(length)
        seen.append(restarts.next())
    return restarts, seen


def test_ipop_doubles_and_none_repeats():
    assert [r.population for r in regimes("ipop", [10] * 4)[1]] == [8, 16, 32, 64, 128]
    assert {(r.population, r.sigma) for r in regimes("none", [10] * 4)[1]} == {(8, 0.2)}


def test_bipop_spends_as_much_on_small_populations_as_on_large_ones():
    restarts, seen = regimes("bipop", [100, 100, *[50] * 40])
    small, large = [r for r in seen if r.small], [r for r in seen if not r.small]

    assert [r.population for r in large] == [8 << i for i in range(len(large))]
    assert all(b.sigma == 0.2 for b in large)
    assert all(8 <= r.population <= large[-1].population / 2 and 0.002 <= r.sigma <= 0.2 for r in small)
    assert len({r.sigma for r in small}) == len(small) > 10
    spent = restarts.dump()["spent"]
    assert abs(spent[0] - spent[1]) <= 100


def test_regimes_go_on_from_what_was_stored():
    restarts, _ = regimes("bipop", [100, 100, 50, 50])
    again = Restarts("bipop", 8, 0.2, seed=3)
    again.load(restarts.dump())

    assert again.current == restarts.current
    for each in (restarts, again):
        each.spend(30)
    assert [again.next() for _ in range(5)] == [restarts.next() for _ in range(5)]


def rugged(genome):
    """Rastrigin's function: a bowl full of dents, the deepest at 0.7."""
    z = 8 * (np.array(genome) - 0.7)
    return float(-np.sum(z**2 + 10 - 10 * np.cos(2 * np.pi * z)))


def test_restarts_find_what_the_first_run_misses():
    problem, seeds = real((0.2, 0.2)), range(2)
    once = [best_of(CmaEs(problem, seed=seed, restarts="none"), rugged, 200) for seed in seeds]
    often = [best_of(CmaEs(problem, seed=seed, restarts="bipop"), rugged, 1500) for seed in seeds]

    assert np.mean(once) < -1
    assert np.mean(often) > np.mean(once) + 1
    assert max(often) > -1e-3


def test_doubt_is_a_quarter_for_pure_noise_and_none_without_errors():
    rng = np.random.default_rng(0)
    noise = np.mean([doubtful(rng.standard_normal(20), np.ones(20)) for _ in range(200)])

    assert noise == pytest.approx(0.25, abs=0.01)
    assert doubtful(np.arange(5.0), np.zeros(5)) == 0
    assert doubtful(np.zeros(5), np.zeros(5)) == 0
    assert doubtful(np.zeros(5), np.ones(5)) == 0.5


def test_items_grow_up_to_the_cap_while_ranks_are_noise_and_shrink_when_they_are_clear():
    rng, noise = np.random.default_rng(0), RankNoise(most=4.0)
    seen = []
    for spread in [0.0] * 8 + [50.0] * 20:
        values = rng.standard_normal(10) + spread * np.arange(10)
        noise.learn([Evaluation(i, (v,), errors=(1.0,)) for i, v in enumerate(values.tolist())])
        seen.append(noise.fidelity)

    assert seen[:5] == [1.5, 2.25, 3.375, 4.0, 4.0]
    assert seen[-1] == 1.0
    assert all(a <= b for a, b in pairwise(seen[:8]))


@pytest.mark.parametrize(
    "evaluations",
    [
        [Evaluation(i, (0.0,)) for i in range(9)],
        [Evaluation(i, None) for i in range(9)],
        [Evaluation(i, (0.0,), violation=1.0, errors=(1.0,)) for i in range(9)],
        [],
    ],
)
def test_answers_without_errors_say_nothing_about_noise(evaluations):
    noise = RankNoise(most=4.0)
    noise.learn(evaluations)

    assert (noise.fidelity, noise.share) == (1.0, None)


def noisy_search(items, seed, budget, **options):
    """The true value of the mean of the last candidates of CMA-ES when `budget` items were answered.

    Every answer of an item is off by 1 (standard deviation), so n items give an error of 1/√n.
    """
    rng, spent, size = np.random.default_rng(seed), 0, 6
    optimizer = CmaEs(real((0.3,) * size), seed=seed, sigma=0.15, **options)
    last = []
    while spent < budget:
        (proposal,) = optimizer.ask(1)
        n = round(items * proposal.fidelity)
        value = -8 * float(np.sum((np.array(proposal.genome) - 0.6) ** 2)) + rng.normal(0, n**-0.5)
        optimizer.tell([Evaluation(proposal.trial, (value,), errors=(n**-0.5,))])
        spent += n
        last = [*last[-29:], proposal.genome]
    return -float(np.sum((np.mean(last, axis=0) - 0.6) ** 2))


@pytest.mark.slow
def test_growing_items_beat_a_few_that_stay_at_the_same_number_of_answers():
    grown = [noisy_search(10, seed, 12_000, noise="auto", max_fidelity=20.0) for seed in range(4)]
    fixed = [noisy_search(10, seed, 12_000, noise="off") for seed in range(4)]

    assert np.mean(grown) > 0.6 * np.mean(fixed)  # they are negative: less than 0.6 of the distance


def test_noise_off_never_asks_for_more():
    optimizer = CmaEs(real((0.5, 0.5)), seed=0, noise="off")
    rng = np.random.default_rng(0)
    for _ in range(20):
        proposals = optimizer.ask(6)
        optimizer.tell([Evaluation(p.trial, (float(rng.random()),), errors=(1.0,)) for p in proposals])
        assert {p.fidelity for p in proposals} == {1.0}


def test_fidelity_is_part_of_the_state():
    optimizer = CmaEs(real((0.5, 0.5)), seed=0, noise="auto")
    for _ in range(2):
        optimizer.tell([Evaluation(p.trial, (0.1 * p.trial,), errors=(9.0,)) for p in optimizer.ask(6)])
    answered = optimizer.ask(3)
    optimizer.tell([Evaluation(p.trial, (0.0,), errors=(9.0,)) for p in answered])
    restored = CmaEs.from_state(optimizer.state())

    assert {p.fidelity for p in answered} == {2.25}
    for search in (optimizer, restored):
        search.tell([Evaluation(p.trial, (0.0,), errors=(0.0,)) for p in search.ask(5)])
    assert restored.ask(5) == optimizer.ask(5)
