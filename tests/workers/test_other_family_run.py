"""Whole searches over models whose families nobody described: one that is read like a known one, one text by text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.schema import Recipe
from tests.evomerge.models.any_family import config_of
from tests.workers.tiny_run import events_of, make_registry, run_spec, whole_run
from workers.registry import Registry


def registry_of(kind: str, folder: Path) -> Registry:
    """The tiny registry, with other models under the same names, beside the same tokenizers."""
    registry = make_registry(folder)
    config = config_of(kind)
    config.vocab_size = 258
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).state_dict()
    for seed, name in enumerate(("base", "math", "ja")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(base[key] + (seed > 0) * 0.3 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
    return registry


@torch.inference_mode()
def probability(path: Path, context: str, choices: tuple[str, ...]) -> float:
    """Of the first choice among all, as plain transformers says it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    found = []
    for choice in choices:
        prompt, whole = tokenizer(context).input_ids, tokenizer(context + choice).input_ids
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        found.append(sum(float(logits[n - 1, whole[n]]) for n in range(len(prompt), len(whole))))
    return math.exp(found[0]) / sum(map(math.exp, found))


@pytest.mark.parametrize("kind", ["olmo2", "mamba"])
def test_a_search_finds_a_recipe_that_scores_what_the_search_said(kind: str, tmp_path: Path) -> None:
    registry = registry_of(kind, tmp_path / "models")
    space = {"kind": "parameter", "method": "task_arithmetic", "layers": 2, "roles": [["attention"], ["*"]]}
    store, run = whole_run(tmp_path, registry, run_spec(space=space, budget={"candidates": 6}, verify={"top": 1}))
    row = store.run(run)
    assert row is not None
    scored = [e.data for e in events_of(store, run) if e.type == "candidate.scored" and e.data["kind"] == "search"]
    last = store.candidate(run, max(data["number"] for data in scored))
    store.close()
    assert last is not None
    out = merge_to_directory(Recipe.model_validate(last.recipe), tmp_path / "out", root=tmp_path)
    answers = last.responses["subset"]["sums"]
    at = int(answers["item_ids"][0].removeprefix("sums-"))
    expected = probability(out, f"2 times {at} =", tuple(f" {at * 2 + shift}" for shift in range(3)))

    assert (row.state, row.summary["failed"]) == ("succeeded", 0)
    assert len(scored) == 6
    assert answers["values"]["choice_probability"][0] == pytest.approx(expected, abs=1e-4)
