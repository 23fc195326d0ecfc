from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.layout import HEADER_BYTES, Entry, lay_out
from evomerge.models.partial import partial
from evomerge.models.stream import ShardWriter
from evomerge.models.weights import open_weights
from evomerge.testing.directories import save_tensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
BATCHES = st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1, max_size=12)


def tensors_of(batch: list[tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    return {f"t{i}.weight": (torch.randn(shape) * 9).to(dtype) for i, (shape, dtype) in enumerate(batch)}


def write(out: Path, tensors: dict[str, Tensor], shard_bytes: int) -> Path:
    return save_tensors(out, tensors, shard_bytes)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=BATCHES, shard_bytes=st.integers(1, 400))
def test_what_goes_in_comes_out_in_shards_that_are_not_too_large(
    tmp_path: Path, batch: list[tuple[tuple[int, ...], torch.dtype]], shard_bytes: int
) -> None:
    tensors = tensors_of(batch)
    out = write(tmp_path / uuid.uuid4().hex, tensors, shard_bytes)
    weights = open_weights(out, "model")

    assert set(weights.tensors) == set(tensors)
    for name, tensor in tensors.items():
        read = weights.read(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)
        assert read.data_ptr() % tensor.element_size() == 0
    for file in {info.file for info in weights.tensors.values()}:
        held = [tensors[name].nbytes for name, info in weights.tensors.items() if info.file == file]
        assert sum(held) <= shard_bytes or len([size for size in held if size]) == 1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=BATCHES, shard_bytes=st.integers(1, 400))
def test_the_same_tensors_give_the_same_bytes(
    tmp_path: Path, batch: list[tuple[tuple[int, ...], torch.dtype]], shard_bytes: int
) -> None:
    tensors = tensors_of(batch)
    one, two = (write(tmp_path / uuid.uuid4().hex, tensors, shard_bytes) for _ in range(2))

    assert contents(one) == contents(two)


def test_one_shard_needs_no_index_and_many_have_one(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 4), "b": torch.ones(3, 4), "c": torch.ones(1, 4)}

    assert set(contents(write(tmp_path / "one", tensors, 10**6))) == {"model.safetensors"}
    many = write(tmp_path / "many", tensors, 64)
    index = json.loads((many / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {"metadata": {"total_size": 96}, "weight_map": {"a": first, "b": second, "c": second}}
    with safe_open(many / first, framework="pt") as shard:
        assert shard.metadata() == {"format": "pt"}


def test_views_are_written_in_their_own_order(tmp_path: Path) -> None:
    matrix = torch.arange(8.0).reshape(2, 4)
    out = write(tmp_path / "m", {"t": matrix.T, "row": matrix[:, 1]}, 10**6)

    weights = open_weights(out, "model")
    assert torch.equal(weights.read("t"), matrix.T)
    assert torch.equal(weights.read("row"), matrix[:, 1])


def test_pieces_in_any_order_from_several_threads_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(997 + i) for i in range(20)}
    shards = lay_out([Entry(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()], 20_000)
    pieces = [(name, at) for name, t in tensors.items() for at in range(0, len(t), 100)]
    random.Random(1).shuffle(pieces)
    with partial(tmp_path / "pieces", "key") as at:
        with ShardWriter(at, shards) as writer, ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda p: writer.write(p[0], tensors[p[0]][p[1] : p[1] + 100], p[1]), pieces))
        at.publish()

    assert contents(tmp_path / "pieces") == contents(write(tmp_path / "whole", tensors, 20_000))


def test_a_shard_is_closed_when_its_header_is_full(tmp_path: Path) -> None:
    names = [f"layer.{i}.{'x' * 1000}" for i in range(300)]
    out = write(tmp_path / "m", {name: torch.ones(2) for name in names}, 10**9)

    files = {info.file for info in open_weights(out, "model").tensors.values()}
    assert len(files) == 3  # 300 names of some 1,080 bytes in headers of 128 KiB
    assert all((out / file).stat().st_size >= HEADER_BYTES for file in files)


def test_nothing_is_visible_until_all_is_written(tmp_path: Path) -> None:
    out, tensors = tmp_path / "m", {"a": torch.ones(8), "b": torch.ones(8)}
    with partial(out, "key") as at:
        with ShardWriter(at, lay_out([Entry(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()], 8)) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
        (at.model / "config.json").write_text("{}")

        assert not out.exists()
        at.publish()
    assert "config.json" in contents(out)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complex64"):
        write(tmp_path / "m", {"a": torch.ones(8), "b": torch.ones(8, dtype=torch.complex64)}, 8)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [100, HEADER_BYTES + 64])
def test_a_refused_write_is_a_clear_error_and_leaves_nothing(tmp_path: Path, room: int) -> None:
    tensors = {"a": torch.ones(100, 1000), "b": torch.ones(100)}

    with pytest.raises(CheckpointError, match=r"m: cannot be written: File too large"), largest_file(room):
        write(tmp_path / "m", tensors, 10**6)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import sys, torch
from pathlib import Path
from evomerge.testing.directories import save_tensors
from evomerge.errors import CheckpointError
at = Path(sys.argv[1])
try:
    save_tensors(at / "m", {f"t{i}": torch.ones(25_000) for i in range(100)}, 300_000)
except CheckpointError as error:
    print(error, list(at.iterdir()))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a small disk")
def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c '{FULL_DISK}' {tmp_path}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr.strip()}")

    assert done.stdout.strip() == f"{tmp_path}/m: the disk is full; nothing was left there []", done.stderr


def test_only_a_new_or_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")

    write(tmp_path / "empty", {"a": torch.ones(1)}, 8)
    write(tmp_path / "deep" / "er", {"a": torch.ones(1)}, 8)
    for name in ("full", "full/thesis.txt"):
        with pytest.raises(CheckpointError, match="exists already"):
            write(tmp_path / name, {"a": torch.ones(1)}, 8)
    assert set(contents(tmp_path / "full")) == {"thesis.txt"}
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "full" / "thesis.txt" / "m", {"a": torch.ones(1)}, 8)


def test_the_callers_mistakes_are_value_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_bytes is 0"):
        lay_out([], 0)
    with pytest.raises(ValueError, match="'a' was added twice"):
        lay_out([Entry("a", torch.float32, (1,))] * 2, 8)
    with pytest.raises(CheckpointError, match="no tensor was written"):
        write(tmp_path / "m", {}, 8)
