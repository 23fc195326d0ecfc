"""What is asked for before it is read, and what is given back, as the system's page cache has it."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.merge import engine
from evomerge.merge.ahead import ReadAhead, larger_than_memory
from evomerge.merge.budget import Unit
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.plan import TensorJob
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.weights import Place

PAGE = mmap.PAGESIZE


def job(name: str) -> TensorJob:
    return TensorJob(name, torch.bfloat16, False, False, {}, {}, ())


def resident(path: Path) -> list[bool]:
    """Page by page: whether it is in memory. A page of the file is never touched by looking."""
    size = path.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    handle = os.open(path, os.O_RDONLY)
    at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    pages = (ctypes.c_ubyte * (-(-size // PAGE)))()
    found = libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), pages)
    libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))
    os.close(handle)
    assert found == 0
    return [bool(page & 1) for page in pages]


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of 4 MiB that lies on the disk and not in memory."""
    path = tmp_path / "cold"
    path.write_bytes(os.urandom(4 << 20))
    handle = os.open(path, os.O_RDWR)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    os.close(handle)
    if any(resident(path)):
        pytest.skip("this file system keeps its files in memory")
    return path


linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are in memory")


@linux
def test_what_is_asked_for_comes_into_memory_and_what_is_given_back_leaves_it(cold: Path) -> None:
    handle = os.open(cold, os.O_RDONLY)
    place = Place(handle, PAGE, 3 << 20)
    place.expect(1 << 20, 1 << 20)
    wanted = slice(1 + (1 << 20) // PAGE, 1 + (2 << 20) // PAGE)
    until = time.monotonic() + 20
    while not all(resident(cold)[wanted]) and time.monotonic() < until:
        os.sched_yield()

    assert all(resident(cold)[wanted])
    assert not all(resident(cold))
    place.forget(0, 3 << 20)
    assert not any(resident(cold)[wanted])
    os.close(handle)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    most=st.integers(0, 100),
    threads=st.integers(1, 3),
)
def test_every_unit_is_asked_for_once_in_order_and_no_more_than_allowed_lies_ahead(
    lengths: list[int], most: int, threads: int
) -> None:
    """Where nothing is asked of the system: an empty file's places."""
    handle = os.open(os.devnull, os.O_RDONLY)
    units = [Unit(job(str(number)), None, length, 0) for number, length in enumerate(lengths)]
    asked: list[int] = []

    def places(of: TensorJob) -> list[Place]:
        asked.append(int(of.name))
        return [Place(handle, 0, lengths[int(of.name)])]

    reading = ReadAhead(units, places, most, drop=False)
    for number in range(len(units)):
        reading.begin(number)

        assert sum(reading.lying_ahead.values()) <= most
        assert all(later > number for later in reading.lying_ahead)
    assert sorted(set(asked)) == [n for n in range(len(units)) if n in set(asked)]
    os.close(handle)


def test_a_span_is_its_part_of_the_bytes_of_every_file(tmp_path: Path) -> None:
    """Whatever the files' dtypes are."""
    handle = os.open(os.devnull, os.O_RDONLY)
    unit = Unit(job("x"), (100, 300), 400, 0, num_entries=1000)
    reading = ReadAhead([unit, unit], lambda of: [Place(handle, 8, 2000), Place(handle, 8, 4000)], 10**6, drop=False)
    reading.begin(0)

    assert reading.lying_ahead == {1: 200 * 2 + 200 * 4}
    os.close(handle)


@linux
def test_pages_are_given_back_behind_a_merge_where_the_inputs_exceed_the_memory(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = zoo.recipe("linear", "code", "math")
    kept = merge_to_directory(recipe, tmp_path / "kept", root=tmp_path, check_hashes=False)
    monkeypatch.setattr(engine, "larger_than_memory", lambda places: True)
    dropped = merge_to_directory(recipe, tmp_path / "dropped", root=tmp_path, check_hashes=False)

    assert (kept / "model.safetensors").read_bytes() == (dropped / "model.safetensors").read_bytes()


@linux
def test_weights_are_held_against_what_the_system_has_left(zoo: Any, tmp_path: Path) -> None:
    assert not larger_than_memory([zoo.base])
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1 << 43)  # a hole: nothing lies on the disk

    assert larger_than_memory([zoo.base, tmp_path])


def test_places_are_as_long_as_their_tensors(zoo: Any) -> None:
    with open_checkpoint(zoo.base) as base:
        for name in base.tensors:
            assert base.place(name).length == base.read(name).nbytes
