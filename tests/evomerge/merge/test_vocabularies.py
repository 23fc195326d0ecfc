"""Merges of models whose tokenizers differ: real tiny models with byte-pair tokenizers trained on the spot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import InvalidInputError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Recipe

TEXT = ["the cat sat on the mat", "the dog ate the cake and the hat"] * 4
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Models:
    """`base`; `odd`, the same tokens at other rows; `chat`, two tokens more."""

    root: Path

    def recipe(self, *sources: str, **changes: Any) -> Recipe:
        data = {
            "base": {"location": str(self.root / "base")},
            "sources": {name: {"location": str(self.root / name)} for name in sources},
            "merge": {"method": "task_arithmetic", "parameters": {"weight": 0.5}},
            "dtype": "float32",
        }
        return Recipe.model_validate(data | changes)

    def merged(self, out: Path, *sources: str, **changes: Any) -> tuple[dict[str, Tensor], Any, Path]:
        merge_to_directory(self.recipe(*sources, **changes), out, root=self.root)
        return load_file(out / "model.safetensors"), AutoTokenizer.from_pretrained(out), out

    def weights(self, name: str) -> dict[str, Tensor]:
        return load_file(self.root / name / "model.safetensors")

    def ids(self, name: str) -> dict[str, int]:
        return dict(AutoTokenizer.from_pretrained(self.root / name).get_vocab())


def save_model(path: Path, tokenizer: Any, seed: int, near: dict[str, Tensor] | None = None) -> None:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, bos_token_id=0, eos_token_id=len(tokenizer) - 1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters() if near is not None else ():
        rows = min(len(parameter), len(near[name]))
        parameter.data[:rows] = near[name][:rows] + 0.01 * torch.randn_like(parameter[:rows])
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("vocabularies")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=50, special_tokens=["<s>"], show_progress=False))
    save_model(root / "base", PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>"), 0)
    near = load_file(root / "base" / "model.safetensors")

    save_model(root / "odd", AutoTokenizer.from_pretrained(root / "base"), 1, near)
    weights = load_file(root / "odd" / "model.safetensors")
    save_model(root / "straight", AutoTokenizer.from_pretrained(root / "base"), 1, near)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(len(weights[EMBEDDING]) - 1)])
    weights[EMBEDDING] = weights[EMBEDDING][order].contiguous()
    save_file(weights, root / "odd" / "model.safetensors", {"format": "pt"})
    data = json.loads((root / "odd" / "tokenizer.json").read_text())
    new_row = {int(old): row for row, old in enumerate(order)}
    data["model"]["vocab"] = {token: new_row[row] for token, row in data["model"]["vocab"].items()}
    (root / "odd" / "tokenizer.json").write_text(json.dumps(data))

    chat = AutoTokenizer.from_pretrained(root / "base")
    chat.add_special_tokens({"additional_special_tokens": [AddedToken("<|user|>", special=True), "<|end|>"]})
    save_model(root / "chat", chat, 2, near)
    return Models(root)


@pytest.mark.parametrize("source", ["odd", "chat"])
def test_other_tokens_are_an_error_that_shows_them(zoo: Models, tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        merge_to_directory(zoo.recipe(source), tmp_path / "out", root=tmp_path)

    said = str(error.value)
    assert f"sources.{source}" in said
    assert ("'<|user|>': missing in the base" if source == "chat" else "in the base, row") in said
    assert "`tokenizer` to base, union" in said
    assert not (tmp_path / "out").exists()


def test_rows_are_matched_by_token(zoo: Models, tmp_path: Path) -> None:
    """The very model that comes of the source with its rows in the base's order."""
    found, _, _ = zoo.merged(tmp_path / "odd", "odd", tokenizer="base")
    expected, _, _ = zoo.merged(tmp_path / "straight", "straight")

    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_union_has_the_new_tokens_and_keeps_the_bases_rows(zoo: Models, tmp_path: Path) -> None:
    found, tokenizer, out = zoo.merged(tmp_path / "out", "chat", "straight", tokenizer="union")
    ids, base, chat = tokenizer.get_vocab(), zoo.weights("base")[EMBEDDING], zoo.weights("chat")[EMBEDDING]

    assert ids == {**zoo.ids("base"), "<|user|>": len(base), "<|end|>": len(base) + 1}
    assert found[EMBEDDING].shape == (len(base) + 2, 16)
    straight = zoo.weights("straight")[EMBEDDING]
    expected = base + 0.5 * (chat[: len(base)] - base) + 0.5 * (straight - base)
    torch.testing.assert_close(found[EMBEDDING][: len(base)], expected)
    torch.testing.assert_close(found[EMBEDDING][len(base) :], chat[len(base) :])  # one model has them: as they are
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.vocab_size == len(base) + 2
    asked = tokenizer("<|user|> the cat <|end|>", return_tensors="pt")
    assert asked["input_ids"][0, 0] == len(base)
    assert torch.isfinite(model(asked["input_ids"]).logits).all()
    said = json.loads((out / "vocabulary.json").read_text())
    assert said["added"]["<|user|>"] == {"row": len(base), "from": ["chat"]}
    assert (said["tokens"], said["lost"]) == (len(ids), {})


def test_a_sources_own_vocabulary_can_be_taken(zoo: Models, tmp_path: Path) -> None:
    found, tokenizer, out = zoo.merged(tmp_path / "out", "chat", tokenizer="chat")
    config = json.loads((out / "config.json").read_text())

    assert tokenizer.get_vocab() == zoo.ids("chat")
    assert len(found[EMBEDDING]) == config["vocab_size"] == len(zoo.ids("chat"))
    assert config["eos_token_id"] == len(zoo.ids("chat")) - 1


def test_tables_are_padded_and_rules_hold(zoo: Models, tmp_path: Path) -> None:
    rules = {"<|end|>": {"model": "base", "token": "<s>", "force": True}, "<|new|>": {"fill": "zero"}}
    found, tokenizer, _ = zoo.merged(tmp_path / "out", "chat", tokenizer="union", tokens=rules, pad_to_multiple_of=32)
    ids = tokenizer.get_vocab()

    assert len(found[EMBEDDING]) % 32 == 0
    assert torch.equal(found[EMBEDDING][ids["<|end|>"]], zoo.weights("base")[EMBEDDING][0])
    assert not found[EMBEDDING][ids["<|new|>"]].any()
    assert not found[EMBEDDING][len(ids) :].any()


def test_a_weight_of_zero_gives_the_base_on_its_own_tokens(zoo: Models, tmp_path: Path) -> None:
    _, tokenizer, out = zoo.merged(
        tmp_path / "out",
        "chat",
        "odd",
        tokenizer="union",
        merge={"method": "task_arithmetic", "parameters": {"weight": 0}},
    )
    asked = tokenizer("the dog ate the mat", return_tensors="pt")["input_ids"]
    ours = AutoModelForCausalLM.from_pretrained(out)(asked).logits[..., : len(zoo.ids("base"))]

    torch.testing.assert_close(ours, AutoModelForCausalLM.from_pretrained(zoo.root / "base")(asked).logits)


def test_padded_tables_of_one_tokenizer_need_a_word(zoo: Models, tmp_path: Path) -> None:
    path = tmp_path / "padded"
    model = AutoModelForCausalLM.from_pretrained(zoo.root / "straight")
    model.resize_token_embeddings(64)
    model.save_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(zoo.root / "straight")
    tokenizer.save_pretrained(path)
    (path / "tokenizer.json").write_text((path / "tokenizer.json").read_text() + "\n")  # the same in other bytes
    sources = {"padded": {"location": str(path)}}

    with pytest.raises(InvalidInputError, match=r"64 rows.*tokenizer: base"):
        merge_to_directory(zoo.recipe(sources=sources), tmp_path / "out", root=tmp_path)

    merge_to_directory(zoo.recipe(sources=sources, tokenizer="base"), tmp_path / "out", root=tmp_path)
    assert len(load_file(tmp_path / "out" / "model.safetensors")[EMBEDDING]) == len(zoo.ids("base"))


def test_a_live_model_keeps_its_vocabulary(zoo: Models) -> None:
    resident = Resident(zoo.recipe("straight", "chat", tokenizer="base"))
    resident.materialize(zoo.recipe("straight", "chat", tokenizer="base"))

    with pytest.raises(InvalidInputError, match="tokenizer"):
        resident.materialize(zoo.recipe("straight", "chat", tokenizer="union"))
