"""What gradients are taken of is what is scored and estimated."""

import numpy as np
import pytest
import torch

from fitness.estimate import estimate_difference, estimate_mean, mean_weights
from fitness.gradient import DIFFERENTIABLE, backward
from fitness.items import Item
from fitness.label_free import DIFFERENTIABLE as LABEL_FREE
from fitness.label_free import beside_expert, entropy
from fitness.loglikelihood import choice_metrics
from fitness.metrics import METRICS
from fitness.scorer import make_scorer
from fitness.subset import draw

ITEM = Item(id="i", context="c", choices=("a", "bc", "d"), label=1)
SCORES = torch.tensor([-1.5, -2.0, -1.75], dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_what_is_differentiated_is_what_is_scored_and_its_derivatives_are_right(name):
    value, scores = DIFFERENTIABLE[name], SCORES.clone().requires_grad_()

    assert float(value(SCORES, 1)) == pytest.approx(choice_metrics(ITEM, SCORES.tolist())[name], abs=1e-12)
    assert torch.autograd.gradcheck(lambda s: value(s, 1), (scores,))


@pytest.mark.parametrize("name", sorted(LABEL_FREE))
def test_label_free_metrics_are_those_that_are_scored_and_their_derivatives_are_right(name):
    scores, expert = SCORES.clone().requires_grad_(), torch.log_softmax(torch.tensor([0.3, -1.0, 0.5]).double(), 0)
    answer = torch.log_softmax(SCORES, 0)
    scored = {"entropy": entropy(answer.numpy())} | beside_expert(answer.numpy(), expert.numpy())

    assert float(LABEL_FREE[name](answer, expert)) == pytest.approx(scored[name], abs=1e-12)
    assert torch.autograd.gradcheck(lambda s: LABEL_FREE[name](torch.log_softmax(s, 0), expert), (scores,))


def test_metrics_say_whether_they_can_be_differentiated():
    text = {"bits_per_byte", "nats_per_word", "nats_per_token"}

    assert {n for n, info in METRICS.items() if info.differentiable} == set(DIFFERENTIABLE) | set(LABEL_FREE) | text


TEXTS = [Item(f"t{n}", "Math:" if n else "", text=f"{n} + 70 = 161 " * (1 + 5 * n)) for n in range(3)]
QUESTIONS = [Item(f"q{n}", f"Q: Which city {n}?\nA:") for n in range(3)]
OWN_CONTEXTS = [
    Item(f"o{n}", "", (" 161", " 22"), contexts=("Tom has", f"Tom has {n}"), label=None if n else 1) for n in range(3)
]


@pytest.mark.parametrize(
    ("items", "metric"),
    [
        (TEXTS, "bits_per_byte"),
        (TEXTS, "log_likelihood"),
        (TEXTS, "nats_per_token"),
        (QUESTIONS, "entropy"),
        (QUESTIONS, "expert_kl"),
        (QUESTIONS, "expert_kl_2"),
        (QUESTIONS, "expert_mse"),
        (OWN_CONTEXTS, "entropy"),
        (OWN_CONTEXTS, "expert_kl"),
        (OWN_CONTEXTS, "expert_kl_2"),
    ],
)
def test_gradients_by_weights_are_finite_differences_of_scores(make_model, tokenizer, items, metric):
    model = make_model(dtype=torch.float64, max_position_embeddings=24)
    scorer, weights = make_scorer(model, tokenizer), [0.5, -1.0, 2.0]
    weight = model.get_parameter("model.layers.1.mlp.down_proj.weight")
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    references = {} if items is TEXTS else scorer.answers(items)
    with torch.no_grad():
        weight.add_(direction, alpha=0.05)  # away from the reference

    def value(step):
        with torch.no_grad():
            weight.add_(direction, alpha=step)
            found = scorer.score(items, (metric,), references).values[metric]
            weight.sub_(direction, alpha=step)
        return float(np.dot(weights, found))

    total = backward(scorer, items, metric, weights, references)
    slope = float((weight.grad * direction).sum())
    step = 1 / 128  # a central difference of fourth order
    quotient = sum(factor * value(n * step) for n, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1))) / (12 * step)

    assert total == pytest.approx(value(0), rel=1e-5)
    assert slope == pytest.approx(quotient, rel=2e-3)
    assert abs(slope) > 1e-3


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
