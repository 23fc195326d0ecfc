"""Answers along a line of real merges: each is compared with its neighbours', for choices and for written answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from api.cli import main
from evomerge.errors import InvalidInputError
from evomerge.merge.resident import Resident
from evomerge.merge.resolve import pin
from evomerge.recipe.line import line
from evomerge.recipe.schema import Merge, Recipe
from evomerge.recipe.text import dump_yaml, load_recipe
from fitness.items import Answering, Item, load_eval_set
from fitness.label_free import neighbour_flips
from fitness.loglikelihood import ChoiceScorer
from tests.workers.tiny import make_spec
from workers.flips import Flips, flips_along

TEXTS = [Item(f"t{n}", f"{n} and", answering=Answering("continuation", max_new_tokens=4)) for n in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, and recipes of the two sources alone."""
    place = tmp_path_factory.mktemp("flips")
    known = make_spec(place).recipe
    for name, weights in (("ja", (1.0, 0.0)), ("math", (0.0, 1.0))):
        merge = Merge(method="linear", sources={s: {"weight": w} for s, w in zip(("ja", "math"), weights, strict=True)})
        (place / f"{name}.yaml").write_text(dump_yaml(known.model_copy(update={"merge": merge})))
    return place


def along(folder: Path, steps: int) -> tuple[Recipe, ...]:
    ends = [pin(load_recipe(folder / f"{name}.yaml"), folder) for name in ("ja", "math")]
    return line(ends[0], ends[1], steps)


def test_flips_are_those_of_models_asked_one_by_one(folder: Path) -> None:
    recipes, items = along(folder, 5), load_eval_set("sums", folder / "sums.jsonl").items
    said = []
    for recipe in recipes:
        resident = Resident(recipe)
        resident.materialize(recipe)
        scores = ChoiceScorer(resident.model, resident.tokenizer).log_likelihoods(items)
        assert isinstance(scores, list)
        said.append([int(np.argmax(each)) for each in scores])
    found = flips_along(recipes, items, cache=folder / "cache")

    assert found.shares == tuple(neighbour_flips(said))
    assert max(found.shares) > 0
    assert found.shares[found.best] == min(found.shares)


def test_written_answers_flip_too_and_less_between_closer_models(folder: Path) -> None:
    coarse, fine = (flips_along(along(folder, steps), TEXTS, cache=folder / "cache") for steps in (3, 9))

    assert 0 < float(np.mean(fine.shares)) < float(np.mean(coarse.shares)) <= 1


def test_of_equal_recipes_the_one_in_the_middle_is_best() -> None:
    assert Flips((0.5, 0.1, 0.1, 0.1, 0.1)).best == 2
    assert Flips((0.1, 0.3, 0.3, 0.1)).best == 0


def test_running_text_has_no_answers(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="an item with an answer"):
        flips_along(along(folder, 3), [Item("a", "", text="It was a dark night.")], cache=folder / "cache")


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: object) -> int:
    asked = ["evomerge", "items", "flips", *map(str, arguments), "--data-dir", str(folder / "data")]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_names_the_coefficient_and_writes_its_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends, items = (folder / "ja.yaml", folder / "math.yaml"), folder / "sums.jsonl"
    found = flips_along(along(folder, 5), load_eval_set("sums", items).items, cache=folder / "cache")
    assert run(monkeypatch, folder, *ends, "--items", items, "--steps", 5, "--to", tmp_path / "best.yaml") == 0

    said = capsys.readouterr().out
    assert "24 items" in said
    assert all(f"{share:.3f}" in said for share in found.shares)
    assert load_recipe(tmp_path / "best.yaml").digest == along(folder, 5)[found.best].digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--steps", 2), "steps"),
        (("--to", "/nowhere/at/all.yaml"), "to: got"),
    ],
)
def test_bad_input_is_an_error_for_people(
    changes: tuple[object, ...], said: str, folder: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ends = (folder / "ja.yaml", folder / "math.yaml")

    assert run(monkeypatch, folder, *ends, "--items", folder / "sums.jsonl", *changes) != 0
    shown = capsys.readouterr()
    assert said in shown.err + shown.out
    assert "Traceback" not in shown.err
