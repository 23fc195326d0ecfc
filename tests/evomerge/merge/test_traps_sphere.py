"""Means on the sphere at the ends of their parameters' ranges, and of directions that cancel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.methods import METHODS
from evomerge.merge.primitives.sphere import karcher, normalised_mean
from evomerge.testing.merging import merge_tensor


def test_equal_models_are_their_mean_however_short_a_step_may_be() -> None:
    model = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    found = merge_tensor(METHODS["karcher"], torch.zeros(2, 2), dict.fromkeys("abc", model), tol=0.0)

    torch.testing.assert_close(found, model)


def test_opposite_directions_begin_at_the_first_however_short_a_step_may_be() -> None:
    gram = np.array([[4.0, -4.0], [-4.0, 4.0]])

    assert np.isfinite(karcher(gram, np.array([0.5, 0.5]), 10, tol=0.0)).all()


@pytest.mark.parametrize("seed", range(8))
def test_directions_that_cancel_up_to_rounding_are_not_amplified(seed: int) -> None:
    """What is left of a sum of four directions that cancel has any length from 0 to 1e-8, and no direction."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(12, generator=generator) for _ in "xy")

    with pytest.raises(InvalidInputError, match="do not cancel"):
        merge_tensor(METHODS["multislerp"], torch.zeros(12), {"a": x, "b": -x, "c": y, "d": -3 * y}, eps=0.0)


def test_no_threshold_and_no_direction_is_none_not_a_division_by_zero() -> None:
    assert normalised_mean(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([0.5, 0.5]), eps=0.0) is None
