"""What generated answers cost, and whether they depend on their company: our decoder, transformers' `generate`, and
transformers' continuous batching.

    OMP_NUM_THREADS=1 python experiments/benchmarks/generation/measure.py MODEL_DIRECTORY ITEMS.jsonl --out results.json

All answer the same prompts with the same model in one process, in turns, and are compared by CPU seconds, so that
other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from fitness import decoding
from fitness.generation import GenerationScorer, longest
from fitness.items import Answering, Item, load_eval_set
from fitness.loglikelihood import padded
from fitness.vllm_decoder import VllmDecoder

BATCH_TOKENS = 2048
Engine = Callable[[Sequence[Item]], list[str]]

WORKLOADS = {
    "short": {"shots": 0, "stop": "\n", "most": 32},  # as the demo asks: a line
    "shots": {"shots": 12, "stop": "\n\n", "most": 32},  # twelve solved examples before each question
    "long": {"shots": 0, "stop": "", "most": 96},  # nothing stops an answer but the end-of-sequence token
}


def questions(path: Path, count: int, shots: int, stop: str, most: int) -> list[Item]:
    items = load_eval_set("items", path).split("search")
    solved = "".join(f"{i.context}{i.choices[i.label or 0]}\n\n" for i in items[:shots])
    answering = Answering("continuation", stop=(stop,) if stop else (), max_new_tokens=most)
    return [Item(i.id, solved + i.context, answering=answering) for i in items[shots : shots + count]]


def ours(model: Any, tokenizer: Any, *, block: int = decoding.BLOCK, repack: float = decoding.REPACK) -> Engine:
    scorer = GenerationScorer(model, tokenizer, batch_tokens=BATCH_TOKENS)

    def answer(items: Sequence[Item]) -> list[str]:
        before = decoding.BLOCK, decoding.REPACK
        decoding.BLOCK, decoding.REPACK = block, repack
        try:
            found = scorer.answers(items)
        finally:
            decoding.BLOCK, decoding.REPACK = before
        assert isinstance(found, list)
        return found

    return answer


def plain(model: Any, tokenizer: Any) -> Engine:
    """transformers' `generate`, in batches of one padded length."""

    def answer(items: Sequence[Item]) -> list[str]:
        encoded = [tokenizer.encode(item.context) for item in items]
        found: dict[int, str] = {}
        order = sorted(range(len(items)), key=lambda n: (padded(len(encoded[n])), items[n].id))
        most, stops = _asked(items)
        for length, group in groupby(order, key=lambda n: padded(len(encoded[n]))):
            places, step = list(group), max(1, BATCH_TOKENS // (length + most))
            for first in range(0, len(places), step):
                batch = places[first : first + step]
                tokens = torch.full((len(batch), length), tokenizer.eos_token_id)
                mask = torch.zeros_like(tokens)
                for row, place in enumerate(batch):
                    tokens[row, length - len(encoded[place]) :] = torch.tensor(encoded[place])
                    mask[row, length - len(encoded[place]) :] = 1
                more = {"stop_strings": stops, "tokenizer": tokenizer} if stops else {}
                with torch.inference_mode():
                    output = model.generate(
                        tokens, attention_mask=mask, generation_config=_settings(tokenizer, most), **more
                    )
                texts = tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
                found.update(zip(batch, (_cut(text, stops) for text in texts), strict=True))
        return [found[n] for n in range(len(items))]

    return answer


def continuous(model: Any, tokenizer: Any) -> Engine:
    """transformers' continuous batching; it knows no stop strings, so answers are cut afterwards."""

    def answer(items: Sequence[Item]) -> list[str]:
        most, stops = _asked(items)
        results = model.generate_batch(
            inputs=[tokenizer.encode(item.context) for item in items],
            generation_config=_settings(tokenizer, most),
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=256, max_batch_tokens=512),
            progress_bar=False,
        )
        ordered = sorted(results.values(), key=lambda result: int(result.request_id.rsplit("_", 1)[1]))
        texts = [tokenizer.decode(result.generated_tokens, skip_special_tokens=True) for result in ordered]
        return [_cut(text, stops) for text in texts]

    return answer


class Resident:
    """A model that counts as another one whenever it is asked: every turn pays for new weights, as a candidate does."""

    def __init__(self, model: Any) -> None:
        self.model, self.version, self.on_path = model, 0, False

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.model.named_parameters()


def vllm(model: Any, tokenizer: Any, items: Sequence[Item]) -> Engine:
    """vLLM in this process, its start not counted."""
    live, length = Resident(model), longest(tokenizer, items)
    scorer = GenerationScorer(
        model,
        tokenizer,
        batch_tokens=BATCH_TOKENS,
        engine=lambda plain: VllmDecoder(plain, live, length=length),
    )

    def answer(items: Sequence[Item]) -> list[str]:
        live.version += 1
        found = scorer.answers(items)
        assert isinstance(found, list)
        return found

    return answer


def _asked(items: Sequence[Item]) -> tuple[int, list[str]]:
    answering = items[0].answering
    assert answering is not None
    assert answering.max_new_tokens is not None
    return answering.max_new_tokens, list(answering.stop)


def _settings(tokenizer: Any, most: int) -> GenerationConfig:
    end = tokenizer.eos_token_id
    return GenerationConfig(do_sample=False, max_new_tokens=most, pad_token_id=end, eos_token_id=end)


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


def costs(items: Sequence[Item], engines: dict[str, Engine], repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """CPU and wall seconds of each engine, in turns after one to warm up, and its answers."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    wall: dict[str, list[float]] = {name: [] for name in engines}
    answers: dict[str, Any] = {}
    for turn in range(repeats + 1):
        for name, engine in engines.items():
            start, began = time.process_time(), time.perf_counter()
            answers[name] = engine(items)
            if turn:
                seconds[name].append(time.process_time() - start)
                wall[name].append(time.perf_counter() - began)
            print(turn, name, round(time.process_time() - start, 2), flush=True)
    found = {
        n: {"median": statistics.median(s), "least": min(s), "most": max(s), "wall": statistics.median(wall[n])}
        for n, s in seconds.items()
    }
    return found, answers


def company(items: Sequence[Item], engine: Engine, make: Callable[[int], Engine] | None = None) -> dict[str, int]:
    """How many of the answers change when something else is asked beside them."""
    together = engine(items)
    backwards = engine(items[::-1])[::-1]
    half = engine(items[::2])
    alone = [engine([item])[0] for item in items[:8]]
    narrow = engine(items) if make is None else make(256)(items)
    return {
        "answers": len(items),
        "in another order": sum(a != b for a, b in zip(together, backwards, strict=True)),
        "with half of the items": sum(a != b for a, b in zip(together[::2], half, strict=True)),
        "alone (of 8)": sum(a != b for a, b in zip(together, alone, strict=False)),
        "again" if make is None else "in batches of 256 tokens": sum(
            a != b for a, b in zip(together, narrow, strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS))
    parser.add_argument("--continuous", action="store_true", help="time transformers' continuous batching, too")
    parser.add_argument("--vllm", action="store_true", help="compare ours with vLLM alone, where it is installed")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    results: dict[str, Any] = {}
    for dtype in asked.dtypes:
        model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=getattr(torch, dtype))
        for name in asked.workloads:
            items = questions(asked.items, asked.count, **WORKLOADS[name])
            engines = {
                "ours": ours(model, tokenizer),
                "ours, nothing shared": ours(model, tokenizer, block=1 << 20),
                "ours, no row leaves": ours(model, tokenizer, repack=0.0),
                "generate": plain(model, tokenizer),
            }
            if asked.continuous:
                engines["continuous"] = continuous(model, tokenizer)
            if asked.vllm:
                engines = {"ours": engines["ours"], "vllm": vllm(model, tokenizer, items)}
            seconds, answers = costs(items, engines, asked.repeats)
            lengths = [len(tokenizer.encode(text)) for text in answers["ours"]]
            like = {
                other: sum(a == b for a, b in zip(answers["ours"], found, strict=True))
                for other, found in answers.items()
            }

            def make(batch_tokens: int, model: Any = model) -> Engine:
                scorer = GenerationScorer(model, tokenizer, batch_tokens=batch_tokens)
                return lambda asked: scorer.answers(asked)  # type: ignore[return-value]

            results[f"{dtype}, {name}"] = {
                "prompt tokens": statistics.mean(len(tokenizer.encode(item.context)) for item in items),
                "answer tokens": statistics.mean(lengths),
                "cpu seconds": seconds,
                "answers like ours": like,
                "answers that change": company(items, engines["ours"], make),
                **({"answers of vllm that change": company(items, engines["vllm"])} if asked.vllm else {}),
            }
            print(json.dumps(results[f"{dtype}, {name}"], indent=1), flush=True)
            asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
