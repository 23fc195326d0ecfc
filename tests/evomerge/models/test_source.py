from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from evomerge.errors import ArchitectureError, CheckpointError, NonFiniteError
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.source import open_source

Tiny = Callable[..., PreTrainedModel]
Save = Callable[..., Path]
# PEFT 0.21 asks for an attribute that transformers 5.23 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def base(save: Save, tiny: Tiny) -> Checkpoint:
    return open_checkpoint(save("base", tiny(tie_word_embeddings=True)))


@pytest.fixture
def tuned(save: Save, tiny: Tiny) -> Path:
    return save("tuned", tiny(seed=1, tie_word_embeddings=True))


def edit(at: Path, change: Callable[[dict[str, torch.Tensor]], object], **config: Any) -> None:
    """Change the weights and the config of a saved model."""
    tensors = load_file(at / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, at / "model.safetensors")
    path = at / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def lora(model: PreTrainedModel, out: Path, *targets: str, **config: Any) -> Path:
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, **config))
    tuned.save_pretrained(out, save_embedding_layers=False)
    return out


def test_a_checkpoints_delta_is_the_difference_in_float32(family: str, save: Save, tiny: Tiny) -> None:
    base = open_checkpoint(save("base", tiny(family).bfloat16()))
    path = save("tuned", tiny(family, seed=1).bfloat16())
    source, expected = open_source("tuned", path, base), open_checkpoint(path)

    assert source.dtype == torch.bfloat16
    assert source.changed == set(base.tensors)
    for name in base.tensors:
        delta = source.delta(name)
        assert delta is not None
        assert delta.dtype == torch.float32
        assert torch.equal(delta, expected.read(name).float() - base.read(name).float())
        assert torch.equal(source.weights(name), expected.read(name))


def test_dtypes_may_differ_between_base_and_source(base: Checkpoint, save: Save, tiny: Tiny) -> None:
    path = save("half", tiny(tie_word_embeddings=True).half())
    source = open_source("half", path, base)
    delta = source.delta(Q)

    assert source.dtype == torch.float16
    assert delta is not None
    assert 0 < delta.abs().max() < 1e-3


def test_an_adapters_weights_are_base_plus_delta(base: Checkpoint, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(tie_word_embeddings=True)
    source = open_source("math", lora(model, tmp_path / "lora", "q_proj", "up_proj"), base)
    delta = source.delta(Q)

    assert source.changed == {
        f"model.layers.{layer}.{module}.weight" for layer in (0, 1) for module in ("self_attn.q_proj", "mlp.up_proj")
    }
    assert delta is not None
    assert torch.equal(source.weights(Q), base.read(Q) + delta)
    assert source.delta("model.norm.weight") is None
    assert torch.equal(source.weights("model.norm.weight"), base.read("model.norm.weight"))


def test_an_adapter_spelled_as_the_live_model_finds_the_stored_name(save: Save, tiny: Tiny, tmp_path: Path) -> None:
    """GPT-NeoX: a live model calls `lm_head` what its file calls `embed_out`."""
    base = open_checkpoint(save("base", tiny("gpt_neox")))
    source = open_source("x", lora(tiny("gpt_neox"), tmp_path / "lora", "lm_head"), base)

    assert source.changed == {"embed_out.weight"}
    assert source.delta("embed_out.weight") is not None


def test_the_base_itself_as_a_source_changes_nothing(base: Checkpoint) -> None:
    source = open_source("base", base.path, base)

    assert source.changed == frozenset()
    assert source.delta(Q) is None
    assert torch.equal(source.weights(Q), base.read(Q))


def test_a_head_listed_although_tied_is_the_embedding(base: Checkpoint, tuned: Path) -> None:
    edit(tuned, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    source = open_source("tuned", tuned, base)

    assert source.changed == set(base.tensors)
    assert "lm_head.weight" not in source.changed


def test_a_tied_head_listed_by_the_base_takes_no_part(base: Checkpoint, tuned: Path) -> None:
    edit(base.path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    listed = open_checkpoint(base.path)
    source = open_source("tuned", tuned, listed)

    assert set(listed.tensors) - source.changed == {"lm_head.weight"}


def test_a_tied_head_that_differs_from_the_embedding_is_refused(base: Checkpoint, tuned: Path) -> None:
    edit(tuned, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))

    with pytest.raises(ArchitectureError, match=r"tuned: config\.json ties 'lm_head\.weight' .* the two differ"):
        open_source("tuned", tuned, base)


def test_a_head_of_its_own_does_not_fit_a_tied_base(base: Checkpoint, save: Save, tiny: Tiny) -> None:
    path = save("untied", tiny(seed=1))

    with pytest.raises(ArchitectureError, match=r"'untied' .* has 'lm_head\.weight', which the base model has not"):
        open_source("untied", path, base)


def test_a_tied_sources_embedding_is_the_head_of_an_untied_base(save: Save, tiny: Tiny, tuned: Path) -> None:
    base = open_checkpoint(save("untied", tiny()))
    source = open_source("tuned", tuned, base)

    assert torch.equal(source.weights("lm_head.weight"), source.weights("model.embed_tokens.weight"))
    assert "lm_head.weight" in source.changed


def test_another_family_is_refused_with_both_names(base: Checkpoint, save: Save, tiny: Tiny) -> None:
    with pytest.raises(ArchitectureError, match="'q' is of the family 'qwen2', the base model is 'llama'"):
        open_source("q", save("qwen", tiny("qwen2")), base)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers 3, the base model has 2"),
        ({"num_attention_heads": 8}, "num_attention_heads 8, the base model has 4"),
        ({"vocab_size": 70}, r"'model\.embed_tokens\.weight' of source 'x' is \[70, 32\], .* it is \[64, 32\]"),
        ({"intermediate_size": 40}, r"mlp\.\w+_proj\.weight' of source 'x' is .*40.*, in the base model it is .*48"),
        ({"attention_bias": True}, r"has 'model\.layers\.0\.self_attn\.\w_proj\.bias'.* which the base model has not"),
    ],
)
def test_other_shapes_are_refused_with_both_numbers(
    base: Checkpoint, save: Save, tiny: Tiny, config: dict[str, Any], message: str
) -> None:
    path = save("x", tiny(**({"tie_word_embeddings": True, "head_dim": 8} | config)))

    with pytest.raises(ArchitectureError, match=message):
        open_source("x", path, base)


def test_a_source_that_lacks_tensors_is_refused_by_name(save: Save, tiny: Tiny) -> None:
    biased = open_checkpoint(save("biased", tiny(attention_bias=True)))
    with pytest.raises(ArchitectureError, match=r"'x' .* lacks 'model\.layers\.0\.self_attn\..*\.bias'.* and 5 more"):
        open_source("x", save("x", tiny()), biased)

    lost = save("lost", tiny())
    edit(lost, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ArchitectureError, match=r"lost: the checkpoint lacks 'model\.norm\.weight'"):
        open_source("lost", lost, biased)


def test_buffers_take_no_part_and_may_differ(base: Checkpoint, tuned: Path) -> None:
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(base.path, lambda t: t.update({buffer: torch.ones(4)}))
    listed = open_checkpoint(base.path)
    assert buffer not in open_source("tuned", tuned, listed).changed

    edit(tuned, lambda t: t.update({"model.rotary_emb.inv_freq": torch.ones(9)}))
    assert open_source("tuned", tuned, base).changed == set(base.tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_source_is_named_when_read(base: Checkpoint, tuned: Path, value: float) -> None:
    edit(tuned, lambda t: t[Q].view(-1)[5].fill_(value))
    source = open_source("bad", tuned, base)

    with pytest.raises(NonFiniteError, match=rf"source 'bad' .*'{Q}' .* 1 of 1024 entries"):
        source.delta(Q)
    with pytest.raises(NonFiniteError, match=rf"source 'bad' .*'{Q}' .* 1 of 1024 entries"):
        source.weights(Q)


def test_an_adapter_of_another_model_is_refused(base: Checkpoint, tiny: Tiny, tmp_path: Path) -> None:
    wide = lora(tiny(intermediate_size=40), tmp_path / "wide", "up_proj")
    with pytest.raises(ArchitectureError, match=r"up_proj\.weight' of source 'w' is \[40, 32\], .* \[48, 32\]"):
        open_source("w", wide, base)

    deep = lora(tiny(num_hidden_layers=3), tmp_path / "deep", "up_proj")
    with pytest.raises(ArchitectureError, match=r"adapts 'model\.layers\.2\.mlp\.up_proj\.weight', which the base"):
        open_source("d", deep, base)


def test_an_adapter_of_a_tied_embedding_is_refused(base: Checkpoint, tiny: Tiny, tmp_path: Path) -> None:
    path = lora(tiny(), tmp_path / "lora", "embed_tokens")

    with pytest.raises(ArchitectureError, match=r"adapts 'model\.embed_tokens\.weight', which is tied"):
        open_source("e", path, base)


def test_a_missing_directory_is_named(base: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        open_source("x", tmp_path / "nowhere", base)
