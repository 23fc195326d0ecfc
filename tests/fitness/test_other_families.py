"""Models of families that nobody described: read in batches where they give the same, else text by text."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from evomerge.errors import ArchitectureError
from fitness.decoding import GreedyDecoder, Prompt
from fitness.reading import Reader
from fitness.tree import grow
from fitness.ways import Ways, pads
from tests.evomerge.models.any_family import MOST, config_of, kinds

CONTEXTS = [tuple(range(3, 3 + n)) for n in (5, 20, 37)]
CHOICES = [(5, 6, 7), (5, 9), (11,)]
LEAST = 110
"""Families of transformers that can be built this small and are causal language models: more than these are tried."""


def model_of(kind: str, **more: Any) -> Any:
    config = config_of(kind)
    for key, value in more.items():
        setattr(config, key, value)
    with torch.device("meta"):
        assert sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()) < MOST
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.inference_mode()
def alone(model: Any, context: tuple[int, ...], choice: tuple[int, ...]) -> float:
    """A choice's log-likelihood, as the model itself says it of one text."""
    logits = model(input_ids=torch.tensor([[*context, *choice]]), use_cache=False).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(context) - 1 + n, token]) for n, token in enumerate(choice))


def furthest(model: Any, reader: Reader) -> float:
    """The largest difference between what is read and what the model says of one text."""
    trees, worst = [grow(context, CHOICES) for context in CONTEXTS], 0.0
    reader.beginnings.add(CONTEXTS[1][:18])  # two of the three begin so
    for place, values in reader.read(trees):
        for path, choice in zip(trees[place].paths, CHOICES, strict=True):
            worst = max(worst, abs(float(values[list(path)].sum()) - alone(model, CONTEXTS[place], choice)))
    return worst


@pytest.mark.parametrize(
    ("kind", "trees"),
    [
        ("smollm3", True), ("olmo2", True), ("cohere2", True), ("glm4", True), ("gpt_oss", True),
        ("llama4_text", False), ("mamba", False), ("bloom", False), ("openai-gpt", False),
    ],
)  # fmt: skip
def test_choices_have_the_numbers_that_the_model_gives_them_alone(kind: str, trees: bool) -> None:
    reader = Reader(model := model_of(kind))

    assert reader._ways.trees == trees
    assert furthest(model, reader) < 1e-4


def test_a_head_whose_logits_are_scaled_is_scaled() -> None:
    for kind, key, value, scale in (("granite", "logits_scaling", 8.0, 1 / 8), ("cohere", "logit_scale", 0.25, 0.25)):
        model = model_of(kind, **{key: value})

        assert Reader(model)._ways.scale == pytest.approx(scale, rel=1e-4)
        assert furthest(model, Reader(model)) < 1e-4


@pytest.mark.parametrize(
    ("kind", "message"), [("bert", "reads what follows a token"), ("modernbert-decoder", "head of .* is not a matrix")]
)
def test_what_is_no_causal_language_model_with_a_plain_head_is_refused(kind: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Reader(model_of(kind))


@pytest.mark.parametrize(("kind", "together"), [("smollm3", True), ("olmo2", True), ("mamba", False)])
def test_answers_are_those_of_transformers(kind: str, together: bool) -> None:
    model = model_of(kind)
    decoder = GreedyDecoder(model, ends=frozenset({2}), pad=0, batch_tokens=512, device=torch.device("cpu"))
    prompts = [Prompt(str(n), context, 12, lambda tokens: tokens[-1] == 40) for n, context in enumerate(CONTEXTS)]
    written = decoder.write(prompts)
    how = GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=[2, 40], pad_token_id=0)

    assert pads(model) == together
    for context, answer in zip(CONTEXTS, written, strict=True):
        found = model.generate(torch.tensor([context]), generation_config=how)[0, len(context) :].tolist()
        assert answer.finished == (found[-1] in (2, 40))
        assert list(answer.tokens) == [token for token in found if token != 2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_causal_language_model_of_transformers_is_read_right_or_refused() -> None:
    read, wrong = dict[str, Ways](), dict[str, float]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in kinds():
            try:
                model = model_of(kind)
                alone(model, CONTEXTS[0], CHOICES[0])
            except Exception:  # sizes that this class does not take or run with, or a package that is not here
                continue
            try:
                reader = Reader(model)
            except ArchitectureError:
                continue
            read[kind] = reader._ways
            if (far := furthest(model, reader)) > 1e-4:
                wrong[kind] = far
    assert wrong == {}
    assert len(read) >= LEAST
    assert {ways.trees for ways in read.values()} == {True, False}
