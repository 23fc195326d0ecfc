"""Paths as mergekit's passthrough: what mergekit 0.1.5 makes of our file; see tests/golden/README.md."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.mergekit.read import read_mergekit
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.models.family import families
from evomerge.recipe.path import LayerPath
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.text import load_yaml
from tests.evomerge.merge.flow.trio import load, logits_of, path_of, walked

GOLDEN = Path(__file__).parents[3] / "golden" / "mergekit"
MERGEKIT = os.environ.get("EVOMERGE_MERGEKIT_PYTHON")
"""A Python with mergekit 0.1.5, for the test that runs it."""
NUM_LAYERS = 4
CONFIG = LlamaConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
    dtype="float32",
    architectures=["LlamaForCausalLM"],
)
TOKENS = torch.tensor([[5, 17, 40, 3, 44, 9, 21, 22]])
HOPS = (("base", 0), ("base", 1), ("a", 1), ("b", 2), ("a", 1), ("base", 3))
SCALES = (0.9, 1.25, -0.8, 1.1, 0.75, 1.3)
CASES = {semantics: path_of(SCALES, semantics, hops=HOPS) for semantics in ("stream", "delta")}


def recipe(path: LayerPath, **others: Any) -> Recipe:
    sources = {name: ModelRef(location=name) for name in ("a", "b")}
    return Recipe.model_validate(
        {"base": ModelRef(location="base"), "sources": sources, "path": path, "dtype": "float32", **others}
    )


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four models of the golden files, in the working directory."""
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(GOLDEN / "yaml" / "models.safetensors").items():
        model, name = key.split("/", 1)
        tensors.setdefault(model, {})[name] = tensor
    for model, found in tensors.items():
        CONFIG.save_pretrained(tmp_path / model)
        save_file(found, tmp_path / model / "model.safetensors", {"format": "pt"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(wanted: Recipe, out: Path) -> Path:
    return merge_to_directory(wanted, out, root=Path(), check_hashes=False)


@pytest.mark.parametrize("case", CASES)
def test_mergekits_checkpoint_is_ours(case: str, models: Path) -> None:
    """The stored configuration is what is exported now, and mergekit made of it what we make of the recipe."""
    wanted = recipe(CASES[case])
    stored = {
        k.partition("/")[2]: t for k, t in load_file(GOLDEN / "path" / "results.safetensors").items() if case in k
    }
    logits = stored.pop("logits")
    out = built(wanted, models / "out")
    found = load_file(out / "model.safetensors")

    assert to_mergekit(wanted, NUM_LAYERS) == (GOLDEN / "path" / f"{case}.yaml").read_text()
    assert found.keys() == stored.keys()
    for name, tensor in stored.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=0)
    torch.testing.assert_close(logits_of(load(out), TOKENS), logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        walked({n: models / n for n in ("base", "a", "b")}, CASES[case], TOKENS), logits, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("case", CASES)
def test_what_is_exported_reads_back_as_the_same_stack(case: str, models: Path) -> None:
    again = read_mergekit((GOLDEN / "path" / f"{case}.yaml").read_text()).recipe
    ours, theirs = (load_file(built(r, models / n) / "model.safetensors") for r, n in
                    ((recipe(CASES[case]), "ours"), (again, "theirs")))  # fmt: skip

    assert again.slices is not None
    assert again.path is None
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=0)


def test_scales_are_named_by_parts_of_tensors_names(models: Path) -> None:
    slices = load_yaml(to_mergekit(recipe(CASES["stream"]), NUM_LAYERS))["slices"]

    assert slices[0]["sources"][0]["parameters"] == {
        "scale": [{"filter": "model.embed_tokens", "value": 0.9}, {"value": 1.0}]
    }
    assert [s["filter"] for s in slices[5]["sources"][0]["parameters"]["scale"][:-1]] == [
        "model.norm", "self_attn.o_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"host": "a"}, r"path.host: got 'a'; expected base: mergekit takes the embedding"),
        ({"hops": (*HOPS[:5], ("b", 3))}, r"path.host: got 'base'; expected b: mergekit takes the final norm"),
        ({"hops": (*HOPS[:5], ("base", 4))}, r"path.layers\[5\].layer: got 4; expected layers 0 to 3"),
        ({"hops": (*HOPS[:2], ("merged", 1), *HOPS[3:])}, r"path.layers\[2\].model: got 'merged'"),
    ],
)
def test_what_mergekit_cannot_say_is_refused(changed: dict[str, Any], why: str, models: Path) -> None:
    wanted = recipe(path_of(SCALES, **{"hops": HOPS, **changed}), merge=Merge(method="linear"))
    with pytest.raises(InvalidInputError, match=why):
        to_mergekit(wanted, NUM_LAYERS)


def test_a_tied_head_is_refused_with_a_scaled_embedding(models: Path) -> None:
    LlamaConfig(**{**CONFIG.to_dict(), "tie_word_embeddings": True}).save_pretrained(models / "base")
    with pytest.raises(InvalidInputError, match=r"path.layers\[0\].scale: got 0.9; expected 1 where the head"):
        to_mergekit(recipe(CASES["stream"]), NUM_LAYERS)

    assert "embed_tokens" not in to_mergekit(recipe(path_of((1.0, *SCALES[1:]), hops=HOPS)), NUM_LAYERS)


def test_families_without_the_property_are_refused(models: Path) -> None:
    with pytest.raises(ArchitectureError, match="Gemma 2"):
        to_mergekit(recipe(CASES["stream"]), NUM_LAYERS, modules=families()["gemma2"].modules)


RUN = """
import sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
for path in sys.argv[1:]:
    config = MergeConfiguration.model_validate(yaml.safe_load(open(path)))
    run_merge(config, path + ".out", MergeOptions(copy_tokenizer=False, write_model_card=False))
"""


@pytest.mark.slow
@pytest.mark.skipif(MERGEKIT is None, reason="EVOMERGE_MERGEKIT_PYTHON names no Python with mergekit")
@pytest.mark.parametrize("case", CASES)
def test_mergekit_makes_our_tensors_now(case: str, models: Path) -> None:
    assert MERGEKIT is not None
    file = models / "path.yml"
    file.write_text(to_mergekit(recipe(CASES[case]), NUM_LAYERS))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([MERGEKIT, "-c", RUN, str(file)], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    theirs = load_file(models / "path.yml.out" / "model.safetensors")
    ours = load_file(built(recipe(CASES[case]), models / "out") / "model.safetensors")

    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=0)
