"""The `align` section of a recipe, from files to files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import ArchitectureError, HashMismatchError, InvalidInputError
from evomerge.merge.align.source import AlignedSource, open_aligned_source
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident
from evomerge.merge.resolve import pin
from evomerge.models.checkpoint import open_checkpoint
from evomerge.recipe.align import AlignByWeights
from evomerge.recipe.schema import Merge, Recipe
from evomerge.recipe.text import dump_yaml

Models = Callable[[str], Path]
Twins = Callable[[str], tuple[Path, Path]]
Logits = Callable[[Path], Tensor]
Copied = Callable[[Path, dict[str, Tensor], Path], Path]


def recipe(base: Path, source: Path, align: dict[str, Any] | None, **more: Any) -> Recipe:
    data = {
        "base": {"location": str(base)},
        "sources": {"twin": {"location": str(source)}},
        "merge": {"method": "task_arithmetic", "parameters": {"weight": 0.5}},
        "dtype": "float32",
        **more,
    }
    return Recipe.model_validate(data if align is None else {**data, "align": {"twin": align}})


def weights_of(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_a_twin_is_the_same_function(family: str, twins: Twins, logits: Logits) -> None:
    base, twin = twins(family)

    torch.testing.assert_close(logits(twin), logits(base), rtol=0, atol=2e-5)
    assert any(not tensor.equal(weights_of(base)[name]) for name, tensor in weights_of(twin).items())


@pytest.mark.proves("align_weights", by="property")
@pytest.mark.proves("align_transport", by="property")
@pytest.mark.parametrize("method", ["weights", "transport"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_aligned_merging_with_a_twin_gives_the_base(
    family: str, method: str, twins: Twins, logits: Logits, tmp_path: Path
) -> None:
    base, twin = twins(family)
    aligned = merge_to_directory(recipe(base, twin, {"method": method}), tmp_path / "aligned", root=tmp_path)
    plain = merge_to_directory(recipe(base, twin, None), tmp_path / "plain", root=tmp_path)

    assert all(tensor.equal(weights_of(base)[name]) for name, tensor in weights_of(aligned).items())
    assert logits(aligned).equal(logits(base))
    assert float((logits(plain) - logits(base)).abs().max()) > 0.1


@pytest.mark.proves("align_activations", by="property")
@pytest.mark.proves("align_transport", by="property")
@pytest.mark.parametrize("method", ["activations", "transport"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_activations_recover_a_planted_order(
    family: str, method: str, twins: Twins, items: Path, tmp_path: Path
) -> None:
    base, twin = twins(family)
    align = {"method": method, "items": {"location": str(items)}, "tokens": 150}
    if method == "transport":
        align["cost"] = "activations"
    out = merge_to_directory(recipe(base, twin, align), tmp_path / "out", root=tmp_path)

    assert all(tensor.equal(weights_of(base)[name]) for name, tensor in weights_of(out).items())


@pytest.mark.proves("align_weights", by="property")
@pytest.mark.proves("align_transport", by="property")
@pytest.mark.proves("align_activations", by="property")
@pytest.mark.parametrize("method", ["weights", "transport", "activations"])
def test_nothing_moves_between_models_that_share_a_base(
    method: str, models: Models, tuned: Path, items: Path, tmp_path: Path
) -> None:
    more = {"items": {"location": str(items)}} if method == "activations" else {"units": ["mlp", "attention"]}
    aligned = recipe(models("llama"), tuned, {"method": method, **more})
    out = merge_to_directory(aligned, tmp_path / "aligned", root=tmp_path)
    plain = merge_to_directory(recipe(models("llama"), tuned, None), tmp_path / "plain", root=tmp_path)

    assert all(tensor.equal(weights_of(plain)[name]) for name, tensor in weights_of(out).items())


def test_a_soft_plan_mixes_units_and_keeps_the_rest(twins: Twins, tmp_path: Path) -> None:
    base, twin = twins("llama")
    align = {"method": "transport", "solver": "sinkhorn", "reg": 0.5, "units": ["mlp"]}
    with open_checkpoint(base) as opened:
        source = open_aligned_source(
            recipe(base, twin, align).align["twin"],
            tmp_path,
            None,
            "twin",
            twin,
            opened,
        )
        up, key = "model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.k_proj.weight"
        stored = weights_of(twin)

        assert source.weights(key).equal(stored[key])
        assert source.weights(up).dtype == torch.float32
        # every unit is a mean of units: columns of the plan sum to 1, and so do, nearly, its rows
        torch.testing.assert_close(source.weights(up).sum(0), stored[up].sum(0), rtol=1e-3, atol=1e-3)
        assert float(source.weights(up).std()) < 0.9 * float(stored[up].std())


def test_maps_are_kept_by_content(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, twin = twins("llama")
    spec = AlignByWeights(method="weights")
    cache = tmp_path / "cache"
    with open_checkpoint(base) as opened:
        first = open_aligned_source(spec, tmp_path, cache, "twin", twin, opened)
        kept = list(cache.glob("align-*.safetensors"))
        written = kept[0].stat().st_mtime_ns
        again = open_aligned_source(spec, tmp_path, cache, "other name", twin, opened)
        other = open_aligned_source(spec.model_copy(update={"units": ("mlp",)}), tmp_path, cache, "t", twin, opened)

        assert isinstance(first, AlignedSource)
        assert kept[0].stat().st_mtime_ns == written
        assert len(kept) == 1
        assert len(list(cache.glob("align-*.safetensors"))) == 2
        assert all(first.weights(name).equal(again.weights(name)) for name in first.changed)
        assert all(first.weights(name).equal(opened.read(name)) for name in first.changed)
        assert any(not other.weights(name).equal(opened.read(name)) for name in first.changed)
        assert all(first.delta(name).eq(0).all() for name in first.changed)


def test_a_live_model_is_aligned_like_a_written_one(twins: Twins, tuned: Path, tmp_path: Path) -> None:
    base, twin = twins("llama")
    aligned = recipe(base, twin, {"method": "weights"}, dtype="bfloat16")
    resident = Resident(aligned, cache=tmp_path / "cache")
    resident.materialize(aligned)
    written = weights_of(merge_to_directory(aligned, tmp_path / "out", root=tmp_path))

    live = dict(resident.model.named_parameters())
    assert set(live) == set(written)
    assert all(tensor.equal(written[name]) for name, tensor in live.items())
    with pytest.raises(InvalidInputError, match=r"sources\.twin"):
        resident.materialize(recipe(base, twin, None, dtype="bfloat16"))


def test_pinning_covers_the_items(twins: Twins, items: Path, tmp_path: Path) -> None:
    base, twin = twins("llama")
    local = tmp_path / "items.jsonl"
    local.write_bytes(items.read_bytes())
    asked = recipe(base, twin, {"method": "activations", "items": {"location": "items.jsonl"}})
    pinned = pin(asked, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "items.jsonl").write_bytes(items.read_bytes())

    assert pinned.align["twin"].items.location == str(local)
    assert pinned.digest == pin(asked, elsewhere).digest != asked.digest
    local.write_text('{"text": "w1 w2"}\n')
    with pytest.raises(HashMismatchError, match=r"align\.twin\.items"):
        pin(pinned, tmp_path)


def test_a_recipe_without_alignment_keeps_its_digest(twins: Twins) -> None:
    base, twin = twins("llama")

    assert "align" not in recipe(base, twin, None).canonical()
    assert recipe(base, twin, None).digest != recipe(base, twin, {"method": "weights"}).digest


def test_an_adapter_needs_no_alignment(twins: Twins, tmp_path: Path) -> None:
    base, _ = twins("llama")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with open_checkpoint(base) as opened, pytest.raises(InvalidInputError, match="no alignment"):
        open_aligned_source(AlignByWeights(method="weights"), tmp_path, None, "a", tmp_path / "adapter", opened)


@pytest.mark.parametrize(
    "align",
    [
        {"method": "activations"},
        {"method": "transport", "cost": "activations"},
        {"method": "transport", "reg": 0},
        {"method": "weights", "units": ["layers"]},
        {"method": "names", "table": [["(", "x"]]},
        {"method": "names", "table": [["(a)", "\\2"]]},
        {"method": "learned"},
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(align: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="align"):
        recipe(tmp_path, tmp_path, align)


NAMES = {
    "method": "names",
    "table": [[r"model\.language_model\.(.*)", r"model.\1"], [r"head\.(\w+)", r"lm_head.\1"]],
}


@pytest.fixture
def foreign(models: Models, copied: Copied, tmp_path: Path) -> Path:
    """Another architecture: other names, a vision tower, another number of tokens, a layer less."""
    renamed = {}
    for name, tensor in weights_of(models("llama")).items():
        if "layers.1." in name:
            continue
        at = name.replace("model.", "model.language_model.", 1).replace("lm_head", "head")
        renamed[at] = torch.cat([tensor, tensor[:2]]) if "embed" in name else 2 * tensor
    renamed["visual.patch.weight"] = torch.ones(3, 3)
    return copied(models("llama"), renamed, tmp_path / "foreign")


@pytest.mark.proves("align_names", by="property")
def test_names_pair_what_has_one_shape_and_keep_the_rest(
    foreign: Path, models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = models("llama")
    with caplog.at_level(logging.WARNING):
        out = merge_to_directory(recipe(base, foreign, NAMES), tmp_path / "out", root=tmp_path)
    before, after = weights_of(base), weights_of(out)

    for name, tensor in after.items():
        kept = "layers.1." in name or "embed" in name
        torch.testing.assert_close(tensor, before[name] if kept else 1.5 * before[name])
    assert "model.embed_tokens.weight" in caplog.text
    assert "10 of the base are kept" in caplog.text


def test_names_that_fit_nothing_or_twice_are_errors(foreign: Path, models: Models, tmp_path: Path) -> None:
    base = models("llama")

    with pytest.raises(ArchitectureError, match="no tensor fits the base model"):
        merge_to_directory(recipe(base, foreign, {"method": "names"}), tmp_path / "a", root=tmp_path)
    twice = {"method": "names", "table": [[r".*norm\.weight", "model.norm.weight"]]}
    with pytest.raises(ArchitectureError, match=r"both mean the base model's 'model\.norm\.weight'"):
        merge_to_directory(recipe(base, foreign, twice), tmp_path / "b", root=tmp_path)


@pytest.mark.proves("pleas", by="property")
def test_least_squares_after_alignment_gives_the_base_for_its_twin(
    twins: Twins, items: Path, logits: Logits, tmp_path: Path
) -> None:
    """PLeaS with every unit matched: a recipe that aligns is a source of one that solves least squares."""
    base, twin = twins("llama")
    solved = {
        "base": {"location": str(base)},
        "sources": {"a": {"location": str(base)}, "b": {"location": "aligned.yaml"}},
        "merge": {"method": "regmean"},
        "calibration": {"items": {"location": str(items)}},
        "dtype": "float32",
    }
    one = recipe(base, twin, {"method": "weights"}).model_copy(update={"merge": Merge(method="linear")})
    (tmp_path / "aligned.yaml").write_text(dump_yaml(one))
    out = merge_to_directory(Recipe.model_validate(solved), tmp_path / "out", root=tmp_path)
    plain = {**solved, "sources": {"a": {"location": str(base)}, "b": {"location": str(twin)}}}
    without = merge_to_directory(Recipe.model_validate(plain), tmp_path / "without", root=tmp_path)

    torch.testing.assert_close(logits(out), logits(base), rtol=1e-3, atol=1e-3)
    assert float((logits(without) - logits(base)).abs().max()) > 0.1


def test_statistics_of_a_source_that_is_aligned_in_the_same_recipe_are_refused(
    twins: Twins, items: Path, tmp_path: Path
) -> None:
    base, twin = twins("llama")
    asked = recipe(
        base, twin, {"method": "weights"}, merge={"method": "regmean"}, calibration={"items": {"location": str(items)}}
    )

    with pytest.raises(InvalidInputError, match="align"):
        merge_to_directory(asked, tmp_path / "out", root=tmp_path)
