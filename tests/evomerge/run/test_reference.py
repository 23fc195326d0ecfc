"""The hypervolume's origin."""

from __future__ import annotations

import pytest

from evomerge.run.ranking import reference_point
from evomerge.run.spec import Objective

SKILL = Objective(name="skill", eval_sets=("a",))
COST = Objective(name="cost", metric="flops_per_token", direction="minimize")


def test_the_origin_lies_a_tenth_of_the_spread_below_the_worst_baseline() -> None:
    baselines = [{"skill": {"mean": mean}} for mean in (0.3, 0.5, 0.4)]

    assert reference_point([SKILL], baselines) == pytest.approx((0.28,))


def test_without_spread_the_origin_is_as_far_as_the_values_are_large() -> None:
    """All baselines cost the same: a candidate that costs as much must not lie on the hypervolume's edge."""
    baselines = [{"skill": {"mean": 0.3}, "cost": {"mean": 2e8}}] * 2

    assert reference_point([SKILL, COST], baselines) == pytest.approx((0.25, -2.1e8))
