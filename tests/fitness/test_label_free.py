"""Metrics of items without labels, beside the sources that own them, and PMI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from fitness.evaluator import Responses
from fitness.items import Item, make_eval_set
from fitness.label_free import beside_expert, entropy, log_shares, neighbour_flips
from fitness.objectives import ObjectivePlan
from fitness.scorer import ItemScorer, make_scorer
from tests.fitness.test_loglikelihood import MakeModel, plain
from tests.workers.tiny_run import run_spec

PROMPTS = [Item("p0", "Q: Which city is the capital of France?\nA:"), Item("p1", "Math:", references=("1",))]
GOLDEN = Path(__file__).parents[1] / "golden" / "learned" / "numbers.safetensors"
scores_of = hnp.arrays(np.float64, 4, elements=st.floats(-40, 0))


def answered(scorer: ItemScorer, items: Sequence[Item], *metrics: str, references=None) -> Responses:
    found = scorer.score(items, metrics, references)
    assert isinstance(found, Responses), found
    return found


@given(scores_of, scores_of)
def test_entropy_and_divergence_keep_their_bounds(a: np.ndarray, b: np.ndarray) -> None:
    one, other = log_shares(a), log_shares(b)
    beside = beside_expert(one, other)

    assert np.exp(one).sum() == pytest.approx(1)
    assert 0 <= entropy(one) <= np.log(4) + 1e-12
    assert beside["expert_kl"] >= 0
    assert beside_expert(one, one) == {"expert_kl": 0, "expert_kl_2": 0, "expert_mse": 0, "expert_flips": 0}
    assert beside["expert_kl_2"] >= 0
    cross = -(np.exp(other) * one).sum()
    assert beside["expert_kl"] == pytest.approx(cross - entropy(other), abs=1e-9)


def test_divergences_are_the_losses_of_public_code() -> None:
    """Means over 7 answers of 20 choices: DAM's own loss, and Expert Merging's cross entropy less its least value."""
    golden = load_file(GOLDEN)
    own, expert = golden["logits/own"].double(), golden["logits/expert"].double()
    rows = [(log_shares(p.numpy()), log_shares(q.numpy())) for p, q in zip(own, expert, strict=True)]
    beside = [beside_expert(p, q) for p, q in rows]
    cross = torch.nn.functional.cross_entropy(own, expert.softmax(-1))

    assert np.mean([row["expert_kl_2"] for row in beside]) == pytest.approx(float(golden["dam/kl"]), rel=1e-5)
    least = np.mean([entropy(q) for _, q in rows])
    assert np.mean([row["expert_kl"] for row in beside]) == pytest.approx(float(cross) - least, rel=1e-9)


@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=2, max_size=6))
def test_flips_of_neighbours_are_shares_and_the_same_backwards(answers: list[list[int]]) -> None:
    found = neighbour_flips(answers)

    assert len(found) == len(answers)
    assert all(0 <= share <= 1 for share in found)
    assert neighbour_flips(answers[::-1]) == pytest.approx(found[::-1])


def test_flips_need_neighbours() -> None:
    with pytest.raises(ValueError, match="two candidates"):
        neighbour_flips(["ab"])


def test_unlabelled_choices_have_label_free_metrics_only(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    scorer = make_scorer(make_model(), tokenizer)
    bare = [replace(item, label=None) for item in items]
    shares = [np.exp(log_shares(s)) for s in scorer.choice.log_likelihoods(items)]  # type: ignore[union-attr]
    found = answered(scorer, bare, "entropy").values

    assert set(found) == {"entropy"}
    assert found["entropy"] == pytest.approx([-(p * np.log(p)).sum() for p in shares])
    with pytest.raises(ValueError, match="'accuracy' is not defined"):
        scorer.score(bare, ("accuracy",))


def test_pmi_takes_the_likelihood_without_the_question_away(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> None:
    model = make_model()
    scorer = make_scorer(model, tokenizer)
    asked = [replace(item, unconditioned=premise) for item in items[:5] for premise in ("Math:", "")]
    asked = [replace(item, id=f"{item.id}-{n}") for n, item in enumerate(asked)]
    expected = []
    for item in asked:
        prior = plain(model, tokenizer, replace(item, context=item.unconditioned))
        gain = np.subtract(plain(model, tokenizer, item), prior)
        expected.append(float(gain.argmax() == item.label))
    plainly = answered(scorer, asked)
    read = scorer.choice.reader.tokens

    assert "accuracy_pmi" not in plainly.values
    assert answered(scorer, asked, "accuracy_pmi").values["accuracy_pmi"] == tuple(expected)
    assert scorer.choice.reader.tokens - read > plainly.tokens


def test_lengths_are_counted_in_characters_and_in_bytes() -> None:
    from fitness.loglikelihood import choice_metrics

    item = Item("i", "c", (" 九十", " abcd"), 0, delimiter=" ")
    found = choice_metrics(item, [-4.0, -6.0])  # −2 and −1.5 a character, −0.67 and −1.5 a byte

    assert (found["accuracy_norm"], found["accuracy_bytes"]) == (0, 1)


def test_prompts_have_the_entropy_of_their_first_token(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model()
    scorer = make_scorer(model, tokenizer, max_new_tokens=4)
    found = answered(scorer, PROMPTS, "entropy")
    expected = []
    for item in PROMPTS:
        with torch.inference_mode():
            logits = model(torch.tensor([tokenizer.encode(item.context)])).logits[0, -1].double()
        expected.append(float(torch.distributions.Categorical(logits=logits).entropy()))

    assert found.values["entropy"] == pytest.approx(expected, abs=1e-5)
    assert set(found.values) == {"entropy"}
    both = answered(scorer, PROMPTS[1:], "entropy", "exact_match").values
    assert both["entropy"] == found.values["entropy"][1:]
    assert "exact_match" in both


@pytest.mark.parametrize("kind", ["choice", "generation"])
def test_a_source_agrees_with_itself_and_others_do_not(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, kind: str
) -> None:
    choices = [Item(f"c{n}", f"{n} + 70 =", (" 1", " 2", " 3"), None) for n in range(12)]
    model, asked = make_model(), choices if kind == "choice" else PROMPTS
    scorer, names = make_scorer(model, tokenizer), ("expert_kl", "expert_mse", "expert_flips")
    references = scorer.answers(asked)
    same = answered(scorer, asked, *names, references=references).values
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    other = answered(scorer, asked, *names, references=references).values

    for name in names:
        assert same[name] == pytest.approx([0] * len(asked), abs=1e-9)
        assert sum(other[name]) > 0.01
    with pytest.raises(ValueError, match="no answer of a source"):
        scorer.score(asked, names)


def plan_of(items: Sequence[Item], metric: str, **changes: object) -> ObjectivePlan:
    objective = {"name": "a", "eval_sets": ["bare"], "metric": metric, "direction": "minimize"} | changes
    spec = RunSpec.model_validate(run_spec(objectives=[objective], verify={"top": 1, "holdout": False}))
    return ObjectivePlan(spec, {"bare": make_eval_set("bare", items)})


def test_items_without_labels_are_refused_for_metrics_that_need_one(items: Sequence[Item]) -> None:
    bare = [replace(item, label=None) if n % 2 else item for n, item in enumerate(items)]

    assert plan_of(bare, "entropy").names == ("a",)
    with pytest.raises(InvalidInputError, match=r"objectives\.0\.metric.*'accuracy'.*entropy.*no label"):
        plan_of(bare, "accuracy", direction="maximize")
    with pytest.raises(InvalidInputError, match=r"objectives\.0\.metric.*group.*math, ja"):
        plan_of(bare, "expert_kl")
    with pytest.raises(InvalidInputError, match=r"objectives\.0\.metric"):
        plan_of([Item("t", "", text="a b")], "entropy")
