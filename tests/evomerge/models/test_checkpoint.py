from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import open_checkpoint
from evomerge.testing.directories import save_tensors

Save = Callable[..., Path]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A directory with config.json and three tensors in one file."""
    return directory(tmp_path / "whole", {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4)})


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same, a tensor in each file."""
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4)}
    return save_tensors(tmp_path / "sharded", tensors, 1, {"config.json": "{}"})


def directory(at: Path, tensors: dict[str, torch.Tensor], config: str = "{}") -> Path:
    at.mkdir()
    save_file(tensors, at / "model.safetensors", metadata={"format": "pt"})
    (at / "config.json").write_text(config)
    return at


def edit_index(at: Path, change: Callable[[dict[str, str]], None]) -> None:
    path = at / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_single_and_sharded_give_the_same_tensors(whole: Path, sharded: Path) -> None:
    one, many = open_checkpoint(whole), open_checkpoint(sharded)

    assert set(one.tensors) == set(many.tensors) == {"a.weight", "b.weight"}
    assert one.tensors["a.weight"].shape == (2, 3)
    assert many.tensors["b.weight"].file == "model-00002-of-00002.safetensors"
    for name in one.tensors:
        assert torch.equal(one.read(name), many.read(name))


def test_a_shard_written_by_transformers_is_read(save: Save, tiny: Callable[..., torch.nn.Module]) -> None:
    model = tiny()
    with open_checkpoint(save("sharded", model, max_shard_size="10KB")) as checkpoint:
        files = {info.file for info in checkpoint.tensors.values()}

        assert len(files) > 2
        assert checkpoint.dtype == torch.float32
        for name, value in model.state_dict().items():
            assert torch.equal(checkpoint.read(name), value)


def test_a_read_is_a_view_of_the_mapped_file(whole: Path) -> None:
    tensor = open_checkpoint(whole).read("a.weight")
    at = tensor.data_ptr()
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    holder = [row for row in mapped if int(row[0].split("-")[0], 16) <= at < int(row[0].split("-")[1], 16)]

    assert [row[-1] for row in holder] == [str(whole / "model.safetensors")]


def test_threads_may_read_at_the_same_time(tmp_path: Path) -> None:
    tensors = {f"t{i}.weight": torch.full((50, 50), float(i)) for i in range(40)}
    checkpoint = open_checkpoint(directory(tmp_path / "m", tensors))
    with ThreadPoolExecutor(8) as threads:
        read = dict(zip(tensors, threads.map(checkpoint.read, tensors), strict=True))

    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_read_stays_valid_after_close_and_later_reads_are_refused(whole: Path) -> None:
    checkpoint = open_checkpoint(whole)
    tensor = checkpoint.read("a.weight")
    checkpoint.close()

    assert tensor.sum() == 15
    with pytest.raises(CheckpointError, match="after the checkpoint was closed"):
        checkpoint.read("a.weight")


def test_integer_buffers_are_let_through(tmp_path: Path) -> None:
    at = directory(tmp_path / "m", {"a.weight": torch.ones(2), "attn.bias": torch.ones(2, 2, dtype=torch.uint8)})

    assert open_checkpoint(at).tensors["attn.bias"].dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.float8_e4m3fn])
def test_weights_of_other_dtypes_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    at = directory(tmp_path / "m", {"a.weight": torch.ones(2).to(dtype)})

    with pytest.raises(CheckpointError, match=r"model\.safetensors.*'a\.weight'.*expected"):
        open_checkpoint(at)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: not valid JSON"),
        ("[" * 100_000, "config.json: not valid JSON"),
        ("[]", "config.json: expected a JSON object, got list"),
        ('{"quantization_config": {"bits": 4}}', "config.json: has a `quantization_config`"),
    ],
)
def test_a_bad_config_is_a_clear_error(tmp_path: Path, config: str, message: str) -> None:
    at = directory(tmp_path / "m", {"a.weight": torch.ones(2)}, config)

    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(at)


def test_a_missing_config_is_named(whole: Path) -> None:
    (whole / "config.json").unlink()

    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        open_checkpoint(whole)


def test_places_without_a_checkpoint_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle").mkdir()
    torch.save({}, tmp_path / "pickle" / "pytorch_model.bin")

    for name, message in {
        "nowhere": "nowhere: no such directory",
        "file": "file: not a directory",
        "empty": "empty: expected model.safetensors or .*; found no files",
        "pickle": r"pickle: .*'pytorch_model\.bin'.*never loads",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / name)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: shard is missing"):
        open_checkpoint(sharded)


def test_index_and_shards_must_agree(sharded: Path) -> None:
    first = "model-00001-of-00002.safetensors"
    edit_index(sharded, lambda places: places.update({"c.weight": first}))
    with pytest.raises(CheckpointError, match=rf"{first}: lacks 'c\.weight'"):
        open_checkpoint(sharded)

    edit_index(sharded, lambda places: places.pop("c.weight") and None)
    tensors = load_file(sharded / first)
    save_file(tensors | {"d.weight": torch.ones(1)}, sharded / first)
    with pytest.raises(CheckpointError, match=rf"{first}: holds 'd\.weight'"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("file", ["../other.safetensors", "/etc/passwd", "pytorch_model.bin", 7])
def test_an_index_cannot_point_elsewhere(sharded: Path, file: str) -> None:
    edit_index(sharded, lambda places: places.update({"a.weight": file}))

    with pytest.raises(CheckpointError, match=r"expected a \.safetensors file beside it"):
        open_checkpoint(sharded)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_weight_map_is_refused(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)

    with pytest.raises(CheckpointError, match="expected a `weight_map`"):
        open_checkpoint(sharded)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 400))
def test_a_truncated_file_is_always_a_checkpoint_error(whole: Path, length: int) -> None:
    damaged = whole.parent / "damaged"
    shutil.copytree(whole, damaged, dirs_exist_ok=True)
    data = (whole / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(data[: min(length, len(data) - 1)])

    with pytest.raises(CheckpointError, match=r"damaged/model\.safetensors: not a whole safetensors file"):
        open_checkpoint(damaged)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 250), value=st.integers(0, 255))
def test_a_damaged_header_never_raises_anything_else(whole: Path, at: int, value: int) -> None:
    damaged = whole.parent / "damaged"
    shutil.copytree(whole, damaged, dirs_exist_ok=True)
    data = bytearray((whole / "model.safetensors").read_bytes())
    data[at % len(data)] = value
    (damaged / "model.safetensors").write_bytes(data)

    with contextlib.suppress(CheckpointError), open_checkpoint(damaged) as checkpoint:
        assert all(checkpoint.read(name).shape == info.shape for name, info in checkpoint.tensors.items())
