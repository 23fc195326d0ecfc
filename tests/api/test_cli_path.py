"""A recipe with a path through the commands that take recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner, Result

from api.cli import app
from evomerge.errors import InvalidInputError

RECIPE = """\
base: {location: base}
sources: {math: {location: math}}
path:
  layers:
  - {model: base, layer: 0}
  - {model: math, layer: 1, scale: 0.9}
  - {model: math, layer: 1}
  - {model: base, layer: 1}
dtype: float32
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli-path")
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    for seed, name in enumerate(("base", "math")):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(root / name)
    (root / "path.yaml").write_text(RECIPE)
    return root


def ran(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


def test_it_is_merged_into_a_model_that_loads(folder: Path, tmp_path: Path) -> None:
    dry = ran("merge", folder / "path.yaml", tmp_path / "out", "--dry-run")
    done = ran("merge", folder / "path.yaml", tmp_path / "out")

    assert (dry.exit_code, done.exit_code) == (0, 0)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 4
    assert "akiba2024evolutionary" in (tmp_path / "out" / "README.md").read_text()


def test_it_is_exported_to_mergekit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = ran("export", "path.yaml", "--to", "mergekit")

    assert done.exit_code == 0
    assert done.stdout.count("layer_range") == 4


def test_its_paper_is_cited_and_no_other(folder: Path) -> None:
    assert ran("cite", folder / "path.yaml").stdout.count("@misc") == 1


def test_its_sources_are_linted(folder: Path) -> None:
    assert "math" in ran("lint", folder / "path.yaml", "--json").stdout


def test_it_does_not_become_an_adapter(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="output: got 'adapter'; expected none: a path gives a whole model"):
        ran("merge", folder / "path.yaml", tmp_path / "out", "--as-adapter")
    assert not list(tmp_path.iterdir())
