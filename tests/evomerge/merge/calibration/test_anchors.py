"""Functional dual anchors against the public code (tests/golden/README.md), and from recipe to weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from api.routes import catalog
from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.calibration.kinds import ANCHORED, of_items
from evomerge.merge.calibration.learn import anchored
from evomerge.merge.calibration.learn.anchors import (
    Adaptation,
    Search,
    anchors_of,
    initial,
    misalignment,
    mismatch,
    scales_of,
)
from evomerge.merge.calibration.learn.mlp import Mlp, mlps_of
from evomerge.merge.engine import one_thread_a_kernel
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.method import Method
from evomerge.merge.methods import METHODS, method_of
from evomerge.merge.resident import Resident
from evomerge.merge.stages import STAGES
from evomerge.models.architecture import Architecture, Part, architecture_of
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.family import families
from evomerge.recipe.schema import Merge, Recipe, Rule
from evomerge.testing.merging import MethodContract, Tensors, merge_tensors

GOLDEN = Path(__file__).parents[3] / "golden" / "anchors" / "numbers.safetensors"
CONFIG = LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=2)
NAMES = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
MLP = Mlp(0, {name: name for name in NAMES}, 8, False, LlamaMLP(CONFIG))
FEW = {"anchors": 24.0, "steps": 8.0, "epochs": 5.0, "batch": 16.0}
LAYERS = [f"model.layers.{layer}.mlp.{name}" for layer in range(2) for name in NAMES]


def nothing() -> None:
    """Told of progress."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small take longer with several."""
    with one_thread_a_kernel():
        yield


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def of(golden: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    return {name: golden[f"{model}/{name}"] for name in NAMES}


@pytest.mark.proves("fda", by="golden")
@pytest.mark.parametrize("source", ["a", "b"])
def test_anchors_are_the_public_codes(golden: dict[str, Tensor], source: str) -> None:
    how = Search(10, "weights", 0.01, 15, 1e-2, 0)

    found = anchors_of(MLP, of(golden, "base"), of(golden, source), golden[f"start/{source}"], how, nothing)
    torch.testing.assert_close(found, golden[f"anchors/{source}"], rtol=1e-4, atol=1e-5)
    assert float((found - golden[f"start/{source}"]).abs().min()) > 1e-3


@pytest.mark.proves("fda", by="golden")
@pytest.mark.parametrize(("match", "theirs"), [("cosine", "cos"), ("squares", "mse"), ("absolute", "l1")])
def test_the_adapted_mlp_is_the_public_codes(golden: dict[str, Tensor], match: str, theirs: str) -> None:
    base, merged = of(golden, "base"), of(golden, "merged")
    targets = [(golden[f"anchors/{s}"], MLP(of(golden, s), golden[f"anchors/{s}"]).detach()) for s in "ab"]

    found = scales_of(MLP, base, merged, targets, Adaptation(match, 6, 20, 1e-2, 0), nothing)
    for name in NAMES:
        adapted = base[name] + found[name] * (merged[name] - base[name])
        torch.testing.assert_close(adapted, golden[f"adapted/{theirs}/{name}"], rtol=1e-4, atol=1e-5)
        assert float((found[name] - 1).abs().median()) > 0.01


def parts(herd: Any, name: str) -> tuple[list[Mlp], Architecture, dict[str, Tensor]]:
    opened = open_checkpoint(herd.root / name)
    architecture = architecture_of(opened.config, opened.tensors)
    return mlps_of(opened.path, architecture), architecture, weights(herd, name)


def weights(herd: Any, name: str) -> dict[str, Tensor]:
    return load_file(herd.root / name / "model.safetensors")


@pytest.mark.proves("fda", by="property")
@pytest.mark.parametrize("start", ["weights", "gaussian"])
def test_gradients_over_anchors_point_along_the_task_vector(herd: Any, start: str) -> None:
    """The cosine is of gradients that this test takes itself, of the representations' mean similarity."""
    mlps, _, base = parts(herd, "base")
    own, how = weights(herd, "a"), Search(192, start, 0.01, 200, 1e-2, 0)
    for mlp in mlps:
        tensors = [{name: model[name] for name in mlp.names} for model in (base, own)]
        first = initial(mlp, tensors[1], how)
        found = anchors_of(mlp, *tensors, first, how, nothing)

        assert aligned(mlp, *tensors, first) < 0.75
        assert aligned(mlp, *tensors, found) > 0.9


def aligned(mlp: Mlp, base: Mapping[str, Tensor], own: Mapping[str, Tensor], anchors: Tensor) -> float:
    gate, up, down = (base[name].clone().requires_grad_() for name in mlp.names)
    target = mlp(own, anchors).detach()
    outputs = (torch.nn.functional.silu(anchors @ gate.t()) * (anchors @ up.t())) @ down.t()
    (outputs * target).sum(1).div(outputs.norm(dim=1) * target.norm(dim=1)).mean().backward()
    found = [
        cosine_similarity(tensor.grad.reshape(-1), (own[name] - base[name]).reshape(-1), dim=0)
        for tensor, name in zip((gate, up, down), mlp.names, strict=True)
        if tensor.grad is not None
    ]
    assert len(found) == 3
    assert float(misalignment(mlp, base, own, anchors).detach()) == pytest.approx(3 - float(sum(found)), abs=1e-4)
    return float(sum(found)) / 3


def asked(herd: Any, *names: str, base: str = "base", seed: int = 0, **parameters: Any) -> Recipe:
    """Without a calibration section."""
    recipe: Recipe = herd.recipe("fda", *(names or ("a", "b", "c")), base=base, parameters={**FEW, **parameters})
    return recipe.model_copy(update={"calibration": None, "seed": seed})


def merged(recipe: Recipe, out: Path, cache: Path | None = None) -> dict[str, Tensor]:
    merge_to_directory(recipe, out, root=Path(), cache=cache)
    return load_file(out / "model.safetensors")


def plain(herd: Any, out: Path, *names: str, base: str = "base", by: float = 0.5) -> dict[str, Tensor]:
    recipe = herd.recipe("task_arithmetic", *(names or ("a", "b", "c")), base=base, parameters={"lambda": by})
    return merged(recipe, out)


@pytest.mark.proves("fda", by="property")
def test_no_epochs_are_the_initial_merge_and_only_mlps_leave_it(herd: Any, tmp_path: Path) -> None:
    expected = plain(herd, tmp_path / "plain")
    still = merged(asked(herd, epochs=0.0), tmp_path / "still", tmp_path / "cache")
    moved = merged(asked(herd), tmp_path / "moved", tmp_path / "cache")

    for name, tensor in expected.items():
        torch.testing.assert_close(still[name], tensor, rtol=0, atol=1e-6)
        assert torch.equal(moved[name], still[name]) == (name not in LAYERS)


@pytest.mark.proves("fda", by="property")
@pytest.mark.parametrize("match", ["cosine", "squares", "absolute"])
def test_adapted_layers_answer_anchors_more_as_the_sources_do(herd: Any, tmp_path: Path, match: str) -> None:
    start = plain(herd, tmp_path / "plain", "a", "b")
    found = merged(asked(herd, "a", "b", match=match, epochs=20.0), tmp_path / "out", tmp_path / "cache")
    mlps, _, base = parts(herd, "base")
    how = Search(24, "weights", 0.01, 8, 1e-2, 0)

    def far(model: Mapping[str, Tensor], mlp: Mlp) -> float:
        total = 0.0
        for source in "ab":
            first, own, merge = ({n: m[n] for n in mlp.names} for m in (base, weights(herd, source), model))
            x = anchors_of(mlp, first, own, initial(mlp, own, how), how, nothing)
            total += float(mismatch(match, mlp(merge, x), mlp(own, x)))
        return total

    for mlp in mlps:
        assert far(found, mlp) < far(start, mlp) - 0.01


def test_files_and_the_live_model_get_the_same_bytes(herd: Any, tmp_path: Path) -> None:
    """Each with a cache of its own, and with another number of threads: the learning itself comes to the same."""
    recipe = asked(herd)
    files = merged(recipe, tmp_path / "out", tmp_path / "one")
    torch.set_num_threads(2)
    again = merged(recipe, tmp_path / "again", tmp_path / "two")
    torch.set_num_threads(1)
    resident = Resident(recipe, cache=tmp_path / "three")
    resident.materialize(recipe)

    live = dict(resident.model.named_parameters())
    assert all(torch.equal(tensor, again[name]) for name, tensor in files.items())
    assert all(torch.equal(tensor, live[name].data) for name, tensor in files.items())
    other = merged(asked(herd, seed=1), tmp_path / "other", tmp_path / "one")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in files.items())


def test_what_is_kept_is_not_learned_again(herd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = merged(asked(herd), tmp_path / "first", tmp_path / "cache")
    monkeypatch.setattr(anchored, "anchors_of", None)  # another search would fail now
    other = merged(asked(herd, **{"lambda": 0.7}), tmp_path / "other", tmp_path / "cache")
    monkeypatch.setattr(anchored, "scales_of", None)  # and another adaptation, too
    again = merged(asked(herd), tmp_path / "again", tmp_path / "cache")

    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
    with pytest.raises(TypeError):
        merged(asked(herd, match="squares"), tmp_path / "new", tmp_path / "cache")


def test_matrices_that_are_stored_transposed_are_scaled_too(herd: Any, tmp_path: Path) -> None:
    """Whether the chain sees a tensor as it is stored or turned."""
    start = plain(herd, tmp_path / "plain", "gpt2-a", base="gpt2", by=1.0)
    found = []
    for grain, pipeline in {"entry": ("sum", "anchor"), "tensor": ("magprune", "sum", "anchor")}.items():
        kept = {"density": 1.0, "epsilon": 0.0} if grain == "tensor" else {}
        merge = Merge(method="pipeline", pipeline=pipeline, parameters={**FEW, **kept})
        recipe = asked(herd, "gpt2-a", base="gpt2").model_copy(update={"merge": merge})
        found.append(merged(recipe, tmp_path / grain, tmp_path / "cache"))

    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5)
    moved = {name for name, tensor in found[0].items() if not torch.allclose(tensor, start[name], atol=1e-5)}
    assert moved == {f"transformer.h.0.mlp.{name}.weight" for name in ("c_fc", "c_proj")}


def test_a_source_that_is_the_base_has_no_anchors(herd: Any, tmp_path: Path) -> None:
    recipe = asked(herd, "a")
    base = recipe.model_copy(update={"sources": {"same": recipe.base}, "merge": Merge(method="fda", parameters=FEW)})
    found = merged(base, tmp_path / "out", tmp_path / "cache")

    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(herd, "base").items())


def test_anchors_begin_from_rows_and_from_means_of_pairs_of_them() -> None:
    torch.manual_seed(0)
    own = {name: torch.randn(p.shape) for name, p in LlamaMLP(CONFIG).named_parameters()}
    rows = torch.cat([own[name] for name in NAMES[:2]])

    few, many = (initial(MLP, own, Search(n, "weights", 0.01, 1, 1e-2, 3)) for n in (9, 40))
    assert len({int(torch.nonzero((rows == row).all(1))) for row in few}) == 9
    assert torch.equal(many[:24], rows)
    means = ((rows[:, None] + rows[None]) / 2).reshape(-1, 8)
    assert all(bool(torch.isclose(means, row).all(1).any()) for row in many[24:])
    small = initial(MLP, own, Search(4000, "gaussian", 0.01, 1, 1e-2, 3))
    assert float(small.std()) == pytest.approx(0.01, rel=0.02)
    other = initial(MLP, own, Search(9, "weights", 0.01, 1, 1e-2, 4))
    assert not torch.equal(few, other)


def test_it_asks_for_no_items_and_stands_beside_no_other_statistics(herd: Any, tmp_path: Path) -> None:
    recipe = asked(herd, "a", "b")
    reading = [name for name, stage in STAGES.items() if stage.requires and stage.kind not in ("aggregate", "post")]
    both = Merge(method="pipeline", pipeline=(reading[0], "sum", "anchor"))
    layer = Merge(method="fda", parameters=FEW, rules=(Rule(layers=(0, 0), parameters={"epochs": 3.0}),))

    assert of_items(METHODS["fda"].requires) == frozenset()
    assert of_items(frozenset({"gram", ANCHORED})) == {"gram"}
    with pytest.raises(InvalidInputError, match=r"merge\.pipeline: .*no other stage that reads statistics"):
        merged(recipe.model_copy(update={"merge": both}), tmp_path / "both")
    with pytest.raises(InvalidInputError, match="one value for all tensors"):
        merged(recipe.model_copy(update={"merge": layer}), tmp_path / "layer")


def test_searches_are_told_that_it_needs_no_calibration() -> None:
    needs = {item.name: item.needs for item in catalog.methods().items}

    assert needs["fda"].calibration == []
    assert needs["fda"].seed
    assert needs["regmean"].calibration == ["gram"]


def test_any_merge_can_be_adapted(herd: Any, tmp_path: Path) -> None:
    """Here one that measures the whole model."""
    found = []
    for epochs in (0.0, 5.0):
        parameters = {**FEW, "epochs": epochs, "density": 0.5, "scope": "global"}
        merge = Merge(method="pipeline", pipeline=("trim", "elect", "sum", "anchor"), parameters=parameters)
        recipe = asked(herd).model_copy(update={"merge": merge})
        found.append(merged(recipe, tmp_path / str(epochs), tmp_path / "cache"))

    start, adapted = found
    assert {name for name, tensor in start.items() if not torch.equal(tensor, adapted[name])} == set(LAYERS)
    base = weights(herd, "base")
    for name in LAYERS:
        left = start[name] == base[name]
        assert torch.equal(adapted[name][left], base[name][left])


def test_a_model_without_mlps_of_its_own_is_refused(herd: Any) -> None:
    _, architecture, _ = parts(herd, "base")
    routed = {
        name: Part("mlp.expert" + part.role.removeprefix("mlp"), part.layer, 0) if "mlp." in part.role else part
        for name, part in architecture.parts.items()
    }
    mixture = Architecture(families()["llama"], 2, routed, {}, {name: name for name in routed})

    with pytest.raises(ArchitectureError, match="no layer has an MLP of its own"):
        mlps_of(herd.root / "base", mixture)


@pytest.mark.parametrize("pipeline", [("sum", "anchor"), ("magprune", "sum", "anchor")])
def test_scales_fall_on_their_entries_however_a_tensor_is_cut(pipeline: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    base, own = torch.randn(300, 250), torch.randn(300, 250)
    scale = torch.rand(300, 250)
    method = method_of(Merge(method="pipeline", pipeline=pipeline))
    options = {"density": 1.0, "epsilon": 0.0} if "magprune" in pipeline else {}

    statistics = {"w": {"": {ANCHORED: scale}}}
    found = merge_tensors(
        method, {"w": base}, {"a": {"w": own}}, roles={"w": "mlp.up"}, statistics=statistics, **options
    )
    torch.testing.assert_close(found["w"], base + scale * (own - base), rtol=1e-5, atol=1e-6)


class TestFda(MethodContract):
    """The laws, under scales that are the same for all entries."""

    method: Method = METHODS["fda"]

    def merge(self, base: Tensors, models: Mapping[str, Tensors], seed: int = 3) -> dict[str, Tensor]:
        roles = {"matrix": "mlp.up", "embedding": "embedding", "norm": "norm.mlp"}
        statistics = {name: {"": {ANCHORED: torch.full_like(tensor, 0.7)}} for name, tensor in base.items()}
        return merge_tensors(
            self.method, base, models, roles=roles, statistics=statistics, seed=seed, **self.parameters
        )
