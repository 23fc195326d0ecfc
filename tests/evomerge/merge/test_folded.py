"""Folded deltas: once per machine, the same as computed, whole or not at all."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from evomerge.merge.folded import folded
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import open_source


def fold(base_path: Path, place: Path, cache: Path) -> list[str]:
    """Fold in a process of its own; the names of deltas that differ from those computed."""
    base = open_checkpoint(base_path)
    source = open_source("es", place, base)
    found = folded(source, "d" * 64, {n: i.shape for n, i in base.tensors.items()}, cache)
    assert set(found) == set(source.changed)
    return [name for name, delta in found.items() if not torch.equal(delta, source.delta(name))]


def test_processes_that_ask_at_the_same_time_share_one_file(zoo: Any, tmp_path: Path) -> None:
    with get_context("spawn").Pool(2) as pool:
        different = pool.starmap(fold, [(zoo.base, zoo.sources["es"], tmp_path)] * 2)

    assert different == [[], []]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".f32", ".lock"]


def test_a_file_that_was_cut_short_is_made_again(zoo: Any, tmp_path: Path) -> None:
    assert fold(zoo.base, zoo.sources["es"], tmp_path) == []
    (path,) = tmp_path.glob("*.f32")
    path.write_bytes(path.read_bytes()[:100])

    assert fold(zoo.base, zoo.sources["es"], tmp_path) == []


def test_a_file_that_lies_there_is_used(zoo: Any, tmp_path: Path) -> None:
    fold(zoo.base, zoo.sources["es"], tmp_path)
    (path,) = tmp_path.glob("*.f32")
    before = path.stat().st_mtime_ns
    fold(zoo.base, zoo.sources["es"], tmp_path)

    assert path.stat().st_mtime_ns == before
