"""Bayesian search: the contract, what its processes believe, and what few evaluations find."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evomerge.archive import hypervolume
from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.bayes import MOST_GENES, BayesSearch
from evomerge.optimizers.cma_es import CmaEs
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.optimizers.random import SobolSearch
from evomerge.optimizers.surrogate import Answers
from evomerge.testing.optimizer import LearningOptimizerContract, OptimizerContract, score
from tests.evomerge.optimizers.known_fronts import run, two_peaks, volume

torch = pytest.importorskip("torch")
pytest.importorskip("botorch")

gaussian = pytest.importorskip("evomerge.optimizers.gaussian")

SMALL = {"design": 4, "most": 8, "samples": 8}


class TestContractWhileTheDesignLasts(OptimizerContract):
    def make(self, problem, *, seed):
        return BayesSearch(problem, seed=seed, design=1000)


@pytest.mark.slow
class TestContract(LearningOptimizerContract):
    """A fit takes half a second: few answers are kept, and only who waits for nobody's answer has one made."""

    def make(self, problem, *, seed):
        return BayesSearch(problem, seed=seed, crowd=1, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [1, 2])
def test_ten_workers_with_failures_restored_all_the_time_are_the_undisturbed_run(objectives):
    runs = []
    for every in (0, 3):
        optimizer = BayesSearch(real((0.5,) * 2, objectives), seed=2, **SMALL)
        values = lambda genome: score(genome, objectives)  # noqa: E731
        runs.append(run(optimizer, values, 24, workers=5, failures=0.1, restore_every=every)[1])

    assert runs[0] == runs[1]


def begun(objectives=1, answers=4, genes=2, seed=0, **options):
    """A search that has its first answers."""
    optimizer = BayesSearch(real((0.5,) * genes, objectives), seed=seed, **SMALL | options)
    for proposal in optimizer.ask(answers):
        optimizer.tell([Evaluation(proposal.trial, score(proposal.genome, objectives))])
    return optimizer


@pytest.mark.parametrize("objectives", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_restored_search_asks_the_same_in_any_portions_whatever_global_generators_do(objectives):
    original = begun(objectives)
    restored = BayesSearch.from_state(original.state())
    torch.manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state(legacy=False), torch.get_num_threads()
    asked = original.ask(3)

    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_equal(np.random.get_state(legacy=False), before[1])
    assert torch.get_num_threads() == before[2]
    torch.manual_seed(8)
    assert restored.ask(1) + restored.ask(2) == asked
    assert restored.state() == original.state()


def test_pending_proposals_are_kept_away_from():
    """One after another without an answer: nobody goes where another one is."""
    optimizer = begun(answers=6)
    genomes = np.array([proposal.genome for proposal in optimizer.ask(5)])

    distances = np.abs(genomes[:, None] - genomes[None]).max(axis=2)[np.triu_indices(5, 1)]
    assert distances.min() > 0.02


def test_nobody_goes_again_where_it_failed():
    optimizer = begun(answers=6)
    (first,) = optimizer.ask(1)
    optimizer.tell([Evaluation(first.trial, None)])
    (second,) = optimizer.ask(1)

    assert np.abs(np.subtract(first.genome, second.genome)).max() > 0.02


def test_a_crowd_fills_the_space():
    optimizer = begun(crowd=2)
    drawn = optimizer._design.drawn
    optimizer.ask(5)

    assert optimizer._design.drawn == drawn + 3


def peak(genome):
    return (-sum((gene - 0.7) ** 2 for gene in genome),)


def test_few_evaluations_find_a_peak():
    """Sobol points and CMA-ES are still far off."""
    found = [
        max(run(kind(real((0.3,) * 3, budget=20), seed=0), peak, 20)[0])[0]
        for kind in (BayesSearch, CmaEs, SobolSearch)
    ]

    assert found[0] > -1e-3 > max(found[1:])


@pytest.mark.slow
def test_forty_evaluations_of_the_toy_merge_find_more_than_cma_es(monkeypatch):
    pytest.importorskip("sklearn", reason="the toy's digits come from scikit-learn")
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "experiments" / "benchmarks" / "toy_merge")
    benchmark, toy = importlib.import_module("compare_optimizers"), importlib.import_module("digit_experts").ToyMerge()
    found = [
        np.mean([benchmark.search(toy, name, seed, 40)[-1].score for seed in (0, 1)])
        for name in ("bayes", "cma_es", "random")
    ]

    assert found[0] >= found[1]
    assert found[0] >= found[2] + 0.02


@pytest.mark.slow
def test_few_evaluations_find_a_front():
    found, others, chance = (volume(kind, two_peaks, 6, 40, 0) for kind in (BayesSearch, CmaEs, SobolSearch))
    line = [two_peaks((t,) * 6) for t in np.linspace(0.3, 0.6, 40)]

    assert found > max(0.97 * hypervolume(line, (-1.0, -1.0)), others, chance)


@pytest.mark.slow
def test_constraints_are_kept():
    """The peak is forbidden; the best of what is allowed lies at its edge."""
    optimizer, allowed = BayesSearch(real((0.3,) * 2), seed=0, design=5, samples=16), []
    for _ in range(20):
        (proposal,) = optimizer.ask(1)
        violation = max(0.0, proposal.genome[0] - 0.5)
        optimizer.tell([Evaluation(proposal.trial, peak(proposal.genome), violation)])
        allowed += [] if violation else [peak(proposal.genome)[0]]

    assert max(allowed) > -0.04 - 0.01
    assert len(allowed) >= 8


def answers(genomes, values, errors=np.nan, violations=None):
    values = np.reshape(values, (len(genomes), -1))
    none = np.zeros(len(genomes)) if violations is None else violations
    return Answers(np.asarray(genomes), values, np.broadcast_to(np.reshape(errors, (-1, 1)), values.shape), none)


def test_answers_count_by_their_errors():
    """Two answers at one place contradict each other; the exact one is believed."""
    genomes = np.array([[0.1], [0.5], [0.5], [0.9]])
    means = [
        gaussian.Belief(answers(genomes, [0, 1, -1, 0], errors), np.ones(1)).mean(np.array([[0.5]]))[0, 0]
        for errors in ([0.1, 0.01, 1, 0.1], [0.1, 1, 0.01, 0.1])
    ]

    assert means[0] > 0.8
    assert means[1] < -0.8


def test_genes_with_small_steps_are_expected_to_change_much():
    """Answers that say nothing leave the prior: lengths in proportion to steps."""
    steps = np.array([1.0, 0.25])
    lengths = gaussian.Belief(answers([[0.5, 0.5]] * 2, [1, 1]), steps).lengths()[0]

    np.testing.assert_allclose(lengths[1] / lengths[0], 0.25, rtol=0.2)


def test_what_others_found_is_fitted():
    optimizer, rng = BayesSearch(real((0.3,) * 2), seed=0, design=2), np.random.default_rng(0)
    for genome in map(tuple, rng.random((12, 2)).tolist()):
        optimizer.learn(genome, Evaluation(0, peak(genome)))
    asked = [proposal.genome for proposal in optimizer.ask(3)]

    np.testing.assert_allclose(asked[2], (0.7, 0.7), atol=0.1)


@pytest.mark.parametrize("objectives", [1, 3])
@pytest.mark.parametrize("violation", [0.0, 0.5])
def test_answers_that_are_all_the_same_do_no_harm(objectives, violation):
    optimizer = BayesSearch(real((0.5,) * 2, objectives), seed=0, **SMALL)
    for proposal in optimizer.ask(4):
        optimizer.tell([Evaluation(proposal.trial, (1.0,) * objectives, violation)])

    assert all(0 <= gene <= 1 for gene in optimizer.ask(1)[0].genome)


def test_the_best_and_the_newest_answers_are_kept():
    optimizer = BayesSearch(real((0.5,)), seed=0, design=1000, most=10)
    for number, proposal in enumerate(optimizer.ask(40)):
        optimizer.tell([Evaluation(proposal.trial, (float(number if number != 3 else 100),))])
    kept = optimizer._answers.values[:, 0].tolist()

    assert len(kept) == 10
    assert 100.0 in kept
    assert kept[-5:] == [35.0, 36.0, 37.0, 38.0, 39.0]


def test_the_design_is_at_most_a_third_of_the_budget():
    sizes = [BayesSearch(real((0.5,) * 16, 1, budget), seed=0).design_size for budget in (None, 15, 100)]

    assert sizes == [9, 5, 9]


def test_what_it_cannot_search_is_refused_with_what_can():
    BayesSearch(real((0.5,) * MOST_GENES), seed=0)
    with pytest.raises(InvalidInputError, match=r"61 genes, such as cma_es, m2n2 or nsga2; it takes 60 at most"):
        BayesSearch(real((0.5,) * (MOST_GENES + 1)), seed=0)
    with pytest.raises(InvalidInputError, match="real numbers"):
        BayesSearch(Problem(Domain((0.25,), (GeneKind(choices=2),))), seed=0)
    with pytest.raises(InvalidInputError, match="5 objectives; it takes 4"):
        BayesSearch(real((0.5,), 5), seed=0)


def test_nothing_imports_botorch_before_it_is_named_and_a_missing_one_is_said():
    program = """
import sys
sys.modules["botorch"] = None  # as if it were not installed
from evomerge.errors import InvalidInputError
from evomerge.optimizers import make
from evomerge.optimizers.domain import real
try:
    make("bayes", real((0.5, 0.5)), seed=0)
except InvalidInputError as error:
    print(error, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "pip install 'evomerge[bayes]' False" in done.stdout.replace(")", "")
