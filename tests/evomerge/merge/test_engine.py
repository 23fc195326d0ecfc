"""What the engine promises beside the result: the same bytes whatever it is given, bounded memory, room on the disk."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError, InvalidInputError, NonFiniteError
from evomerge.merge import blocks, budget
from evomerge.merge.execute import foresee, merge_to_directory
from evomerge.merge.methods import METHODS
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.text import dump_yaml
from evomerge.testing.directories import save_tensors


def digest(path: Path) -> str:
    return hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()


def recipe_of(zoo: Any, method: str) -> Recipe:
    """As many sources as the method takes: checkpoints and adapters."""
    least, most = METHODS[method].num_sources
    names = ("es", "ja") if METHODS[method].factored else ("code", "math", "es", "ja")
    names = names[: max(least, min(3, most or 3))]
    own = {names[0]: {"purpose": "instruct"}} if any(p.name == "purpose" for p in METHODS[method].parameters) else {}
    recipe: Recipe = zoo.recipe(method, *names, sources=own)
    return recipe


FREE = sorted(name for name, method in METHODS.items() if not method.requires)
"""Methods that need no calibration."""


@pytest.mark.parametrize("method", FREE)
def test_threads_and_pieces_do_not_change_a_byte(
    method: str, zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(zoo, method)
    digests = set()
    for threads, block, span in ((1, 1 << 17, 1 << 22), (2, 999, 5000), (3, 4096, 1 << 13)):
        monkeypatch.setattr(blocks, "BLOCK", block)
        monkeypatch.setattr(budget, "SPAN", span)
        out = merge_to_directory(recipe, tmp_path / str(threads), root=tmp_path, threads=threads, check_hashes=False)
        digests.add(digest(out))

    assert len(digests) == 1


def test_the_number_of_threads_of_torch_is_given_back(zoo: Any, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        merge_to_directory(zoo.recipe("linear"), tmp_path / "out", root=tmp_path)

        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "slerp"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_bad_entry_of_a_source_is_found_whatever_it_counts_for(
    method: str, value: float, weight: float, zoo: Any, tmp_path: Path
) -> None:
    """One that trimming or masks would drop, and one of a source of weight 0, too."""
    bad = tmp_path / "bad"
    shutil.copytree(zoo.sources["code"], bad)
    stored = load_file(bad / "model.safetensors")
    stored["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(stored, bad / "model.safetensors", {"format": "pt"})
    own: dict[str, Any] = {"bad": {"weight": weight}, "math": {"weight": 1.0}} if method != "slerp" else {}
    recipe = Recipe(
        base=ModelRef(location=str(zoo.base)),
        sources={"bad": ModelRef(location="bad"), "math": ModelRef(location=str(zoo.sources["math"]))},
        merge=Merge(method=method, sources=own),
    )

    with pytest.raises(NonFiniteError, match=r"source 'bad'.*layers\.1\.mlp\.up_proj.*\[3, 5\]"):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


def test_a_bad_entry_of_the_base_is_found(zoo: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(zoo.base, base)
    stored = load_file(base / "model.safetensors")
    stored["model.norm.weight"][3] = float("nan")
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    recipe = Recipe(
        base=ModelRef(location=str(base)),
        sources={"code": ModelRef(location=str(zoo.sources["code"]))},
        merge=Merge(method="task_arithmetic"),
    )

    with pytest.raises(NonFiniteError, match=r"the base model.*model\.norm\.weight"):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)


# Memory


LARGE = 16_000_000
"""Entries of the largest tensor: 32 MB in bfloat16, 64 MB in float32."""

MEASURED = """
import sys, threading, time
from pathlib import Path
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.fused.run import installed
from evomerge.recipe.text import load_recipe
if installed():
    import evomerge.merge.fused.kernels

def resident(what):
    for line in open("/proc/self/status"):
        if line.startswith(what):
            return int(line.split()[1]) * 1024

peak = {"RssAnon": 0, "RssFile": 0}
def watch():
    while True:
        for what in peak:
            peak[what] = max(peak[what], resident(what))
        time.sleep(0.0005)

recipe, out, memory, warm = sys.argv[1:]
merge_to_directory(load_recipe(Path(warm)), Path(out + "-warm"), root=Path("/"), check_hashes=False)
before = {what: resident(what) for what in peak}
threading.Thread(target=watch, daemon=True).start()
merge_to_directory(
    load_recipe(Path(recipe)), Path(out), root=Path("/"), memory=int(memory) or None, check_hashes=False
)
print(peak["RssAnon"] - before["RssAnon"], peak["RssFile"] - before["RssFile"])
"""
SLACK = 16 << 20
"""Bytes: thread stacks, Python objects and what malloc keeps beside."""


@pytest.fixture(scope="module")
def large(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A Llama with an embedding of 32 MB among small tensors, and three sources: 128 MB in all."""
    root = tmp_path_factory.mktemp("large")
    stored = load_file(zoo.base / "model.safetensors")
    config = json.loads((zoo.base / "config.json").read_text())
    config["vocab_size"] = LARGE // config["hidden_size"]
    paths = {}
    for seed, name in enumerate(("base", "a", "b", "c")):
        generator = torch.Generator().manual_seed(seed)
        embedding = torch.randn(config["vocab_size"], config["hidden_size"], generator=generator).bfloat16()
        paths[name] = save_tensors(
            root / name,
            {**stored, "model.embed_tokens.weight": embedding},
            files={"config.json": json.dumps(config)},
        )
    return root, paths


def measured(recipe: Recipe, warm: Recipe, memory: int, tmp_path: Path) -> tuple[int, int]:
    """By how much anonymous memory and mapped pages grew during a merge."""
    for name, asked in (("recipe", recipe), ("warm", warm)):
        (tmp_path / f"{name}.yaml").write_text(dump_yaml(asked))
    arguments = [str(tmp_path / "recipe.yaml"), str(tmp_path / "out"), str(memory), str(tmp_path / "warm.yaml")]
    command = [sys.executable, "-c", MEASURED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    anonymous, mapped = done.stdout.split()[-2:]
    return int(anonymous), int(mapped)


def large_recipe(large: tuple[Path, dict[str, Path]], method: str) -> Recipe:
    refs = {name: ModelRef(location=str(path)) for name, path in large[1].items()}
    return Recipe(base=refs.pop("base"), sources=refs, merge=Merge(method=method))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's accounts")
@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear"])
def test_a_checkpoint_larger_than_the_limit_is_merged_within_it(
    method: str, large: tuple[Path, dict[str, Path]], zoo: Any, tmp_path: Path
) -> None:
    limit = 24 << 20
    free = merge_to_directory(large_recipe(large, method), tmp_path / "free", root=tmp_path, check_hashes=False)
    # which has compiled the loops and stored them: a compiler's memory is none of the merge's
    anonymous, mapped = measured(large_recipe(large, method), zoo.recipe("linear", "code"), limit, tmp_path)

    assert (tmp_path / "out" / "model.safetensors").stat().st_size > limit
    assert anonymous <= limit + SLACK
    assert mapped <= limit + SLACK
    assert digest(tmp_path / "out") == digest(free)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's accounts")
def test_whole_tensors_keep_the_promise(large: tuple[Path, dict[str, Path]], zoo: Any, tmp_path: Path) -> None:
    """(Number of sources + 2) × the largest tensor in float32."""
    anonymous, mapped = measured(large_recipe(large, "model_stock"), zoo.recipe("linear", "code"), 0, tmp_path)

    assert anonymous <= (3 + 2) * 4 * LARGE + SLACK
    assert mapped <= (3 + 2) * 4 * LARGE + SLACK


WHOLE = next(
    m
    for m in METHODS.values()
    if m.grain == "tensor"
    and m.combination is None
    and not m.requires
    and not m.stages  # some chains take rows
    and not m.factored
    and m.num_sources[0] <= 3
)


def test_a_limit_too_small_for_whole_tensors_is_refused_before_anything_is_read(zoo: Any, tmp_path: Path) -> None:
    embedding = 4 * 2560 * 32
    recipe = recipe_of(zoo, WHOLE.name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInputError) as refused:
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path, memory=1, check_hashes=False)
    needed = int(re.findall(r"at least (\d+) bytes", str(refused.value))[0])
    assert needed >= (len(recipe.sources) + 2) * embedding

    with pytest.raises(InvalidInputError, match=rf"at least {needed} bytes.*model\.embed_tokens\.weight") as error:
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path, memory=needed - 1, check_hashes=False)
    assert error.value.field == "memory"
    assert sorted(tmp_path.iterdir()) == before
    assert merge_to_directory(recipe, tmp_path / "out", root=tmp_path, memory=needed, check_hashes=False).is_dir()


# The plan


def test_a_dry_run_says_what_a_merge_then_does(zoo: Any, tmp_path: Path) -> None:
    recipe = zoo.recipe("task_arithmetic", "code", "es")
    found = foresee(recipe, tmp_path / "out", root=tmp_path)

    assert list(tmp_path.iterdir()) == []
    out = merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    merged = load_file(out / "model.safetensors")
    assert found.method == "task_arithmetic"
    assert found.tensors_merged + found.tensors_copied == len(merged)
    assert found.bytes_written == sum(tensor.nbytes for tensor in merged.values())
    assert found.bytes_read == sum(
        file.stat().st_size
        for place in (zoo.base, zoo.sources["code"], zoo.sources["es"])
        for file in place.glob("*.safetensors")
    )
    assert found.fits
    assert found.disk_needed >= sum(path.stat().st_size for path in out.iterdir())


def test_a_dry_run_counts_recipes_among_the_sources(zoo: Any, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(dump_yaml(zoo.recipe("linear", "code", "math")))
    base = ModelRef(location=str(zoo.base))
    outer = Recipe(base=base, sources={"x": ModelRef(location="inner.yaml")}, merge=Merge(method="passthrough"))
    plain = foresee(zoo.recipe("passthrough", "code"), tmp_path / "out", root=tmp_path)
    found = foresee(outer, tmp_path / "out", root=tmp_path)

    assert found.built_first == ("inner.yaml",)
    assert found.disk_needed > 2 * plain.bytes_written


def test_a_disk_without_room_is_refused_before_work_begins(
    zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))

    assert not foresee(zoo.recipe("linear"), tmp_path / "out", root=tmp_path).fits
    with pytest.raises(CheckpointError, match=r"needs [\d,]+ bytes on this disk, 1,000 are free"):
        merge_to_directory(zoo.recipe("linear"), tmp_path / "out", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


FULL = """
import sys
from pathlib import Path
from evomerge.errors import CheckpointError
from evomerge.merge import execute
from evomerge.recipe.text import load_recipe
at = Path(sys.argv[1])
execute.check_disk = lambda out, needed: None  # another program fills the disk while the merge runs
try:
    execute.merge_to_directory(load_recipe(Path(sys.argv[2])), at / "out", root=at, check_hashes=False)
except CheckpointError as error:
    print(error, list(at.iterdir()))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare to mount a small disk")
def test_a_disk_that_fills_up_is_a_clear_error_and_leaves_nothing(zoo: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_yaml(zoo.recipe("linear").model_copy(update={"shard_bytes": 50_000})))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=300k none {disk} && exec {sys.executable} -c '{FULL}' {disk} {recipe}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr.strip()}")

    assert done.stdout.strip() == f"{disk}/out: the disk is full; nothing was left there []", done.stderr


# Devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(zoo: Any, tmp_path: Path) -> None:
    for name in ("cuda", "cuda:7", "abacus", "meta"):
        with pytest.raises(InvalidInputError, match="device"):
            merge_to_directory(zoo.recipe("linear"), tmp_path / "out", root=tmp_path, device=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "slerp"])
def test_a_device_gives_the_numbers_of_the_processor(method: str, zoo: Any, tmp_path: Path) -> None:
    recipe = recipe_of(zoo, method).model_copy(update={"dtype": "float32"})
    there = load_file(merge_to_directory(recipe, tmp_path / "gpu", root=tmp_path, device="cuda") / "model.safetensors")
    here = load_file(merge_to_directory(recipe, tmp_path / "cpu", root=tmp_path) / "model.safetensors")

    for name in here:
        torch.testing.assert_close(there[name], here[name], rtol=1e-5, atol=1e-6)
