"""Recipes with segments through files and live models, beside NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from evomerge.archive.flat_order import chromosomes, flat_order
from evomerge.archive.noise import normal
from evomerge.errors import InvalidInputError
from evomerge.merge import blocks, budget
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint, open_source
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml, load_recipe

Zoo = Any
Read = Callable[[Path], dict[str, Tensor]]
GROUPS: list[tuple[str, ...]] = [("attention",), ()]


def with_segments(recipe: Recipe, seed: int = 0, terms: int = 0, number: int = 12) -> Recipe:
    """The same sources in random segments; every tensor's first and last entries among the starts of some."""
    rng = np.random.default_rng(seed)
    base = open_checkpoint(Path(recipe.base.location))
    parts = chromosomes(flat_order(architecture_of_checkpoint(base), base.tensors), GROUPS)
    said = []
    for roles, part in zip(GROUPS, parts, strict=True):
        starts = {0, 1, int(part.starts[1]), part.length - 1, *map(int, rng.integers(0, part.length, number))}
        weights = rng.normal(0.3, 0.5, (len(recipe.sources), len(starts)))
        weights[rng.random(weights.shape) < 0.2] = 0.0
        said.append(
            {
                "roles": roles,
                "starts": [part.place(position) for position in sorted(starts)],
                "weights": dict(zip(recipe.sources, weights.tolist(), strict=True)),
                "noise": rng.normal(size=(terms, len(starts))).tolist(),
            }
        )
    segments = {"chromosomes": said, "noise": [{"seed": 10 + t, "std": 0.1 * (t + 1)} for t in range(terms)]}
    return Recipe.model_validate({**recipe.model_dump(), "segments": segments})


def expected(recipe: Recipe) -> dict[str, npt.NDArray[np.float32]]:
    """The merge, entry by entry in float32: (Σ w)·θa + Σ w·(θ − θa) around the heaviest, plus noise."""
    base = open_checkpoint(Path(recipe.base.location))
    order = flat_order(architecture_of_checkpoint(base), base.tensors)
    parts = chromosomes(order, GROUPS)
    opened = {n: open_source(n, Path(r.location), base) for n, r in recipe.sources.items()}
    assert recipe.segments is not None
    found = {}
    for said, part in zip(recipe.segments.chromosomes, parts, strict=True):
        positions = [part.position(*start) for start in said.starts]
        for number, tensor in enumerate(part.tensors):
            models = {n: s.weights(tensor.name).float().numpy().reshape(-1) for n, s in opened.items()}
            out = np.empty(tensor.size, np.float32)
            segment = np.searchsorted(positions, np.arange(tensor.size) + part.starts[number], side="right") - 1
            for index in np.unique(segment).tolist():
                here = segment == index
                weights = {n: w[index] for n, w in said.weights.items()}
                anchor = max(weights, key=lambda n: abs(weights[n]))
                total = models[anchor][here] * np.float32(sum(weights.values()))
                for name, weight in weights.items():
                    if name != anchor and weight:
                        total += (models[name][here] - models[anchor][here]) * np.float32(weight)
                noise = np.zeros(int(here.sum()))
                for term, row in zip(recipe.segments.noise, said.noise, strict=True):
                    noise += row[index] * term.std * normal(term.seed, tensor.name, 0, tensor.size)[here]
                out[here] = total + noise.astype(np.float32)
            found[tensor.name] = out
    return found


def same(built: dict[str, Tensor], wanted: dict[str, npt.NDArray[np.float32]], dtype: torch.dtype) -> None:
    for name, entries in wanted.items():
        assert torch.equal(built[name].reshape(-1), torch.from_numpy(entries).to(dtype)), name


@pytest.mark.parametrize("terms", [0, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_merge_of_segments_is_what_numpy_makes_of_them(
    zoo: Zoo, tmp_path: Path, tensors: Read, dtype: str, terms: int
) -> None:
    recipe = with_segments(zoo.recipe("linear", dtype=dtype), terms=terms)

    built = tensors(merge_to_directory(recipe, tmp_path / "out", root=Path(), threads=2))

    same(built, expected(recipe), getattr(torch, dtype))


def test_the_bytes_depend_neither_on_threads_nor_on_blocks(
    zoo: Zoo, tmp_path: Path, tensors: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_segments(zoo.recipe("linear", "code", "math", "es"), seed=2, terms=1)
    whole = tensors(merge_to_directory(recipe, tmp_path / "one", root=Path(), threads=1))

    monkeypatch.setattr(blocks, "BLOCK", 1000)
    monkeypatch.setattr(budget, "SPAN", 3000)
    again = tensors(merge_to_directory(recipe, tmp_path / "three", root=Path(), threads=3))

    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_live_model_gets_the_bytes_of_the_directory(zoo: Zoo, tmp_path: Path, tensors: Read) -> None:
    plain = zoo.recipe("linear")
    resident = Resident(plain, cache=tmp_path / "cache")
    for seed in (3, 4):
        recipe = with_segments(plain, seed=seed, terms=seed - 3)
        resident.materialize(recipe)
        built = tensors(merge_to_directory(recipe, tmp_path / f"out{seed}", root=Path()))

        live = dict(resident.model.named_parameters())
        assert all(torch.equal(live[name], tensor) for name, tensor in built.items() if name in live)
        assert len(live) == len(built)
    resident.materialize(plain)  # nothing of the segments is left
    built = tensors(merge_to_directory(plain, tmp_path / "plain", root=Path()))
    assert all(torch.equal(resident.model.get_parameter(name), tensor) for name, tensor in built.items())


def test_a_source_alone_is_that_source(zoo: Zoo, tmp_path: Path, tensors: Read) -> None:
    plain = zoo.recipe("linear", "code", "math")
    first = [{"starts": [["model.embed_tokens.weight", 0]], "weights": {"code": [0.0], "math": [1.0]}}]
    recipe = Recipe.model_validate({**plain.model_dump(), "segments": {"chromosomes": first}})

    built = tensors(merge_to_directory(recipe, tmp_path / "out", root=Path()))

    math = tensors(zoo.sources["math"])
    assert all(torch.equal(built[name], math[name]) for name in built)


def test_a_recipe_file_with_segments_builds_the_same_and_the_card_says_what_it_is(
    zoo: Zoo, tmp_path: Path, tensors: Read
) -> None:
    recipe = with_segments(zoo.recipe("linear", "code", "math"))
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe))

    out = merge_to_directory(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", root=tmp_path)

    same(tensors(out), expected(recipe), torch.bfloat16)
    again = merge_to_directory(load_recipe(out / "recipe.yaml"), tmp_path / "again", root=out)
    assert all(torch.equal(tensors(again)[name], tensor) for name, tensor in tensors(out).items())
    assert "M2N2" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"roles": ["attentoin"]}, "segments.chromosomes[0].roles"),
        ({"roles": ["attention"]}, "segments.chromosomes"),
        ({"starts": [["model.embed_tokens.weight", 5]]}, "segments.chromosomes[0].starts[0]"),
    ],
)
def test_segments_that_do_not_fit_the_model_are_refused_by_field(
    zoo: Zoo, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    plain = zoo.recipe("linear", "code")
    first = {"starts": [["model.embed_tokens.weight", 0]], "weights": {"code": [1.0]}, **change}
    recipe = Recipe.model_validate({**plain.model_dump(), "segments": {"chromosomes": [first]}})

    with pytest.raises(InvalidInputError) as caught:
        merge_to_directory(recipe, tmp_path / "out", root=Path())
    assert caught.value.field == field
    assert not (tmp_path / "out").exists()
