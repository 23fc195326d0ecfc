"""MAP: quadratics that are recovered, fronts that are predicted, and the contract."""

import numpy as np
import pytest
from scipy.special import expit

from evomerge.archive import hypervolume
from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.quadratic import Quadratic, num_coefficients
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.surrogate import MEMORY, MOST_GENES, MapSearch, below_front
from evomerge.testing.optimizer import LearningOptimizerContract
from tests.evomerge.optimizers.known_fronts import REFERENCES, run, two_peaks, volume


class TestContract(LearningOptimizerContract):
    num_objectives = 2

    def make(self, problem, *, seed):
        return MapSearch(problem, seed=seed, design=12, batch=30)


@pytest.mark.slow
class TestContractWithOneObjective(TestContract):
    num_objectives = 1


def form(genes, seed, scale=1.0):
    """A random quadratic as a function of genomes, shape [genomes, genes]."""
    rng = np.random.default_rng(seed)
    e, b, matrix = rng.normal(), rng.normal(size=genes), rng.normal(size=(genes, genes))
    return lambda x: scale * (e + x @ b + np.einsum("ni,ij,nj->n", x, matrix, x))


@pytest.mark.parametrize("genes", [1, 3, 12])
@pytest.mark.parametrize("link", ["identity", "sigmoid"])
def test_a_quadratic_is_recovered_from_one_and_a_half_times_as_many_answers_as_it_has_coefficients(genes, link):
    quadratic, rng = form(genes, seed=4, scale=0.5), np.random.default_rng(0)
    through = expit if link == "sigmoid" else np.asarray
    known, new = rng.random((3 * num_coefficients(genes) // 2 + 1, genes)), rng.random((200, genes))
    fit = Quadratic.fit(known, through(quadratic(known)), np.ones(len(known)), link)

    np.testing.assert_allclose(fit(new), through(quadratic(new)), atol=5e-3)


def test_an_objective_in_other_units_gives_the_same_fit():
    quadratic, rng = form(3, seed=1), np.random.default_rng(0)
    known, new = rng.random((20, 3)), rng.random((50, 3))
    fits = [
        Quadratic.fit(known, scale * quadratic(known) + shift, np.ones(20), "identity")(new)
        for scale, shift in ((1, 0), (1e6, -1e7))
    ]

    np.testing.assert_allclose(fits[1], 1e6 * fits[0] - 1e7, rtol=1e-6)


@pytest.mark.parametrize("link", ["identity", "sigmoid"])
def test_errors_weigh_the_answers(link):
    """Half of the answers are wrong, and say so."""
    quadratic, rng = form(2, seed=2, scale=0.3), np.random.default_rng(0)
    through = expit if link == "sigmoid" else np.asarray
    known, new = rng.random((60, 2)), rng.random((50, 2))
    truth = through(quadratic(known))
    wrong = np.arange(60) % 2 == 0
    told = np.clip(np.where(wrong, truth + rng.normal(scale=0.5, size=60), truth), 0 if link == "sigmoid" else -9, 1)
    off = [
        np.abs(Quadratic.fit(known, told, errors, link)(new) - through(quadratic(new))).max()
        for errors in (np.where(wrong, 0.5, 0.005), np.ones(60))
    ]

    assert off[0] < 0.02 < off[1]


def test_few_answers_give_a_flat_fit_not_a_wild_one():
    fit = Quadratic.fit(np.array([[0.2, 0.4], [0.6, 0.5]]), np.array([0.5, 0.6]), np.ones(2), "sigmoid")

    predicted = fit(np.random.default_rng(0).random((100, 2)))
    assert 0.3 < predicted.min() < predicted.max() < 0.8


def shares(genome):
    """Two accuracies that MAP's form describes exactly; the front is the line between the peaks."""
    return tuple(float(expit(2 - 12 * sum((gene - peak) ** 2 for gene in genome))) for peak in (0.3, 0.6))


def test_how_far_answers_lie_below_the_front():
    values = np.array([[0.0, 10.0], [1.0, 0.0], [0.5, 5.0], [0.25, 2.5], [0.0, 0.0]])

    np.testing.assert_allclose(below_front(values), [0, 0, 0, 0.5, 1])
    assert below_front(np.zeros((3, 2))).tolist() == [0, 0, 0]


def test_broken_merges_do_not_bend_the_fit():
    """Off a ridge everything scores 0, which no quadratic describes; the predicted best is on the ridge even so."""
    optimizer = MapSearch(real((0.5, 0.5)), seed=0, spread=None, design=40)
    run(
        optimizer,
        lambda g: (0.0 if abs(g[0] - 0.45) > 0.25 else 0.9 - 2 * ((g[0] - 0.4) ** 2 + (g[1] - 0.6) ** 2),),
        41,
    )

    np.testing.assert_allclose(optimizer.preview().genomes[0], (0.4, 0.6), atol=0.04)


def test_the_preview_is_the_front():
    optimizer = MapSearch(real((0.5,) * 3, 2), seed=0)
    run(optimizer, shares, optimizer.design_size + 5)
    preview = optimizer.preview()

    assert len(preview.genomes) > 30
    assert (np.diff(preview.values[:, 0]) <= 0).all()
    assert (np.diff(preview.values[:, 1]) >= 0).all()
    actual = np.array([shares(genome) for genome in preview.genomes])
    np.testing.assert_allclose(preview.values, actual, atol=0.01)
    line = [shares((t,) * 3) for t in np.linspace(0.3, 0.6, 200)]
    assert hypervolume(actual, (0, 0)) > 0.99 * hypervolume(line, (0, 0))


def test_a_preview_changes_nothing_and_there_is_none_before_the_first_answer():
    optimizer = MapSearch(real((0.5,) * 2, 2), seed=0)
    empty = optimizer.preview()
    run(optimizer, shares, 7)
    state = optimizer.state()
    optimizer.preview()

    assert empty.genomes.shape == (0, 2)
    assert empty.values.shape == (0, 2)
    assert optimizer.state() == state


def test_the_preview_keeps_off_what_is_infeasible():
    optimizer = MapSearch(real((0.5,) * 2, 2), seed=0)
    for proposal in optimizer.ask(30):
        violation = max(0.0, proposal.genome[0] - 0.4)
        optimizer.tell([Evaluation(proposal.trial, shares(proposal.genome), violation)])

    assert optimizer.preview().genomes[:, 0].max() < 0.48  # a quadratic rounds the edge off


def test_few_evaluations_find_the_front():
    """Where the form fits: after the design, 30 evaluations are on the front; Sobol points are far off."""
    found, by_chance = (volume(kind, two_peaks, 4, 60, 1) for kind in (MapSearch, SobolSearch))
    line = [two_peaks((t,) * 4) for t in np.linspace(0.3, 0.6, 60)]

    assert found > 0.98 * hypervolume(line, REFERENCES[two_peaks])
    assert by_chance < 0.95 * hypervolume(line, REFERENCES[two_peaks])


def test_a_crowd_of_workers_with_failures_finds_it_too():
    optimizer = MapSearch(real((0.5,) * 4, 2, 120), seed=2)
    values, _ = run(optimizer, two_peaks, 120, workers=24, failures=0.1)
    line = [two_peaks((t,) * 4) for t in np.linspace(0.3, 0.6, 120)]

    assert hypervolume(values, REFERENCES[two_peaks]) > 0.98 * hypervolume(line, REFERENCES[two_peaks])


def test_proposals_are_not_known_yet():
    optimizer = MapSearch(real((0.5,) * 2), seed=0, explore=0.0)
    _, proposals = run(optimizer, lambda genome: (shares(genome)[0],), 80, workers=5)

    genomes = np.array([p.genome for p in proposals])
    distances = np.abs(genomes[:, None] - genomes[None]).max(axis=2)[np.triu_indices(len(genomes), 1)]
    assert distances.min() > 1e-4


def test_a_run_restored_all_the_time_is_the_undisturbed_run():
    runs = []
    for every in (0, 7):
        optimizer = MapSearch(real((0.5,) * 2, 2), seed=2)
        runs.append(run(optimizer, shares, 60, workers=7, failures=0.1, restore_every=every)[1])

    assert runs[0] == runs[1]
    assert runs[0][-1].generation >= 4


def test_the_memory_is_bounded():
    optimizer = MapSearch(real((0.5,), 1), seed=0, design=10_000)
    run(optimizer, lambda genome: genome, MEMORY + 50)
    size = len(optimizer.state())
    run(optimizer, lambda genome: genome, 100)

    assert len(optimizer.state()) <= size + 16


def test_the_design_is_half_of_a_small_budget():
    sizes = [MapSearch(real((0.5,) * 4, 2, budget), seed=0).design_size for budget in (None, 20, 1000)]

    assert sizes == [23, 10, 23]


def test_many_genes_are_refused_with_what_to_use():
    MapSearch(real((0.5,) * MOST_GENES), seed=0)
    with pytest.raises(InvalidInputError, match=r"13 genes, such as cma_es, como_cma_es or nsga2.* 12 at most"):
        MapSearch(real((0.5,) * (MOST_GENES + 1)), seed=0)
    with pytest.raises(InvalidInputError, match="real numbers"):
        MapSearch(Problem(Domain((0.25,), (GeneKind(choices=2),))), seed=0)
