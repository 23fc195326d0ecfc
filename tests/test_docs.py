"""What the documents say is there: commands, make targets, files, settings, events and fields."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from pydantic import BaseModel

from api.cli import app
from api.local import read_search
from api.settings import Settings
from evomerge.merge.calibration.kinds import check as check_calibration
from evomerge.merge.methods import METHODS, method_of
from evomerge.merge.parameters import check
from evomerge.models.checkpoint import TensorInfo
from evomerge.models.family import families
from evomerge.optimizers import OPTIMIZERS
from evomerge.recipe.align import AlignByActivations, AlignByNames, AlignByTransport, AlignByWeights
from evomerge.recipe.calibration import Calibration
from evomerge.recipe.output import Output
from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import Merge, ModelRef, Recipe, Rule
from evomerge.recipe.slices import Slice
from evomerge.recipe.text import validate
from evomerge.recipe.tokens import TokenRule
from evomerge.run.spec import RunSpec
from fitness.metrics import METRICS
from fitness.templates import Template
from search_spaces import KINDS, make_space
from search_spaces.data_flow import DataFlowSpec
from search_spaces.hybrid import HybridSpec
from search_spaces.lineage import LineageSpec
from search_spaces.parameter import ParameterSpec
from tests.search_spaces.architectures import llama
from workers.registry import Registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page.relative_to(ROOT): page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS: Any = getattr(typer.main.get_command(app), "commands", {})
GUIDE = TEXT[Path("docs/user-guide.md")]


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT[page])

    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_every_command_of_ours_exists_and_has_the_options_that_are_given(page: Path) -> None:
    """In blocks, where whole command lines stand."""
    for line in re.findall(r"^(?:    )?(?:\.venv/bin/)?evomerge ([a-z]+ ?[^\n]*)$", _blocks(TEXT[page]), re.MULTILINE):
        words = shlex.split(line, comments=True)

        assert words[0] in COMMANDS, line
        given = {word.partition("=")[0] for word in words[1:] if word.startswith("-")}
        assert given <= _options(words[0]), line


@pytest.mark.parametrize("page", TEXT, ids=str)
def test_every_option_in_the_text_is_one_of_a_command(page: Path) -> None:
    known = set().union(*map(_options, COMMANDS))
    named = re.findall(r"`(?:evomerge [^`]*?)?(--[a-z][a-z-]*)[^`]*`", TEXT[page])

    assert [option for option in named if option not in known] == []


def _blocks(text: str) -> str:
    """What stands in a page as code: fenced, or indented by four blanks."""
    fenced = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*fenced, *re.findall(r"^    .*$", text, re.MULTILINE)])


def _options(command: str) -> set[str]:
    """Of a command, or of all commands of a group."""
    given = COMMANDS[command]
    parameters = [p for one in (given, *getattr(given, "commands", {}).values()) for p in one.params]
    return {option for parameter in parameters for option in parameter.opts + parameter.secondary_opts}


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


def test_the_pages_name_every_metric() -> None:
    pages = "".join(TEXT[Path(page)] for page in ("docs/scoring.md", "docs/scoring-generation.md"))

    assert [name for name in METRICS if f"`{name}`" not in pages] == []


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


def _yaml_blocks() -> list[tuple[str, str]]:
    found = []
    for page, text in TEXT.items():
        for block in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
            found.append((f"{page}: {block.split(chr(10))[0].strip()}", textwrap.dedent(block)))
    return found


@pytest.mark.parametrize("block", [block for _, block in _yaml_blocks()], ids=[name for name, _ in _yaml_blocks()])
def test_every_yaml_example_is_valid(block: str, tmp_path: Path) -> None:
    """A search, its space, a registry, or a recipe or a part of one, whose methods and parameters exist."""
    (tmp_path / "example.yaml").write_text(block, encoding="utf-8")
    data = yaml.safe_load(block)
    if {"models", "eval_sets"} <= set(data) <= {"models", "eval_sets", "training"}:
        Registry.load(tmp_path / "example.yaml")
    elif "objectives" in data:
        read_search(tmp_path / "example.yaml")
    elif set(data) == {"space"}:
        _check_space(data["space"])
    elif "context" in data:
        Template.of(data)
    elif set(data) & set(Recipe.model_fields):
        _check_recipe(data)
    else:  # prompts of a mixture's experts
        assert all(isinstance(prompts, dict | list) for prompts in data.values())


def _check_space(spec: dict[str, Any]) -> None:
    """Over three sources and 24 layers; a prior would look into the models."""
    architecture = llama(24)
    sources = {name: ModelRef(location=f"/models/{name}") for name in ("math", "code", "ja")}
    space = make_space(
        {name: value for name, value in spec.items() if name != "prior"},
        base=ModelRef(location="/models/base"),
        sources=sources,
        architecture=architecture,
        tensors={name: TensorInfo(name, (8, 8), torch.float32, "model.safetensors") for name in architecture.parts},
    )
    if "prior" in spec:
        ParameterSpec.model_validate(spec)
    assert space.repair(space.domain.start) == space.domain.start


def _check_recipe(part: dict[str, Any]) -> None:
    """As a whole recipe whose sources are those that the part names."""
    named = {
        *part.get("align", {}),
        *part.get("merge", {}).get("sources", {}),
        *part.get("calibration", {}).get("sources", {}),
    }
    named |= {rule["model"] for rule in part.get("tokens", {}).values() if rule.get("model", "base") != "base"}
    named |= {name for one in part.get("slices", ()) for name in one.get("sources", {})}
    path = part.get("path", {})
    named |= {path.get("host", "base"), *(hop["model"] for hop in path.get("layers", ()))} - {"base", "merged"}
    place = {"location": "somewhere"}
    whole = {"base": place, "sources": dict.fromkeys(sorted(named) or ["a", "b"], place), "merge": {"method": "linear"}}
    recipe = validate(Recipe, whole | part)
    method = method_of(recipe.merge)
    check(method, recipe.merge)
    check_calibration(method.name, method.requires, recipe)


def test_the_pages_name_every_command() -> None:
    shown = {name for name, command in COMMANDS.items() if not command.hidden}
    written = "\n".join(TEXT.values())

    assert [name for name in shown if f"evomerge {name}" not in written] == []


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        *(("recipe", kind) for kind in (Recipe, ModelRef, Merge, Rule, Slice, TokenRule)),
        ("calibration", Calibration),
        ("adapters", Output),
        ("data-flow", LayerPath),
        ("data-flow", Hop),
        ("data-flow", DataFlowSpec),
        ("data-flow", HybridSpec),
        ("search-spaces", ParameterSpec),
        ("search-spaces", LineageSpec),
        *(
            ("alignment-and-structure", kind)
            for kind in (AlignByWeights, AlignByActivations, AlignByTransport, AlignByNames)
        ),
    ],
)
def test_the_pages_name_every_field_of_a_recipe_and_a_space(page: str, kind: type[BaseModel]) -> None:
    text = TEXT[Path(f"docs/{page}.md")]
    fields = [field.alias or name for name, field in kind.model_fields.items()]

    assert [f for f in fields if not re.search(rf"`(merge\.)?{f}`|^ *{f}:|{{.*\b{f}:", text, re.MULTILINE)] == []


def test_the_page_of_spaces_names_every_kind_and_every_method_that_takes_an_order() -> None:
    page = TEXT[Path("docs/search-spaces.md")]

    assert [kind for kind in KINDS if f"| `{kind}` |" not in page] == []
    assert [name for name, method in METHODS.items() if method.ordered and f"`{name}`" not in page] == []


def test_the_page_of_recipes_states_the_defaults() -> None:
    page = TEXT[Path("docs/recipe.md")]
    stated = dict(re.findall(r"^\| `(\w+)` \| `?(\w[\w./]*)`? \|", page, re.MULTILINE))
    fields = {field.alias or name: field for name, field in Recipe.model_fields.items()}

    for name in ("schema", "tokenizer", "dtype", "seed", "shard_bytes"):
        assert stated[name] == str(fields[name].default)
    assert {name for name, default in stated.items() if default == "required"} == {
        name for name, field in fields.items() if field.is_required()
    }


def test_the_rest_map_names_every_route() -> None:
    from api.app import create_app

    page = TEXT[Path("docs/api.md")]
    paths = create_app(Settings()).openapi()["paths"]
    tails = {re.sub(r"\{[^}]*\}", "", path.rpartition("/")[2]).lstrip(":") for path in paths}

    assert [tail for tail in tails if tail and tail.split(":")[-1] not in page] == []
