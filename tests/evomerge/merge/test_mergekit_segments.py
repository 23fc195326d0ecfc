from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.archive.flat_order import Granularity, Units, chromosomes, flat_order
from evomerge.errors import InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.mergekit.read import read_mergekit
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import load_yaml

Read = Callable[[Path], dict[str, Tensor]]
LAYERS = 3


def lineage(zoo: Any, granularity: Granularity, groups: list[tuple[str, ...]], seed: int = 0) -> Recipe:
    """Two checkpoints in random segments that begin at units."""
    plain = zoo.recipe("linear", "code", "math", dtype="float32")
    base, rng = open_checkpoint(zoo.base), np.random.default_rng(seed)
    said = []
    for roles, part in zip(
        groups, chromosomes(flat_order(architecture_of_checkpoint(base), base.tensors), groups), strict=True
    ):
        units = Units(part, granularity)
        starts = sorted({0, *(units.position(int(unit)) for unit in rng.integers(0, units.number, 6))})
        weights = {name: rng.random(len(starts)).tolist() for name in plain.sources}
        said.append({"roles": roles, "starts": [part.place(at) for at in starts], "weights": weights})
    return Recipe.model_validate({**plain.model_dump(), "segments": {"chromosomes": said}})


@pytest.mark.parametrize("granularity", ["tensor", "layer"])
@pytest.mark.parametrize("groups", [[()], [("attention", "norm"), ("mlp",), ()]])
def test_what_is_exported_and_imported_again_builds_the_same_model(
    zoo: Any, tmp_path: Path, tensors: Read, granularity: Granularity, groups: list[tuple[str, ...]]
) -> None:
    recipe = lineage(zoo, granularity, groups)

    text = to_mergekit(recipe, LAYERS)
    back = read_mergekit(text, config=zoo.base / "config.json").recipe

    assert text.startswith(f"# evomerge recipe {recipe.digest}\n")
    assert load_yaml(text)["merge_method"] == "linear"
    ours = tensors(merge_to_directory(recipe, tmp_path / "ours", root=Path()))
    theirs = tensors(merge_to_directory(back, tmp_path / "theirs", root=Path()))
    assert all(torch.allclose(tensor, theirs[name], rtol=1e-6, atol=1e-7) for name, tensor in ours.items())


def test_a_split_within_a_tensor_is_refused_by_field(zoo: Any) -> None:
    recipe = lineage(zoo, "row", [("attention",), ()])
    assert recipe.segments is not None
    parts = recipe.segments.chromosomes
    inside = next((n, m) for n, part in enumerate(parts) for m, (_, entry) in enumerate(part.starts) if entry)

    with pytest.raises(InvalidInputError, match="granularity tensor or layer") as caught:
        to_mergekit(recipe, LAYERS)
    assert caught.value.field == f"segments.chromosomes[{inside[0]}].starts[{inside[1]}]"


def test_noise_is_refused_by_field(zoo: Any) -> None:
    data = lineage(zoo, "layer", [()]).model_dump()
    data["segments"]["noise"] = [{"seed": 1, "std": 0.1}]
    data["segments"]["chromosomes"][0]["noise"] = [[1.0] * len(data["segments"]["chromosomes"][0]["starts"])]

    with pytest.raises(InvalidInputError) as caught:
        to_mergekit(Recipe.model_validate(data), LAYERS)
    assert caught.value.field == "segments.noise"
