"""Whole merges to directories: what is written, what is refused, what is left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.errors import (
    ArchitectureError,
    CheckpointError,
    EvomergeError,
    HashMismatchError,
    InvalidInputError,
    NonFiniteError,
)
from evomerge.merge import blocks
from evomerge.merge.execute import merge_to_directory
from evomerge.models.checkpoint import content_hash
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.text import dump_yaml, load_recipe

Read = Callable[[Path], dict[str, Tensor]]


def digest(path: Path) -> str:
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


def test_the_result_is_an_ordinary_model_that_transformers_loads(zoo: Any, tmp_path: Path) -> None:
    (zoo.base / "tokenizer_config.json").write_text("{}")
    (zoo.base / "chat_template.jinja").write_text("{{ messages }}")
    seen: list[tuple[int, int]] = []
    recipe = zoo.recipe("task_arithmetic", parameters={"weight": 0.25})
    out = merge_to_directory(recipe, tmp_path / "deep" / "out", root=tmp_path, progress=lambda *done: seen.append(done))

    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (out / "tokenizer_config.json").exists()
    assert (out / "generation_config.json").exists()
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(p.numel() * 2 for p in model.parameters())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


def test_the_recipe_beside_the_weights_makes_them_again(zoo: Any, tmp_path: Path) -> None:
    first = merge_to_directory(zoo.recipe("dare_ties"), tmp_path / "first", root=tmp_path)
    written = load_recipe(first / "recipe.yaml")
    second = merge_to_directory(written, tmp_path / "second", root=Path("/"))

    assert all(ref.sha256 for ref in (written.base, *written.sources.values()))
    assert digest(first) == digest(second)


def test_dtypes_and_shards_follow_the_recipe(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    recipe = zoo.recipe("linear", dtype="float32")
    whole = merge_to_directory(recipe, tmp_path / "whole", root=tmp_path)
    parts = merge_to_directory(recipe.model_copy(update={"shard_bytes": 100_000}), tmp_path / "parts", root=tmp_path)

    assert len(list(parts.glob("*.safetensors"))) > 1
    assert {t.dtype for t in tensors(whole).values()} == {torch.float32}
    assert all(torch.equal(tensor, tensors(parts)[name]) for name, tensor in tensors(whole).items())


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["linear", "slerp", "ties", "dare_ties"])
def test_threads_do_not_change_a_byte(method: str, zoo: Any, tmp_path: Path, threads: Callable[[int], None]) -> None:
    recipe = zoo.recipe(method, *(("code", "es") if method == "slerp" else ()), dtype="float32")
    digests = set()
    for number in (1, 2, 5):
        threads(number)
        digests.add(digest(merge_to_directory(recipe, tmp_path / str(number), root=tmp_path)))

    assert len(digests) == 1


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties"])
def test_block_sizes_do_not_change_a_byte(
    method: str, zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = zoo.recipe(method, dtype="float32")
    digests = set()
    for length in (1 << 16, 999):
        monkeypatch.setattr(blocks, "BLOCK", length)
        digests.add(digest(merge_to_directory(recipe, tmp_path / str(length), root=tmp_path)))

    assert len(digests) == 1


def test_the_order_in_which_sources_are_written_does_not_matter(zoo: Any, tmp_path: Path) -> None:
    recipe = zoo.recipe("ties")
    backwards = recipe.model_copy(update={"sources": dict(reversed(recipe.sources.items()))})
    first = merge_to_directory(recipe, tmp_path / "first", root=tmp_path)
    second = merge_to_directory(backwards, tmp_path / "second", root=tmp_path)

    assert recipe.digest == backwards.digest
    assert digest(first) == digest(second)


def test_a_global_trim_sees_the_model_as_one_vector(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    """The embedding is most of this model; a per-tensor trim keeps entries in every tensor, a global one need not."""
    density = 0.1
    recipe = zoo.recipe("ties", "code", parameters={"density": density}, dtype="float32")
    found = tensors(merge_to_directory(recipe, tmp_path / "out", root=tmp_path))

    base, code = tensors(zoo.base), tensors(zoo.sources["code"])
    deltas = {name: code[name].float() - base[name].float() for name in base}
    whole = torch.cat([d.abs().view(-1) for d in deltas.values()]).sort(descending=True).values
    threshold = whole[int(density * len(whole)) - 1]
    for name, tensor in found.items():
        kept = torch.where(deltas[name].abs() >= threshold, deltas[name], 0.0)
        assert torch.equal(tensor, kept + base[name].float()), name


def test_a_recipe_as_a_source_is_merged_first(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    (tmp_path / "inner.yaml").write_text(dump_yaml(zoo.recipe("linear", "code", "math")))
    outer = Recipe(
        base=ModelRef(location=str(zoo.base)),
        sources={"inner": ModelRef(location="inner.yaml")},
        merge=Merge(method="passthrough"),
    )
    found = merge_to_directory(outer, tmp_path / "outer", root=tmp_path)
    inner = merge_to_directory(zoo.recipe("linear", "code", "math"), tmp_path / "inner", root=tmp_path)

    assert digest(found) == digest(inner)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inner", "inner.yaml", "outer"]


@pytest.mark.parametrize("check_hashes", [True, False])
def test_recipes_in_a_circle_are_refused(zoo: Any, tmp_path: Path, check_hashes: bool) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        recipe = Recipe(
            base=ModelRef(location=str(zoo.base)),
            sources={"x": ModelRef(location=f"{other}.yaml")},
            merge=Merge(method="passthrough"),
        )
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(recipe))

    with pytest.raises(InvalidInputError, match=r"circle|itself"):
        merge_to_directory(load_recipe(tmp_path / "a.yaml"), tmp_path / "out", root=tmp_path, check_hashes=check_hashes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.yaml", "b.yaml"]


def spoil(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    stored = load_file(path / "model.safetensors")
    change(stored)
    save_file(stored, path / "model.safetensors", {"format": "pt"})


def with_nan(path: Path) -> None:
    spoil(path, lambda stored: stored["model.norm.weight"].fill_(float("nan")))


def with_another_shape(path: Path) -> None:
    spoil(path, lambda stored: stored.update({"model.norm.weight": torch.ones(7)}))


def with_a_torn_header(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"\xff" * 64)


def without_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (with_nan, NonFiniteError),
        (with_another_shape, ArchitectureError),
        (with_a_torn_header, CheckpointError),
        (without_weights, CheckpointError),
        (shutil.rmtree, CheckpointError),
    ],
)
def test_a_bad_source_is_named_and_nothing_is_left(
    change: Callable[[Path], None], error: type[EvomergeError], zoo: Any, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(zoo.sources["code"], bad)
    change(bad)
    recipe = Recipe(
        base=ModelRef(location=str(zoo.base)),
        sources={"bad": ModelRef(location="bad")},
        merge=Merge(method="task_arithmetic"),
    )

    with pytest.raises(error, match="bad"):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name != "bad"] == []


def test_a_hash_that_differs_is_refused(zoo: Any, tmp_path: Path) -> None:
    place = zoo.sources["code"]
    recipe = Recipe(
        base=ModelRef(location=str(zoo.base)),
        sources={"code": ModelRef(location=str(place), sha256="0" * 64)},
        merge=Merge(method="linear"),
    )

    with pytest.raises(HashMismatchError, match=content_hash(place)):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_directory_in_use_is_not_touched(zoo: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")

    with pytest.raises(InvalidInputError, match="empty"):
        merge_to_directory(zoo.recipe("linear"), tmp_path, root=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_named(zoo: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CheckpointError, match="file"):
        merge_to_directory(zoo.recipe("linear"), tmp_path / "file" / "out", root=tmp_path)
