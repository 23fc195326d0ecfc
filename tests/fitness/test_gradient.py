"""What gradients are taken of is what is scored and estimated."""

import numpy as np
import pytest
import torch

from fitness.estimate import estimate_difference, estimate_mean, mean_weights
from fitness.gradient import DIFFERENTIABLE
from fitness.items import Item
from fitness.loglikelihood import choice_metrics
from fitness.metrics import METRICS
from fitness.subset import draw

ITEM = Item(id="i", context="c", choices=("a", "bc", "d"), label=1)
SCORES = torch.tensor([-1.5, -2.0, -1.75], dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_what_is_differentiated_is_what_is_scored_and_its_derivatives_are_right(name):
    value, scores = DIFFERENTIABLE[name], SCORES.clone().requires_grad_()

    assert float(value(SCORES, 1)) == pytest.approx(choice_metrics(ITEM, SCORES.tolist())[name], abs=1e-12)
    assert torch.autograd.gradcheck(lambda s: value(s, 1), (scores,))


def test_metrics_say_whether_they_can_be_differentiated():
    assert {name for name, info in METRICS.items() if info.differentiable} == set(DIFFERENTIABLE)


@pytest.mark.parametrize("policy", ["random", "stratified"])
@pytest.mark.parametrize("n", [3, 7, None])
def test_estimates_are_the_weighted_sums_that_gradients_are_taken_of(policy, n):
    rng = np.random.default_rng(3)
    population = [
        Item(id=f"i{k}", context="c", choices=("a", "b"), label=0, group="gh"[k % 3 == 0], weight=1 + k % 4)
        for k in range(12)
    ]
    subset = draw(population, n, policy=policy, seed=1, generation=0)
    y, x = rng.random((2, len(subset.ids)))
    w = mean_weights(subset, population)

    assert w.sum() == pytest.approx(1)
    assert w @ y == pytest.approx(estimate_mean(y, subset, population).mean, abs=1e-12)
    difference = estimate_difference(y, x, 0.4, subset, population).mean - 0.4
    assert w @ (y - x) == pytest.approx(difference, abs=1e-12)
