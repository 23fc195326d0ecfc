"""Merges written as adapters: PEFT itself loads them, and its own combinations are the reference."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from evomerge.errors import InvalidInputError
from evomerge.merge.adapter_output import REPORT
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.methods import METHODS
from evomerge.merge.primitives.low_rank import reduced, truncated
from evomerge.merge.resident import Resident
from evomerge.models.adapter import open_adapter
from evomerge.models.factors import Factors, concatenated
from evomerge.recipe.output import Output
from evomerge.recipe.schema import Merge, ModelRef, Recipe
from evomerge.recipe.text import dump_yaml, load_recipe

Read = Callable[[Path], dict[str, Tensor]]

# PEFT 0.21 asks for an attribute that transformers 5.23 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOKENS = torch.arange(40).reshape(2, 20) * 7


def with_output(recipe: Recipe, **output: Any) -> Recipe:
    return recipe.model_copy(update={"output": Output(**output)})


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def full(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def check_same_model(base: Path, adapter: Path, model: Path) -> None:
    adapted = logits(PeftModel.from_pretrained(full(base), adapter))

    torch.testing.assert_close(adapted, logits(full(model)), rtol=2e-4, atol=2e-5)
    assert (adapted - logits(full(base))).abs().max() > 1e-2


def report(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / REPORT).read_text())
    return found


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", {"lambda": 0.7}),
        ("lora_mean", {}),
        ("copa", {}),
        ("lego", {}),
        ("joint_diagonal", {"rank": 3.0}),
        ("core_ties", {}),
        ("ties", {"density": 0.5}),
    ],
)
def test_peft_on_the_base_gives_the_merged_models_logits(
    zoo: Any, tmp_path: Path, method: str, parameters: dict[str, Any]
) -> None:
    recipe = zoo.recipe(method, "ja", "es", parameters=parameters, dtype="float32")
    rank = 4 if METHODS[method].combine is not None and method != "task_arithmetic" else None
    merge_to_directory(recipe, tmp_path / "model", root=tmp_path)
    merge_to_directory(with_output(recipe, rank=rank), tmp_path / "adapter", root=tmp_path)

    check_same_model(zoo.base, tmp_path / "adapter", tmp_path / "model")
    assert report(tmp_path / "adapter")["relative_error"] < 1e-5
    assert not report(tmp_path / "adapter")["dropped"]
    assert load_recipe(tmp_path / "adapter" / "recipe.yaml").output is not None


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_a_weighted_sum_is_a_concatenation(zoo: Any, tmp_path: Path, alpha: float | None) -> None:
    recipe = zoo.recipe("task_arithmetic", "ja", "es", sources={"es": {"weight": -0.6}}, dtype="float32")
    merge_to_directory(with_output(recipe, alpha=alpha), tmp_path / "adapter", root=tmp_path)
    made = open_adapter(tmp_path / "adapter")
    sources = {name: open_adapter(zoo.sources[name]) for name in ("ja", "es")}
    ranks = {entry["rank"] for entry in report(tmp_path / "adapter")["tensors"].values()}

    assert ranks == {4, 8}
    for name in made.names:
        parts = {s: sources[s].delta(name) for s in sources}
        expected = sum(w * parts[s] for s, w in (("ja", 1.0), ("es", -0.6)) if parts[s] is not None)
        torch.testing.assert_close(made.delta(name), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("combination", ["svd", "linear", "cat", "ties_svd"])
def test_one_adapter_of_weight_one_is_itself_for_peft_and_for_us(zoo: Any, tmp_path: Path, combination: str) -> None:
    """PEFT had scaled some combinations twice; this one must not, and ours is the same adapter."""
    own = open_adapter(zoo.sources["ja"])
    model = PeftModel.from_pretrained(full(zoo.base), zoo.sources["ja"], adapter_name="ja")
    model.add_weighted_adapter(["ja"], [1.0], "merged", combination_type=combination, density=1.0)
    model.set_adapter("merged")
    theirs = model.merge_and_unload().state_dict()
    merge_to_directory(
        with_output(zoo.recipe("task_arithmetic", "ja", dtype="float32"), rank=4), tmp_path / "ours", root=tmp_path
    )
    ours, base = open_adapter(tmp_path / "ours"), full(zoo.base).state_dict()

    for name in own.names:
        expected, delta = own.delta(name), theirs[name] - base[name]
        assert expected is not None
        assert float((delta * expected).sum() / expected.square().sum()) == pytest.approx(1.0, abs=1e-3)
        torch.testing.assert_close(ours.delta(name), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("combination", ["cat", "svd"])
def test_two_adapters_are_combined_as_peft_does(zoo: Any, tmp_path: Path, combination: str) -> None:
    model = PeftModel.from_pretrained(full(zoo.base), zoo.sources["ja"], adapter_name="ja")
    model.load_adapter(zoo.sources["es"], "es")
    options = {"svd_rank": 3} if combination == "svd" else {}
    model.add_weighted_adapter(["ja", "es"], [0.7, 0.4], "merged", combination_type=combination, **options)
    model.set_adapter("merged")
    theirs = model.merge_and_unload().state_dict()
    weights = {"ja": {"weight": 0.7}, "es": {"weight": 0.4}}
    recipe = zoo.recipe("task_arithmetic", "ja", "es", sources=weights, dtype="float32")
    rank = 3 if combination == "svd" else None
    merge_to_directory(with_output(recipe, rank=rank), tmp_path / "ours", root=tmp_path)
    ours, base = open_adapter(tmp_path / "ours"), full(zoo.base).state_dict()
    name = "model.layers.1.self_attn.q_proj.weight"  # the one that both adapt

    torch.testing.assert_close(ours.delta(name), theirs[name] - base[name], rtol=1e-3, atol=1e-4)


def test_a_checkpoint_is_extracted_at_a_rank_or_a_share_of_energy(zoo: Any, tmp_path: Path) -> None:
    recipe = zoo.recipe("task_arithmetic", "math", dtype="float32")
    base, math_model = (load_file(p / "model.safetensors") for p in (zoo.base, zoo.sources["math"]))
    for name, output in {"rank": {"rank": 6}, "energy": {"energy": 0.8}, "all": {}}.items():
        merge_to_directory(with_output(recipe, others="drop", **output), tmp_path / name, root=tmp_path)
    at = "model.layers.0.mlp.down_proj.weight"
    S = torch.linalg.svdvals(math_model[at].double() - base[at].double())

    found = report(tmp_path / "rank")["tensors"][at]
    assert found["rank"] == 6
    assert found["relative_error"] == pytest.approx(math.sqrt(float(S[6:].square().sum() / S.square().sum())), rel=1e-4)
    energies = S.square().cumsum(0) / S.square().sum()
    found = report(tmp_path / "energy")["tensors"][at]
    assert found["rank"] == int((energies < 0.8).sum()) + 1
    assert found["relative_error"] ** 2 <= 0.2
    assert report(tmp_path / "all")["relative_error"] < 1e-6
    assert "model.embed_tokens.weight" in report(tmp_path / "all")["dropped"]


def test_what_an_adapter_cannot_hold_is_named_and_nothing_is_left(zoo: Any, tmp_path: Path) -> None:
    recipe = zoo.recipe("task_arithmetic", "math", dtype="float32")

    with pytest.raises(InvalidInputError, match=r"output\.others.*cannot hold 'model\.embed_tokens\.weight'.*norm"):
        merge_to_directory(with_output(recipe, rank=4), tmp_path / "out", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_changes_nothing_is_no_adapter(zoo: Any, tmp_path: Path) -> None:
    recipe = zoo.recipe("task_arithmetic", "ja", parameters={"weight": 0.0}, dtype="float32")

    with pytest.raises(InvalidInputError, match="changes no matrix"):
        merge_to_directory(with_output(recipe), tmp_path / "out", root=tmp_path)


def test_matrices_stored_the_other_way_round_are_adapted_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("mlp.c_fc.weight"):
                parameter.add_(0.2 * torch.randn(16, 3) @ torch.randn(3, 64))
    model.save_pretrained(tmp_path / "tuned")
    recipe = Recipe(
        base=ModelRef(location="base"),
        sources={"tuned": ModelRef(location="tuned")},
        merge=Merge(method="task_arithmetic"),
        dtype="float32",
        output=Output(rank=3),
    )
    merge_to_directory(recipe, tmp_path / "adapter", root=tmp_path)

    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"]
    check_same_model(tmp_path / "base", tmp_path / "adapter", tmp_path / "tuned")


def test_an_adapter_that_was_merged_is_a_source_of_the_next_merge(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    """A recipe of an adapter as the source of another: on disk, and in a live model."""
    inner = with_output(zoo.recipe("lora_mean", "ja", "es", dtype="float32"))
    (tmp_path / "inner.yaml").write_text(dump_yaml(inner))
    outer = Recipe(
        base=ModelRef(location=str(zoo.base)),
        sources={
            "inner": ModelRef(location=str(tmp_path / "inner.yaml")),
            "ja": ModelRef(location=str(zoo.sources["ja"])),
        },
        merge=Merge(method="copa"),
        dtype="float32",
    )
    merge_to_directory(outer, tmp_path / "out", root=tmp_path)
    live = Resident(outer, cache=tmp_path / "cache")
    live.materialize(outer)
    again = Resident(outer, cache=tmp_path / "cache")
    again.materialize(outer)
    merged = tensors(tmp_path / "out")

    for model in (live, again):
        state = model.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in merged.items())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.factored])
def test_files_and_live_models_get_the_same_bytes(zoo: Any, tmp_path: Path, tensors: Read, name: str) -> None:
    recipe = zoo.recipe(name, "ja", "es")
    merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    live = Resident(zoo.recipe("task_arithmetic", "ja", "es"), cache=tmp_path / "cache")
    live.materialize(recipe)
    merged, state, base = tensors(tmp_path / "out"), live.model.state_dict(), tensors(zoo.base)
    changed = [n for n in merged if not torch.equal(merged[n], base[n])]

    assert changed
    assert all(".q_proj" in n or ".v_proj" in n or "mlp" in n for n in changed)
    assert all(torch.equal(state[n], tensor) for n, tensor in merged.items())


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.factored])
def test_a_source_that_is_no_adapter_is_refused_by_name(zoo: Any, tmp_path: Path, name: str) -> None:
    recipe = zoo.recipe(name, "ja", "math")

    with pytest.raises(InvalidInputError, match=rf"sources\.math: got .*a LoRA adapter: {name} works on LoRA factors"):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    live = Resident(zoo.recipe("task_arithmetic", "ja", "math"), cache=tmp_path / "cache")
    with pytest.raises(InvalidInputError, match=r"sources\.math"):
        live.materialize(recipe)
    merge_to_directory(zoo.recipe(name, "ja", "itself"), tmp_path / "with-base", root=tmp_path)


def test_deltas_that_depend_on_the_base_are_kept_for_that_base(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    """Two bases, one adapter with a norm that was trained whole, one cache."""
    adapter = tmp_path / "adapter"
    shutil.copytree(zoo.sources["ja"], adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    stored["base_model.model.model.norm.weight"] = torch.linspace(0.5, 1.5, 32)
    save_file(stored, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"modules_to_save": ["norm"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    for base in (zoo.base, zoo.sources["code"]):
        recipe = Recipe(
            base=ModelRef(location=str(base)),
            sources={"tuned": ModelRef(location=str(adapter))},
            merge=Merge(method="task_arithmetic"),
            dtype="float32",
        )
        merge_to_directory(recipe, tmp_path / base.name, root=tmp_path)
        live = Resident(recipe, cache=tmp_path / "cache")
        live.materialize(recipe)
        merged, state = tensors(tmp_path / base.name), live.model.state_dict()

        torch.testing.assert_close(merged["model.norm.weight"], torch.linspace(0.5, 1.5, 32))
        assert all(torch.equal(state[n], tensor) for n, tensor in merged.items())


def test_the_output_belongs_to_the_digest_and_its_absence_does_not(zoo: Any) -> None:
    recipe = zoo.recipe("linear", "ja")

    assert "output" not in recipe.canonical()
    assert len({recipe.digest, with_output(recipe).digest, with_output(recipe, rank=3).digest}) == 3
    assert load_recipe_text(dump_yaml(with_output(recipe, rank=3))) == with_output(recipe, rank=3)


def load_recipe_text(text: str) -> Recipe:
    import yaml

    return Recipe.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_both_truncations_are_the_best_approximation(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        Factors(torch.randn(4, shape[1], generator=generator), torch.randn(shape[0], 4, generator=generator))
        for _ in range(2)
    ]
    whole = concatenated(parts)
    delta = whole.product()
    U, S, V = torch.linalg.svd(delta.double(), full_matrices=False)
    best = ((U[:, :3] * S[:3]) @ V[:3]).float()
    dropped = math.sqrt(float(S[3:].square().sum() / S.square().sum()))

    for found, error in (truncated(delta, 3, None), reduced(whole, 3, None)):
        torch.testing.assert_close(found.product(), best, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.A.norm(dim=1), found.B.norm(dim=0), rtol=1e-4, atol=1e-4)
        assert error == pytest.approx(dropped, rel=1e-4)
    assert truncated(delta, None, None)[0].rank == 8
    assert reduced(whole, 8, None)[0] is whole
    assert truncated(torch.zeros(shape), 3, 0.9)[0].rank == 0
    assert reduced(Factors(whole.A * 0, whole.B), None, 0.9)[0].rank == 0
