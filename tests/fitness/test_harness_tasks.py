"""Eval sets made of the harness's own tasks: its numbers on the full set are ours, on every item and together.

The tasks are those that lm-eval ships, with their YAML files and functions; their data are a few documents of the same
form in a folder, as there is no hub here. Float32 throughout.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import InvalidInputError
from fitness.evaluator import Responses
from fitness.harness.card import cards_of
from fitness.harness.export import Exported, Splitting, from_harness, write
from fitness.harness.judge import Judge
from fitness.harness.questions import Prompting
from fitness.harness.tasks import Asked, manager_of
from fitness.items import Answering, Item, load_eval_set
from fitness.scorer import make_scorer

lm_eval = pytest.importorskip("lm_eval")

pytestmark = [
    pytest.mark.slow,  # importing the harness and datasets takes half of a minute on a busy machine
    pytest.mark.filterwarnings("ignore"),  # the harness's and its dependencies' own
]

BUNDLED = Path(lm_eval.__file__).parent / "tasks"

COMPARED = [
    {
        "id": str(n), "question": f"Which number is {word} than {n}?", "answerKey": "AB"[place],
        "choices": {"text": [str(n + 1), str(n - 1), f"exactly {n}", "a cat"], "label": list("ABCD")},
    }
    for n in range(3, 11)
    for place, word in enumerate(("more", "less"))
]  # fmt: skip
NAMES = [("Ann", "Bob"), ("Carl", "Dina"), ("Eve", "Fay"), ("Gus", "Hal"), ("Ida", "Jon"), ("Kim", "Lea")]
BLANKS = [
    {"sentence": f"{a} gave {n} apples to {b} because _ was hungry.", "option1": a, "option2": b, "answer": "12"[n % 2]}
    for n, (a, b) in enumerate(NAMES)
]
TEXTS = ["Tom has 37 eggs and sells 15. Now Tom has 22", "The capital of France is Paris", "Math: 91 + 70 = 161"]
SUMS = [
    {"question": f"Tom has {a} eggs and gets {b}. How many?", "answer": f"{a} + {b} = {a + b}\n#### {a + b}"}
    for a, b in ((3, 4), (10, 22), (37, 15), (5, 5), (81, 9), (2, 2), (30, 1), (4, 13))
]
STEMS = [
    {"question": f"What is {n} + {n}?", "choices": [str(2 * n), str(n), "0", "11"], "answer": 0} for n in range(2, 12)
]
PAIRS = [{"sentence_good": f"Ann has {n} eggs.", "sentence_bad": f"Ann have {n} eggs."} for n in range(2, 8)]
TRUTHS = [
    {
        "question": f"What is {n} + 1?",
        "mc1_targets": {"choices": [str(n + 1), "7"], "labels": [1, 0]},
        "mc2_targets": {
            "choices": [str(n + 1), f"{n} + 1", "a cat", "no"][: 3 + n % 2],
            "labels": [1, 1, 0, 0][: 3 + n % 2],
        },
    }
    for n in range(20, 26)
]
PAGES = [{"page": f" = Eggs = \n\n Tom 's {n} @,@ 000 eggs , and Ann 's .\n" * (1 + n % 3)} for n in range(5)]

DATA: dict[str, dict[str, list[Any]]] = {
    "allenai/ai2_arc/ARC-Easy": {"train": COMPARED[:4], "validation": COMPARED[4:6], "test": COMPARED[6:]},
    "allenai/winogrande/winogrande_xl": {"train": BLANKS[:3], "validation": BLANKS[3:]},
    "EleutherAI/lambada_openai": {"test": [{"text": text} for text in TEXTS]},
    "openai/gsm8k/main": {"train": SUMS, "test": [*SUMS[:3], {"question": "1000 + 1?", "answer": "#### 1,001"}]},
    "cais/mmlu/astronomy": {"dev": STEMS[:5], "test": STEMS[5:]},
    "cais/mmlu/anatomy": {"dev": STEMS[5:], "test": STEMS[:4]},
    "nyu-mll/blimp/adjunct_island": {"train": PAIRS},
    "truthfulqa/truthful_qa/multiple_choice": {"validation": TRUTHS},
    "EleutherAI/wikitext_document_level/wikitext-2-raw-v1": {
        "train": PAGES[:1],
        "validation": PAGES[:1],
        "test": PAGES,
    },
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, splits in DATA.items():
        (root / name).mkdir(parents=True)
        for split, rows in splits.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (root / name / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def asked(name: str, folder: str, data_dir: Path, **more: Any) -> Asked:
    return Asked(name, include_path=(BUNDLED / folder,), data_dir=data_dir, bundled=False, **more)


def theirs(asked: Asked, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **more: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu", softmax_dtype="float32"),
        tasks=[asked.name], task_manager=manager_of(asked), bootstrap_iters=0, log_samples=True,
        num_fewshot=asked.num_fewshot, **more,
    )  # fmt: skip


def mean(items: Sequence[Item], values: Sequence[float]) -> float:
    return sum(i.weight * v for i, v in zip(items, values, strict=True)) / sum(i.weight for i in items)


def reported(report: Any, task: str, name: str) -> float:
    """The harness's number of a metric by the name on our card."""
    return float(report["results"][task][name if "," in name else f"{name},none"])


def check_all(one: Exported, responses: Responses, report: Any, wanted: Mapping[str, str]) -> None:
    """Every metric on the card is the harness's, on the full set."""
    assert {m.name: m.metric for m in one.card.metrics} == wanted
    for m in one.card.metrics:
        if m.metric:
            ours = m.reported_from(mean(one.items, responses.values[m.metric]))
            assert ours == pytest.approx(reported(report, one.card.task, m.name), rel=1e-4), m.name


def scored(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], metrics: Sequence[str]
) -> Responses:
    found = make_scorer(model, tokenizer).score(items, metrics)
    assert isinstance(found, Responses), found
    return found


@pytest.mark.parametrize(
    ("name", "folder", "shots", "wanted"),
    [
        ("arc_easy", "arc", 3, {"acc": "accuracy", "acc_norm": "accuracy_norm"}),
        ("winogrande", "winogrande", 2, {"acc": "accuracy"}),
        ("blimp_adjunct_island", "blimp", None, {"acc": "accuracy"}),
        ("mmlu_astronomy", "mmlu/default", 4, {"acc": "accuracy"}),
        ("truthfulqa_mc2", "truthfulqa", None, {"acc": "harness:acc"}),
    ],
)
def test_multiple_choice_is_the_harness_s(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, data_dir: Path,
    name: str, folder: str, shots: int | None, wanted: dict[str, str],
) -> None:  # fmt: skip
    task, model = asked(name, folder, data_dir, num_fewshot=shots), make_model(max_position_embeddings=2048)
    (one,) = from_harness(task)
    report = theirs(task, model, tokenizer)
    responses = scored(model, tokenizer, one.items, [m.metric for m in one.card.metrics])

    samples = {s["doc_id"]: s for s in report["samples"][name]}
    for place, item in enumerate(one.items):
        sample = samples[int(item.id.rpartition("/")[2])]
        pairs = [(c, t) for c, t in zip(item.contexts or [item.context] * len(item.choices), item.choices, strict=True)]
        assert pairs == [tuple(a) for a in sample["arguments"][: len(pairs)]]
        for m in one.card.metrics:
            assert responses.values[m.metric][place] == pytest.approx(sample[m.name], abs=1e-4), (item.id, m.name)
    check_all(one, responses, report, wanted)


def texts_of(folder: Path, data: Path, text: str) -> str:
    """A user's task in a folder, over a file of rows."""
    folder.mkdir(exist_ok=True)
    place = folder / "task.yaml"
    place.write_text(f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n{text}")
    return str(place)


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


MUTUAL = """\
task: mutual
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_bytes}, {metric: acc_mutual_info}]
"""

ROLLING = """\
task: rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list: [{metric: %s}]
"""


def test_mutual_information_and_bytes_are_the_harness_s(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [row | {"choices": [f"{c} ö" * (1 + i) for i, c in enumerate(row["choices"])]} for row in STEMS]
    task = Asked(texts_of(tmp_path / "t", lines(tmp_path / "rows.jsonl", rows), MUTUAL))
    model = make_model()
    (one,) = from_harness(task)
    report = theirs(task, model, tokenizer)
    responses = scored(model, tokenizer, one.items, [m.metric for m in one.card.metrics])

    wanted = {"acc": "accuracy", "acc_bytes": "accuracy_bytes", "acc_mutual_info": "accuracy_pmi"}
    for m, sample_of in ((m, "mutual") for m in one.card.metrics):
        values = [s[m.name] for s in report["samples"][sample_of]]
        assert list(responses.values[m.metric]) == pytest.approx(values), m.name
    check_all(one, responses, report, wanted)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (
            "bits_per_byte}, {metric: byte_perplexity",
            {"bits_per_byte": "bits_per_byte", "byte_perplexity": "bits_per_byte"},
        ),
        ("word_perplexity", {"word_perplexity": "nats_per_word"}),
        ("word_perplexity}, {metric: bits_per_byte", {"word_perplexity": "", "bits_per_byte": "bits_per_byte"}),
    ],
)
def test_perplexities_of_running_text_are_the_harness_s(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path,
    names: str, wanted: dict[str, str],
) -> None:  # fmt: skip
    rows = [{"page": "Tom has 37 eggs and sells 15. 九十一 " * (1 + 7 * n)} for n in range(4)]  # the longest in windows
    task = Asked(texts_of(tmp_path / "t", lines(tmp_path / "rows.jsonl", rows), ROLLING % names))
    model = make_model()
    (one,) = from_harness(task)
    responses = scored(model, tokenizer, one.items, [m for m in wanted.values() if m])

    check_all(one, responses, theirs(task, model, tokenizer), wanted)


def test_wikitext_counts_words_of_its_pages_and_reads_others(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, data_dir: Path
) -> None:
    task, model = asked("wikitext", "wikitext", data_dir), make_model()
    (one,) = from_harness(task)
    responses = scored(model, tokenizer, one.items, ["log_likelihood"])

    assert "Tom's 0,000 eggs, and Ann's ." in one.items[0].text
    names = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    check_all(one, responses, theirs(task, model, tokenizer), dict.fromkeys(names, "log_likelihood"))


def test_a_continuation_s_perplexity_and_accuracy_are_the_harness_s(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, data_dir: Path
) -> None:
    task, model = asked("lambada_openai", "lambada", data_dir), make_model()
    (one,) = from_harness(task)
    report = theirs(task, model, tokenizer)
    responses = scored(model, tokenizer, one.items, ["log_likelihood", "greedy"])

    values = [s["perplexity"] for s in report["samples"]["lambada_openai"]]
    assert list(responses.values["log_likelihood"]) == pytest.approx(values, abs=1e-3)
    assert list(responses.values["greedy"]) == [s["acc"] for s in report["samples"]["lambada_openai"]]
    check_all(one, responses, report, {"perplexity": "log_likelihood", "acc": "greedy"})


CONTINUED = """\
task: continued
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: "{{said}}"
metric_list: [{metric: acc}]
"""


def test_continuations_that_greedy_decoding_says_are_those_of_the_harness(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = make_model()
    asks = [Item(str(n), f"Tom has {n} eggs", answering=Answering("whole", (), 1 + n % 3)) for n in range(24)]
    answers = make_scorer(model, tokenizer).generation.answers(asks)
    assert isinstance(answers, list)
    said = [text + "x" * (n % 4 == 0) for n, text in enumerate(answers)]
    rows = [{"question": i.context, "said": text} for i, text in zip(asks, said, strict=True) if text.strip()]
    task = Asked(texts_of(tmp_path / "t", lines(tmp_path / "rows.jsonl", rows), CONTINUED))
    (one,) = from_harness(task)
    responses = scored(model, tokenizer, one.items, ["greedy"])
    wanted = [s["acc"] for s in theirs(task, model, tokenizer)["samples"]["continued"]]

    assert list(responses.values["greedy"]) == wanted
    assert set(wanted) == {0, 1}


def test_generation_with_filters_is_the_harness_s(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, data_dir: Path
) -> None:
    task, model = asked("gsm8k", "gsm8k", data_dir, num_fewshot=3), make_model(max_position_embeddings=1024)
    (one,) = from_harness(task)
    report = theirs(task, model, tokenizer)
    names = {m.name: m.metric for m in one.card.metrics}
    answers = make_scorer(model, tokenizer).generation.answers(one.items)
    assert isinstance(answers, list)
    judged = Judge().values(
        one.items, [[text] for text in (s["answer"] for s in (*SUMS[:3], {"answer": "so #### 1001."}))]
    )
    responses = scored(model, tokenizer, one.items, list(names.values()))

    raw = [s["resps"][0][0] for s in report["samples"]["gsm8k"] if s["filter"] == "strict-match"]
    assert answers == raw
    assert [i.answering and i.answering.max_new_tokens for i in one.items] == [256] * 4
    check_all(one, responses, report, {name: f"harness:{name}" for name in names})
    assert judged == {f"harness:exact_match,{name}": (1.0,) * 4 for name in ("strict-match", "flexible-extract")}
    assert one.items[0].references == ("7",)
    assert one.items[0].question == "Question: Tom has 3 eggs and gets 4. How many?\nAnswer:"


def test_ours_beside_the_task_s_own_metrics_cost_no_second_reading(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, data_dir: Path
) -> None:
    model = make_model(max_position_embeddings=1024)
    (choices,) = from_harness(asked("truthfulqa_mc2", "truthfulqa", data_dir))
    (texts,) = from_harness(asked("gsm8k", "gsm8k", data_dir))
    for items, judged, ours in (
        (choices.items, "harness:acc", "entropy"),
        (texts.items, "harness:exact_match,strict-match", "answer_tokens"),
    ):
        alone = [scored(model, tokenizer, items, [name]) for name in (judged, ours)]
        both = scored(model, tokenizer, items, [ours, judged])

        assert both.tokens == alone[0].tokens == alone[1].tokens > 0
        assert both.item_ids == alone[0].item_ids
        assert {n: both.values[n] for n in (judged, ours)} == {
            judged: alone[0].values[judged],
            ours: alone[1].values[ours],
        }
    begun = scored(model, tokenizer, texts.items, ["entropy", "answer_tokens", "harness:exact_match,strict-match"])
    first = scored(model, tokenizer, texts.items, ["entropy"])

    assert begun.tokens == both.tokens + first.tokens, "what stands first in an answer is read before any is written"
    assert begun.values["entropy"] == first.values["entropy"]


def test_a_judge_says_of_any_answer_what_the_task_s_code_says(data_dir: Path) -> None:
    from lm_eval.api.instance import Instance

    (one,) = from_harness(asked("gsm8k", "gsm8k", data_dir))
    task = manager_of(asked("gsm8k", "gsm8k", data_dir)).load(["gsm8k"])["tasks"]["gsm8k"]
    draws = random.Random(0)
    said = ["7", "#### 7", "7 or 32", "#### 1001.", "$1,001", "", "so #### 7\n#### 8", "-7", "#### 32.0", "no"]
    answers = [draws.choice(said) for _ in range(60)]
    items = [one.items[n % 4] for n in range(60)]
    judged = Judge().values(items, [[a] for a in answers])

    docs = [json.loads(item.doc)["row"] for item in items]
    asks = [
        Instance("generate_until", doc, (), 0, ("gsm8k", n, 1), resps=[a])
        for n, (doc, a) in enumerate(zip(docs, answers, strict=True))
    ]
    for ensemble in task._filters:
        ensemble.apply(asks)
        wanted = [task.process_results(a.doc, [a.filtered_resps[ensemble.name]])["exact_match"] for a in asks]
        assert list(judged[f"harness:exact_match,{ensemble.name}"]) == wanted
        assert 0 < sum(wanted) < 60


GROUP = """\
group: two
task: [mmlu_astronomy, mmlu_anatomy]
aggregate_metric_list: [{metric: acc, weight_by_size: %s}]
"""


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_s_mean_is_the_harness_s(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, data_dir: Path, tmp_path: Path,
    by_size: bool,
) -> None:  # fmt: skip
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "two.yaml").write_text(GROUP % by_size, encoding="utf-8")
    include = (BUNDLED / "mmlu/default", tmp_path / "group")
    task = Asked("two", 2, include_path=include, data_dir=data_dir, bundled=False)
    model = make_model(max_position_embeddings=2048)
    both = from_harness(task, splitting=Splitting(0.3, seed=4))
    write(both, tmp_path / "two.jsonl")
    found = load_eval_set("two", tmp_path / "two.jsonl")
    responses = scored(model, tokenizer, found.items, ["accuracy"])
    report = theirs(task, model, tokenizer)

    assert {i.split for i in found.items} == {"search", "holdout"}
    assert mean(found.items, responses.values["accuracy"]) == pytest.approx(report["groups"]["two"]["acc,none"])
    assert cards_of(tmp_path / "two.jsonl") == tuple(one.card for one in both)
    assert [path.name for path in write(both, tmp_path / "folder")] == ["mmlu_astronomy.jsonl", "mmlu_anatomy.jsonl"]


def test_a_chat_template_is_applied_as_the_harness_applies_it(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", template)
    for name, folder, multiturn in (("mmlu_astronomy", "mmlu/default", True), ("arc_easy", "arc", False)):
        task, model = asked(name, folder, data_dir, num_fewshot=2), make_model(max_position_embeddings=2048)
        (one,) = from_harness(task, Prompting(system_instruction="Be brief.", tokenizer=tokenizer, multiturn=multiturn))
        report = theirs(
            task,
            model,
            tokenizer,
            apply_chat_template=True,
            system_instruction="Be brief.",
            fewshot_as_multiturn=multiturn,
        )
        responses = scored(model, tokenizer, one.items, ["accuracy"])

        asks = [s["arguments"] for s in report["samples"][name]]
        assert [[(i.context, c) for c in i.choices] for i in one.items] == [[tuple(a) for a in found] for found in asks]
        assert one.items[0].delimiter == ""
        assert mean(one.items, responses.values["accuracy"]) == pytest.approx(report["results"][name]["acc,none"])
        assert one.card.chat_template_sha256
        assert one.card.system_instruction == "Be brief."


OWN = """\
task: own
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
process_results: !function own.judge
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: length, aggregation: mean}, {metric: corpus, aggregation: bleu}]
"""

JUDGE = """\
def judge(doc, results):
    return {"length": len(results[0]) - len(doc["choices"][0]), "corpus": (doc["choices"][0], results[0])}
"""


def test_a_user_s_own_code_judges_and_must_stay_as_it_was(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    place = texts_of(tmp_path / "t", lines(tmp_path / "rows.jsonl", STEMS), OWN)
    (tmp_path / "t" / "own.py").write_text(JUDGE, encoding="utf-8")
    model = make_model()
    (one,) = from_harness(Asked(place), Prompting(limit=4))
    responses = scored(model, tokenizer, one.items, ["harness:length", "answer_tokens"])
    report = theirs(Asked(place), model, tokenizer, limit=4)

    assert mean(one.items, responses.values["harness:length"]) == pytest.approx(report["results"]["own"]["length,none"])
    assert set(responses.values) >= {"harness:length", "answer_tokens"}
    assert [(m.metric, m.bounded) for m in one.card.metrics] == [("harness:length", False), ("", False)]
    assert "bleu of all answers together" in one.card.metrics[1].why_not
    with pytest.raises(InvalidInputError, match="harness:length"):
        make_scorer(model, tokenizer).score(one.items, ["harness:corpus"])
    (tmp_path / "t" / "own.py").write_text(JUDGE.replace("len(results[0])", "1"), encoding="utf-8")
    with pytest.raises(InvalidInputError, match="write them again"):
        make_scorer(model, tokenizer).score(one.items, ["harness:length"])


GENERATED = """\
task: generated
custom_dataset: !function made.rows
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: []}
metric_list: [{metric: exact_match, aggregation: mean}]
"""

MADE = """\
import random
from datasets import Dataset

def rows(count=1, **_):
    rows = [{"question": f"{random.random()}?", "answer": str(n)} for n in range(count)]
    return {"test": Dataset.from_list(rows)}
"""


def test_documents_that_a_task_generates_are_those_of_the_harness(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    (tmp_path / "made.py").write_text(MADE, encoding="utf-8")
    (tmp_path / "task.yaml").write_text(GENERATED, encoding="utf-8")
    task = Asked(str(tmp_path / "task.yaml"), metadata={"count": 3})
    before = random.getstate()
    (one,) = from_harness(task)
    unchanged = random.getstate() == before
    report = theirs(task, make_model(max_position_embeddings=512), tokenizer)

    assert unchanged
    assert [i.context for i in one.items] == [s["arguments"][0][0] for s in report["samples"]["generated"]]


def test_what_cannot_be_is_said(tmp_path: Path, data_dir: Path) -> None:
    rows = lines(tmp_path / "rows.jsonl", [row | {"choices": ["1", "1"]} for row in STEMS])
    cases = [
        (Asked("no_such_task", bundled=False), "task, group or tag"),
        (asked("hellaswag", "hellaswag", tmp_path / "nothing"), "data-dir"),
        (Asked(texts_of(tmp_path / "a", rows, MUTUAL)), "document 0 choices"),
        (Asked(texts_of(tmp_path / "b", rows, MUTUAL.replace("{{question}}", "{{question"))), "can be built"),
        (asked("arc_easy", "arc", data_dir, num_fewshot=99), "requests can be built"),
    ]
    for task, match in cases:
        with pytest.raises(InvalidInputError, match=match):
            from_harness(task)


def test_documents_that_no_item_expresses_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [STEMS[1] | {"answer": 9}, STEMS[2] | {"choices": ["1", "1", "2", "3"]}]
    task = Asked(texts_of(tmp_path / "t", lines(tmp_path / "rows.jsonl", [STEMS[0], *bad, STEMS[3]]), MUTUAL))
    (one,) = from_harness(task)

    assert [item.id for item in one.items] == ["mutual/0", "mutual/3"]
    assert "2 documents" in one.card.not_kept[0]
    assert "document 1 target" in one.card.not_kept[0]


STOPPED = """\
task: stopped
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["e", " ", "7", "1 "], max_gen_toks: 24}
metric_list: [{metric: exact_match, aggregation: mean, ignore_case: true, ignore_punctuation: true}]
"""


def test_answers_end_where_the_harness_ends_them(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    task = Asked(texts_of(tmp_path / "t", lines(tmp_path / "rows.jsonl", STEMS), STOPPED))
    model = make_model()
    (one,) = from_harness(task)
    answers = make_scorer(model, tokenizer).generation.answers(one.items)
    raw = [s["resps"][0][0] for s in theirs(task, model, tokenizer)["samples"]["stopped"]]

    assert answers == raw
    assert any(len(tokenizer.encode(text)) < 20 for text in raw)  # of 24
