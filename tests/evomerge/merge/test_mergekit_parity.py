"""The same YAML merged by mergekit 0.1.5 and, imported, by us; see tests/golden/README.md."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from evomerge.merge.execute import merge_to_directory
from evomerge.merge.mergekit.read import read_mergekit
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml

GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit" / "yaml"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
MERGEKIT = os.environ.get("EVOMERGE_MERGEKIT_PYTHON")
"""A Python with mergekit 0.1.5, for the tests that run it."""
CONFIG = LlamaConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
    dtype="float32",
    architectures=["LlamaForCausalLM"],
)


def by_model(path: Path) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path).items():
        model, name = key.split("/", 1)
        found.setdefault(model, {})[name] = tensor
    return found


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, Tensor]]:
    return by_model(GOLDEN / "results.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mergekit")
    for name, tensors in by_model(GOLDEN / "models.safetensors").items():
        CONFIG.save_pretrained(root / name)
        save_file(tensors, root / name / "model.safetensors", {"format": "pt"})
    return root


def imported(case: str, root: Path) -> Recipe:
    """A case as a recipe; recipes that it uses are written to `root`."""
    found = read_mergekit((GOLDEN / f"{case}.yaml").read_text(), f"{case}.yaml")
    for name, recipe in found.files.items():
        (root / name).write_text(dump_yaml(recipe))
    return found.recipe


def merged(recipe: Recipe, root: Path) -> dict[str, Tensor]:
    return load_file(merge_to_directory(recipe, root / "out", root=root, check_hashes=False) / "model.safetensors")


def differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors that differ by more than one unit in the last place (bfloat16), or by the arithmetic's own rounding."""
    wrong = {}
    for name, tensor in expected.items():
        ours, theirs = found[name].float(), tensor.float()
        slack = 2e-7 + 2e-6 * theirs.abs()
        if tensor.dtype == torch.bfloat16:
            largest = torch.maximum(ours.abs(), theirs.abs()).clamp(min=1e-30)
            slack = 1e-7 + torch.exp2(torch.floor(torch.log2(largest)) - 7)
        far = (ours - theirs).abs() > slack
        if tensor.dtype != found[name].dtype or bool(far.any()):
            wrong[name] = f"{int(far.sum())} of {tensor.numel()}, by {(ours - theirs).abs().max().item():.2g}"
    return wrong


@pytest.mark.proves(
    "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "karcher", "linear", "model_stock", "multislerp", "nearswap",
    "nuslerp", "passthrough", "ram", "ramplus_tl", "sce", "slerp", "task_arithmetic", "ties", by="golden",
)  # fmt: skip
@pytest.mark.parametrize("case", CASES)
def test_an_imported_file_gives_mergekits_tensors(
    case: str, golden: dict[str, dict[str, Tensor]], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)

    found = merged(imported(case, tmp_path), tmp_path)

    assert found.keys() == golden[case].keys()
    assert not differences(found, golden[case])


@pytest.mark.parametrize("case", [case for case in CASES if case != "multi"])
def test_what_is_exported_again_gives_mergekits_tensors(
    case: str, golden: dict[str, dict[str, Tensor]], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)

    exported = to_mergekit(imported(case, tmp_path), CONFIG.num_hidden_layers)
    found = merged(read_mergekit(exported).recipe, tmp_path)

    assert not differences(found, golden[case])


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
def test_mergekit_makes_our_tensors_of_what_is_exported(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MERGEKIT is not None
    monkeypatch.chdir(models)
    recipes = {case: imported(case, tmp_path) for case in CASES if case != "multi"}
    files = {case: tmp_path / f"{case}.yml" for case in recipes}
    for case, recipe in recipes.items():
        files[case].write_text(to_mergekit(recipe, CONFIG.num_hidden_layers))

    command = [MERGEKIT, "-c", RUN, *map(str, files.values())]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ended.returncode == 0, ended.stderr[-2000:]

    wrong = {}
    for case, recipe in recipes.items():
        (tmp_path / case).mkdir()
        theirs = load_file(f"{files[case]}.out/model.safetensors")
        if found := differences(merged(recipe, tmp_path / case), theirs):
            wrong[case] = found
    assert not wrong
