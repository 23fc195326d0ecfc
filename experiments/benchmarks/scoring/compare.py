"""What scoring costs, and how stable its numbers are: our tree, one row a choice, and the LM Evaluation Harness.

    OMP_NUM_THREADS=1 python experiments/benchmarks/scoring/compare.py MODEL_DIRECTORY [--shapes zero_shot few_shot …]

Shapes of tasks, all made of the demo's items: `zero_shot` (a short context, five choices of some tokens), `few_shot`
(the same behind five examples, the same for all items), `long` (a capital behind twelve examples of the item's own,
five choices of few tokens), `letters` (the same, choices listed in the context, one token each) and `shared_letters`
(such letters behind five examples of the same form, the same for all items, as in MMLU).

All score the same items with the same model in one process, in turns, and are compared by CPU seconds, so that
other work on the machine disturbs them alike. The second part asks how much a log-likelihood depends on what it is
computed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).parents[3]))

from evomerge.errors import Failure
from fitness.encoding import encode_choices
from fitness.items import Item, load_eval_set
from fitness.loglikelihood import ChoiceScorer

Scores = list[tuple[float, ...]]
ITEMS = Path(__file__).parents[2] / "zoo" / "items"
SHAPES = ("zero_shot", "few_shot", "long", "letters", "shared_letters")

TASK = """\
task: scoring_benchmark
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
"""


def tree(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int) -> Callable[..., Scores]:
    """Ours; tokens are cached between calls, as they are in a worker."""
    scorer = ChoiceScorer(model, tokenizer, batch_tokens=batch_tokens)
    expected: list[Item] = []

    def score(items: Sequence[Item]) -> Scores:
        if not expected:  # as a worker, which knows all items
            expected.extend(items)
            scorer.expect(expected)
        found = scorer.log_likelihoods(items)
        assert not isinstance(found, Failure), found
        return found

    return score


def rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int) -> Callable[..., Scores]:
    """One row a choice, sorted by length, padded on the right, float32 log-softmax at every position."""

    @torch.inference_mode()
    def score(items: Sequence[Item]) -> Scores:
        pairs = [
            (place, context, choice)
            for place, item in enumerate(items)
            for context, choices in [encode_choices(tokenizer, item)]
            for choice in choices
        ]
        found: list[list[float]] = [[] for _ in items]
        values = dict.fromkeys(range(len(pairs)), 0.0)
        order = sorted(range(len(pairs)), key=lambda n: len(pairs[n][1]) + len(pairs[n][2]))
        while order:
            step = max(1, batch_tokens // (len(pairs[order[-1]][1]) + len(pairs[order[-1]][2])))
            batch, order = order[-step:], order[:-step]
            texts = [(pairs[n][1] + pairs[n][2])[:-1] for n in batch]
            tokens = torch.zeros(len(batch), max(map(len, texts)), dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for row, text in enumerate(texts):
                tokens[row, : len(text)], mask[row, : len(text)] = torch.tensor(text), 1
            logits = torch.log_softmax(model(tokens, attention_mask=mask, use_cache=False).logits, -1, torch.float32)
            for row, n in enumerate(batch):
                _, context, choice = pairs[n]
                chosen = logits[row, len(context) - 1 : len(context) - 1 + len(choice)]
                values[n] = float(chosen.gather(1, torch.tensor(choice)[:, None]).double().sum())
        for n, (place, _, _) in enumerate(pairs):
            found[place].append(values[n])
        return [tuple(f) for f in found]

    return score


def harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Callable[..., Scores]:
    """`simple_evaluate` on the live model, with the task manager and the model wrapper kept."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16, device="cpu", softmax_dtype="float32")
    (folder / "task.yaml").write_text(TASK.format(items=folder / "items.jsonl"), encoding="utf-8")
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def score(items: Sequence[Item]) -> Scores:
        data = [{"id": i.id, "context": i.context, "choices": list(i.choices), "label": i.label} for i in items]
        (folder / "items.jsonl").write_text("\n".join(map(json.dumps, data)), encoding="utf-8")
        report = lm_eval.simple_evaluate(
            model=wrapped, tasks=["scoring_benchmark"], task_manager=manager, bootstrap_iters=0, log_samples=True
        )
        samples = report["samples"]["scoring_benchmark"]
        by_id = {s["doc"]["id"]: tuple(float(ll) for ll, _ in s["filtered_resps"]) for s in samples}
        return [by_id[i.id] for i in items]

    return score


def shaped(shape: str, count: int) -> list[Item]:
    """Items of a shape, the same whenever they are made."""
    if shape in ("zero_shot", "few_shot"):
        known = load_eval_set("items", ITEMS / "ja_math.jsonl").items
        shots = "".join(f"{i.context}{i.choices[i.label or 0]}\n\n" for i in known[-5:] if shape == "few_shot")
        return [replace(item, context=shots + item.context) for item in known[:count]]
    known = load_eval_set("items", ITEMS / "geo.jsonl").items
    if shape == "shared_letters":
        listed = [_listed(item) for item in known]
        shots = "".join(f"{i.context}{i.choices[i.label or 0]}\n\n" for i in listed[-5:])
        return [replace(item, context=shots + item.context) for item in listed[: min(count, len(listed) - 5)]]
    return [_behind_its_own(item, known, shape == "letters") for item in known[:count]]


def _behind_its_own(item: Item, known: Sequence[Item], letters: bool) -> Item:
    """A capital behind twelve examples that no other item has in this order."""
    others = random.Random(item.id).sample([other for other in known if other.asked != item.asked], 12)
    shots = "".join(f"{other.context}{other.choices[other.label or 0]}\n\n" for other in others)
    if not letters:
        return replace(item, context=shots + item.context)
    item = _listed(item)
    return replace(item, context=shots + item.context)


def _listed(item: Item) -> Item:
    """With its choices in the context, to be answered by a letter."""
    names = "ABCDE"[: len(item.choices)]
    listed = "".join(f"{name}.{choice}\n" for name, choice in zip(names, item.choices, strict=True))
    context = f"{item.context.removesuffix('A:')}{listed}A:"
    return replace(item, context=context, choices=tuple(f" {name}" for name in names))


def accuracy(items: Sequence[Item], scores: Scores) -> float:
    return float(np.mean([np.argmax(s) == i.label for s, i in zip(scores, items, strict=True)]))


def flips(a: Scores, b: Scores) -> int:
    return sum(int(np.argmax(x) != np.argmax(y)) for x, y in zip(a, b, strict=True))


def distance(name: str, a: Scores, b: Scores) -> dict[str, float]:
    x, y = np.concatenate(a), np.concatenate(b)
    gap = np.abs(x - y)
    print(
        f"  {name:42s} same bits {np.mean(x == y):7.1%}   mean |difference| {gap.mean():.2e}   "
        f"max {gap.max():.2e}   best choice differs in {flips(a, b)} of {len(a)}",
        flush=True,
    )
    return {"same_bits": float(np.mean(x == y)), "mean": float(gap.mean()), "most": float(gap.max())}


def compare_costs(
    items: Sequence[Item], scorers: dict[str, Callable[..., Scores]], repeats: int
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """CPU seconds of each, in turns; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    found: dict[str, Scores] = {}
    for turn in range(repeats + 1):
        for name in random.Random(turn).sample(list(scorers), len(scorers)):
            start = time.process_time()
            found[name] = scorers[name](items)
            if turn:
                seconds[name].append(time.process_time() - start)
    ours, costs = seconds["tree"], {}
    for name, taken in seconds.items():
        ratios = [t / o for t, o in zip(taken, ours, strict=True)]
        print(
            f"  {name:8s} {statistics.median(taken):7.2f} CPU-s (from {min(taken):.2f} to {max(taken):.2f})   "
            f"{statistics.median(ratios):5.2f} x tree (from {min(ratios):.2f} to {max(ratios):.2f})   "
            f"accuracy {accuracy(items, found[name]):.3f}",
            flush=True,
        )
        costs[name] = {"cpu_s": taken, "times_tree": ratios, "accuracy": accuracy(items, found[name])}
    return found, costs


def stability(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], together: Scores
) -> dict[str, dict[str, float]]:
    """The same items in other company; what may be asked is the same."""

    def ours(batch_tokens: int = 2048) -> ChoiceScorer:
        scorer = ChoiceScorer(model, tokenizer, batch_tokens=batch_tokens)
        scorer.expect(items)
        return scorer

    def of(scorer: ChoiceScorer, some: Sequence[Item]) -> Scores:
        found = scorer.log_likelihoods(some)
        assert not isinstance(found, Failure), found
        return found

    shuffled = random.Random(0).sample(range(len(items)), len(items))
    back, alone = of(ours(), [items[n] for n in shuffled]), ours()
    ordered = [back[shuffled.index(n)] for n in range(len(items))]
    found = {"items in another order": distance("items in another order", ordered, together)}
    found["each item alone"] = distance("each item alone", [of(alone, [item])[0] for item in items], together)
    found["every second item"] = distance("every second item", of(alone, items[::2]), together[::2])
    small = of(ours(512), items)
    found["batches of 512 tokens"] = distance("batches of 512 tokens", small, together)
    return found


def exactness(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], folder: Path
) -> dict[str, dict[str, float]]:
    """In float32, against the harness and one row a choice; the scores of all are the same to rounding."""
    ours = tree(model, tokenizer, 2048)(items)
    beside = {"harness": harness(model, tokenizer, folder)(items), "rows": rows(model, tokenizer, 2048)(items)}
    return {name: distance(f"tree and {name}, float32", ours, scores) for name, scores in beside.items()}


@torch.inference_mode()
def products(model: PreTrainedModel, tokens: int, repeats: int = 3) -> float:
    """CPU ms a token that the layers' matrix products take when nothing else is done; of some turns the least.

    Attention, norms and the head come on top for everybody.
    """
    linears = [m for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(tokens, m.in_features, dtype=m.weight.dtype) for m in linears}
    taken = []
    for _ in range(repeats + 1):
        start = time.process_time()
        for one in linears:
            one(inputs[one.in_features])
        taken.append(time.process_time() - start)
    return 1000 * min(taken[1:]) / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa")
    parser.add_argument("--rows", action="store_true", help="one row a choice, too")
    parser.add_argument("--stability", action="store_true", help="the same items in other company, nothing else")
    parser.add_argument("--exact", action="store_true", help="in float32 beside the others, nothing else")
    parser.add_argument("--products", action="store_true", help="the layers' matrix products alone, nothing else")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, attn_implementation=options.attention
    )
    report = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if options.products:
        torch.manual_seed(0)
        report["products"] = {str(tokens): products(model, tokens) for tokens in (216, 432, 864, 2048)}
        print("products alone, CPU-ms a token, by tokens at a time:", report["products"])
        options.shapes = ()
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    for shape in options.shapes:
        report[shape] = report.get(shape, {}) | _shape(shape, model, tokenizer, options)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def _shape(
    shape: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace
) -> dict[str, Any]:
    items = shaped(shape, options.count)
    scorer = ChoiceScorer(model, tokenizer)
    scorer.expect(items)
    encoded = [encode_choices(tokenizer, item) for item in items]
    flat = sum(len(context) + len(choice) - 1 for context, choices in encoded for choice in choices)
    in_trees = sum(len(scorer.tree(item)) for item in items)
    print(
        f"{shape}: {options.model.name}, {len(items)} items, bfloat16, {options.attention}, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; tokens: {flat} with one row a choice, {in_trees} in "
        "the trees",
        flush=True,
    )
    made: dict[str, Any] = {"items": len(items), "tokens": {"rows": flat, "trees": in_trees}}
    made["load"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        if options.stability:
            found = tree(model, tokenizer, options.batch_tokens)(items)
            made["stability"] = stability(model, tokenizer, items, found)
            return {"stability": made}
        if options.exact:
            exact_model = AutoModelForCausalLM.from_pretrained(options.model, attn_implementation=options.attention)
            made["exact"] = exactness(exact_model.float(), tokenizer, items, Path(folder))
            return {"exact": made}
        scorers = {
            "tree": tree(model, tokenizer, options.batch_tokens),
            "harness": harness(model, tokenizer, Path(folder)),
        }
        if options.rows:
            scorers["rows"] = rows(model, tokenizer, options.batch_tokens)
        found_by, made["cost"] = compare_costs(items, scorers, options.repeats)
        made["bfloat16"] = distance("harness, bfloat16", found_by["harness"], found_by["tree"])
    return made


if __name__ == "__main__":
    main()
