"""A merge that is killed goes on where it stopped, and gives the bytes of one that was not."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.models.partial import partial
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.text import dump_yaml

SHARD_BYTES = 4_000

KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from evomerge.__main__ import main

def watch(journal, finished):
    while True:
        try:
            if journal.read_text().count("sha256") >= finished:
                os.kill(os.getpid(), signal.SIGKILL)
        except OSError:
            pass
        time.sleep(0.0002)

def run(arguments, kill_at):
    child = os.fork()
    if child == 0:
        sys.argv = ["evomerge", "merge", *arguments]
        if kill_at:
            journal = Path(kill_at[0])
            threading.Thread(target=watch, args=(journal, int(kill_at[1])), daemon=True).start()
        main()
        os._exit(0)
    return os.waitpid(child, 0)[1]

import evomerge.merge.execute
for line in sys.stdin:
    arguments, kill_at = eval(line)
    print(run(arguments, kill_at), flush=True)
"""
"""A process that has imported everything once and runs the command in children of its own."""


@pytest.fixture(scope="module")
def evomerge() -> Any:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(*arguments: str, kill_at: tuple[str, int] | None = None) -> int:
        """The wait status."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(repr((arguments, kill_at)) + "\n")
        process.stdin.flush()
        lines = []
        while True:
            line = process.stdout.readline()
            assert line, lines
            if line.strip().isdigit():
                return int(line)
            lines.append(line)

    yield run
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def written(recipe: Recipe, path: Path) -> Path:
    path.write_text(dump_yaml(recipe.model_copy(update={"shard_bytes": SHARD_BYTES})))
    return path


@pytest.mark.parametrize(("method", "kill_at"), [("linear", 1), ("dare_linear", 3), ("ties", 6), ("slerp", 9)])
def test_a_killed_merge_goes_on_to_the_same_bytes(
    method: str, kill_at: int, zoo: Any, evomerge: Callable[..., int], tmp_path: Path
) -> None:
    names = ("code", "math") if method == "slerp" else ()
    recipe = str(written(zoo.recipe(method, *names), tmp_path / "recipe.yaml"))
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    status = evomerge(recipe, str(tmp_path / "out"), kill_at=(str(journal), kill_at))
    left = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    finished = {row["file"]: (journal.parent / "model" / row["file"]).stat().st_ino for row in left}
    hidden = not (tmp_path / "out").exists()
    resumed = evomerge(recipe, str(tmp_path / "out"))
    whole = evomerge(recipe, str(tmp_path / "whole"))

    assert os.WIFSIGNALED(status)
    assert hidden
    assert len(finished) >= kill_at
    assert (resumed, whole) == (0, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {file: (tmp_path / "out" / file).stat().st_ino for file in finished} == finished
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "recipe.yaml", "whole"]


def test_a_recipe_among_the_sources_is_not_built_twice(zoo: Any, evomerge: Callable[..., int], tmp_path: Path) -> None:
    written(zoo.recipe("linear", "code", "math"), tmp_path / "inner.yaml")
    sources = {"inner": ModelRef(location="inner.yaml"), "ja": ModelRef(location=str(zoo.sources["ja"]))}
    outer = Recipe(base=ModelRef(location=str(zoo.base)), sources=sources, merge=Merge(method="task_arithmetic"))
    recipe = str(written(outer, tmp_path / "recipe.yaml"))
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    evomerge(recipe, str(tmp_path / "out"), kill_at=(str(journal), 2))
    (inner,) = [path for path in (journal.parent / "scratch").iterdir() if path.is_dir()]
    before = {path.name: path.stat().st_mtime_ns for path in inner.iterdir()}
    inner_kept = inner.rename(tmp_path / "kept")
    (inner.parent / inner.name).symlink_to(inner_kept)  # had it been built again, there would be two
    evomerge(recipe, str(tmp_path / "out"))
    evomerge(recipe, str(tmp_path / "whole"))

    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert before == {path.name: path.stat().st_mtime_ns for path in inner_kept.iterdir()}


def half_done(zoo: Any, evomerge: Callable[..., int], tmp_path: Path) -> tuple[Recipe, Path]:
    """A recipe and the hidden directory of its killed merge to `out`."""
    recipe = zoo.recipe("task_arithmetic").model_copy(update={"shard_bytes": SHARD_BYTES})
    journal = tmp_path / ".out.partial" / "journal.jsonl"
    evomerge(str(written(recipe, tmp_path / "r.yaml")), str(tmp_path / "out"), kill_at=(str(journal), 3))
    return recipe, journal.parent


def test_a_finished_shard_that_has_changed_is_made_again(
    zoo: Any, evomerge: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, left = half_done(zoo, evomerge, tmp_path)
    first = json.loads((left / "journal.jsonl").read_text().splitlines()[1])["file"]
    with (left / "model" / first).open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x12\x34")
    with caplog.at_level(logging.WARNING):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)

    assert f"{first} is not what the journal says" in caplog.text
    merge_to_directory(recipe, tmp_path / "whole", root=tmp_path)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_another_recipe_left_is_dropped_and_said(
    zoo: Any, evomerge: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half_done(zoo, evomerge, tmp_path)
    with caplog.at_level(logging.WARNING):
        found = merge_to_directory(zoo.recipe("linear"), tmp_path / "out", root=tmp_path)

    assert "an unfinished merge of something else lay here" in caplog.text
    assert contents(found) == contents(merge_to_directory(zoo.recipe("linear"), tmp_path / "new", root=tmp_path))


def test_a_source_that_has_changed_meanwhile_is_another_merge(
    zoo: Any, evomerge: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, left = half_done(zoo, evomerge, tmp_path)
    with caplog.at_level(logging.WARNING):  # not hashed: known by the files' sizes and times
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path, check_hashes=False)

    assert "something else" in caplog.text
    assert not left.exists()


def test_two_merges_to_one_place_are_refused(zoo: Any, tmp_path: Path) -> None:
    with partial(tmp_path / "out", "mine"), pytest.raises(CheckpointError, match="another merge is writing it"):
        merge_to_directory(zoo.recipe("linear"), tmp_path / "out", root=tmp_path)

    assert merge_to_directory(zoo.recipe("linear"), tmp_path / "out", root=tmp_path).is_dir()


def test_a_lock_without_a_holder_is_no_hindrance(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "journal.jsonl").write_text('{"key": "mine"}\n{"file": "model.safet')  # torn by the kill
    with partial(tmp_path / "out", "mine") as at:
        handle = os.open(left, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)

        assert at.finished == {}


def test_an_interrupted_merge_keeps_what_is_finished(zoo: Any, tmp_path: Path) -> None:
    recipe = zoo.recipe("linear").model_copy(update={"shard_bytes": SHARD_BYTES})
    journal = tmp_path / ".out.partial" / "journal.jsonl"

    def interrupt(done: int, total: int) -> None:
        until = time.monotonic() + (20 if done == total else 0.5)  # a thread enters what is finished, beside
        while done > total / 2 and journal.read_text().count("sha256") < 2 and time.monotonic() < until:
            time.sleep(0.01)
        if journal.read_text().count("sha256") >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path, progress=interrupt, threads=1)
    assert journal.exists()
    found = merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    assert contents(found) == contents(merge_to_directory(recipe, tmp_path / "new", root=tmp_path))


def test_a_target_in_use_is_refused(zoo: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")

    with pytest.raises(InvalidInputError, match="empty"):
        merge_to_directory(zoo.recipe("linear"), tmp_path / "out", root=tmp_path)
