"""Our numbers are those of the LM Evaluation Harness: the same accuracy and log-likelihoods on the demo's own items."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure
from fitness.encoding import encode_choices
from fitness.evaluator import Responses
from fitness.items import Item, load_eval_set
from fitness.loglikelihood import ChoiceScorer
from fitness.scorer import make_scorer
from fitness.text import Unit, weighted

lm_eval = pytest.importorskip("lm_eval")

pytestmark = [
    pytest.mark.slow,  # importing the harness and datasets takes half of a minute on a busy machine
    pytest.mark.filterwarnings("ignore"),  # the harness's and its dependencies' own
]

TASK = """\
task: evo_items
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_mutual_info, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""

NAMES = {
    "accuracy": "acc",
    "accuracy_norm": "acc_norm",
    "accuracy_bytes": "acc_bytes",
    "accuracy_pmi": "acc_mutual_info",
}

TEXTS = """\
task: evo_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {items}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity}}
  - {{metric: byte_perplexity}}
  - {{metric: bits_per_byte}}
metadata: {{version: 1.0}}
"""


@pytest.fixture
def demo_items() -> list[Item]:
    folder = Path(__file__).parents[2] / "experiments" / "zoo" / "items"
    found = [
        item for name in ("ja_math", "geo", "es") for item in load_eval_set(name, folder / f"{name}.jsonl").items[:8]
    ]
    blank = Item(
        "blank", "Q: Which city is the capital of France?\nA: ", ("Paris", "London", "Rome", "Oslo", "Bern"), 0
    )
    return [*found, blank]


def harness_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    from lm_eval.models.huggingface import HFLM

    # Without `softmax_dtype` the harness takes a bfloat16 model's log-softmax in bfloat16: steps of 0.125, and ties.
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu", softmax_dtype="float32")


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The harness's report on rows of data."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    from lm_eval.tasks import TaskManager

    def evaluate(task: str, name: str, rows: list[dict[str, Any]], model: Any) -> dict[str, Any]:
        (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "evo.yaml").write_text(task.format(items=tmp_path / "items.jsonl"), encoding="utf-8")
        report: dict[str, Any] = lm_eval.simple_evaluate(
            model=model, tasks=[name], bootstrap_iters=0, log_samples=True,
            task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        )  # fmt: skip
        return report

    return evaluate


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_accuracy_and_log_likelihoods_equal_the_harness(
    make_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    demo_items: list[Item],
    evaluated: Callable[..., dict[str, Any]],
    family: str,
) -> None:
    items = [replace(item, unconditioned="") for item in demo_items]
    rows = [{"id": i.id, "context": i.context, "choices": list(i.choices), "label": i.label} for i in items]
    model = make_model(family)
    report = evaluated(TASK, "evo_items", rows, harness_model(model, tokenizer))
    theirs = {s["doc"]["id"]: [float(ll) for ll, _ in s["filtered_resps"]] for s in report["samples"]["evo_items"]}
    scorer = ChoiceScorer(model, tokenizer)
    scorer.expect(items)
    ours, responses = scorer.log_likelihoods(items), scorer.score(items, ("accuracy_pmi",))
    assert not isinstance(ours, Failure)
    assert isinstance(responses, Responses)

    for item, scores in zip(items, ours, strict=True):
        assert scores == pytest.approx(theirs[item.id][: len(scores)], abs=5e-5), item.id
    means = {name: sum(values) / len(values) for name, values in responses.values.items()}
    for name, their in NAMES.items():
        assert means[name] == pytest.approx(report["results"]["evo_items"][f"{their},none"]), name


def test_running_text_equals_the_harness(
    make_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    demo_items: list[Item],
    evaluated: Callable[..., dict[str, Any]],
) -> None:
    model = make_model(max_position_embeddings=64)  # so that texts take several windows
    texts = [" ".join(item.context for item in demo_items[n : n + 1 + 3 * n]) for n in range(6)]
    items = [Item(f"t{n}", "", text=text) for n, text in enumerate(texts)]
    rows = [{"id": item.id, "text": item.text} for item in items]
    report = evaluated(TEXTS, "evo_texts", rows, harness_model(model, tokenizer))
    theirs = {s["doc"]["id"]: float(s["filtered_resps"][0]) for s in report["samples"]["evo_texts"]}
    responses, means = make_scorer(model, tokenizer).score(items), report["results"]["evo_texts"]
    assert isinstance(responses, Responses)

    def mean(metric: str, unit: Unit) -> float:
        """Of the whole corpus."""
        weights = [item.weight for item in weighted(items, unit)]
        return sum(w * v for w, v in zip(weights, responses.values[metric], strict=True)) / sum(weights)

    assert responses.values["log_likelihood"] == pytest.approx([theirs[i.id] for i in items], rel=1e-5)
    assert mean("bits_per_byte", "bytes") == pytest.approx(means["bits_per_byte,none"], rel=1e-5)
    assert 2 ** mean("bits_per_byte", "bytes") == pytest.approx(means["byte_perplexity,none"], rel=1e-5)
    assert math.exp(mean("nats_per_word", "words")) == pytest.approx(means["word_perplexity,none"], rel=1e-3)


def test_tokens_equal_the_harness(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, demo_items: list[Item]
) -> None:
    theirs = harness_model(make_model(), tokenizer)
    started = Item("bos", "<|end|>Q: What?\nA:", (" a", " b"), 0)

    for item in [*demo_items, started]:
        context, choices = encode_choices(tokenizer, item)
        for choice, tokens in zip(item.choices, choices, strict=True):
            assert theirs._encode_pair(item.context, choice) == (list(context), list(tokens))
