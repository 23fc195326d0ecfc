"""Shared fitness, attraction and eviction, on four candidates and six items whose numbers were worked out by hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.optimizers.niche_archive import NicheArchive
from evomerge.optimizers.niches import Rules, contest, roulette

SOLVED = [
    [1, 1, 1, 0, 0, 0],  # A
    [1, 1, 0, 1, 0, 0],  # B
    [1, 0, 0, 0, 1, 0],  # C
    [0, 0, 0, 0, 0, 0],  # D solves nothing, and nobody solves the last item
]
"""Item by item 3, 2, 1, 1, 1 and 0 candidates share a capacity of 1."""

SHARED = [1 / 3 + 1 / 2 + 1, 1 / 3 + 1 / 2 + 1, 1 / 3 + 1, 0]
ATTRACTION = [
    [0, 1, 1, 0],  # to A: B adds the fourth item, C the fifth, each the only one to solve it
    [1, 0, 1, 0],
    [1 / 2 + 1, 1 / 2 + 1, 0, 0],  # to C: A adds the second, for half of its capacity, and the third
    [1 / 3 + 1 / 2 + 1, 1 / 3 + 1 / 2 + 1, 1 / 3 + 1, 0],  # to D: all that they have
]


def scores(rows=SOLVED):
    return np.array(rows, dtype=float)


def archive(rows=SOLVED, places=4, **rules):
    population = NicheArchive(places, Rules(**rules), 0)
    population.layout = (6,)
    for trial, row in enumerate(rows):
        population.add(trial, (), 0.0, [row])
    return population


def test_an_item_is_shared_by_those_who_solve_it():
    game = contest(scores(), (6,), Rules())

    assert game.capacity.tolist() == [1] * 6
    assert game.fitness == pytest.approx(SHARED, abs=1e-15)
    assert [game.attraction(i) for i in range(4)] == [pytest.approx(g, abs=1e-15) for g in ATTRACTION]


def test_without_competition_fitness_is_the_number_of_solved_items():
    assert contest(scores(), (6,), Rules(alpha=0)).fitness.tolist() == [3, 3, 2, 0]


def test_with_hard_competition_what_is_rare_counts_more():
    fitness = contest(scores(), (6,), Rules(alpha=2)).fitness

    assert fitness == pytest.approx([1 / 9 + 1 / 4 + 1, 1 / 9 + 1 / 4 + 1, 1 / 9 + 1, 0], abs=1e-15)


def test_attraction_of_the_program_scales_with_alpha_and_that_of_the_paper_does_not():
    paper, code = (contest(scores(), (6,), Rules(alpha=2, attraction=a)).attraction(2) for a in ("paper", "code"))

    assert paper == pytest.approx(ATTRACTION[2], abs=1e-15)
    assert code == pytest.approx([1 / 4 + 1, 1 / 4 + 1, 0, 0], abs=1e-15)


def test_a_half_solved_item_offers_half_and_rewards_are_shared():
    game = contest(scores([[0.5, 0.25], [0.25, 0.0]]), (2,), Rules())

    assert game.capacity.tolist() == [0.5, 0.25]
    assert game.fitness == pytest.approx([0.5 * 0.5 / 0.75 + 0.25, 0.5 * 0.25 / 0.75], abs=1e-15)
    assert game.attraction(1) == pytest.approx([0.5 / 0.75 * 0.25 + 0.25 / 0.25 * 0.25, 0.0], abs=1e-15)


def test_the_worst_score_is_subtracted_where_asked():
    game = contest(scores([[0.5, 0.25], [0.25, 0.0]]), (2,), Rules(baseline="population_min"))

    assert game.scores.tolist() == [[0.25, 0.25], [0, 0]]
    assert game.fitness.tolist() == [0.5, 0.0]


def test_every_objective_offers_the_same_in_total():
    game = contest(scores([[1, 1, 1, 1, 0], [0, 0, 0, 0, 1]]), (4, 1), Rules())

    assert game.capacity.tolist() == [0.625] * 4 + [2.5]
    assert game.fitness.tolist() == [2.5, 2.5]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 3.0, 1e300]))
def test_scores_in_another_unit_are_the_same_contest(seed, unit):
    """Such as log-likelihoods, or mean scores where nothing else is known."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(5, 7)) - 2.0
    one = contest(raw, (7,), Rules(alpha=0.5), means=True)
    two = contest(unit * raw, (7,), Rules(alpha=0.5), means=True)

    assert one.fitness == pytest.approx(two.fitness, rel=1e-9)
    assert 0 <= two.scores.min() <= two.scores.max() == 1


def test_coverage_and_entropy_of_the_hand_made_scores():
    game = contest(scores(), (6,), Rules())
    quarter = 2 - 0.75 * np.log2(3)  # H2(1/4) = H2(3/4)

    assert game.coverage == 5 / 6
    assert game.entropy == pytest.approx((4 * quarter + 1) / 6, abs=1e-12)


def test_the_smallest_share_with_the_child_counted_in_leaves():
    """The child solves what C does and one item more, so C leaves; nobody counts D, which left before for C itself."""
    population = archive(SOLVED[:3], places=3)

    assert population.add(3, (), 0.0, [[1, 0, 0, 0, 1, 1]])
    assert [m.trial for m in population.members] == [0, 1, 3]
    assert population.scores.tolist() == [SOLVED[0], SOLVED[1], [1, 0, 0, 0, 1, 1]]


def test_a_child_that_adds_less_than_all_others_is_turned_away_but_not_forgotten():
    """With it, item by item 4, 3, 1, 1 and 1 share: it has 7/12, C 5/4, A and B 19/12."""
    population = archive(SOLVED[:3], places=3)

    assert not population.add(3, (), 0.0, [[1, 1, 0, 0, 0, 0]])
    assert [m.trial for m in population.members] == [0, 1, 2]
    assert [m.trial for m in population.elite] == [0, 1, 2]
    assert not population.add(4, (), 0.0, [[1, 1, 0, 0, 0, 0]])


def test_at_a_tie_the_first_one_leaves_so_the_child_wins():
    population = archive([SOLVED[0], SOLVED[2], SOLVED[2]], places=3)

    assert population.add(3, (), 0.0, [SOLVED[2]])
    assert [m.trial for m in population.members] == [0, 3, 2]


def test_empty_places_are_filled_first_even_by_those_who_solve_nothing():
    population = archive(places=6)

    assert population.add(4, (), 0.0, [[0] * 6])
    assert population.add(5, (), 0.0, [[0] * 6])
    assert population.add(6, (), 0.0, [SOLVED[0]])
    assert [m.trial for m in population.members] == [0, 1, 2, 6, 4, 5]


def test_the_best_by_mean_may_leave_the_archive_but_is_kept():
    """Three share two items; one that solves a third item alone has more."""
    population = archive([[1, 1, 0, 0, 0, 0]] * 3, places=3)

    assert population.add(3, (), 0.0, [[0, 0, 1, 0, 0, 0]])
    assert [m.trial for m in population.members] == [3, 1, 2]
    assert [m.trial for m in population.elite] == [0, 1, 2]


def test_infeasible_candidates_leave_first_and_the_worst_of_them_before():
    population = NicheArchive(3, Rules(), 0)
    population.layout = (2,)
    for trial, (violation, row) in enumerate([(0.0, [0, 1]), (0.5, [1, 1]), (2.0, [1, 1]), (1.0, [0, 0])]):
        population.add(trial, (), violation, [row])

    assert [m.trial for m in population.members] == [0, 1, 3]
    assert population.contest.scores.tolist() == [[0, 1]]
    assert [m.trial for m in population.elite] == [0, 1, 3]
    assert population.add(4, (), 0.0, [[0, 0]])
    assert [m.trial for m in population.members] == [0, 1, 4]


def drawn(population, draws=4000):
    rng = np.random.default_rng(0)
    pairs = [population.parents(rng) for _ in range(draws)]
    counts = np.zeros((len(population), len(population)))
    for first, second in pairs:
        counts[first.trial, second.trial] += 1
    return counts / draws


def test_parents_are_drawn_by_fitness_then_by_attraction():
    shares = np.array(SHARED) / sum(SHARED)
    partners = np.array([np.array(g) / sum(g) for g in ATTRACTION])

    assert drawn(archive()) == pytest.approx(shares[:, None] * partners, abs=0.03)


def test_without_attraction_the_second_is_drawn_by_fitness_among_the_others():
    shares = np.array(SHARED) / sum(SHARED)
    others = np.array([[s * (i != j) for j, s in enumerate(shares)] for i in range(4)])

    expected = shares[:, None] * others / others.sum(axis=1, keepdims=True)
    assert drawn(archive(attraction="none")) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("rows", [[[0] * 6] * 4, [[1] * 6] * 4], ids=["nobody solves anything", "all solve all"])
def test_where_nobody_attracts_any_other_is_the_partner(rows):
    assert drawn(archive(rows)) == pytest.approx((1 - np.eye(4)) / 12, abs=0.03)


def test_a_single_feasible_member_takes_any_partner():
    population = NicheArchive(3, Rules(), 0)
    population.layout = (2,)
    for trial, violation in enumerate([1.0, 0.0, 2.0]):
        population.add(trial, (), violation, [[1, 1]])

    pairs = drawn(population)
    assert pairs[1, 0] == pytest.approx(0.5, abs=0.05)
    assert pairs[1, 2] == pytest.approx(0.5, abs=0.05)


def restated(rows, alpha):
    """Eqs. 3 and 5 in exact fractions; alpha is a whole number."""
    crowd = [sum(column) for column in zip(*rows, strict=True)]
    return [sum(Fraction(s, max(z, 1) ** alpha) for s, z in zip(row, crowd, strict=True)) for row in rows]


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=8), st.integers(0, 3))
def test_fitness_is_that_of_exact_fractions_and_hands_out_each_capacity_once(rows, alpha):
    fitness = contest(scores(rows), (6,), Rules(alpha=alpha)).fitness

    assert fitness == pytest.approx([float(f) for f in restated(rows, alpha)], abs=1e-12)
    if alpha == 1:
        assert fitness.sum() == pytest.approx(sum(map(any, zip(*rows, strict=True))), abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=5, max_size=40))
def test_a_run_of_evictions_is_that_of_exact_fractions(rows):
    population = archive(rows, places=4)

    kept = list(range(4))
    for trial in range(4, len(rows)):
        family = [*kept, trial]
        fitness = restated([rows[t] for t in family], 1)
        close = [t for t, f in zip(family, fitness, strict=True) if f - min(fitness) < Fraction(1, 10**12)]
        kept = [trial if t == close[0] else t for t in kept]
    assert [m.trial for m in population.members] == kept


def test_a_wheel_never_stops_at_a_weight_of_zero():
    rng = np.random.default_rng(0)

    assert {roulette(np.array([0.0, 1e-300, 0.0, 2e-300, 0.0]), rng) for _ in range(200)} == {1, 3}
    assert {roulette(np.zeros(3), rng) for _ in range(100)} == {0, 1, 2}
