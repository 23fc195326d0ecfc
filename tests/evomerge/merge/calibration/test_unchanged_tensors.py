"""Adapters leave most tensors alone; what is measured over the whole model sees these, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident


def test_statistics_reach_tensors_that_no_source_changes(herd: Any, tmp_path: Path) -> None:
    """Fisher's information is normalised over the model: it is there for unchanged tensors, which stay the base's."""
    recipe = herd.recipe("fisher", "c")
    merge_to_directory(recipe, tmp_path / "out", root=Path(), cache=tmp_path / "cache")
    resident = Resident(recipe, cache=tmp_path / "cache")
    resident.materialize(recipe)

    files = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(herd.root / "base" / "model.safetensors")
    assert any(not torch.equal(files[name], base[name].float()) for name in base)
    assert sum(torch.equal(files[name], base[name].float()) for name in base) > len(base) / 2
    live = dict(resident.model.named_parameters())
    assert all(torch.equal(files[name], live[name].data) for name in files)
