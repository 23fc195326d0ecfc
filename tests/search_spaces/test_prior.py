"""First steps from the norms of task vectors, measured on checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merge.norms import task_vector_norms
from evomerge.models.architecture import architecture_of
from evomerge.models.checkpoint import open_checkpoint
from evomerge.optimizers import make as make_optimizer
from evomerge.optimizers.domain import Problem
from evomerge.recipe.schema import ModelRef
from search_spaces import SearchSpace, make_space
from tests.workers.tiny import make_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models: `far` differs from the base four times as much as `near`, `equal` not at all."""
    path = tmp_path_factory.mktemp("models")
    make_spec(path)
    base, near = (load_file(path / name / "model.safetensors") for name in ("base", "math"))
    for name, factor in (("near", 1.0), ("far", 4.0), ("equal", 0.0)):
        (path / name).mkdir()
        for file in (path / "base").glob("*.json"):
            (path / name / file.name).write_bytes(file.read_bytes())
        moved = {key: base[key] + factor * (near[key] - base[key]) for key in base}
        save_file(moved, path / name / "model.safetensors", metadata={"format": "pt"})
    return path


def space_of(folder: Path, spec: dict[str, Any], names: tuple[str, ...], cache: Path | None = None) -> SearchSpace:
    base = open_checkpoint(folder / "base")
    return make_space(
        {"prior": "delta_norm", **spec},
        base=ModelRef(location=str(folder / "base")),
        sources={name: ModelRef(location=str(folder / name)) for name in names},
        architecture=architecture_of(base.config, base.tensors),
        tensors=base.tensors,
        cache=cache,
    )


def steps(space: SearchSpace) -> list[float]:
    return [kind.step for kind in space.domain.kinds]


def test_norms_are_those_of_the_tensors(folder: Path) -> None:
    sources = {name: ModelRef(location=str(folder / name)) for name in ("far", "near", "equal")}
    norms = task_vector_norms(ModelRef(location=str(folder / "base")), sources)
    base, near = (load_file(folder / name / "model.safetensors") for name in ("base", "near"))

    assert norms
    for name, (own, deltas) in norms.items():
        delta = (near[name].float() - base[name].float()).double()
        assert own == pytest.approx(float(base[name].double().square().sum()), rel=1e-6)
        assert deltas["near"] == pytest.approx(float(delta.square().sum()), rel=1e-6, abs=1e-12)
        assert deltas["equal"] == 0.0
        assert deltas["far"] == pytest.approx(16 * deltas["near"], rel=1e-3, abs=1e-9)


def test_the_norms_are_kept_under_the_models_hashes(folder: Path, tmp_path: Path) -> None:
    first = space_of(folder, {}, ("far", "near"), tmp_path)
    (kept,) = tmp_path.glob("norms-*.json")
    kept.write_text(json.dumps({name: [1.0, {"far": 4.0, "near": 1.0}] for name in json.loads(kept.read_text())}))

    assert steps(first) == pytest.approx([2**-0.5, 2**0.5], rel=1e-3)
    assert steps(first) == steps(space_of(folder, {}, ("far", "near")))
    assert steps(space_of(folder, {}, ("far", "near"), tmp_path)) == pytest.approx([2**-0.25, 2**0.25], rel=1e-3)


def test_steps_are_half_way_between_equal_steps_and_equal_moves(folder: Path) -> None:
    near, far = "near", "far"

    assert steps(space_of(folder, {}, (far, near))) == pytest.approx([2**-0.5, 2**0.5], rel=1e-3)
    assert steps(space_of(folder, {}, (near, "equal"))) == [4.0, 1.0]
    assert steps(space_of(folder, {"tie": "sources"}, (far, near))) == [1.0]
    mixed = space_of(folder, {"methods": ["ties", "linear"], "density": [0.1, 1]}, (far, near))
    by_name = dict(zip(mixed.names, steps(mixed), strict=True))
    assert by_name["weight/far"] < 1 < by_name["weight/near"]
    assert by_name["method"] == by_name["density/far"] == 1.0


def test_groups_and_knots_have_steps_of_their_own(folder: Path) -> None:
    for spec in ({"layers": 2}, {"knots": 2}, {"roles": [["attention"], ["*"]]}):
        found = steps(space_of(folder, spec, ("far", "near")))

        assert len(set(found)) == len(found) == 4
        assert math.prod(found) == pytest.approx(1.0, rel=1e-2)
        assert all(0.25 <= step <= 4 for step in found)


def test_a_search_begins_with_these_steps(folder: Path) -> None:
    space = space_of(folder, {}, ("far", "near"))
    proposals = make_optimizer("cma_es", Problem(space.domain), seed=0, population=100).ask(101)[1:]
    spread = torch.tensor([p.genome for p in proposals]).std(0)

    assert float(spread[1] / spread[0]) == pytest.approx(2.0, rel=0.3)
