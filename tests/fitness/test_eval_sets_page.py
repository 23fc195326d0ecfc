"""What docs/eval-sets.md says of files and templates is so."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from fitness.items import Answering, Item, load_eval_set
from fitness.metrics import kind_of
from fitness.templates import Template
from workers.registry import Registry

PAGE = (Path(__file__).parents[2] / "docs" / "eval-sets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("field", [f.name for kind in (Item, Answering, Template) for f in fields(kind)])
def test_every_field_is_named(field: str) -> None:
    assert f"`{field}`" in PAGE


def test_the_items_are_items(tmp_path: Path) -> None:
    kinds = []
    for number, block in enumerate(re.findall(r"```jsonl\n(.*?)```", PAGE, re.DOTALL)):
        (tmp_path / f"{number}.jsonl").write_text(block, encoding="utf-8")
        kinds.append({kind_of(item) for item in load_eval_set("s", tmp_path / f"{number}.jsonl").items})

    assert kinds == [{"choice"}, {"generation"}, {"text"}]


def test_the_template_and_the_registry_are_read(tmp_path: Path) -> None:
    template, registry = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    row = {"question": " Who? ", "options": ["I", "you"], "answer": "B", "subject": "people"}
    item = Template.load(template).item(row, "row")

    assert (item.context, item.choices, item.label) == ("Question: Who?\nAnswer:", (" I", " you"), 1)
    assert Registry.of(**yaml.safe_load(registry), root=tmp_path).training["math"]
