"""Methods that read statistics, from recipe to weights: to files and to a live model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import HashMismatchError, InvalidInputError
from evomerge.merge.calibration import activations
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident
from evomerge.merge.resolve import pin
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import dump_yaml, load_recipe

PARAMETERS: dict[str, dict[str, Any]] = {
    "fisher": {"floor": 1e-3, "relative_floor": True},
    "regmean": {},
    "mats": {"steps": 5.0},
    "led": {},
    "obim": {},
    "osrm": {"directions": 2.0},
    "sens": {},
    "recall": {"clusters": 2.0},
    "lm_cocktail_measured": {},
    "ota_ffg": {"rescale": True},
    "ota": {"epsilon": 1e-20},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all methods: they share statistics."""
    return tmp_path_factory.mktemp("cache")


def merged(recipe: Recipe, out: Path, cache: Path | None = None) -> dict[str, Tensor]:
    merge_to_directory(recipe, out, root=Path(), cache=cache)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize(
    "method",
    [m if m in ("fisher", "regmean") else pytest.param(m, marks=pytest.mark.slow) for m in PARAMETERS],
)
def test_files_and_the_live_model_get_the_same_bytes(herd: Any, method: str, tmp_path: Path, cache: Path) -> None:
    recipe = herd.recipe(method, "a", "b", "c", parameters=PARAMETERS[method],
                         calibration={"without_moments": "fisher"})  # fmt: skip
    files = merged(recipe, tmp_path / "out", cache)
    resident = Resident(recipe, cache=cache)
    resident.materialize(recipe)

    live = dict(resident.model.named_parameters())
    assert set(files) <= set(live)
    for name, tensor in files.items():
        torch.testing.assert_close(live[name].data, tensor, rtol=0, atol=0)
    base = load_file(herd.root / "base" / "model.safetensors")
    assert any(not torch.equal(files[name], base[name]) for name in files)


def test_rcp_adds_a_domain_to_a_reasoner(herd: Any, tmp_path: Path) -> None:
    recipe = herd.recipe("rcp", "a", "b", sources={"a": {"reasoning": True}}, parameters={"prior": 1.0})
    files = merged(recipe, tmp_path / "out")
    base, a, b = (load_file(herd.root / n / "model.safetensors") for n in ("base", "a", "b"))

    shares = []
    for name, tensor in files.items():
        added = (tensor - a[name]).abs() > 1e-6
        shares.append(float(added.float().mean()))
        torch.testing.assert_close(tensor[added], (a[name] + b[name] - base[name])[added], rtol=1e-4, atol=1e-5)
    assert 0.2 < sum(shares) / len(shares) < 0.8


def test_a_search_collects_once(herd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []
    original = activations.gram

    def counted(*arguments: Any) -> Any:
        passes.append("gram")
        return original(*arguments)

    monkeypatch.setitem(__import__("evomerge.merge.calibration.provider", fromlist=["_"])._ACTIVATIONS, "gram", counted)
    recipe = herd.recipe("regmean", "a", "b", "c")
    resident = Resident(recipe, cache=tmp_path)
    found = []
    for factor in (0.1, 0.5, 0.9):
        resident.materialize(herd.recipe("regmean", "a", "b", "c", parameters={"off_diagonal": factor}))
        found.append(resident.model.model.layers[0].mlp.down_proj.weight.clone())
    Resident(recipe, cache=tmp_path).materialize(recipe)

    assert len(passes) == 3  # a source each
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_a_family_that_stores_matrices_the_other_way_round(herd: Any, tmp_path: Path) -> None:
    """With one source every one of these is that source."""
    source = load_file(herd.root / "gpt2-a" / "model.safetensors")
    for method in ("regmean", "fisher"):
        recipe = herd.recipe(method, "gpt2-a", base="gpt2", parameters={"off_diagonal": 1.0, "ridge": 1e-3} if
                             method == "regmean" else {})  # fmt: skip
        for name, tensor in merged(recipe, tmp_path / method).items():
            torch.testing.assert_close(tensor, source[name], rtol=1e-3, atol=1e-5)


def test_a_recipe_without_calibration_says_what_is_missing(herd: Any, tmp_path: Path) -> None:
    recipe = herd.recipe("regmean", "a", "b").model_copy(update={"calibration": None})

    with pytest.raises(
        InvalidInputError, match=r"^calibration: got None; expected a section with `items`: method regmean"
    ):
        merged(recipe, tmp_path / "out")
    with pytest.raises(InvalidInputError, match=r"^calibration: "):
        Resident(recipe, cache=tmp_path).materialize(recipe)


def test_calibration_that_no_method_needs_is_fine(herd: Any, tmp_path: Path) -> None:
    recipe = herd.recipe("linear", "a", "b")
    merged(recipe, tmp_path / "out", tmp_path / "cache")

    assert not (tmp_path / "cache").exists()


def test_items_are_pinned_by_content(herd: Any, tmp_path: Path) -> None:
    recipe = herd.recipe("regmean", "a", "b")
    pinned = pin(recipe, Path())
    (tmp_path / "recipe.yaml").write_text(dump_yaml(pinned))
    again = load_recipe(tmp_path / "recipe.yaml")
    moved = pinned.model_dump(by_alias=True, mode="json")
    moved["calibration"]["sources"]["a"]["location"] = "elsewhere.jsonl"
    other = pinned.model_dump(by_alias=True, mode="json")
    other["calibration"]["sources"]["a"]["sha256"] = "1" * 64

    assert pinned.calibration is not None
    assert len(str(pinned.calibration.sources["a"].sha256)) == 64
    assert again == pinned
    assert Recipe.model_validate(moved).digest == pinned.digest
    assert Recipe.model_validate(other).digest != pinned.digest
    with pytest.raises(HashMismatchError, match=r"calibration\.sources\.a: .*a\.jsonl has SHA-256"):
        pin(Recipe.model_validate(other), Path())
    without = {k: v for k, v in moved.items() if k != "calibration"}
    assert "calibration" not in Recipe.model_validate(without).canonical()


def test_calibration_names_only_sources_that_exist(herd: Any) -> None:
    with pytest.raises(ValueError, match=r"calibration.sources.x: got"):
        herd.recipe("regmean", "a", calibration={"sources": {"x": {"location": "x.jsonl"}}})


def test_aligned_sources_are_refused(herd: Any, tmp_path: Path) -> None:
    data = herd.recipe("regmean", "a", "b").model_dump(by_alias=True, mode="json", exclude_none=True)
    recipe = Recipe.model_validate(data | {"align": {"a": {"method": "weights"}}})

    with pytest.raises(InvalidInputError, match="align"):
        merged(recipe, tmp_path / "out")


@pytest.mark.proves("regmean_plus_plus", by="property")
def test_regmean_plus_plus_fits_each_layer_to_inputs_through_the_merged_ones(herd: Any, tmp_path: Path) -> None:
    """Layer 1 by hand: each source's layer 1 on top of the merged layer 0 and the mean embedding."""
    recipe = herd.recipe("regmean_plus_plus", "a", "b", parameters={"off_diagonal": 0.9, "ridge": 0.0})
    files = merged(recipe, tmp_path / "out")
    name = "model.layers.1.mlp.down_proj.weight"
    grams, pulls = [], []
    for source in "ab":
        model = herd.llama("base")
        own = load_file(herd.root / source / "model.safetensors")
        for at, parameter in model.named_parameters():
            parameter.data = own[at] if at.startswith("model.layers.1.") else files[at]
        seen: list[Tensor] = []
        module = model.get_submodule(name.removesuffix(".weight"))
        module.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0][0].detach()))
        with torch.no_grad():
            for ids in herd.ids(source, source):
                model(ids)
        x = torch.cat(seen).double()
        gram = x.T @ x / len(x)
        gram = 0.9 * gram + 0.1 * torch.diag(gram.diagonal())
        grams.append(gram)
        pulls.append(gram @ own[name].double().T)

    expected = torch.linalg.solve(sum(grams), sum(pulls)).T.float()
    torch.testing.assert_close(files[name], expected, rtol=1e-3, atol=1e-4)


def test_regmean_plus_plus_collects_anew_for_other_parameters(herd: Any, tmp_path: Path) -> None:
    def recipe(factor: float) -> Recipe:
        found: Recipe = herd.recipe("regmean_plus_plus", "a", "c", parameters={"off_diagonal": factor})
        return found

    resident = Resident(recipe(0.1), cache=tmp_path / "cache")
    for factor in (0.1, 0.9, 0.1):
        resident.materialize(recipe(factor))
    assert len(list((tmp_path / "cache" / "calibration").glob("merged_gram-*"))) == 2

    files = merged(recipe(0.1), tmp_path / "out", tmp_path / "cache")
    live = dict(resident.model.named_parameters())
    assert all(torch.equal(live[name].data, tensor) for name, tensor in files.items())
    assert len(list((tmp_path / "cache" / "calibration").glob("merged_gram-*"))) == 2
