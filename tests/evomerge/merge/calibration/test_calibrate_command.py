"""`evomerge calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli import app
from evomerge.merge.calibration import activations
from evomerge.merge.execute import merge_to_directory
from evomerge.recipe.text import dump_yaml, load_recipe


def test_a_merge_finds_what_was_collected_before(herd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_DATA_DIR", str(tmp_path / "data"))
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(herd.recipe("regmean", "a", "b")))
    done = CliRunner().invoke(app, ["calibrate", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "gram of 2 source(s)" in done.output.replace("\n", " ")
    monkeypatch.setattr(activations, "_passes", None)  # a forward pass would fail now

    merge_to_directory(load_recipe(path), tmp_path / "out", root=tmp_path, cache=tmp_path / "data" / "cache")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_method_that_reads_nothing_has_nothing_to_collect(herd: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(herd.recipe("linear", "a", "b")))
    done = CliRunner().invoke(app, ["calibrate", str(path), "--data-dir", str(tmp_path / "data")])

    assert done.exit_code == 0
    assert "nothing to do" in done.output
    assert not (tmp_path / "data").exists()
