"""What the documents say is there: commands, make targets, files, settings, events and fields."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from api.cli import app
from api.settings import Settings
from evomerge.models.family import families
from evomerge.optimizers import OPTIMIZERS
from evomerge.run.spec import RunSpec
from fitness.metrics import METRICS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page.relative_to(ROOT): page.read_text(encoding="utf-8") for page in PAGES}
GUIDE = TEXT[Path("docs/user-guide.md")]


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT[page])

    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_every_command_of_ours_exists(page: Path) -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    named = re.findall(r"^    (?:\.venv/bin/)?evomerge ([a-z]+)", TEXT[page], re.MULTILINE)

    assert set(named) <= commands


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_every_make_target_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert set(re.findall(r"`?make ([a-z-]+)`", TEXT[page])) <= set(targets)


def test_the_guide_names_every_setting() -> None:
    internal = {"api_key_sha256", "max_body_bytes", "poll_s"}
    missing = [name for name in set(Settings.model_fields) - internal if f"EVOMERGE_{name.upper()}" not in GUIDE]

    assert missing == []


def test_the_readme_names_every_optimizer_and_family() -> None:
    readme = TEXT[Path("README.md")]
    for name in OPTIMIZERS:
        assert f"`{name}`" in readme, name
    assert len(families()) >= 9


def test_the_guide_names_every_metric() -> None:
    assert [name for name in METRICS if f"`{name}`" not in GUIDE] == []


def test_searches_in_the_documents_and_the_demo_are_valid() -> None:
    found = 0
    for text in TEXT.values():
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
            data = yaml.safe_load(block)
            if "objectives" in data:
                data.pop("registry", None)
                RunSpec.model_validate(data)
                found += 1
    for path in (ROOT / "experiments" / "demo").glob("*.yaml"):
        RunSpec.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        found += 1

    assert found >= 4


def test_the_rest_map_names_every_route() -> None:
    from api.app import create_app

    page = TEXT[Path("docs/api.md")]
    paths = create_app(Settings()).openapi()["paths"]
    tails = {re.sub(r"\{[^}]*\}", "", path.rpartition("/")[2]).lstrip(":") for path in paths}

    assert [tail for tail in tails if tail and tail.split(":")[-1] not in page] == []
