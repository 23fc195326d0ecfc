from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.archive.lineage import SAME, Individual, Noise, Strand, cross, founder, slerp, with_noise
from evomerge.recipe.segments import Angle
from tests.evomerge.archive.explicit import Array, Explicit

ANGLES: tuple[Angle, ...] = ("global", "side", "tensor")
SIZES = ([40, 1, 25, 60, 7], [3, 90, 30])
NUM_SOURCES = 4


def world(seed: int, spread: float = 0.5, sizes: Sequence[Sequence[int]] = SIZES) -> Explicit:
    """Sources that differ from a common vector by `spread`."""
    rng = np.random.default_rng(seed)
    parts = []
    for own in sizes:
        number = sum(own)
        parts.append(rng.normal(size=number) + spread * rng.normal(size=(NUM_SOURCES, number)))
    return Explicit(parts, sizes)


def founders(models: Explicit) -> list[Individual]:
    number = len(models.sources)
    return [founder(source, NUM_SOURCES, number) for source in range(NUM_SOURCES)]


def distance(models: Explicit, individual: Individual, vectors: list[Array]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(models.vectors(individual), vectors, strict=True))


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("spread", [0.02, 0.5, 5.0])
def test_sixty_generations_of_coefficients_are_sixty_generations_of_vectors(angle: Angle, spread: float) -> None:
    models, rng = world(0, spread), np.random.default_rng(1)
    family = [(one, models.vectors(one)) for one in founders(models)]

    worst = 0.0
    for _ in range(60):
        (a, x), (b, y) = (family[i] for i in rng.integers(max(0, len(family) - 8), len(family), 2))
        splits, mix = [int(rng.integers(0, sum(s) + 1)) for s in SIZES], float(rng.random())
        child = cross(a, b, splits, mix, angle, models, same=0.0)
        explicit = models.cross(x, y, splits, mix, angle)
        worst = max(worst, distance(models, child, explicit))
        family.append((child, explicit))

    scale = max(float(np.abs(x).max()) for _, vectors in family for x in vectors)
    assert worst < 1e-12 * scale
    assert family[-1][0].num_segments > 8


@settings(deadline=None, max_examples=60)
@given(data=st.data(), angle=st.sampled_from(ANGLES))
def test_any_crossings_are_those_of_the_vectors(data: st.DataObject, angle: Angle) -> None:
    sizes = data.draw(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=3))
    models = world(data.draw(st.integers(0, 9)), data.draw(st.sampled_from([0.0, 1e-4, 1.0])), sizes)
    family = [(one, models.vectors(one)) for one in founders(models)]

    for _ in range(data.draw(st.integers(1, 4))):
        (a, x), (b, y) = (data.draw(st.sampled_from(family)) for _ in range(2))
        splits = [data.draw(st.integers(0, sum(own))) for own in sizes]
        mix = data.draw(st.floats(0, 1))
        child, explicit = cross(a, b, splits, mix, angle, models), models.cross(x, y, splits, mix, angle)
        family.append((child, explicit))

        assert distance(models, child, explicit) < 1e-5  # as near as SAME lets neighbours be, and their sum
        assert all(strand.starts[0] == 0 and (np.diff(strand.starts) > 0).all() for strand in child.strands)


@pytest.mark.parametrize("angle", ANGLES)
def test_noise_is_crossed_like_everything_else(angle: Angle) -> None:
    models = world(3, sizes=([20, 11], [9]))
    a = with_noise(founders(models)[0], Noise(5, 0.3))
    b = with_noise(with_noise(founders(models)[1], Noise(6, 0.1)), Noise(7, 2.0))
    a2 = cross(a, b, [13, 4], 0.3, angle, models)

    child = cross(a2, b, [25, 9], 0.8, angle, models)

    explicit = models.cross(models.vectors(a), models.vectors(b), [13, 4], 0.3, angle)
    explicit = models.cross(explicit, models.vectors(b), [25, 9], 0.8, angle)
    assert distance(models, child, explicit) < 1e-12
    assert {term.seed for term in child.noise} == {5, 6, 7}


def test_noise_of_which_nothing_is_left_is_forgotten() -> None:
    models = world(3)
    a, b = founders(models)[:2]

    child = cross(with_noise(a, Noise(1, 1.0)), b, [0, 0], 0.0, "global", models)

    assert child.noise == ()
    assert child.num_sources == NUM_SOURCES
    assert distance(models, child, models.vectors(b)) == 0


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("split", ["start", "end"])
def test_a_split_at_an_end_leaves_one_side(angle: Angle, split: str) -> None:
    models = world(4)
    a, b = founders(models)[:2]
    splits = [0 if split == "start" else sum(own) for own in SIZES]

    child = cross(a, b, splits, 0.2, angle, models)

    explicit = models.cross(models.vectors(a), models.vectors(b), splits, 0.2, angle)
    assert distance(models, child, explicit) < 1e-13
    assert angle == "tensor" or child.num_segments == 2


@pytest.mark.parametrize("angle", ANGLES)
def test_a_model_crossed_with_itself_is_that_model(angle: Angle) -> None:
    models = world(5)
    a, b = founders(models)[:2]
    parent = cross(a, b, [50, 60], 0.4, angle, models)

    child = cross(parent, parent, [70, 10], 0.9, angle, models)

    assert distance(models, child, models.vectors(parent)) < 1e-14
    for own, before in zip(child.strands, parent.strands, strict=True):
        assert own.starts.tolist() == before.starts.tolist()


@pytest.mark.parametrize("angle", ANGLES)
def test_opposite_models_are_interpolated_linearly(angle: Angle) -> None:
    models = world(6)
    models.sources[0][1], models.sources[1][1] = -models.sources[0][0], -models.sources[1][0]
    a, b = founders(models)[:2]

    child = cross(a, b, [60, 50], 0.25, angle, models)

    explicit = models.cross(models.vectors(a), models.vectors(b), [60, 50], 0.25, angle)
    assert distance(models, child, explicit) < 1e-14
    left, right = child.strands[0].at(np.array([0, 100]))
    np.testing.assert_allclose(left[:2], [0.75, 0.25])
    np.testing.assert_allclose(right[:2], [0.25, 0.75])


@pytest.mark.parametrize("angle", ANGLES)
def test_models_of_zeros_give_no_nan(angle: Angle) -> None:
    models = world(7)
    for part in models.sources:
        part[:2] = 0.0
    a, b, c, _ = founders(models)

    for x, y in ((a, b), (a, c), (c, a)):
        child = cross(x, y, [60, 50], 0.25, angle, models)
        explicit = models.cross(models.vectors(x), models.vectors(y), [60, 50], 0.25, angle)

        assert all(np.isfinite(strand.rows).all() for strand in child.strands)
        assert distance(models, child, explicit) < 1e-14


def test_neighbours_that_are_nearly_equal_become_one() -> None:
    models = world(8)
    starts = np.array([0, 10, 20, 30], np.int64)
    rows = np.array([[1.0, 0, 0, 0], [1 + 0.6 * SAME, 0, 0, 0], [1 + 1.2 * SAME, 0, 0, 0], [1, 0, 0, 0]])
    other = Strand(np.zeros(1, np.int64), np.array([[1.0, 0, 0, 0]]))
    parent = Individual((Strand(starts, rows), other))

    child = cross(parent, parent, [0, 0], 0.0, "global", models)

    assert child.strands[0].starts.tolist() == [0, 20, 30]  # what creeps away from the first is not swallowed
    assert cross(parent, parent, [0, 0], 0.0, "global", models, same=0.0).strands[0].starts.tolist() == starts.tolist()


def test_the_angle_conventions_are_not_the_same() -> None:
    models = world(9, 3.0)
    a, b = founders(models)[:2]

    found = [cross(a, b, [60, 50], 0.3, angle, models).strands[0].at(np.array([0]))[0, 0] for angle in ANGLES]

    assert len({round(float(value), 6) for value in found}) == 3


def test_slerp_keeps_to_the_arc() -> None:
    assert slerp(0.0, 4.0, 9.0, 1.0) == pytest.approx((1.0, 0.0))
    assert slerp(1.0, 4.0, 9.0, 1.0) == pytest.approx((0.0, 1.0))
    x, y = slerp(0.3, 1.0, 1.0, 0.2)
    assert x * x + y * y + 2 * x * y * 0.2 == pytest.approx(1.0)  # unit vectors stay unit vectors
    assert slerp(0.3, 1.0, 1.0, 1.0) == slerp(0.3, 1.0, 1.0, -1.0) == slerp(0.3, 0.0, 1.0, 0.0) == (0.7, 0.3)
