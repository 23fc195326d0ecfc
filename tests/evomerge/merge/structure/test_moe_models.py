"""`evomerge moe` on tiny real models: what comes out is an ordinary mixture that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from typer.testing import CliRunner

from evomerge.errors import CheckpointError, InvalidInputError, NonFiniteError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.structure.blueprint import Settings
from evomerge.merge.structure.moe import build_moe
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint
from evomerge.recipe.schema import Merge, ModelRef, Parameters, Recipe
from evomerge.recipe.text import dump_yaml

set_verbosity_error()
disable_progress_bar()
LAYERS = 2
SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, head_dim=12, sliding_window=5),
    "tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "scaled": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "biased": lambda: LlamaConfig(**SIZES, attention_bias=True),
    "biased_mlp": lambda: LlamaConfig(**SIZES, mlp_bias=True),
    "qwen2": lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=12, attention_bias=True),
    "qwen3_windowed": lambda: Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1),
}
TARGETS = {
    "llama": "mixtral", "mistral": "mixtral", "tied": "mixtral", "scaled": "mixtral", "qwen2": "qwen2_moe",
    "qwen3": "qwen3_moe",
}  # fmt: skip
TOKENS = torch.arange(3, 25)[None]
MATRICES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
UNIFORM: dict[str, Any] = {"gate": "uniform"}


def save(path: Path, family: str, seed: int = 0, near: Path | None = None) -> Path:
    """A random model with a tokenizer of forty words; `near` gives the weights that it is a step away from."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if near is not None:
                parameter.mul_(0.3).add_(load_file(near / "model.safetensors")[name])
    model.save_pretrained(path)
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(path)
    return path


Models = Callable[[str], dict[str, Path]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A base and the sources `code` and `math` of a family, made once."""
    root, made = tmp_path_factory.mktemp("models"), dict[str, dict[str, Path]]()

    def get(family: str) -> dict[str, Path]:
        if family not in made:
            base = save(root / family / "base", family)
            near = {
                name: save(root / family / name, family, seed, base) for seed, name in enumerate(("code", "math"), 1)
            }
            made[family] = {"base": base, **near}
        return made[family]

    return get


def recipe_of(
    zoo: dict[str, Path], *sources: str, method: str = "linear", parameters: Parameters | None = None, **more: Any
) -> Recipe:
    names = sources or ("code", "math")
    return Recipe(
        base=ModelRef(location=str(zoo["base"])),
        sources={name: ModelRef(location=str(zoo[name])) for name in names},
        merge=Merge(method=method, parameters=parameters or {}),
        dtype="float32",
        seed=5,
        **more,
    )


def build(zoo: dict[str, Path], out: Path, family: str, *sources: str, **settings: Any) -> Path:
    return build_moe(recipe_of(zoo, *sources), out, Settings(TARGETS[family], **settings), root=out.parent)


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, experts_implementation="eager").eval()


def logits(path: Path) -> Tensor:
    with torch.no_grad():
        found: Tensor = load(path)(TOKENS).logits
    return found


def edit(path: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """Change a checkpoint's tensors where they lie."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return path


def dense_name(name: str) -> tuple[str, int] | None:
    """The dense tensor that an expert's is, and the expert's number."""
    parts = name.split(".")
    if "experts" not in parts:
        return None
    at = parts.index("experts")
    return ".".join([*parts[: at - 1], "mlp", MATRICES.get(parts[at + 2], parts[at + 2]), "weight"]), int(parts[at + 1])


@pytest.mark.proves("moe_build", by="property")
@pytest.mark.parametrize("family", TARGETS)
def test_equal_experts_with_uniform_gates_are_the_dense_model(family: str, models: Models, tmp_path: Path) -> None:
    zoo = models(family)
    same = {"base": zoo["base"], "a": zoo["base"], "b": zoo["base"], "c": zoo["base"]}
    out = build_moe(
        recipe_of(same, "a", "b", "c"), tmp_path / "out", Settings(TARGETS[family], **UNIFORM), root=tmp_path
    )

    torch.testing.assert_close(logits(out), logits(zoo["base"]), rtol=1e-5, atol=1e-5)
    with open_checkpoint(out) as checkpoint:
        assert architecture_of_checkpoint(checkpoint).num_experts == 3
        assert ("lm_head.weight" in checkpoint.tensors) == (family != "tied")
    assert type(load(out)).__name__ == json.loads((out / "config.json").read_text())["architectures"][0]
    assert (out / "tokenizer.json").exists()


@pytest.mark.proves("moe_build", by="property")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_experts_are_the_sources_and_all_else_is_the_recipes_merge(family: str, models: Models, tmp_path: Path) -> None:
    zoo = models(family)
    recipe = recipe_of(zoo, method="ties", parameters={"density": 0.4, "scope": "tensor"})
    out = build_moe(recipe, tmp_path / "moe", Settings(TARGETS[family], with_base=True, **UNIFORM), root=tmp_path)
    merged = load_file(merge_to_directory(recipe, tmp_path / "dense", root=tmp_path) / "model.safetensors")
    stored = {name: load_file(path / "model.safetensors") for name, path in zoo.items()}
    found = load_file(out / "model.safetensors")

    assert [e["name"] for e in json.loads((out / "structure.json").read_text())["experts"]] == ["base", "code", "math"]
    experts = {name: dense for name in found if (dense := dense_name(name)) is not None}
    assert len(experts) == 3 * 3 * LAYERS
    for name, (dense, number) in experts.items():
        assert found[name].equal(stored[("base", "code", "math")[number]][dense]), name
    for name, tensor in merged.items():
        if ".mlp." not in name:
            assert found[name].equal(tensor), name
            assert not tensor.equal(stored["base"][name]), name
    assert all(not found[name].any() for name in found if "shared_expert" in name)


def test_what_an_old_config_leaves_to_its_class_is_written_out(tmp_path: Path) -> None:
    base = save(tmp_path / "base", "llama")
    config = json.loads((base / "config.json").read_text())
    for key in ("rope_parameters", "rms_norm_eps", "num_key_value_heads", "head_dim"):
        config.pop(key, None)
    config |= {"num_key_value_heads": 1, "torch_dtype": "float32"}
    (base / "config.json").write_text(json.dumps(config))
    out = build({"base": base, "a": base, "b": base}, tmp_path / "out", "llama", "a", "b", **UNIFORM)

    torch.testing.assert_close(logits(out), logits(base), rtol=1e-5, atol=1e-5)
    assert json.loads((out / "config.json").read_text())["rope_parameters"]["rope_theta"] == 10000.0


def test_a_killed_build_goes_on_from_its_finished_files(models: Models, tmp_path: Path) -> None:
    recipe = recipe_of(models("llama")).model_copy(update={"shard_bytes": 4000})
    settings = Settings("mixtral", gate="random", expand=1)
    whole = build_moe(recipe, tmp_path / "whole", settings, root=tmp_path)

    def kill(done: int, total: int) -> None:
        if done > 0.7 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_moe(recipe, tmp_path / "out", settings, root=tmp_path, progress=kill)
    kept = {p.name: p.stat().st_ino for p in (tmp_path / ".out.partial" / "model").glob("*.safetensors")}
    journal = (tmp_path / ".out.partial" / "journal.jsonl").read_text()
    out = build_moe(recipe, tmp_path / "out", settings, root=tmp_path)

    finished = [name for name in kept if name in journal]
    assert len(finished) >= 2
    assert all((out / name).stat().st_ino == kept[name] for name in finished)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    assert all(path.read_bytes() == (whole / path.name).read_bytes() for path in out.iterdir())


def test_a_limit_of_memory_changes_no_byte_and_one_that_is_too_small_is_refused(models: Models, tmp_path: Path) -> None:
    recipe, settings = recipe_of(models("llama"), method="iso_c"), Settings("mixtral", gate="random")
    whole = build_moe(recipe, tmp_path / "whole", settings, root=tmp_path)
    limited = build_moe(recipe, tmp_path / "limited", settings, root=tmp_path, memory=1 << 24)

    for path in limited.glob("*.safetensors"):
        assert path.read_bytes() == (whole / path.name).read_bytes()
    with pytest.raises(InvalidInputError, match=r"iso_c works on whole tensors.*holds \d+ bytes"):
        build_moe(recipe, tmp_path / "out", settings, root=tmp_path, memory=100)
    assert not (tmp_path / "out").exists()


def mlp_output(path: Path, layer: int, states: Tensor) -> Tensor:
    with torch.no_grad():
        answer = load(path).model.layers[layer].mlp(states)
    return answer[0] if isinstance(answer, tuple) else answer


@pytest.mark.proves("moe_build", by="property")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_all_experts_alike_give_the_mean_of_their_outputs(family: str, models: Models, tmp_path: Path) -> None:
    zoo = models(family)
    out = build(zoo, tmp_path / "out", family, **UNIFORM)
    states = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(0))
    each = [mlp_output(zoo[name], 1, states) for name in ("code", "math")]

    torch.testing.assert_close(mlp_output(out, 1, states), (each[0] + each[1]) / 2, rtol=1e-5, atol=1e-5)
    assert float((each[0] - each[1]).abs().max()) > 0.01


@pytest.mark.proves("moe_build", by="property")
@pytest.mark.parametrize(("family", "number"), [("llama", 0), ("llama", 1), ("qwen2", 1), ("qwen3", 0)])
def test_a_router_that_picks_one_expert_gives_that_sources_mlp(
    family: str, number: int, models: Models, tmp_path: Path
) -> None:
    zoo = models(family)
    out = build(zoo, tmp_path / "out", family, experts_per_token=1, **UNIFORM)

    def pick(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight")):
                tensor[number] = 1.0

    edit(out, pick)
    states = torch.rand(1, 7, 16, generator=torch.Generator().manual_seed(0))  # positive: the picked row wins

    for layer in range(LAYERS):
        expected = mlp_output(zoo[("code", "math")[number]], layer, states)
        torch.testing.assert_close(mlp_output(out, layer, states), expected, rtol=1e-5, atol=1e-6)


def prompts_file(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))  # JSON is YAML
    return path


PROMPTS = {
    "code": {"positive": ["w3 w4 w5 w6", "w4 w6 w3"], "negative": ["w20 w21"]},
    "math": {"positive": ["w20 w21 w22", "w21 w23"], "negative": ["w3 w4 w5"]},
}


def separable(path: Path, family: str) -> Path:
    """A model whose words 3 to 9 lie on one side, 20 to 29 on the other, and whose layers hardly move them."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if "embed_tokens" in name:
                tensor[3:10, :8] += 3.0
                tensor[20:30, 8:] += 3.0
            elif "norm" in name:
                tensor.fill_(1.0)
            elif "o_proj" in name or "down_proj" in name:
                tensor.mul_(0.05)

    return edit(save(path, family), change)


@pytest.mark.proves("moe_build", by="property")
@pytest.mark.parametrize(
    ("family", "gate"), [("llama", "hidden"), ("llama", "cheap_embed"), ("mistral", "hidden"), ("qwen3", "hidden")]
)
def test_prompts_of_an_expert_are_routed_to_it(family: str, gate: str, tmp_path: Path) -> None:
    base = separable(tmp_path / "base", family)
    zoo = {"base": base, "code": base, "math": base}
    asked = prompts_file(tmp_path / "prompts.yaml", PROMPTS)
    out = build(zoo, tmp_path / "out", family, gate=gate, prompts=asked, experts_per_token=1)
    model = load(out)
    chosen: list[Tensor] = []
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(lambda module, inputs, found: chosen.append(found[2].reshape(-1)))

    for expert, ids in ((0, [5, 7, 9, 3]), (1, [25, 29, 20, 24])):  # most of them words that no prompt has
        chosen.clear()
        with torch.no_grad():
            model(torch.tensor([ids]))
        assert len(chosen) == LAYERS
        assert all((layer == expert).all() for layer in chosen)


@pytest.mark.proves("moe_build", by="property")
def test_hidden_rows_are_unit_differences_at_the_mlps_input(models: Models, tmp_path: Path) -> None:
    zoo = models("llama")
    asked = prompts_file(tmp_path / "prompts.yaml", PROMPTS)
    out = build(zoo, tmp_path / "out", "llama", prompts=asked)
    found = load_file(out / "model.safetensors")
    dense = load(zoo["base"])
    seen: dict[int, Tensor] = {}
    for number, layer in enumerate(dense.model.layers):
        layer.mlp.register_forward_pre_hook(lambda module, inputs, at=number: seen.__setitem__(at, inputs[0][0]))

    def mean(texts: list[str], layer: int) -> Tensor:
        rows = []
        for text in texts:
            with torch.no_grad():
                dense(torch.tensor([[int(word[1:]) for word in text.split()]]))
            rows.append(seen[layer].mean(0))
        return torch.stack(rows).mean(0)

    for layer in range(LAYERS):
        for number, said in enumerate(PROMPTS.values()):
            expected = mean(said["positive"], layer) - mean(said["negative"], layer)
            row = found[f"model.layers.{layer}.block_sparse_moe.gate.weight"][number]
            torch.testing.assert_close(row, expected / expected.norm(), rtol=1e-4, atol=1e-5)


def routers(path: Path) -> Tensor:
    found = load_file(path / "model.safetensors")
    return torch.stack([found[f"model.layers.{layer}.block_sparse_moe.gate.weight"] for layer in range(LAYERS)])


def test_random_rows_depend_on_the_seed_and_the_layer_alone(models: Models, tmp_path: Path) -> None:
    zoo = models("llama")
    settings = Settings("mixtral", gate="random")
    first, second, other = (
        routers(build_moe(recipe_of(zoo).model_copy(update={"seed": seed}), tmp_path / name, settings, root=tmp_path))
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )

    assert first.equal(second)
    assert not first.equal(other)
    assert not first[0].equal(first[1])
    assert 0.7 < float(first.std()) < 1.3


@pytest.mark.proves("moe_build", by="property")
def test_bred_experts_are_the_same_for_a_seed_and_mix_the_least_similar(models: Models, tmp_path: Path) -> None:
    zoo = {**models("llama"), "more": save(tmp_path / "more", "llama", 2, models("llama")["base"])}  # equals `math`
    asked = {"expand": 2, "density": 0.5, **UNIFORM}
    first, second = (build(zoo, tmp_path / at, "llama", "code", "math", "more", **asked) for at in ("a", "b"))
    report = json.loads((first / "structure.json").read_text())["experts"]
    found, stored = load_file(first / "model.safetensors"), load_file(zoo["base"] / "model.safetensors")

    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert [expert["name"] for expert in report] == ["code", "math", "more", "expand-1", "expand-2"]
    shares = report[3]["made_of"]
    assert list(shares) in (["code", "math"], ["code", "more"])
    assert sum(shares.values()) == pytest.approx(1.0)
    name = "model.layers.1.mlp.up_proj.weight"
    bred = found["model.layers.1.block_sparse_moe.experts.3.w3.weight"] - stored[name]
    parents = [load_file(zoo[parent] / "model.safetensors")[name] - stored[name] for parent in shares]
    both, left, right, none = 0, 0, 0, 0
    for value, one, two in zip(bred.flatten(), parents[0].flatten(), parents[1].flatten(), strict=True):
        one, two = (2 * share * delta for share, delta in zip(shares.values(), (one, two), strict=True))
        close = [bool(torch.isclose(value, x, rtol=1e-4, atol=1e-6)) for x in (one + two, one, two, 0 * one)]
        assert any(close)
        both, left, right, none = (n + c for n, c in zip((both, left, right, none), close, strict=True))
    assert min(both, left, right, none) > 24 * 16 / 4 * 0.6  # a fourth of the entries each, roughly
    assert json.loads((first / "config.json").read_text())["num_local_experts"] == 5
    assert logits(first).isfinite().all()


def test_a_bred_experts_row_lies_between_its_parents(models: Models, tmp_path: Path) -> None:
    asked = prompts_file(tmp_path / "prompts.yaml", PROMPTS)
    out = build(models("llama"), tmp_path / "out", "llama", prompts=asked, expand=1, gate="cheap_embed")
    shares = json.loads((out / "structure.json").read_text())["experts"][2]["made_of"]
    expected = shares["code"] * routers(out)[:, 0] + shares["math"] * routers(out)[:, 1]

    torch.testing.assert_close(routers(out)[:, 2], expected / expected.norm(dim=-1, keepdim=True))
    assert (out / "prompts.yaml").exists()


@pytest.mark.parametrize("method", ["dare_ties", "tsv_m"])
def test_any_method_merges_the_trunk(method: str, models: Models, tmp_path: Path) -> None:
    zoo = models("tied")
    recipe = recipe_of(zoo, method=method)
    out = build_moe(recipe, tmp_path / "moe", Settings("mixtral", gate="uniform"), root=tmp_path)
    merged = load_file(merge_to_directory(recipe, tmp_path / "dense", root=tmp_path) / "model.safetensors")
    found = load_file(out / "model.safetensors")

    assert all(found[name].equal(tensor) for name, tensor in merged.items() if ".mlp." not in name)


def test_a_trunk_may_need_calibration(models: Models, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"text": f"w{i} w{i + 3} w{i + 9}"}) + "\n" for i in range(3, 9)))
    recipe = recipe_of(models("llama"), method="regmean", calibration={"items": {"location": str(items)}})
    out = build_moe(recipe, tmp_path / "moe", Settings("mixtral", gate="uniform"), root=tmp_path)
    merged = load_file(merge_to_directory(recipe, tmp_path / "dense", root=tmp_path) / "model.safetensors")
    found = load_file(out / "model.safetensors")

    assert all(found[name].equal(tensor) for name, tensor in merged.items() if ".mlp." not in name)


def test_names_without_their_prefix_give_the_same_bytes(models: Models, tmp_path: Path) -> None:
    zoo = models("llama")
    bare = {name: tmp_path / name for name in zoo}
    for name, path in zoo.items():
        shutil.copytree(path, bare[name])
        stored = load_file(path / "model.safetensors")
        save_file(
            {at.removeprefix("model."): tensor for at, tensor in stored.items()}, bare[name] / "model.safetensors"
        )
    settings = Settings("mixtral", gate="random", expand=1)
    first, second = (
        build_moe(recipe_of(places, method="dare_ties"), tmp_path / out, settings, root=tmp_path) / "model.safetensors"
        for places, out in ((zoo, "first"), (bare, "second"))
    )

    assert first.stat().st_size == second.stat().st_size
    assert all(load_file(second)[name].equal(tensor) for name, tensor in load_file(first).items())


def test_small_files_and_half_precision(models: Models, tmp_path: Path) -> None:
    zoo = models("qwen3")
    recipe = recipe_of(zoo).model_copy(update={"dtype": "bfloat16", "shard_bytes": 4000})
    told: list[tuple[int, int]] = []
    out = build_moe(
        recipe, tmp_path / "out", Settings("qwen3_moe", gate="random"), root=tmp_path,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip

    assert len(list(out.glob("*.safetensors"))) > 2
    with open_checkpoint(out) as checkpoint:
        assert {info.dtype for info in checkpoint.tensors.values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert logits(out).isfinite().all()
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("family", "to", "said"),
    [
        ("biased", "mixtral", "_proj.bias.*MixtralForCausalLM has no place for this bias"),
        ("biased_mlp", "mixtral", "_proj.bias.*no place"),
        ("qwen2", "qwen3_moe", "this one is qwen2, which becomes qwen2_moe"),
        ("llama", "olmoe", "one of mixtral, qwen2_moe, qwen3_moe"),
        ("qwen3_windowed", "qwen3_moe", "one sliding window for all of them or none"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(family: str, to: str, said: str, models: Models, tmp_path: Path) -> None:
    base = models(family)["base"] if family in TARGETS else save(tmp_path / "base", family)
    recipe = recipe_of({"base": base, "a": base}, "a")

    with pytest.raises(InvalidInputError, match=said) as error:
        build_moe(recipe, tmp_path / "out", Settings(to, experts_per_token=1, gate="uniform"), root=tmp_path)
    assert error.value.field == "to"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_settings_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    for field, more in {
        "gate": {"gate": "learned"},
        "states": {"states": "x", **UNIFORM},
        "tokens": {"tokens": "x", **UNIFORM},
        "prompts": {},
        "experts_per_token": {"experts_per_token": 0, **UNIFORM},
        "expand": {"expand": -1, **UNIFORM},
        "density": {"density": 0.0, **UNIFORM},
    }.items():
        with pytest.raises(InvalidInputError) as error:
            Settings("mixtral", **more)
        assert error.value.field == field
    with pytest.raises(InvalidInputError, match="prompts"):
        Settings("mixtral", gate="random", prompts=tmp_path)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([], "prompts"),
        ({**PROMPTS, "law": PROMPTS["math"]}, "prompts.law"),
        ({"code": PROMPTS["code"]}, "prompts.math"),
        ({**PROMPTS, "math": {"positive": []}}, "prompts.math.positive"),
        ({**PROMPTS, "math": {"positive": "w3"}}, "prompts.math.positive"),
        ({**PROMPTS, "math": {"positive": ["w3"], "negative": [7]}}, "prompts.math.negative"),
        ({**PROMPTS, "math": {"good": ["w3"]}}, "prompts.math"),
        ({"code": PROMPTS["code"], "math": PROMPTS["code"]}, "prompts"),
        ({**PROMPTS, "math": {"positive": [" "]}}, "prompts.math"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_by_name(
    data: object, field: str, models: Models, tmp_path: Path
) -> None:
    asked = prompts_file(tmp_path / "prompts.yaml", data)

    with pytest.raises(InvalidInputError) as error:
        build(models("llama"), tmp_path / "out", "llama", prompts=asked)
    assert error.value.field == field
    assert not (tmp_path / "out").exists()


def test_recipes_that_no_mixture_can_follow_are_refused(models: Models, tmp_path: Path) -> None:
    zoo, uniform = models("llama"), Settings("mixtral", gate="uniform")
    sliced = recipe_of(zoo, slices=({"base": (0, 0)},))
    adapter = recipe_of(zoo, output={"kind": "adapter"})
    for recipe, field in ((sliced, "slices"), (adapter, "output")):
        with pytest.raises(InvalidInputError) as error:
            build_moe(recipe, tmp_path / "out", uniform, root=tmp_path)
        assert error.value.field == field
    with pytest.raises(InvalidInputError, match="at most 2"):
        build(zoo, tmp_path / "out", "llama", experts_per_token=3, **UNIFORM)
    with pytest.raises(InvalidInputError, match="two or more can"):
        build(zoo, tmp_path / "out", "llama", "code", expand=1, **UNIFORM)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        build(zoo, tmp_path / "out", "llama", **UNIFORM)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_expert_with_nan_leaves_nothing_behind(models: Models, tmp_path: Path) -> None:
    zoo = models("llama")
    broken = save(tmp_path / "broken", "llama", 3)
    edit(broken, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[3:4].fill_(float("nan")))

    with pytest.raises((NonFiniteError, CheckpointError), match="up_proj"):
        build({**zoo, "broken": broken}, tmp_path / "out", "llama", "code", "broken", **UNIFORM)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_the_command_writes_a_model_that_says_what_it_is(models: Models, tmp_path: Path) -> None:
    from api.cli import app

    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(dump_yaml(recipe_of(models("llama"), method="ties")))
    prompts_file(tmp_path / "prompts.yaml", {"base": {"positive": ["w30 w31"]}, **PROMPTS})
    asked = [
        "moe", str(recipe), str(out), "--to", "mixtral", "--with-base", "--expand", "1",
        "--prompts", str(tmp_path / "prompts.yaml"), "--model", f"code={models('llama')['math']}",
    ]  # fmt: skip
    answer = CliRunner().invoke(app, asked)

    assert answer.exit_code == 0, answer.output
    assert json.loads((out / "config.json").read_text())["num_local_experts"] == 4
    card = (out / "README.md").read_text()
    assert "evomerge moe recipe.yaml OUT --to mixtral" in card
    assert "| 3 | expand-1 |" in card
    assert "arXiv:2410.01610" in card
    assert logits(out).isfinite().all()


class Zoo(Protocol):
    base: Path
    sources: dict[str, Path]

    def recipe(self, method: str, *names: str, dtype: str) -> Recipe: ...


@pytest.mark.proves("moe_build", by="property")
def test_adapters_are_experts_and_a_global_threshold_is_that_of_the_trunk(zoo: Zoo, tmp_path: Path) -> None:
    recipe = zoo.recipe("ties", "code", "es", dtype="float32")
    out = build_moe(recipe, tmp_path / "out", Settings("mixtral", gate="uniform"), root=tmp_path)
    found, base = load_file(out / "model.safetensors"), load_file(zoo.base / "model.safetensors")
    code, adapter = (load_file(next(zoo.sources[name].glob("*.safetensors"))) for name in ("code", "es"))
    stem = "model.layers.2.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{stem}.lora_{side}.weight"] for side in "AB")

    expert = found["model.layers.2.block_sparse_moe.experts.1.w1.weight"]
    assert expert.equal(base["model.layers.2.mlp.gate_proj.weight"].float())
    expert = found["model.layers.2.block_sparse_moe.experts.1.w3.weight"]
    torch.testing.assert_close(expert, base[f"{stem}.weight"].float() + 2.0 * b @ a)
    trunk = [name for name in base if ".mlp." not in name and name in found]
    size = torch.cat([(code[name].float() - base[name].float()).abs().flatten() for name in trunk])
    least = size.sort(descending=True).values[round(0.2 * len(size)) - 1]
    embedding = "model.embed_tokens.weight"  # which the adapter leaves alone
    kept = (code[embedding].float() - base[embedding].float()).abs() >= least
    assert (found[embedding] != base[embedding].float()).equal(kept)


def test_a_recipe_may_be_a_source(models: Models, tmp_path: Path) -> None:
    zoo = models("llama")
    (tmp_path / "inner.yaml").write_text(dump_yaml(recipe_of(zoo, "math")))
    recipe = recipe_of({**zoo, "inner": tmp_path / "inner.yaml"}, "code", "inner")
    out = build_moe(recipe, tmp_path / "out", Settings("mixtral", gate="uniform"), root=tmp_path)
    found, math = load_file(out / "model.safetensors"), load_file(zoo["math"] / "model.safetensors")

    expert = found["model.layers.1.block_sparse_moe.experts.1.w2.weight"]
    torch.testing.assert_close(expert, math["model.layers.1.mlp.down_proj.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner.yaml", "out"]
