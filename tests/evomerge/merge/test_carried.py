"""Tensors that only one source has: real tiny LLaVA models of one tiny Llama, and one with an encoder of sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
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
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.execute import foresee, merge_to_directory
from evomerge.merge.mergekit.write import to_mergekit
from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Recipe

set_verbosity_error()
disable_progress_bar()

IMAGE = 39
"""The token in whose place LLaVA puts an image's four patches, one each."""
TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "tie_word_embeddings": False,
}  # fmt: skip
VISION = CLIPVisionConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4,
    projection_dim=8,
)  # fmt: skip
INPUTS = {
    "input_ids": torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE, 5, 6]]),
    "pixel_values": torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8),
}


@dataclass(frozen=True)
class Zoo:
    root: Path

    def recipe(self, carry: dict[str, Any] | None, *names: str, **more: Any) -> Recipe:
        data = {
            "base": {"location": str(self.root / "base")},
            "sources": {name: {"location": str(self.root / name)} for name in names or ("sound", "vision")},
            "merge": {"method": "ties", "parameters": {"density": 0.5}},
            "dtype": "float32",
            **more,
        }
        return Recipe.model_validate(data if carry is None else {**data, "carry": carry})

    def weights(self, name: str) -> dict[str, Tensor]:
        return load_file(self.root / name / "model.safetensors")


def save_llava(path: Path, base: LlamaForCausalLM, seed: int) -> None:
    """LLaVA on a language model that is a small step away from `base`."""
    torch.manual_seed(seed)
    config = LlavaConfig(vision_config=VISION, text_config=LlamaConfig(**TEXT), image_token_index=IMAGE)
    model = LlavaForConditionalGeneration(config)
    theta0 = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in base.state_dict().items()}
    model.model.language_model.load_state_dict(
        {name.removeprefix("model."): t for name, t in theta0.items() if name.startswith("model.")}
    )
    model.lm_head.weight.data.copy_(theta0["lm_head.weight"])
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"size": 8, "seed": seed}))


def with_sound(path: Path) -> None:
    """Turn a LLaVA's encoder into one of another kind: other names, other keys in its config."""
    weights = load_file(path / "model.safetensors")
    renamed = {
        n.replace("vision_tower", "audio_tower").replace("multi_modal_", "audio_"): t for n, t in weights.items()
    }
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config = {"model_type": "sound", "text_config": config["text_config"], "audio_config": config["vision_config"]}
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    root = tmp_path_factory.mktemp("carried")
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**TEXT))
    base.save_pretrained(root / "base")
    save_llava(root / "vision", base, 1)
    save_llava(root / "sound", base, 2)
    with_sound(root / "sound")
    return Zoo(root)


Merge = Callable[..., Path]


@pytest.fixture
def merged(zoo: Zoo, tmp_path: Path) -> Merge:
    def merge(carry: dict[str, Any] | None, *names: str, **more: Any) -> Path:
        return merge_to_directory(zoo.recipe(carry, *names, **more), tmp_path / "out", root=tmp_path)

    return merge


BOTH: dict[str, Any] = {"host": "vision", "sources": {"vision": {}, "sound": {"tensors": ["audio_*"]}}}


def test_the_shared_language_model_is_merged_and_every_encoder_is_carried_over(zoo: Zoo, merged: Merge) -> None:
    found = load_file(merged(BOTH) / "model.safetensors")
    plain = {n.removeprefix("language_model."): t for n, t in found.items() if n.startswith("language_model.")}
    vision, sound = zoo.weights("vision"), zoo.weights("sound")
    own = {n: t for n, t in {**vision, **sound}.items() if not n.startswith("language_model.")}

    assert {n: t for n, t in found.items() if not n.startswith("language_model.")}.keys() == own.keys()
    assert all(found[name].equal(tensor) for name, tensor in own.items())
    assert any(name.startswith("audio_tower.") for name in own)
    assert not any(found[n].equal(vision[n]) or found[n].equal(sound[n]) for n in found if "q_proj" in n and n in plain)
    assert len(plain) == len(zoo.weights("base"))


def test_the_language_model_is_what_it_is_without_encoders(zoo: Zoo, merged: Merge, tmp_path: Path) -> None:
    carried = load_file(
        merged(BOTH, merge={"method": "dare_ties", "parameters": {"density": 0.5}}) / "model.safetensors"
    )
    names = {"method": "names", "table": [[r"language_model\.(.*)", r"\1"]]}
    alone = zoo.recipe(
        None, align={"vision": names, "sound": names}, merge={"method": "dare_ties", "parameters": {"density": 0.5}}
    )
    plain = load_file(merge_to_directory(alone, tmp_path / "plain", root=tmp_path) / "model.safetensors")

    assert all(carried[f"language_model.{name}"].equal(tensor) for name, tensor in plain.items())


def test_transformers_loads_the_result_and_it_sees(zoo: Zoo, merged: Merge) -> None:
    align = {"sound": {"method": "names", "table": [[r"language_model\.(.*)", r"\1"]]}}
    out = merged({"host": "vision", "sources": {"vision": {}}}, merge={"method": "linear"}, align=align)
    model, loading = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    by_hand = LlavaForConditionalGeneration.from_pretrained(zoo.root / "vision")
    sound = zoo.weights("sound")
    by_hand.load_state_dict(
        {
            name: (tensor + sound[spelled]) / 2 if (spelled := _stored(name)) in sound else tensor
            for name, tensor in by_hand.state_dict().items()
        }
    )
    with torch.no_grad():
        got, wanted = model(**INPUTS).logits, by_hand(**INPUTS).logits
        blind = model(**{**INPUTS, "pixel_values": -INPUTS["pixel_values"]}).logits

    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    torch.testing.assert_close(got, wanted)
    assert float((got - blind).abs().max()) > 1e-3


def _stored(live: str) -> str:
    """As transformers spells a live LLaVA's text tensors in a file."""
    return live.replace("model.language_model.", "language_model.model.").replace("lm_head", "language_model.lm_head")


def test_config_and_preparation_of_inputs_are_the_hosts_with_what_others_add(
    zoo: Zoo, merged: Merge, caplog: pytest.LogCaptureFixture
) -> None:
    out = merged(BOTH)
    config = json.loads((out / "config.json").read_text())

    assert config["model_type"] == "llava"
    assert config["vision_config"]["model_type"] == "clip_vision_model"
    assert config["audio_config"]["hidden_size"] == 8
    assert config["text_config"]["dtype" if "dtype" in config["text_config"] else "model_type"] in ("float32", "llama")
    assert json.loads((out / "preprocessor_config.json").read_text())["seed"] == 1
    assert "is left out" in caplog.text


def test_without_a_host_the_base_is_extended(zoo: Zoo, merged: Merge) -> None:
    out = merged({"sources": {"vision": {"tensors": ["vision_tower.*"]}}}, "vision")
    found, config = load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())

    assert "model.norm.weight" in found
    assert "vision_tower.pre_layrnorm.weight" in found
    assert not any("projector" in name for name in found)
    assert config["model_type"] == "llama"
    assert config["vision_config"]["patch_size"] == 4


def test_a_live_model_is_the_language_model(zoo: Zoo, merged: Merge) -> None:
    recipe = zoo.recipe(BOTH)
    resident = Resident(recipe)
    resident.materialize(recipe)
    found = load_file(merged(BOTH) / "model.safetensors")

    for name, tensor in resident.model.state_dict().items():
        assert tensor.equal(found[f"language_model.{name}"]), name


def tokenizer(path: Path, *more: str) -> None:
    words = {f"w{i}": i for i in range(40)} | {token: 40 + i for i, token in enumerate(more)}
    inner = Tokenizer(WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(path)


def test_a_host_may_have_more_tokens(zoo: Zoo, tmp_path: Path) -> None:
    weights = zoo.weights("vision")
    for at in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        weights[at] = torch.cat([weights[at], torch.ones(2, 16)])
    large = tmp_path / "vision"
    large.mkdir()
    save_file(weights, large / "model.safetensors")
    config = json.loads((zoo.root / "vision" / "config.json").read_text())
    config["text_config"]["vocab_size"] = 42
    (large / "config.json").write_text(json.dumps(config))
    tokenizer(large, "image", "sound")
    base = tmp_path / "own"
    base.mkdir()
    for file in ("model.safetensors", "config.json"):
        (base / file).symlink_to(zoo.root / "base" / file)
    tokenizer(base)
    asked = zoo.recipe({"host": "vision", "sources": {"vision": {}}}, "vision")
    refs = {"base": {"location": str(base)}, "sources": {"vision": {"location": str(large)}}}
    asked = Recipe.model_validate(asked.model_dump(by_alias=True, exclude={"base", "sources"}) | refs)
    found = Recipe.model_validate(asked.model_dump(by_alias=True) | {"tokenizer": "vision"})
    out = merge_to_directory(found, tmp_path / "out", root=tmp_path)

    with pytest.raises(ArchitectureError, match=r"\[42, 16\].*\[40, 16\].*`tokenizer` matches rows by token"):
        merge_to_directory(asked, tmp_path / "refused", root=tmp_path)
    assert LlavaForConditionalGeneration.from_pretrained(out).lm_head.weight.shape == (42, 16)
    assert json.loads((out / "config.json").read_text())["text_config"]["vocab_size"] == 42


@pytest.mark.parametrize(
    ("carry", "said"),
    [
        ({"sources": {"vision": {"tensors": ["eyes.*"]}}}, r"eyes.*only this source has: 'multi_modal_projector"),
        ({"host": "sound", "sources": {"sound": {}, "vision": {"tensors": ["*.model.norm.weight"]}}}, "norm.weight"),
    ],
)
def test_patterns_that_match_nothing_of_a_sources_own_name_what_there_is(
    carry: dict[str, Any], said: str, merged: Merge
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        merged(carry, *carry["sources"])


def test_two_tensors_of_one_name_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    again = {"location": str(zoo.root / "vision")}
    sources = {"a": again, "b": again}
    with pytest.raises(InvalidInputError, match=r"'multi_modal_projector\.linear_1\.bias'.*other names"):
        merge_to_directory(
            zoo.recipe({"sources": {"a": {}, "b": {}}}, sources=sources), tmp_path / "out", root=tmp_path
        )
    assert not (tmp_path / "out").exists()


def test_a_host_that_lacks_part_of_the_language_model_is_refused_by_name(zoo: Zoo, tmp_path: Path) -> None:
    lame = tmp_path / "lame"
    lame.mkdir()
    weights = {n: t for n, t in zoo.weights("vision").items() if "layers.1.mlp.up" not in n}
    save_file(weights, lame / "model.safetensors")
    (lame / "config.json").write_bytes((zoo.root / "vision" / "config.json").read_bytes())
    recipe = zoo.recipe({"host": "lame", "sources": {"lame": {}}}, sources={"lame": {"location": str(lame)}})

    with pytest.raises(ArchitectureError, match=r"host 'lame' .* lacks 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)
    with pytest.raises(ArchitectureError, match="lacks"):
        foresee(recipe, tmp_path / "out", root=tmp_path)


def test_a_source_without_tensors_of_its_own_has_nothing_to_carry(zoo: Zoo, tmp_path: Path) -> None:
    recipe = zoo.recipe({"sources": {"plain": {}}}, sources={"plain": {"location": str(zoo.root / "base")}})
    with pytest.raises(InvalidInputError, match="it has none"):
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"carry": {"sources": {}}}, "carry.sources"),
        ({"carry": {"sources": {"nobody": {}}}}, "carry.sources.nobody"),
        ({"carry": {"host": "sound", "sources": {"vision": {}}}}, "carry.host"),
        ({"carry": BOTH, "align": {"vision": {"method": "weights"}}}, "align.vision.method"),
        ({"carry": BOTH, "slices": [{"base": [0, 1]}]}, "slices"),
    ],
)
def test_sections_that_cannot_be_meant_are_refused(more: dict[str, Any], said: str, zoo: Zoo) -> None:
    with pytest.raises(ValueError, match=said):
        zoo.recipe(more.get("carry"), **{k: v for k, v in more.items() if k != "carry"})


def test_mergekit_has_no_words_for_it(zoo: Zoo) -> None:
    with pytest.raises(InvalidInputError, match=r"carry: got 'a section'; expected none"):
        to_mergekit(zoo.recipe(BOTH), 2)
