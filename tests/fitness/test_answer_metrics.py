"""Metrics of generated answers: which are computed when, languages, and a model that judges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure, FailureReason, InvalidInputError
from fitness.answer_metrics import Answer, AnswerMetrics
from fitness.evaluator import Responses
from fitness.items import Answering, Item, make_eval_set
from fitness.judge import Judge, load_judges
from fitness.judge_spec import JudgeSpec
from fitness.language import LANGUAGES, is_in
from fitness.metrics import METRICS, metric
from fitness.requirements import check_allowed, check_needs
from fitness.scorer import make_scorer

MakeModel = Callable[..., PreTrainedModel]

CHEAP = {"exact_match", "number_match", "contains", "f1", "answer_tokens", "finished", "refused", "complied"}
ITEM = Item("sum", "12 + 30 =", references=("42",), answering=Answering("last_number", language="en"))
ANSWER = Answer("That is 42, as everybody who can add knows.", 11, True)


def measured(item: Item, answer: Answer, *wanted: str) -> dict[str, float]:
    found = AnswerMetrics({})([item], [answer], wanted)
    assert not isinstance(found, Failure)
    return {name: values[0] for name, values in found.items()}


def test_all_cheap_metrics_come_from_one_answer() -> None:
    found = measured(ITEM, ANSWER)

    assert found.keys() == CHEAP
    assert found == {
        "exact_match": 1.0, "number_match": 1.0, "contains": 1.0, "f1": 1.0, "answer_tokens": 11.0, "finished": 1.0,
        "refused": 0.0, "complied": 1.0,
    }  # fmt: skip


def test_without_references_only_what_needs_none() -> None:
    assert measured(replace(ITEM, references=()), ANSWER).keys() == CHEAP - {
        "exact_match", "number_match", "contains", "f1",
    }  # fmt: skip


def test_expensive_metrics_come_only_where_they_are_asked() -> None:
    found = measured(ITEM, ANSWER, "language_match", "chrf", "bleu")

    assert found.keys() == CHEAP | {"language_match", "chrf", "bleu"}
    assert (found["language_match"], found["chrf"]) == (1.0, pytest.approx(1.0))


@pytest.mark.parametrize("name", ["code_passes", "judge"])
def test_a_metric_that_nothing_measures_is_an_error(name: str) -> None:
    item = replace(ITEM, answering=Answering("code", tests="pass"))
    with pytest.raises(InvalidInputError, match=f"metric.*'{name}'"):
        measured(item, ANSWER, name)


def test_thinking_is_no_refusal_but_an_answer_without_an_end_is_none() -> None:
    thought = Answer("<think>I'm sorry, I can't help.</think>\nIt is 42.", 20, True)
    endless = Answer("<think>Hm.", 20, False)

    assert (measured(ITEM, thought)["refused"], measured(ITEM, thought)["complied"]) == (0.0, 1.0)
    assert (measured(ITEM, endless)["refused"], measured(ITEM, endless)["complied"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("language", "text", "found"),
    [
        ("en", "The capital of France is Paris, a large city.", True),
        ("es", "La capital de Francia es París.", True),
        ("de", "La capital de Francia es París.", False),
        ("ja", "フランスの首都はパリです。", True),
        ("zh", "フランスの首都はパリです。", False),
        ("fr", "42", True),  # too short to tell
        ("fr", "", False),
        ("de", "Die Antwort lautet:\n```python\nfor number in range(42): print(number)\n```", True),
    ],
)
def test_the_language_of_an_answer(language: str, text: str, found: bool) -> None:
    assert is_in(language, text) == found
    assert is_in(language, text) == found  # no state


def test_what_metrics_need_is_checked() -> None:
    items = [ITEM, replace(ITEM, id="bare", context="1", references=(), answering=None)]
    eval_set = make_eval_set("sums", items)

    with pytest.raises(InvalidInputError, match=r"references, which 1 items of 'sums' lack \('bare'\)"):
        check_needs("objectives.0.metric", metric("exact_match"), eval_set)
    with pytest.raises(InvalidInputError, match=r"answering\.tests"):
        check_needs("objectives.0.metric", metric("code_passes"), eval_set)
    klingon = make_eval_set("sums", [replace(ITEM, answering=Answering(language="tlh"))])
    with pytest.raises(InvalidInputError, match=r"one of af, ar"):
        check_needs("objectives.0.metric", metric("language_match"), klingon)
    check_needs("objectives.0.metric", metric("finished"), eval_set)
    assert {"en", "es", "fr", "de", "it", "pt", "ru", "ja", "zh"} <= set(LANGUAGES)


def test_bounds_hold_what_is_measured() -> None:
    for name, found in measured(ITEM, ANSWER, "language_match", "chrf", "bleu").items():
        low, high = METRICS[name].bounds
        assert low is not None
        assert low <= found <= (math.inf if high is None else high)


TEMPLATE = "Q: {question}\nA: {answer}\nIs {this} right ({reference})?"
SPEC = JudgeSpec("", TEMPLATE, yes=" Paris", no=" 37 eggs")


@pytest.fixture
def judge(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> Judge:
    return Judge(SPEC, make_model(), tokenizer)


def test_a_judge_says_how_likely_yes_is(
    judge: Judge, make_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = make_model()
    prompt = "Q: 12 + 30 =\nA: It is {answer}.\nIs {this} right (42)?"

    def log_likelihood(choice: str) -> float:
        head, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + choice)
        with torch.inference_mode():
            shares = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return sum(float(shares[n - 1, whole[n]]) for n in range(len(head), len(whole)))

    yes, no = math.exp(log_likelihood(" Paris")), math.exp(log_likelihood(" 37 eggs"))

    assert judge([ITEM], [Answer("It is {answer}.", 5, True)]) == [pytest.approx(yes / (yes + no), rel=1e-4)]


def test_a_judge_of_a_directory_scores_beside_the_candidate(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    make_model("qwen2").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = replace(SPEC, model=str(tmp_path), dtype="float32")
    judges = load_judges({"judge": spec, "judge:other": replace(spec, yes=" 37 eggs", no=" Paris")})
    scorer = make_scorer(make_model(), tokenizer, max_new_tokens=4, measures=judges)
    items = [replace(ITEM, id=str(n), context=f"{n} + 30 =") for n in range(3)]
    found = scorer.score(items, ("judge", "judge:other"))
    assert isinstance(found, Responses)
    answers = scorer.generation.write(items)

    assert not isinstance(answers, Failure)
    assert list(found.values["judge"]) == judges["judge"](items, answers)
    assert found.values["judge:other"] == pytest.approx([1 - value for value in found.values["judge"]])
    assert judges["judge"].model is judges["judge:other"].model, "weights are held once"
    assert len(set(found.values["judge"])) == 3
    assert "judge" not in scorer.score(items).values  # type: ignore[union-attr]


def test_a_judge_that_is_broken_says_so(make_model: MakeModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model = make_model()
    with torch.no_grad():
        next(iter(model.base_model.parameters())).fill_(float("nan"))
    failure = Judge(SPEC, model, tokenizer)([ITEM], [ANSWER])

    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.NON_FINITE
    assert failure.message.startswith("the judge:")


@pytest.mark.parametrize(
    ("changes", "field"), [({"template": "Is it right?"}, "judge.template"), ({"no": " Paris"}, "judge.no")]
)
def test_a_judge_that_cannot_judge_is_an_error(changes: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        replace(SPEC, **changes)
    with pytest.raises(InvalidInputError, match=r"judge\.model"):
        load_judges({"judge": replace(SPEC, model="/nowhere")})
    with pytest.raises(InvalidInputError, match="without a judge"):
        check_allowed([("objectives.0.metric", "judge")], allow_code=False, judges=())
