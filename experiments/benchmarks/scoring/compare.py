"""What scoring costs, and how stable its numbers are: our tree, one row a choice, and the LM Evaluation Harness.

    OMP_NUM_THREADS=1 python experiments/benchmarks/scoring/compare.py MODEL_DIRECTORY ITEMS.jsonl

All three score the same items with the same model in one process, in turns, and are compared by CPU seconds, so that
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
from pathlib import Path

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

    def score(items: Sequence[Item]) -> Scores:
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


def accuracy(items: Sequence[Item], scores: Scores) -> float:
    return float(np.mean([np.argmax(s) == i.label for s, i in zip(scores, items, strict=True)]))


def flips(a: Scores, b: Scores) -> int:
    return sum(int(np.argmax(x) != np.argmax(y)) for x, y in zip(a, b, strict=True))


def distance(name: str, a: Scores, b: Scores) -> None:
    x, y = np.concatenate(a), np.concatenate(b)
    gap = np.abs(x - y)
    print(
        f"  {name:42s} same bits {np.mean(x == y):7.1%}   mean |difference| {gap.mean():.2e}   "
        f"max {gap.max():.2e}   best choice differs in {flips(a, b)} of {len(a)}"
    )


def compare_costs(items: Sequence[Item], scorers: dict[str, Callable[..., Scores]], repeats: int) -> dict[str, Scores]:
    """CPU seconds of each, in turns; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    found: dict[str, Scores] = {}
    for turn in range(repeats + 1):
        for name in random.Random(turn).sample(list(scorers), len(scorers)):
            start = time.process_time()
            found[name] = scorers[name](items)
            if turn:
                seconds[name].append(time.process_time() - start)
    ours = seconds["tree"]
    for name, taken in seconds.items():
        ratios = [t / o for t, o in zip(taken, ours, strict=True)]
        print(
            f"  {name:8s} {statistics.median(taken):7.2f} CPU-s (from {min(taken):.2f} to {max(taken):.2f})   "
            f"{statistics.median(ratios):5.2f} x tree (from {min(ratios):.2f} to {max(ratios):.2f})   "
            f"accuracy {accuracy(items, found[name]):.3f}"
        )
    return found


def stability(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], together: Scores
) -> None:
    """The same item in other company."""
    shuffled = random.Random(0).sample(range(len(items)), len(items))
    back = tree(model, tokenizer, 2048)([items[n] for n in shuffled])
    distance("items in another order", [back[shuffled.index(n)] for n in range(len(items))], together)
    alone = tree(model, tokenizer, 2048)
    distance("each item alone", [alone([item])[0] for item in items], together)
    half = alone(items[::2])
    distance("every second item only", half, together[::2])
    for batch_tokens in (256, 512, 8192):
        distance(f"batches of {batch_tokens} tokens", tree(model, tokenizer, batch_tokens)(items), together)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, attn_implementation=options.attention
    )
    items = load_eval_set("items", options.items).items[: options.count]
    ours = tree(model, tokenizer, options.batch_tokens)
    trees = [ChoiceScorer(model, tokenizer).tree(item) for item in items]
    encoded = [encode_choices(tokenizer, item) for item in items]
    flat = sum(len(context) + len(choice) - 1 for context, choices in encoded for choice in choices)
    shared = sum(len(context) + sum(len(c) - 1 for c in choices) for context, choices in encoded)
    print(
        f"{options.model.name}, {options.items.name}, {len(items)} items, bfloat16, {options.attention}, torch "
        f"{torch.__version__}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
        f"tokens: {flat} with one row a choice, {shared} with a shared context, {sum(map(len, trees))} in the trees"
    )
    print("cost")
    with tempfile.TemporaryDirectory() as folder:
        scorers = {
            "tree": ours,
            "rows": rows(model, tokenizer, options.batch_tokens),
            "harness": harness(model, tokenizer, Path(folder)),
        }
        found = compare_costs(items, scorers, options.repeats)
    print("stability of the tree in bfloat16, against all items together")
    stability(model, tokenizer, items, found["tree"])
    print("against float32, one row a choice")
    exact_model = model.float()
    exact = rows(exact_model, tokenizer, options.batch_tokens)(items)
    for name, scores in found.items():
        distance(f"{name}, bfloat16", scores, exact)
    distance("tree, float32", tree(exact_model, tokenizer, options.batch_tokens)(items), exact)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
