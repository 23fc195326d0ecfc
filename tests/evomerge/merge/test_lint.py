"""Sources that merge without an error and should not be merged: each is made from a real model and found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.merge.inputs import open_inputs
from evomerge.merge.lint import Report, lint
from evomerge.recipe.schema import Merge, ModelRef, Recipe

Weights = dict[str, Tensor]
HEADS, SHARED, WIDTH, HIDDEN, WIDE = 4, 2, 16, 64, 128


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lint") / "base"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200, hidden_size=HIDDEN, intermediate_size=WIDE, num_hidden_layers=3, num_attention_heads=HEADS,
        num_key_value_heads=SHARED, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def fine_tuned(weights: Weights, seed: int = 1) -> Weights:
    """Every tensor moved by 5 % of its size, as fine-tuning may."""
    generator = torch.Generator().manual_seed(seed)
    return {
        n: w + 0.05 * w.pow(2).mean().sqrt() * torch.randn(w.shape, generator=generator) for n, w in weights.items()
    }


def look(base: Path, tmp_path: Path, **changes: Callable[[Weights], Weights]) -> Report:
    """Sources made from the base, and the report on them."""
    sources = {}
    for name, change in changes.items():
        path = tmp_path / name
        shutil.copytree(base, path)
        weights = change(load_file(base / "model.safetensors"))
        save_file({n: w.contiguous() for n, w in weights.items()}, path / "model.safetensors", {"format": "pt"})
        (path / "README.md").write_text("---\nlicense: mit\n---\n")
        sources[name] = ModelRef(location=str(path))
    recipe = Recipe(base=ModelRef(location=str(base)), sources=sources, merge=Merge(method="linear"))
    with open_inputs(recipe, Path(), lambda path: path) as inputs:
        return lint(inputs)


def layer(weights: Weights, number: int, module: str) -> str:
    return next(n for n in weights if f"layers.{number}." in n and module in n)


def permuted_mlp(weights: Weights) -> Weights:
    order = torch.randperm(WIDE, generator=torch.Generator().manual_seed(3))
    for number in range(3):
        for module in ("gate_proj", "up_proj"):
            weights[layer(weights, number, module)] = weights[layer(weights, number, module)][order]
        weights[layer(weights, number, "down_proj")] = weights[layer(weights, number, "down_proj")][:, order]
    return fine_tuned(weights)


def swapped_heads(weights: Weights) -> Weights:
    """The two key-value heads change places, and their query heads with them; the function stays."""
    for number in range(3):
        for module, groups in (("q_proj", SHARED), ("k_proj", SHARED), ("v_proj", SHARED)):
            at = layer(weights, number, module)
            weights[at] = weights[at].view(groups, -1, HIDDEN).flip(0).reshape(weights[at].shape)
        at = layer(weights, number, "o_proj")
        weights[at] = weights[at].view(HIDDEN, SHARED, -1).flip(1).reshape(HIDDEN, -1)
    return weights


def permuted_heads(weights: Weights) -> Weights:
    return fine_tuned(swapped_heads(weights))


def permuted_stream(weights: Weights) -> Weights:
    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(4))
    at = "model.embed_tokens.weight"
    return {**weights, at: weights[at][:, order]}


def scaled(weights: Weights) -> Weights:
    """Up-projections doubled, down-projections halved: the function stays."""
    for number in range(3):
        weights[layer(weights, number, "up_proj")] *= 2
        weights[layer(weights, number, "down_proj")] /= 2
    return weights


def locked(weights: Weights) -> Weights:
    """V and O by a random invertible matrix and its inverse, head by head."""
    generator = torch.Generator().manual_seed(5)
    for number in range(3):
        at_v, at_o = layer(weights, number, "v_proj"), layer(weights, number, "o_proj")
        v, o = weights[at_v].view(SHARED, WIDTH, HIDDEN).clone(), weights[at_o].view(HIDDEN, HEADS, WIDTH).clone()
        for group in range(SHARED):
            change = torch.eye(WIDTH) + 0.2 * torch.randn(WIDTH, WIDTH, generator=generator)
            v[group] = change @ v[group]
            for head in range(group * HEADS // SHARED, (group + 1) * HEADS // SHARED):
                o[:, head] = o[:, head] @ torch.linalg.inv(change)
        weights[at_v], weights[at_o] = v.reshape(-1, HIDDEN), o.reshape(HIDDEN, -1)
    return weights


def quantised(weights: Weights) -> Weights:
    for name, w in weights.items():
        if w.dim() == 2:
            groups = w.reshape(-1, 32)
            step = groups.abs().amax(dim=1, keepdim=True) / 7
            weights[name] = ((groups / step).round() * step).reshape(w.shape)
    return weights


def other(weights: Weights) -> Weights:
    generator = torch.Generator().manual_seed(9)
    return {n: 0.02 * torch.randn(w.shape, generator=generator) for n, w in weights.items()}


def broken(weights: Weights) -> Weights:
    weights[layer(weights, 0, "up_proj")][3, 3] = float("nan")
    return weights


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (permuted_mlp, "permuted", "align it before merging"),
        (permuted_heads, "permuted", "align it before merging"),
        (permuted_stream, "permuted", "align it before merging"),
        (scaled, "scaled", "100% off in length"),
        (locked, "reparametrised", "V and O of layer 0"),
        (quantised, "quantised", "rounded to a few bits"),
        (other, "other_base", "cosine"),
        (broken, "non_finite", "NaN"),
        (dict, "unchanged", "equals the base"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_source_that_should_not_be_merged_is_found(
    base: Path, tmp_path: Path, change: Callable[[Weights], Weights], kind: str, says: str
) -> None:
    report = look(base, tmp_path, odd=change, good=fine_tuned)

    assert [(f.source, f.kind) for f in report.findings] == [("odd", kind)]
    assert says in report.findings[0].text


@pytest.mark.parametrize("change", [scaled, locked, swapped_heads], ids=lambda value: value.__name__)
def test_the_disguises_keep_the_function(base: Path, tmp_path: Path, change: Callable[[Weights], Weights]) -> None:
    """What the tests above look for are models that nobody tells from the base by using them."""
    model = LlamaForCausalLM.from_pretrained(base)
    tokens = torch.arange(12)[None]
    before = model(tokens).logits
    weights = {n: w.clone() for n, w in model.state_dict().items() if n != "lm_head.weight"}
    model.load_state_dict(change(weights), strict=False)

    torch.testing.assert_close(model(tokens).logits, before, rtol=1e-3, atol=1e-5)


def test_fine_tunes_pass_and_their_distances_are_reported(base: Path, tmp_path: Path) -> None:
    report = look(base, tmp_path, a=fine_tuned, b=lambda weights: fine_tuned(weights, seed=2))

    assert report.findings == ()
    assert report.sources["a"].change == pytest.approx(0.05, rel=0.05)
    assert report.sources["a"].cosine > 0.99
    assert abs(report.cosines["a", "b"]) < 0.05
    assert report.layers == (0, 1, 2)


def test_two_names_of_one_model_are_noted(base: Path, tmp_path: Path) -> None:
    report = look(base, tmp_path, a=fine_tuned, b=fine_tuned)

    assert [(f.source, f.kind) for f in report.findings] == [("a, b", "alike")]


def test_a_missing_licence_is_noted(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare"
    shutil.copytree(base, path)
    save_file(fine_tuned(load_file(base / "model.safetensors")), path / "model.safetensors", {"format": "pt"})
    sources = {"bare": ModelRef(location=str(path))}
    recipe = Recipe(base=ModelRef(location=str(base)), sources=sources, merge=Merge(method="linear"))
    with open_inputs(recipe, Path(), lambda path: path) as inputs:
        report = lint(inputs, num_layers=1)

    assert [(f.level, f.kind) for f in report.findings] == [("note", "licence")]
    assert report.layers == (0,)
    assert json.loads((path / "config.json").read_text())["num_hidden_layers"] == 3
