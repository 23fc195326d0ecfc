"""Model cards."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.merge.card import model_card
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.licence import front_matter
from evomerge.merge.resolve import pin
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import load_yaml

SCORES = {"ja_math": {"mean": 0.742, "se": 0.041, "n": 40}}
HOLDOUT = {"ja_math": {"mean": 0.733, "se": 0.0196, "n": 300}}


def card_of(recipe: Recipe, root: Path) -> str:
    return model_card(recipe, {name: root / name for name in ("base", *recipe.sources)})


def recipe_in(root: Path, licences: dict[str, str], **changes: object) -> Recipe:
    for name, licence in licences.items():
        (root / name).mkdir()
        if licence:
            (root / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    data = {
        "base": {"location": "base", "sha256": "0" * 64},
        "sources": {n: {"location": n, "sha256": "1" * 64} for n in licences if n != "base"},
        "merge": {"method": "ties"},
    }
    return Recipe.model_validate(data | changes)


def test_it_holds_recipe_sources_command_and_bibliography(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, {"base": "mit", "math": "mit"})

    card = card_of(recipe, tmp_path)

    assert yaml.safe_load(card.split("---")[1]) == {
        "license": "mit",
        "library_name": "transformers",
        "tags": ["merge", "evomerge", "ties"],
    }
    text = card.split("```yaml\n")[1].split("```")[0]
    assert Recipe.model_validate(load_yaml(text)) == recipe
    assert "| math | math | mit | `1111111111111111…` |" in card
    assert "evomerge merge recipe.yaml OUT --model base=PLACE --model math=PLACE" in card
    assert "eprint = {2306.01708}" in card
    assert "read before sharing" not in card


def test_places_on_this_machine_stay_out_of_the_table(tmp_path: Path) -> None:
    card = card_of(recipe_in(tmp_path, {"base": "mit", "math": "mit"}), tmp_path)

    assert str(tmp_path) not in card


def test_licences_that_speak_against_it_are_said(tmp_path: Path) -> None:
    card = card_of(recipe_in(tmp_path, {"base": "apache-2.0", "math": "cc-by-nd-4.0", "ja": ""}), tmp_path)

    assert "- **ja**: no licence is stated" in card
    assert "- **math**: its licence (cc-by-nd-4.0) forbids derived works" in card
    assert "The licences differ (apache-2.0, cc-by-nd-4.0)" in card
    assert "license" not in yaml.safe_load(card.split("---")[1])  # not all state one


@pytest.mark.parametrize(
    ("provenance", "says", "row"),
    [
        ({"scores": SCORES}, "estimated during the search", "| ja_math | 0.742 | 0.041 | 40 |"),
        (
            {"run": "run_1", "candidate": 3, "scores": SCORES, "verified": {"holdout": HOLDOUT, "search": SCORES}},
            "Run `run_1`, candidate 3. Scores on holdout items",
            "| ja_math | 0.733 | 0.020 | 300 |",
        ),
    ],
)
def test_the_best_measured_scores_are_shown(tmp_path: Path, provenance: object, says: str, row: str) -> None:
    card = card_of(recipe_in(tmp_path, {"base": "mit", "math": "mit"}, provenance=provenance), tmp_path)

    assert says in card
    assert row in card


@pytest.mark.parametrize("provenance", [{}, {"scores": None}, {"scores": {"a": 3}}, {"verified": [1], "scores": "x"}])
def test_provenance_of_another_kind_gives_no_table(tmp_path: Path, provenance: object) -> None:
    card = card_of(recipe_in(tmp_path, {"base": "mit", "math": "mit"}, provenance=provenance), tmp_path)

    assert "## Evaluation" not in card


def test_a_merged_model_as_source_brings_its_sources_licences(tmp_path: Path) -> None:
    """Its own card says which they are."""
    inner = recipe_in(tmp_path, {"base": "mit", "math": "apache-2.0", "ja": "cc-by-nc-4.0"})
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "README.md").write_text(card_of(inner, tmp_path))
    outer = inner.model_copy(update={"sources": {"inner": inner.base.model_copy(update={"location": "inner"})}})

    card = card_of(outer, tmp_path)

    assert "| inner | inner | apache-2.0 and cc-by-nc-4.0 and mit |" in card
    assert "allows non-commercial use only" in card


def test_the_head_can_be_read_back(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card_of(recipe_in(tmp_path, {"base": "mit", "a": "mit"}), tmp_path))

    assert front_matter(tmp_path / "README.md")["license"] == "mit"


def test_real_models_are_pinned_first(tmp_path: Path, zoo: object) -> None:
    recipe = pin(zoo.recipe("linear", "code", "math"), Path())  # type: ignore[attr-defined]

    assert f"`{recipe.base.sha256[:16]}…`" in card_of(recipe, Path())  # type: ignore[index]


def test_a_merge_warns_of_licences(zoo: object, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    merge_to_directory(zoo.recipe("linear", "code", "math"), tmp_path / "out", root=tmp_path)  # type: ignore[attr-defined]

    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["base", "code", "math"]
    assert "no licence is stated" in caplog.text
    assert "## Licences: read before sharing" in (tmp_path / "out" / "README.md").read_text()
