from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.errors import CheckpointError
from evomerge.models.hub import ALLOWED, locate
from evomerge.recipe.schema import ModelRef


def test_a_local_place_is_under_the_root_unless_absolute(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()

    assert locate(ModelRef(location="model"), tmp_path) == tmp_path / "model"
    assert locate(ModelRef(location=str(tmp_path / "model")), Path("/elsewhere")) == tmp_path / "model"


def test_a_place_with_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model: no such directory.*location 'model'"):
        locate(ModelRef(location="model"), tmp_path)


@pytest.mark.parametrize("location", ["hub:", "hub:../../etc", "hub:a/b/c", "hub:-x/y"])
def test_what_is_no_hub_name_is_a_clear_error(location: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be had from the hub"):
        locate(ModelRef(location=location), tmp_path)


OFFLINE = """
import sys
from pathlib import Path
from evomerge.errors import CheckpointError
from evomerge.models.hub import locate
from evomerge.recipe.schema import ModelRef
try:
    print(locate(ModelRef(location="hub:owner/name", revision=sys.argv[1] or None), Path(".")))
except CheckpointError as error:
    print("CheckpointError", error)
"""


def locate_in(home: Path, revision: str = "", **environment: str) -> str:
    """What a fresh process with its own hub cache says: the hub's client reads its settings at import."""
    environment = {"HF_HOME": str(home), "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    command = [sys.executable, "-c", OFFLINE, revision]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_offline_without_a_copy_is_a_clear_error(tmp_path: Path) -> None:
    said = locate_in(tmp_path, "main", HF_HUB_OFFLINE="1")

    assert said.startswith("CheckpointError hub:owner/name at revision 'main': cannot be had from the hub")
    assert "\n" not in said


def test_an_unreachable_hub_is_a_clear_error(tmp_path: Path) -> None:
    said = locate_in(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")

    assert said.startswith("CheckpointError hub:owner/name: cannot be had from the hub")


def test_a_copy_in_the_cache_is_found_offline(tmp_path: Path) -> None:
    commit = "0" * 40
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "hub" / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)

    assert locate_in(tmp_path, HF_HUB_OFFLINE="1") == str(snapshot)


def test_only_data_is_asked_for() -> None:
    assert not any(pattern.endswith((".py", ".bin", ".pt", ".gguf", "*.*")) or pattern == "*" for pattern in ALLOWED)
