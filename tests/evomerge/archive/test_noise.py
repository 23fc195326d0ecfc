from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evomerge.archive.noise import normal


@given(st.integers(0, 100), st.integers(0, 50))
def test_any_block_of_the_noise_is_a_part_of_the_whole(first: int, length: int) -> None:
    assert np.array_equal(normal(1, "w", first, length), normal(1, "w", 0, 200)[first : first + length])


def test_the_noise_is_normal() -> None:
    drawn = normal(3, "model.layers.0.mlp.up_proj.weight", 0, 200_000)

    assert stats.kstest(drawn, "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01
    assert np.isfinite(drawn).all()


def test_seeds_and_tensors_have_noise_of_their_own() -> None:
    drawn = [normal(seed, name, 0, 10_000) for seed, name in ((0, "a"), (0, "b"), (1, "a"))]

    assert (np.abs(np.corrcoef(drawn) - np.eye(3)) < 0.05).all()


def test_the_noise_is_pinned() -> None:
    """Stored recipes name it by its seed: it must not change between versions."""
    np.testing.assert_allclose(normal(7, "w", 0, 3), PINNED, rtol=1e-14)


PINNED = [-2.0987129173810657, -1.4695948459906745, 0.27259006050146806]
