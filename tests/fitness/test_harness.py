"""Our numbers are those of the LM Evaluation Harness: the same accuracy and log-likelihoods on the demo's own items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import Failure
from fitness.encoding import encode_choices
from fitness.evaluator import Responses
from fitness.items import Item, load_eval_set
from fitness.loglikelihood import ChoiceScorer

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


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_accuracy_and_log_likelihoods_equal_the_harness(
    make_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    demo_items: list[Item],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    from lm_eval.tasks import TaskManager

    rows = [{"id": i.id, "context": i.context, "choices": list(i.choices), "label": i.label} for i in demo_items]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "evo.yaml").write_text(TASK.format(items=tmp_path / "items.jsonl"), encoding="utf-8")
    model = make_model(family)
    report = lm_eval.simple_evaluate(
        model=harness_model(model, tokenizer), tasks=["evo_items"], bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
    )  # fmt: skip
    theirs = {s["doc"]["id"]: [float(ll) for ll, _ in s["filtered_resps"]] for s in report["samples"]["evo_items"]}
    scorer = ChoiceScorer(model, tokenizer)
    ours, responses = scorer.log_likelihoods(demo_items), scorer.score(demo_items)
    assert not isinstance(ours, Failure)
    assert isinstance(responses, Responses)

    for item, scores in zip(demo_items, ours, strict=True):
        assert scores == pytest.approx(theirs[item.id], abs=1e-3), item.id
    means = {name: sum(values) / len(values) for name, values in responses.values.items()}
    assert means["accuracy"] == pytest.approx(report["results"]["evo_items"]["acc,none"])
    assert means["accuracy_norm"] == pytest.approx(report["results"]["evo_items"]["acc_norm,none"])


def test_tokens_equal_the_harness(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, demo_items: list[Item]
) -> None:
    theirs = harness_model(make_model(), tokenizer)
    started = Item("bos", "<|end|>Q: What?\nA:", (" a", " b"), 0)

    for item in [*demo_items, started]:
        context, choices = encode_choices(tokenizer, item)
        for choice, tokens in zip(item.choices, choices, strict=True):
            assert theirs._encode_pair(item.context, choice) == (list(context), list(tokens))
