"""DAM and Expert Merging as searches: their penalties against the authors' code, and what they find."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from scipy.special import expit, logit

from evomerge.candidate import Evaluation
from evomerge.optimizers.aligned import Dam, ExpertMerging
from evomerge.optimizers.coefficients import Layout, distance, overlap, similarity, sizes
from evomerge.optimizers.domain import Domain, GeneKind, Problem, real
from evomerge.testing.optimizer import START, LearningOptimizerContract

GOLDEN = Path(__file__).parents[2] / "golden" / "learned" / "numbers.safetensors"
coefficients = hnp.arrays(np.float64, (3, 4), elements=st.floats(0.1, 2).map(lambda x: round(x, 3)), unique=True)


def problem_of(num_objectives=1, span=(0.0, 1.0), parts=2):
    """Two sources with a weight in each of the parts, and a gene that they share."""
    kinds = tuple(
        GeneKind(group="weight", part=f"p{part}", source=source, span=span) for part in range(parts) for source in "ab"
    )
    start = (0.5 - span[0]) / (span[1] - span[0])
    return Problem(Domain((*(start,) * len(kinds), 0.25), (*kinds, GeneKind(group="lambda"))), num_objectives)


def as_weights(problem):
    """The contract's genes, as weights of three sources."""
    kinds = tuple(GeneKind(group="weight", source=source) for source in "abc"[: problem.domain.dim])
    return Problem(Domain(problem.start, kinds, problem.domain.seeds), problem.num_objectives, problem.budget)


class TestExpertMerging(LearningOptimizerContract):
    def make(self, problem, *, seed):
        return ExpertMerging(as_weights(problem), seed=seed, regularisation=0.0, lr=0.1)


def test_penalties_are_those_of_the_authors_code():
    golden = load_file(GOLDEN)
    c = np.stack([golden[f"{s}/columns"] for s in "abc"]).astype(np.float64)
    z = golden["z"].astype(np.float64)
    tensors = [expit(z), expit(z[:, :1] * 2)]  # two tensors, of three coefficients a source and of one
    found = sum(distance(x, np.full_like(x, 0.1))[0] * x.shape[1] for x in tensors) / sum(x.shape[1] for x in tensors)

    assert 0.01 * similarity(c)[0] == pytest.approx(float(golden["dam/similarity"]), rel=1e-5)
    assert 1e-5 * overlap(c)[0] == pytest.approx(float(golden["dam/overlap"]), rel=1e-5)
    assert sizes(c, 1e-3, 1e-2)[0] == pytest.approx(float(golden["dam/l1_l2"]), rel=1e-5)
    assert 5.0 * found == pytest.approx(float(golden["expert_merging/regularisation"]), rel=1e-5)


@pytest.mark.parametrize(
    "penalty",
    [similarity, overlap, lambda c: sizes(c, 0.3, 0.7), lambda c: distance(c, np.full_like(c, 0.05))],
    ids=["similarity", "overlap", "sizes", "distance"],
)
@given(c=coefficients)
def test_derivatives_of_penalties_are_finite_differences(penalty, c):
    _, slopes = penalty(c)
    found = np.zeros_like(c)
    for place in np.ndindex(c.shape):
        step = np.zeros_like(c)
        step[place] = 1e-6
        found[place] = (penalty(c + step)[0] - penalty(c - step)[0]) / 2e-6

    np.testing.assert_allclose(slopes, found, atol=1e-6)


def test_the_layout_reads_weights_in_their_ranges_and_leaves_shared_genes_alone():
    layout = Layout.of(problem_of(span=(-0.5, 1.5)).domain)
    found = layout.coefficients(np.array([0.25, 0.5, 0.75, 1.0, 0.9]))

    assert found.tolist() == [[0.0, 1.0], [0.5, 1.5]]
    assert layout.by_genes(np.array([[1.0, 2.0], [3.0, 4.0]]), 5).tolist() == [2.0, 6.0, 4.0, 8.0, 0.0]


def climb(search, gradient, steps):
    """The genomes asked for, one after the other; `gradient` is of the one objective."""
    places = []
    for _ in range(steps):
        (proposal,) = search.ask(1)
        places.append(np.array(proposal.genome))
        slopes = tuple(map(float, gradient(places[-1])))
        search.tell([Evaluation(proposal.trial, (0.0,), gradients=(slopes,))])
    return np.array(places)


def test_dams_step_is_the_learning_rate_in_weights():
    places = climb(Dam(problem_of(span=(-0.5, 1.5)), seed=0, similarity=0.0), lambda x: np.ones(5), 2)

    assert (places[1] - places[0])[:4] == pytest.approx(0.001 / 2)


def test_dam_alone_makes_sources_differ_by_part():
    start = np.array([0.6, 0.5, 0.5, 0.6, 0.25])
    problem = problem_of()
    problem = Problem(Domain(tuple(start), problem.domain.kinds))
    places = climb(Dam(problem, seed=0, lr=0.02), lambda x: np.zeros(5), 40)
    cosines = [similarity(Layout.of(problem.domain).coefficients(place))[0] for place in (places[0], places[-1])]

    assert cosines[0] > 0.98
    assert cosines[1] < 0.5
    assert np.abs(places[:, 4] - 0.25).max() < 0.05  # shared by the sources: only asks near the point differ


def test_expert_mergings_first_step_is_the_learning_rate_in_z():
    places = climb(ExpertMerging(problem_of(), seed=0, regularisation=0.0), lambda x: (1, -1, 1, -1, 0), 2)

    assert logit(places[1])[:4] - logit(places[0])[:4] == pytest.approx([0.5, -0.5, 0.5, -0.5])


@pytest.mark.parametrize(("regularisation", "expected"), [(0.0, 0.9), (0.5, 0.775), (5.0, 0.5)])
def test_expert_merging_is_held_at_its_start(regularisation, expected):
    """Of −(x − 0.9)² − r·|x − 0.5|/2, a half for each of two parts, the largest is where 2(0.9 − x) = r/2."""
    search = ExpertMerging(problem_of(), seed=0, regularisation=regularisation, lr=0.1)
    places = climb(search, lambda x: 2 * (0.9 - x), 300)

    assert places[-50:, 0].mean() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("kind", [Dam, ExpertMerging])
def test_without_sources_weights_there_is_no_penalty(kind):
    search = kind(real(START), seed=0)

    assert search._penalty(np.array(START))[0] == 0
    assert len(climb(search, lambda x: (1, 1, 1), 3)) == 3
