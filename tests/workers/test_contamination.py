"""Training data that the registry names: whose they are, and which of a run's items they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from fitness.items import Item, Split, make_eval_set
from workers.contamination import contamination, described
from workers.registry import Registry

SIDES: tuple[Split, Split] = ("search", "holdout")
QUESTIONS = [Item(str(n), f"Math: {n} + 15 =", (f" {n + 15}", " 7"), 0, split=side) for n, side in enumerate(SIDES * 3)]

REGISTRY = """\
models: {tiny: base, sums: sums, poems: poems}
eval_sets: {sums: sums.jsonl}
training: {sums: [seen.jsonl, more.txt], poems: [poems.txt]}
"""

SPEC = RunSpec.model_validate(
    {
        "name": "r", "models": {"base": "tiny", "sources": {"a": "sums", "b": "poems"}},
        "space": {"kind": "parameter", "method": "linear"}, "budget": {"candidates": 4},
        "objectives": [{"name": "o", "eval_sets": ["sums"]}],
    }
)  # fmt: skip


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "registry.yaml").write_text(REGISTRY, encoding="utf-8")
    seen = [{"prompt": QUESTIONS[n].context, "completion": QUESTIONS[n].choices[0]} for n in (1, 2, 4)]
    (tmp_path / "seen.jsonl").write_text("\n".join(map(json.dumps, seen)), encoding="utf-8")
    (tmp_path / "more.txt").write_text("Math: 3 + 15 = 18\n", encoding="utf-8")
    (tmp_path / "poems.txt").write_text("The sea is deep.\n", encoding="utf-8")
    return Registry.load(tmp_path / "registry.yaml")


def test_each_model_s_own_training_data_are_looked_through(registry: Registry) -> None:
    found = contamination(SPEC, registry, {"sums": make_eval_set("sums", QUESTIONS)})

    assert set(found) == {"a", "b"}
    assert found["a"]["sums"].ids == {"1", "2", "3", "4"}
    assert found["b"]["sums"].ids == set()
    (line,) = described(found)
    assert line == "a: 2 of 3 search and 2 of 3 holdout items of 'sums' are in its training data"


def test_a_registry_names_training_data_of_its_models_only(tmp_path: Path) -> None:
    for training in ({"absent": ["x"]}, {"m": "x"}, {"m": [3]}, [1]):
        with pytest.raises(InvalidInputError, match="registry training"):
            Registry.of({"m": "m"}, {}, tmp_path, training=training)  # type: ignore[arg-type]  # on purpose
    (tmp_path / "here.jsonl").touch()
    found = Registry.of({"m": "m"}, {}, tmp_path, training={"m": ["here.jsonl", "someone/something"]})

    assert found.training == {"m": (str(tmp_path / "here.jsonl"), "someone/something")}


def test_training_data_that_are_gone_are_named(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "seen.jsonl").unlink()

    with pytest.raises(InvalidInputError, match=r"seen\.jsonl"):
        contamination(SPEC, registry, {"sums": make_eval_set("sums", QUESTIONS)})
