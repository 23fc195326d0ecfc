"""`merge --as-adapter` and `extract`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor, testing

from api.cli import main
from evomerge.models.adapter import open_adapter
from evomerge.recipe.text import dump_data
from tests.workers.tiny_run import make_registry


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, a fine-tuned model, an adapter and a recipe."""
    make_registry(tmp_path)
    recipe: dict[str, Any] = {
        "schema": "evomerge.recipe/1",
        "base": {"location": "base"},
        "sources": {"math": {"location": "math"}},
        "merge": {"method": "task_arithmetic", "parameters": {"weight": 0.7}},
        "dtype": "float32",
    }
    (tmp_path / "recipe.yaml").write_text(dump_data(recipe))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """A command in this process; its exit status."""
    monkeypatch.setattr("sys.argv", ["evomerge", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def delta_of(home: Path, name: str) -> Tensor:
    base, math = (load_file(home / model / "model.safetensors")[name] for model in ("base", "math"))
    return math.float() - base.float()


def some_matrix(home: Path) -> str:
    return next(n for n in load_file(home / "base" / "model.safetensors") if n.endswith("q_proj.weight"))


def test_extract_writes_what_a_model_changes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "extract", "base", "math", "out", "--energy", "1", "--drop") == 0
    printed = capsys.readouterr().out
    name = some_matrix(home)

    assert "relative error" in printed
    assert "dropped: " in printed
    testing.assert_close(open_adapter(home / "out").delta(name), delta_of(home, name), rtol=1e-4, atol=1e-6)


def test_extract_says_what_an_adapter_cannot_hold_and_asks_for_a_size(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "extract", "base", "math", "out", "--rank", "2") == 2
    assert "cannot hold" in capsys.readouterr().err
    assert run(monkeypatch, "extract", "base", "math", "out") == 2
    assert "--energy" in capsys.readouterr().err
    assert not (home / "out").exists()


def test_merge_writes_an_adapter_when_it_is_told_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--as-adapter", "--rank", "3", "--alpha", "8", "--drop")
    assert run(monkeypatch, "merge", "recipe.yaml", "out", *options) == 0
    config = json.loads((home / "out" / "adapter_config.json").read_text())
    name = some_matrix(home)
    made = open_adapter(home / "out").delta(name)

    assert (config["r"], config["lora_alpha"]) == (3, 8)
    assert config["base_model_name_or_path"] == str(home / "base")
    assert made is not None
    whole = 0.7 * delta_of(home, name)
    error = json.loads((home / "out" / "adapter_report.json").read_text())["tensors"][name]["relative_error"]
    assert float((made - whole).norm() / whole.norm()) == pytest.approx(error, rel=1e-4)


def test_a_rank_without_an_adapter_is_a_mistake(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "merge", "recipe.yaml", "out", "--rank", "3") == 2
    assert "--as-adapter" in capsys.readouterr().err
    assert run(monkeypatch, "merge", "recipe.yaml", "out", "--as-adapter", "--energy", "2") == 2
    assert "--energy: got 2.0" in capsys.readouterr().err
