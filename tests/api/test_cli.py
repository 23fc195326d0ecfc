"""The command line on tiny real models: what works, and that every mistake is one line and leaves nothing behind."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MistralConfig, MistralForCausalLM

from api.cli import main
from evomerge.models import content
from evomerge.models.checkpoint import content_hash
from evomerge.recipe.text import dump_data
from tests.workers.tiny_run import make_registry, run_spec


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line configures logging; the tests after it must not notice."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with tiny models, a registry, a recipe and a search."""
    make_registry(tmp_path)
    (tmp_path / "recipe.yaml").write_text(dump_data(recipe_of(tmp_path)))
    (tmp_path / "search.yaml").write_text(dump_data(run_spec(budget={"candidates": 3})))
    return tmp_path


def recipe_of(home: Path, **changes: Any) -> dict[str, Any]:
    return {
        "schema": "evomerge.recipe/1",
        "base": {"location": "base", "sha256": content_hash(home / "base")},
        "sources": {name: {"location": name, "sha256": content_hash(home / name)} for name in ("math", "ja")},
        "merge": {"method": "task_arithmetic", "sources": {"math": {"weight": 0.7}, "ja": {"weight": 0.4}}},
        "dtype": "float32",
    } | changes


def evomerge(home: Path, *arguments: str) -> Ran:
    """Run a command in this process: starting Python and torch anew takes longer than any of them."""
    stdout, stderr = io.StringIO(), io.StringIO()
    before, argv = signal.getsignal(signal.SIGTERM), sys.argv
    sys.argv = ["evomerge", *arguments]
    code = 0
    try:
        with contextlib.chdir(home), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, before)
    return Ran(code, stdout.getvalue(), stderr.getvalue())


def test_merge_writes_the_model_that_the_recipe_describes(home: Path) -> None:
    ran = evomerge(home, "merge", "recipe.yaml", "out")
    base, math, ja, out = (load_file(home / n / "model.safetensors") for n in ("base", "math", "ja", "out"))

    assert ran.returncode == 0, ran.stderr
    for name, weights in out.items():
        expected = base[name] + 0.7 * (math[name] - base[name]) + 0.4 * (ja[name] - base[name])
        assert torch.allclose(weights, expected, atol=1e-6), name
    assert (home / "out" / "recipe.yaml").exists()


def test_a_plain_merge_does_not_load_transformers(home: Path) -> None:
    code = "import sys\nfrom api.cli import main\ntry: main()\nfinally: print('transformers' in sys.modules)"
    recipe, out = home / "recipe.yaml", home / "merged"
    done = subprocess.run(
        [sys.executable, "-c", code, "merge", recipe, out], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "False"
    assert (home / "merged" / "model.safetensors").exists()


def test_a_source_that_lies_elsewhere_is_named_on_the_command_line(home: Path) -> None:
    (home / "math").rename(home / "moved")
    missing = evomerge(home, "merge", "recipe.yaml", "out")
    ran = evomerge(home, "merge", "recipe.yaml", "out", "--model", "math=moved")

    assert (missing.returncode, ran.returncode) == (2, 0)
    assert evomerge(home, "merge", "recipe.yaml", "out2", "--model", "none=moved").returncode == 2


def test_search_show_export_and_merge_are_one_way(home: Path) -> None:
    searched = evomerge(home, "search", "search.yaml", "--registry", "registry.yaml", "--recipe", "best.yaml")
    assert searched.returncode == 0, searched.stderr
    run = searched.stdout.split()[1].rstrip(":")
    shown = json.loads(evomerge(home, "show", run, "--json").stdout)
    candidate = evomerge(home, "show", run, str(shown["summary"]["result"]["winner"]))
    exported = evomerge(home, "export", run, "--to", "mergekit")
    merged = evomerge(home, "merge", "best.yaml", "merged")

    assert shown["state"] == "succeeded"
    assert "holdout" in candidate.stdout
    assert "merge_method: task_arithmetic" in exported.stdout
    assert merged.returncode == 0
    assert run in evomerge(home, "show").stdout


def test_resume_takes_a_run_up_where_it_was(home: Path) -> None:
    (home / "long.yaml").write_text(dump_data(run_spec(budget={"candidates": 30})))
    command = [sys.executable, "-m", "evomerge", "search", "long.yaml", "--registry", "registry.yaml"]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run = process.stdout.readline().split()[1].rstrip(":")
        while "running" not in process.stdout.readline():
            pass
        process.kill()
    ran = evomerge(home, "resume", run, "--registry", "registry.yaml")
    shown = json.loads(evomerge(home, "show", run, "--json").stdout)

    assert ran.returncode == 0, ran.stderr
    assert (shown["state"], shown["summary"]["scored"]) == ("succeeded", 30)


def nan_weights(home: Path) -> None:
    weights = load_file(home / "math" / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, home / "math" / "model.safetensors", metadata={"format": "pt"})
    write_recipe(home)


def write_recipe(home: Path, **changes: Any) -> None:
    (home / "recipe.yaml").write_text(dump_data(recipe_of(home, **changes)))


def missing_directory(home: Path) -> None:
    (home / "math").rename(home / "gone")


def other_architecture(home: Path) -> None:
    config = MistralConfig(
        vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    (home / "math" / "model.safetensors").unlink()
    MistralForCausalLM(config).save_pretrained(home / "math")
    write_recipe(home)


def unknown_method(home: Path) -> None:
    write_recipe(home, merge={"method": "magic"})


def other_hash(home: Path) -> None:
    weights = load_file(home / "math" / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, home / "math" / "model.safetensors", metadata={"format": "pt"})


def corrupt_header(home: Path) -> None:
    path = home / "math" / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def wrong_type(home: Path) -> None:
    write_recipe(home, merge={"method": "task_arithmetic", "sources": {"math": {"weight": [0.1, "x"]}}})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nan_weights, "model.norm.weight"),
        (missing_directory, "math"),
        (other_architecture, "math"),
        (unknown_method, "task_arithmetic"),
        (other_hash, "math"),
        (corrupt_header, "model.safetensors"),
        (wrong_type, "recipe.yaml:"),
    ],
)
def test_what_cannot_be_merged_is_one_clear_line_and_leaves_nothing(
    home: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(home)
    before = {p.name for p in home.iterdir()}
    ran = evomerge(home, "merge", "recipe.yaml", "out")

    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert {p.name for p in home.iterdir()} == before


def duplicate_ids(home: Path) -> None:
    path = home / "sums.jsonl"
    path.write_text(path.read_text() + "\n" + path.read_text().splitlines()[0])


def unknown_alias(home: Path) -> None:
    (home / "search.yaml").write_text(dump_data(run_spec(models={"base": "nobody", "sources": {"ja": "ja"}})))


def unknown_field(home: Path) -> None:
    (home / "search.yaml").write_text(dump_data(run_spec(bugdet={"candidates": 3})))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (duplicate_ids, "unique ids"),
        (unknown_alias, "nobody"),
        (unknown_field, "bugdet"),
        (nan_weights, "model.norm.weight"),
        (corrupt_header, "model.safetensors"),
        (missing_directory, "math"),
    ],
)
def test_a_search_that_cannot_run_says_why(home: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(home)
    ran = evomerge(home, "search", "search.yaml", "--registry", "registry.yaml")

    assert ran.returncode != 0
    assert said in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_service_does_not_start_with_a_bad_registry(home: Path) -> None:
    (home / "registry.yaml").write_text("models: [1]")
    ran = evomerge(home, "serve", "--registry", "registry.yaml")

    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")


def test_hashes_of_unchanged_models_are_remembered_until_rehash_asks_for_new_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "SETTLED_NS", -(10**12))  # the models have just been written
    read: list[Path] = []
    hashed = content._hash_of

    def hash_of(at: Path, *more: Any) -> str:
        read.append(at)
        return hashed(at, *more)

    monkeypatch.setattr(content, "_hash_of", hash_of)

    def models_read(out: str, *flags: str) -> set[str]:
        read.clear()
        assert evomerge(home, "merge", "recipe.yaml", out, *flags).returncode == 0
        return {path.name for path in read}

    assert models_read("first") == {"base", "math", "ja"}
    assert models_read("second") == set()
    assert models_read("third", "--rehash") == {"base", "math", "ja"}
    stored = load_file(home / "math" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in stored.items()}, home / "math" / "model.safetensors")
    assert evomerge(home, "merge", "recipe.yaml", "fourth").returncode == 2
    assert {path.name for path in read[-1:]} == {"math"}
