"""A search over a method that reads statistics of the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from tests.workers.tiny_run import make_registry, run_spec, whole_run
from workers.setup import prepare

SPACE = {"kind": "parameter", "method": "regmean", "search": {"off_diagonal": [0.1, 0.9]}, "fixed": {"weight": 1.0}}
CALIBRATION = {"items": {"location": "sums"}, "number": 3, "max_tokens": 16}


def test_a_search_over_regmean_ends_with_a_recipe_that_says_from_what(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    spec = run_spec(space=SPACE, calibration=CALIBRATION, budget={"candidates": 4})
    store, run = whole_run(tmp_path, registry, spec)

    row = store.run(run)
    assert row is not None
    assert row.state == "succeeded", row
    kept = [p.name for p in (tmp_path / "cache" / "calibration").glob("gram-*")]
    assert len(kept) == 2  # a source each, however many candidates
    space = prepare(RunSpec.model_validate(spec), registry, tmp_path / "cache").space
    recipe = space.recipe(space.domain.start)
    assert recipe.calibration is not None
    assert recipe.calibration.items is not None
    assert recipe.calibration.items.location == str(tmp_path / "sums.jsonl")
    assert recipe.calibration.items.sha256 is not None
    assert space.encode(recipe) == pytest.approx(space.domain.start)


def test_what_is_missing_is_an_error_before_the_first_candidate(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)

    def asked(**changes: object) -> None:
        prepare(RunSpec.model_validate(run_spec(space=SPACE, **changes)), registry, tmp_path / "cache")

    with pytest.raises(InvalidInputError, match=r"space\.method: .*beside the space calibration: a section with"):
        asked()
    with pytest.raises(InvalidInputError, match="nowhere"):
        asked(calibration={"items": {"location": "nowhere"}})
    with pytest.raises(InvalidInputError, match=r"calibration\.sources\.x"):
        asked(calibration={**CALIBRATION, "sources": {"x": {"location": "sums"}}})
    with pytest.raises(InvalidInputError, match=r"calibration\.moments"):
        asked(calibration={**CALIBRATION, "moments": {"ja": {"location": "sums"}}})
