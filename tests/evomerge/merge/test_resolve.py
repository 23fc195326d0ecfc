from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.errors import CheckpointError, HashMismatchError, InvalidInputError
from evomerge.merge.resolve import pin
from evomerge.models import content
from evomerge.models.content import content_hash
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.text import dump_json, dump_yaml
from evomerge.testing.directories import save_tensors

LINEAR = Merge(method="linear")


def write(at: Path, value: float) -> Path:
    """A checkpoint of one tensor: enough to be hashed."""
    return save_tensors(at, {"x.weight": torch.full((4,), value)}, files={"config.json": "{}"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(("base", "math", "ja")):
        write(tmp_path / name, float(number))
    return tmp_path


def recipe(**sources: str) -> Recipe:
    refs = {name: ModelRef(location=place) for name, place in sources.items()}
    return Recipe(base=ModelRef(location="base"), sources=refs, merge=LINEAR)


def test_places_become_absolute_and_hashes_appear(root: Path) -> None:
    pinned = pin(recipe(math="math", ja="../" + root.name + "/ja"), root)

    assert pinned.sources["ja"] == ModelRef(location=str(root / "ja"), sha256=content_hash(root / "ja"))
    assert (pinned.base.location, pinned.base.sha256) == (str(root / "base"), content_hash(root / "base"))
    assert pin(pinned, Path("/elsewhere")) == pinned


def test_a_pinned_recipe_is_the_same_wherever_it_lies(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "base", 0.0)
    write(elsewhere / "m", 1.0)

    assert pin(recipe(math="m"), elsewhere).digest == pin(recipe(math="math"), root).digest


def test_a_missing_model_is_named_by_field_and_path(root: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^sources\.math: {root / 'gone'}: no such"):
        pin(recipe(math="gone"), root)


def test_other_weights_than_the_recipe_names_are_refused(root: Path) -> None:
    wrong = recipe(math="math").model_copy(update={"base": ModelRef(location="base", sha256="0" * 64)})

    with pytest.raises(HashMismatchError) as caught:
        pin(wrong, root)

    for part in ("base: ", str(root / "base"), "0" * 64, content_hash(root / "base")):
        assert part in str(caught.value)


def test_a_recipe_as_a_source_is_pinned_by_its_digest(root: Path) -> None:
    (root / "deep").mkdir()
    inner = Recipe(
        base=ModelRef(location="../base"), sources={"math": ModelRef(location="../math")}, merge=LINEAR, seed=3
    )
    (root / "deep" / "inner.yaml").write_text(dump_yaml(inner))

    pinned = pin(recipe(inner="deep/inner.yaml", ja="ja"), root)

    assert pinned.sources["inner"].location == str(root / "deep" / "inner.yaml")
    assert pinned.sources["inner"].sha256 == pin(inner, root / "deep").digest


def test_a_change_in_a_nested_recipe_is_noticed(root: Path) -> None:
    (root / "inner.json").write_text(dump_json(recipe(math="math")))
    pinned = pin(recipe(inner="inner.json"), root)
    (root / "inner.json").write_text(dump_json(recipe(math="ja")))

    with pytest.raises(HashMismatchError, match=r"sources\.inner: .*inner\.json"):
        pin(pinned, root)


def test_an_error_in_a_nested_recipe_names_the_way_to_it(root: Path) -> None:
    (root / "inner.yaml").write_text(dump_yaml(recipe(math="gone")))

    with pytest.raises(CheckpointError, match=r"^sources\.inner: inner\.yaml: sources\.math: .*gone"):
        pin(recipe(inner="inner.yaml"), root)


def test_recipes_in_a_circle_are_refused(root: Path) -> None:
    (root / "a.yaml").write_text(dump_yaml(recipe(b="b.yaml")))
    (root / "b.yaml").write_text(dump_yaml(recipe(a="a.yaml")))

    with pytest.raises(InvalidInputError, match=r"a\.yaml → b\.yaml → a\.yaml"):
        pin(recipe(a="a.yaml"), root)


def test_a_recipe_that_many_share_is_read_once(root: Path) -> None:
    """Each level names the one below twice: without memory this would be 2^40 readings."""
    (root / "r0.yaml").write_text(dump_yaml(recipe(x="math", y="ja")))
    for level in range(1, 41):
        below = f"r{level - 1}.yaml"
        (root / f"r{level}.yaml").write_text(dump_yaml(recipe(x=below, y=below)))

    pinned = pin(recipe(x="r40.yaml", y="r40.yaml"), root)

    assert pinned.sources["x"] == pinned.sources["y"]


def test_a_file_that_is_no_recipe_is_refused(root: Path) -> None:
    (root / "model.bin").write_bytes(b"x")

    with pytest.raises(InvalidInputError) as caught:
        pin(recipe(math="model.bin"), root)
    assert caught.value.field == "sources.math.location"


def test_hashes_are_remembered_in_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "SETTLED_NS", -(10**12))  # the files have just been written
    pinned = pin(recipe(math="math"), root, root / "cache")

    assert len(list((root / "cache").iterdir())) == 2
    assert pin(recipe(math="math"), root, root / "cache") == pinned
