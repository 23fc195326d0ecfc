"""Gram matrices of sources beside those that NumPy computes of whole vectors."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from evomerge.archive.flat_order import Chromosome, FlatTensor, chromosomes, flat_order
from evomerge.archive.lineage import Noise, cross, founder
from evomerge.archive.noise import normal
from evomerge.archive.segments import segments_of
from evomerge.errors import InvalidInputError, NonFiniteError
from evomerge.merge import vectors
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.vectors import BlockedVectors, open_vectors
from evomerge.models.architecture import Part
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint, open_source
from evomerge.models.weights import open_weights
from evomerge.recipe.schema import ModelRef, Recipe

Zoo = Any
Array = npt.NDArray[np.float64]
GROUPS: list[tuple[str, ...]] = [("attention",), ()]


def parts_of(recipe: Recipe) -> tuple[Chromosome, ...]:
    base = open_checkpoint(Path(recipe.base.location))
    return chromosomes(flat_order(architecture_of_checkpoint(base), base.tensors), GROUPS)


def explicit(recipe: Recipe, part: Chromosome) -> Array:
    """[sources, entries] in float64."""
    base = open_checkpoint(Path(recipe.base.location))
    opened = [open_source(name, Path(ref.location), base) for name, ref in sorted(recipe.sources.items())]
    rows = [np.concatenate([s.weights(t.name).double().numpy().reshape(-1) for t in part.tensors]) for s in opened]
    return np.stack(rows)


@pytest.fixture(params=[1 << 16, 1000, 64])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(vectors, "BLOCK", request.param)
    return int(request.param)


def test_gram_matrices_between_any_edges_are_those_of_the_vectors(zoo: Zoo, tmp_path: Path, block: int) -> None:
    recipe = zoo.recipe("linear")
    parts = parts_of(recipe)
    opened, rng = open_vectors(recipe, parts, tmp_path), np.random.default_rng(block)

    for number, part in enumerate(parts):
        whole = explicit(recipe, part)
        for cuts in (0, 1, 3, 40):
            edges = np.unique([0, part.length, *part.starts[:2], *rng.integers(0, part.length, cuts)])
            found = opened.grams(number, edges)

            wanted = np.stack([whole[:, b:e] @ whole[:, b:e].T for b, e in pairwise(edges)])
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * float(wanted.max()))


def test_the_table_is_made_once_and_is_the_same_however_it_is_made(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = zoo.recipe("linear", "code", "ja")
    parts = parts_of(recipe)
    edges = np.array([0, 1234, parts[1].length])
    first = open_vectors(recipe, parts, tmp_path / "one").grams(1, edges)

    monkeypatch.setattr(vectors, "usable_cores", lambda: 3)
    threaded = open_vectors(recipe, parts, tmp_path / "two").grams(1, edges)
    (kept,) = (tmp_path / "one").glob("gram-*.npy")
    made = kept.stat().st_mtime_ns
    again = open_vectors(recipe, parts, tmp_path / "one").grams(1, edges)

    assert np.array_equal(first, threaded)
    assert np.array_equal(first, again)
    assert kept.stat().st_mtime_ns == made
    assert kept.read_bytes() == next((tmp_path / "two").glob("gram-*.npy")).read_bytes()


def test_other_sources_have_a_table_of_their_own(zoo: Zoo, tmp_path: Path) -> None:
    for names in (("code", "math"), ("code", "ja")):
        recipe = zoo.recipe("linear", *names)
        open_vectors(recipe, parts_of(recipe), tmp_path)

    assert len(list(tmp_path.glob("gram-*.npy"))) == 2


def test_entries_come_with_noise_behind_the_sources(zoo: Zoo, tmp_path: Path) -> None:
    recipe = zoo.recipe("linear", "code", "ja")
    parts = parts_of(recipe)
    opened = open_vectors(recipe, parts, tmp_path)
    begin, end = int(parts[1].starts[1]) - 5, int(parts[1].starts[3]) + 7

    found = np.hstack(list(opened.blocks(1, begin, end, [Noise(4, 0.5)])))

    np.testing.assert_array_equal(found[:2], explicit(recipe, parts[1])[:, begin:end])
    name, first = parts[1].place(end - 7)
    np.testing.assert_array_equal(found[2, -7:], 0.5 * normal(4, name, first, 7))


@pytest.mark.parametrize("angle", ["global", "side", "tensor"])
def test_a_lineage_of_real_models_is_what_crossing_their_weights_gives(zoo: Zoo, tmp_path: Path, angle: Any) -> None:
    """Coefficients → recipe → merge, beside ten crossings of float64 vectors."""
    from tests.evomerge.archive.explicit import Explicit

    recipe = zoo.recipe("linear", dtype="float32")
    parts, names = parts_of(recipe), sorted(recipe.sources)
    opened, rng = open_vectors(recipe, parts, tmp_path / "cache"), np.random.default_rng(0)
    models = Explicit([explicit(recipe, part) for part in parts], [[t.size for t in part.tensors] for part in parts])
    family = [(one, models.vectors(one)) for one in (founder(k, len(names), len(parts)) for k in range(len(names)))]
    for _ in range(10):
        (a, x), (b, y) = (family[i] for i in rng.integers(0, len(family), 2))
        splits, mix = [int(rng.integers(0, part.length)) for part in parts], float(rng.random())
        child = cross(a, b, splits, mix, angle, opened)
        family.append((child, models.cross(x, y, splits, mix, angle)))

    child, wanted = family[-1]
    said = segments_of(child, parts, GROUPS, names, angle)
    built = merge_to_directory(
        Recipe.model_validate({**recipe.model_dump(), "segments": said.model_dump()}), tmp_path / "out", root=Path()
    )

    assert len(said.chromosomes[0].starts) > 2
    weights = open_weights(built, "model")
    for part, vector in zip(parts, wanted, strict=True):
        for number, tensor in enumerate(part.tensors):
            expected = vector[part.starts[number] : part.starts[number + 1]]
            np.testing.assert_allclose(weights.read(tensor.name).numpy().reshape(-1), expected, rtol=1e-5, atol=1e-6)


class Counted:
    """Entries that say how many were read."""

    def __init__(self, whole: dict[str, Array]) -> None:
        self.whole, self.number = whole, 0

    def gram(self, tensor: str, begin: int, end: int) -> Array:
        self.number += end - begin
        part = self.whole[tensor][:, begin:end]
        return part @ part.T

    def read(self, tensor: str, begin: int, end: int) -> Array:
        return self.whole[tensor][:, begin:end]


def test_a_new_split_costs_a_block_at_most_and_an_old_one_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BLOCK", 100)
    rng = np.random.default_rng(0)
    sizes = {"a": 250, "b": 5, "c": 1000, "d": 100, "e": 199}
    whole = {name: rng.normal(size=(3, size)) for name, size in sizes.items()}
    part = Chromosome([FlatTensor(name, Part("mlp.up", 0), (size,)) for name, size in sizes.items()])
    table = {n: np.stack([x[:, at : at + 100] @ x[:, at : at + 100].T for at in range(0, sizes[n], 100)])
             for n, x in whole.items()}  # fmt: skip
    counted = Counted(whole)
    opened, joined = BlockedVectors([part], table, counted), np.hstack(list(whole.values()))

    edges = np.array([0, part.length])
    for position in [1, 249, 250, 255, 256, 300, 355, 356, 1000, 1254, 1255, 1553, *rng.integers(1, 1554, 40)]:
        before, edges = counted.number, np.unique(np.append(edges, position))
        found = opened.grams(0, edges)

        assert counted.number - before <= 100
        np.testing.assert_allclose(found, [joined[:, b:e] @ joined[:, b:e].T for b, e in pairwise(edges)], atol=1e-10)
    before = counted.number
    opened.grams(0, edges)
    assert counted.number == before


def test_a_source_that_is_a_recipe_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    recipe = zoo.recipe("linear", "code", "math")
    (tmp_path / "inner.yaml").write_text("base: {location: x}")
    inner = ModelRef(location=str(tmp_path / "inner.yaml"), sha256="0" * 64)
    refs = {n: r.model_copy(update={"sha256": "1" * 64}) for n, r in recipe.sources.items()}
    broken = recipe.model_copy(
        update={"base": recipe.base.model_copy(update={"sha256": "2" * 64}), "sources": {**refs, "zz": inner}}
    )

    with pytest.raises(InvalidInputError, match="merge the recipe first"):
        open_vectors(broken, parts_of(recipe), tmp_path)


def test_a_source_with_nan_is_named(zoo: Zoo, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(zoo.sources["code"], tmp_path / "nan")
    stored = load_file(tmp_path / "nan" / "model.safetensors")
    stored["model.norm.weight"][3] = torch.nan
    save_file(stored, tmp_path / "nan" / "model.safetensors", metadata={"format": "pt"})
    recipe = zoo.recipe("linear", "math")
    recipe = recipe.model_copy(update={"sources": {**recipe.sources, "nan": ModelRef(location=str(tmp_path / "nan"))}})

    with pytest.raises(NonFiniteError, match=r"model\.norm\.weight"):
        open_vectors(recipe, parts_of(recipe), tmp_path / "cache")


def test_the_vectors_know_where_tensors_start(zoo: Zoo, tmp_path: Path) -> None:
    recipe = zoo.recipe("linear", "code", "math")
    parts = parts_of(recipe)
    opened: BlockedVectors = open_vectors(recipe, parts, tmp_path)

    assert [starts.tolist() for starts in opened.starts] == [part.starts.tolist() for part in parts]
