"""`evomerge compress` on tiny real models: what comes out is an ordinary checkpoint that does what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from typer.testing import CliRunner

from evomerge.errors import ArchitectureError, CheckpointError, InvalidInputError, NonFiniteError
from evomerge.merge.structure.compress import Settings, compress
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint

set_verbosity_error()
disable_progress_bar()
SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=8),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=6, num_experts_per_tok=2),
    "qwen2_moe": lambda: Qwen2MoeConfig(**SIZES, **EXPERTS, shared_expert_intermediate_size=8, mlp_only_layers=[1]),
    "qwen3_moe": lambda: Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8),
    "olmoe": lambda: OlmoeConfig(**SIZES, num_experts=6, num_experts_per_tok=2),
}
TOKENS = torch.arange(1, 25)[None]
Edit = Callable[[dict[str, Tensor]], None]


def save(path: Path, family: str, edit: Edit | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """A random model with a tokenizer of forty words; `edit` may change its tensors as they lie on disk."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(path)
    if edit is not None:
        tensors = load_file(path / "model.safetensors")
        edit(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(8):
        words = " ".join(f"w{word}" for word in torch.randint(1, 40, (12,), generator=generator))
        rows.append({"text": words} if number % 2 else {"context": words, "choices": [" w3", " w4"], "label": 1})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("models"), dict[str, Path]()

    def get(family: str) -> Path:
        if family not in made:
            made[family] = save(root / family, family)
        return made[family]

    return get


def logits(path: Path) -> Tensor:
    with torch.no_grad():
        found: Tensor = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()(TOKENS).logits
    return found


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    report = path / "structure.json"
    return (
        load_file(path / "model.safetensors"),
        json.loads((path / "config.json").read_text()),
        json.loads(report.read_text()) if report.exists() else {},
    )


def experts(tensors: dict[str, Tensor], layer: int) -> list[dict[str, Tensor]]:
    """gate, up, down of every expert of a layer, whatever the family calls them."""
    calls = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if "experts" in parts and parts[2] == str(layer):
            found.setdefault(int(parts[parts.index("experts") + 1]), {})[calls[parts[-2]]] = tensor
    return [found[number] for number in sorted(found)]


def router(tensors: dict[str, Tensor], layer: int) -> Tensor:
    return next(t for n, t in tensors.items() if f"layers.{layer}." in n and n.endswith(".gate.weight"))


@pytest.mark.proves("hc_smoe", by="property")
@pytest.mark.proves("sub_moe", by="property")
@pytest.mark.parametrize("method", ["hc_smoe", "sub_moe"])
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_merged_experts_are_the_means_of_their_groups(
    method: str, family: str, models: Callable[[str], Path], items: Path, tmp_path: Path
) -> None:
    out = compress(models(family), tmp_path / "out", items, Settings(method, keep=0.5, router="mean"))
    before, config, _ = read(models(family))
    after, smaller, report = read(out)

    assert {k for k in config if config[k] != smaller[k]} <= {"num_experts", "num_local_experts"}
    assert 3 in (smaller.get("num_experts"), smaller.get("num_local_experts"))
    assert logits(out).isfinite().all()
    assert sorted(map(int, report["groups"])) == ([0, 2] if family == "qwen2_moe" else [0, 1, 2])
    for layer, groups in report["groups"].items():
        assert sorted(e for group in groups for e in group["members"]) == list(range(6))
        for place, group in enumerate(groups):
            shares = torch.tensor(group["shares"])
            for matrix, tensor in experts(after, int(layer))[place].items():
                stacked = torch.stack([experts(before, int(layer))[e][matrix] for e in group["members"]])
                torch.testing.assert_close(tensor, torch.einsum("e,eoi->oi", shares, stacked), rtol=1e-4, atol=1e-5)
            row = shares @ router(before, int(layer))[group["members"]]
            torch.testing.assert_close(router(after, int(layer))[place], row)
    untouched = [n for n in before if "experts" not in n and not n.endswith(".gate.weight")]
    assert all(after[name].equal(before[name]) for name in untouched)


def twins(tensors: dict[str, Tensor]) -> None:
    """Experts 3, 4, 5 are copies of 0, 1, 2."""
    for name in list(tensors):
        for number in (3, 4, 5):
            if f".experts.{number}." in name:
                tensors[name] = tensors[name.replace(f".experts.{number}.", f".experts.{number - 3}.")].clone()


@pytest.mark.proves("hc_smoe", by="property")
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_equal_experts_are_found_and_merging_them_changes_nothing(family: str, items: Path, tmp_path: Path) -> None:
    model = save(tmp_path / "model", family, twins)
    out = compress(model, tmp_path / "out", items, Settings("hc_smoe"))
    _, config, report = read(out)

    assert all([g["members"] for g in groups] == [[0, 3], [1, 4], [2, 5]] for groups in report["groups"].values())
    torch.testing.assert_close(logits(out), logits(model), rtol=1e-4, atol=1e-5)
    assert config == read(model)[1]


def shuffled(tensors: dict[str, Tensor]) -> None:
    """Every expert is the first one with its hidden units in another order."""
    for name in list(tensors):
        for number in range(1, 6):
            if f".experts.{number}." in name:
                first = tensors[name.replace(f".experts.{number}.", ".experts.0.")]
                order = torch.randperm(12, generator=torch.Generator().manual_seed(number))
                tensors[name] = first[:, order] if ".w2." in name else first[order]


@pytest.mark.proves("m_smoe", by="property")
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_experts_are_aligned_before_they_are_merged(scope: str, items: Path, tmp_path: Path) -> None:
    model = save(tmp_path / "model", "mixtral", shuffled)
    out = compress(model, tmp_path / "m", items, Settings("m_smoe", scope=scope))
    plain = compress(model, tmp_path / "plain", items, Settings("hc_smoe", shares="uniform", keep=0.17))
    groups = read(out)[2]["groups"]

    torch.testing.assert_close(logits(out), logits(model), rtol=1e-4, atol=1e-5)
    assert float((logits(plain) - logits(model)).abs().max()) > 0.01
    assert sum(map(len, groups.values())) == 9
    assert all(g["core"] in g["members"] for found in groups.values() for g in found)
    if scope == "layer":
        assert all(len(found) == 3 for found in groups.values())


def silent(tensors: dict[str, Tensor]) -> None:
    """Expert 4 says nothing."""
    for name, tensor in tensors.items():
        if ".experts.4." in name and name.endswith(("w2.weight", "down_proj.weight")):
            tensor.zero_()


@pytest.mark.proves("reap", by="property")
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_pruning_drops_the_planted_silent_expert(family: str, items: Path, tmp_path: Path) -> None:
    model = save(tmp_path / "model", family, silent, torch.bfloat16)
    out = compress(model, tmp_path / "out", items, Settings("reap", keep=5 / 6))
    before, (after, config, report) = read(model)[0], read(out)

    assert 5 in (config.get("num_experts"), config.get("num_local_experts"))
    assert all(tensor.dtype == torch.bfloat16 for tensor in after.values())
    for layer in map(int, report["groups"]):
        kept = [0, 1, 2, 3, 5]
        assert router(after, layer).equal(router(before, layer)[kept])
        for now, then in zip(experts(after, layer), (experts(before, layer)[e] for e in kept), strict=True):
            assert all(now[matrix].equal(then[matrix]) for matrix in now)
    with open_checkpoint(out) as checkpoint:
        assert architecture_of_checkpoint(checkpoint).num_experts == 5
    assert logits(out).isfinite().all()


def alike(tensors: dict[str, Tensor]) -> None:
    """The last two layers are one."""
    for name in list(tensors):
        if ".layers.2." in name:
            tensors[name] = tensors[name.replace(".layers.2.", ".layers.1.")].clone()


@pytest.mark.proves("mka", by="property")
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
def test_fused_layers_are_written(family: str, models: Callable[[str], Path], items: Path, tmp_path: Path) -> None:
    out = compress(models(family), tmp_path / "out", items, Settings("mka"))
    before, (after, config, report) = read(models(family))[0], read(out)
    first, second = report["shares"]

    assert config["num_hidden_layers"] == 2
    assert first + second == pytest.approx(1.0)
    assert all(len(config[key]) == 2 for key in ("layer_types",) if key in config)
    for name, tensor in after.items():
        expected = before[name]
        if ".layers.1." in name:
            expected = first * before[name] + second * before[name.replace(".layers.1.", ".layers.2.")]
        torch.testing.assert_close(tensor, expected, msg=name)
    assert not any(".layers.2." in name for name in after)
    assert logits(out).isfinite().all()


@pytest.mark.proves("mka", by="property")
def test_fusing_equal_layers_gives_that_layer(items: Path, tmp_path: Path) -> None:
    model = save(tmp_path / "model", "llama", alike)
    out = compress(model, tmp_path / "out", items, Settings("mka"))
    before, after = read(model)[0], read(out)[0]

    assert all(torch.allclose(tensor, before[name], atol=1e-6) for name, tensor in after.items())


@pytest.mark.proves("mka", by="property")
def test_several_layers_fuse_from_the_last_on(models: Callable[[str], Path], items: Path, tmp_path: Path) -> None:
    out = compress(models("llama"), tmp_path / "out", items, Settings("mka", layers=2, beta=3.0))
    before, (after, config, report) = read(models("llama"))[0], read(out)

    assert config["num_hidden_layers"] == 1
    name = "model.layers.0.mlp.up_proj.weight"
    parts = [before[name.replace("0", str(layer), 1)] for layer in range(3)]
    torch.testing.assert_close(after[name], sum(s * p for s, p in zip(report["shares"], parts, strict=True)))


def test_what_does_not_fit_the_model_is_refused(models: Callable[[str], Path], items: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a mixture of experts"):
        compress(models("llama"), tmp_path / "a", items, Settings("reap"))
    with pytest.raises(InvalidInputError, match="each token takes 2 experts"):
        compress(models("mixtral"), tmp_path / "a", items, Settings("reap", keep=0.1))
    with pytest.raises(InvalidInputError, match="1 to 2 of this model's layers"):
        compress(models("llama"), tmp_path / "a", items, Settings("mka", layers=3))
    assert list(tmp_path.iterdir()) == []


def test_layers_of_two_kinds_are_not_fused(models: Callable[[str], Path], items: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="layers 1 and 2 have other tensors"):
        compress(models("qwen2_moe"), tmp_path / "a", items, Settings("mka"))


def test_a_directory_in_use_is_left_alone(models: Callable[[str], Path], items: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")

    with pytest.raises(CheckpointError, match="exists already"):
        compress(models("llama"), tmp_path / "out", items, Settings("mka"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_same_request_gives_the_same_bytes(models: Callable[[str], Path], items: Path, tmp_path: Path) -> None:
    settings = Settings("sub_moe", rank=0.6, number=4, seed=3)
    first = compress(models("mixtral"), tmp_path / "a", items, settings)
    second = compress(models("mixtral"), tmp_path / "b", items, settings)

    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert (first / "tokenizer.json").exists()


def test_the_command_writes_a_model(models: Callable[[str], Path], items: Path, tmp_path: Path) -> None:
    from api.cli import app

    asked = ["compress", str(models("mixtral")), str(tmp_path / "out"), "--items", str(items), "--keep", "0.5"]
    answer = CliRunner().invoke(app, asked)

    assert answer.exit_code == 0, answer.output
    assert "structure.json" in answer.output
    assert read(tmp_path / "out")[1]["num_local_experts"] == 3


def test_a_model_that_computes_nan_is_named(items: Path, tmp_path: Path) -> None:
    def broken(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")

    with pytest.raises(NonFiniteError, match="NaN or infinity among the activations of layer"):
        compress(save(tmp_path / "model", "llama", broken), tmp_path / "out", items, Settings("mka"))

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("beta", -1.0), ("beta", float("nan")), ("max_tokens", 1)])
def test_settings_that_mean_nothing_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=name):
        Settings("mka", **{name: value})
