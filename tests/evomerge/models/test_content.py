from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.models import content
from evomerge.models.checkpoint import content_hash
from evomerge.testing.directories import save_tensors

TENSORS = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.weight": torch.ones(4, dtype=torch.bfloat16)}


def write(at: Path, tensors: dict[str, Tensor], shard_bytes: int = 10**9) -> Path:
    return save_tensors(at, tensors, shard_bytes, {"config.json": "{}"})


def write_adapter(at: Path, config: dict[str, Any]) -> Path:
    at.mkdir()
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1, 2)}, at / "adapter_model.safetensors")
    (at / "adapter_config.json").write_text(json.dumps(config))
    return at


def test_the_hash_is_what_the_docstring_defines(tmp_path: Path) -> None:
    ones = b"\x80\x3f" * 4
    numbers = b"".join(
        bytes.fromhex(h) for h in ("00000000", "0000803f", "00000040", "00004040", "00008040", "0000a040")
    )
    document = (
        '{"tensors":['
        f'["a.weight","BF16",[4],"{hashlib.sha256(ones).hexdigest()}"],'
        f'["b.weight","F32",[2,3],"{hashlib.sha256(numbers).hexdigest()}"]]}}'
    )

    assert content_hash(write(tmp_path / "m", TENSORS)) == hashlib.sha256(document.encode()).hexdigest()


def test_place_sharding_order_and_metadata_do_not_matter(tmp_path: Path) -> None:
    one = write(tmp_path / "one", TENSORS)
    many = write(tmp_path / "many", dict(reversed(TENSORS.items())), shard_bytes=1)
    other = tmp_path / "other"
    other.mkdir()
    save_file(TENSORS, other / "model.safetensors", metadata={"format": "pt", "by": "someone"})

    assert content_hash(one) == content_hash(many) == content_hash(other)


@pytest.mark.parametrize(
    "changed",
    [
        {**TENSORS, "b.weight": torch.arange(6.0).reshape(3, 2)},
        {**TENSORS, "b.weight": torch.arange(6.0).reshape(2, 3).nextafter(torch.tensor(9.0))},
        {**TENSORS, "a.weight": torch.ones(4, dtype=torch.float16)},
        {"b.weight": TENSORS["b.weight"], "c.weight": TENSORS["a.weight"]},
        {"b.weight": TENSORS["b.weight"]},
        {**TENSORS, "flag": torch.tensor(True)},
        {**TENSORS, "none": torch.zeros(0)},
    ],
)
def test_any_change_of_the_weights_changes_it(tmp_path: Path, changed: dict[str, Tensor]) -> None:
    assert content_hash(write(tmp_path / "one", TENSORS)) != content_hash(write(tmp_path / "two", changed))


def test_an_adapters_hash_covers_what_changes_its_delta(tmp_path: Path) -> None:
    plain = {"r": 1, "lora_alpha": 2, "target_modules": ["x"]}
    first = content_hash(write_adapter(tmp_path / "a", plain))

    assert first == content_hash(
        write_adapter(tmp_path / "b", plain | {"target_modules": ["y"], "inference_mode": True})
    )
    assert first != content_hash(write_adapter(tmp_path / "c", plain | {"lora_alpha": 3}))
    assert first != content_hash(write_adapter(tmp_path / "d", plain | {"use_rslora": True}))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written a moment ago count as old."""
    monkeypatch.setattr(content, "SETTLED_NS", -(10**12))


@pytest.mark.usefixtures("settled")
def test_the_cache_remembers_and_notices_changes(tmp_path: Path) -> None:
    model, cache = write(tmp_path / "m", TENSORS), tmp_path / "cache" / "hashes"
    first = content_hash(model, cache)
    (entry,) = cache.iterdir()
    entry.write_text("0" * 64)

    assert content_hash(model, cache) == "0" * 64
    shutil.rmtree(model)
    write(model, {**TENSORS, "c.weight": torch.ones(1)})
    assert content_hash(model, cache) not in ("0" * 64, first)
    assert content_hash(model, cache) == content_hash(model)


def put_back(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["in place", "renamed"])
def test_a_file_that_is_changed_and_made_to_look_old_does_not_pass(tmp_path: Path, how: str) -> None:
    """Same place, same size, same time of change."""
    model, cache = write(tmp_path / "m", TENSORS), tmp_path / "cache"
    file = model / "model.safetensors"
    first, before, data = content_hash(model, cache), file.stat(), file.read_bytes()
    changed = data[:-1] + bytes([data[-1] ^ 1])
    if how == "in place":
        with file.open("r+b") as handle:
            handle.write(changed)
    else:
        other = tmp_path / "other"
        other.write_bytes(changed)
        put_back(other, before)
        other.rename(file)
    put_back(file, before)

    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert content_hash(model, cache) == content_hash(model) != first


def test_a_file_that_has_just_been_written_is_not_remembered(tmp_path: Path) -> None:
    """It could be written to again within the clock tick of its last change."""
    model, cache = write(tmp_path / "m", TENSORS), tmp_path / "cache"

    assert content_hash(model, cache) == content_hash(model)
    assert not cache.exists()


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cache = write(tmp_path / "m", TENSORS), tmp_path / "cache"
    hashed = content._hash_of

    def meanwhile(*given: Any) -> str:
        found = hashed(*given)
        with (model / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x7f")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(content, "_hash_of", meanwhile)
        stale = content_hash(model, cache)

    assert content_hash(model, cache) == content_hash(model) != stale


@pytest.mark.usefixtures("settled")
def test_shards_that_come_and_go_are_noticed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model = write(tmp_path / "m", TENSORS, shard_bytes=1)
    first = content_hash(model, cache)
    shutil.rmtree(model)
    write(tmp_path / "m", {**TENSORS, "c.weight": torch.ones(2)}, shard_bytes=1)

    assert content_hash(model, cache) == content_hash(model) != first
