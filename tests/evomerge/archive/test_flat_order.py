from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.archive.flat_order import ROLES, Chromosome, Units, chromosomes, flat_order
from evomerge.errors import InvalidInputError
from evomerge.models.architecture import Architecture, architecture_of
from evomerge.models.checkpoint import TensorInfo
from evomerge.models.family import families

SHAPES = {"embed_tokens": (7, 4), "lm_head": (7, 4), "up_proj": (6, 4), "gate_proj": (6, 4), "down_proj": (4, 6)}


def llama(*, tied: bool = False, bias: bool = False) -> tuple[Architecture, dict[str, TensorInfo]]:
    config: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": 12, "tie_word_embeddings": tied}
    shapes: dict[str, tuple[int, ...]] = {}
    for module in families()["llama"].modules:
        for layer in range(12) if "{layer}" in module else [0]:
            stem = module.rpartition(".")[2]
            name = module.format(layer=layer)
            shapes[f"{name}.weight"] = SHAPES.get(stem, (4,) if "norm" in stem else (4, 4))
            if bias and stem == "q_proj":
                shapes[f"{name}.bias"] = (4,)
    shapes["model.layers.0.self_attn.rotary_emb.inv_freq"] = (2,)
    tensors = {name: TensorInfo(name, shape, torch.float32, "f") for name, shape in sorted(shapes.items())}
    return architecture_of(config, tensors), tensors


def whole(**options: bool) -> Chromosome:
    order = flat_order(*llama(**options))
    return chromosomes(order, [()])[0]


def test_the_order_runs_from_the_embedding_through_the_layers_to_the_head() -> None:
    names = [tensor.name for tensor in flat_order(*llama(bias=True))]

    assert names[:5] == [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.k_proj.weight",
    ]
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]
    layers = [int(name.split(".")[2]) for name in names if ".layers." in name]
    assert layers == sorted(layers)  # 10 behind 9, not behind 1
    assert len(names) == 3 + 12 * 10  # no buffer


def test_a_tied_head_is_not_in_the_order() -> None:
    assert flat_order(*llama(tied=True))[-1].name == "model.norm.weight"


def test_every_role_of_every_family_has_its_place() -> None:
    data = json.loads(files("evomerge.models").joinpath("families.json").read_text("utf-8"))
    roles = {role for entry in data.values() for role in entry.get("modules", {}).values() if role}

    assert roles <= set(ROLES)
    assert len(set(ROLES)) == len(ROLES)


def test_places_and_positions_are_each_others_inverse() -> None:
    one = whole()

    for position in [0, 1, 27, 28, 31, 32, 33, one.length // 2, one.length - 1]:
        name, entry = one.place(position)
        assert one.position(name, entry) == position
    assert one.place(28) == ("model.layers.0.input_layernorm.weight", 0)
    assert one.position("model.embed_tokens.weight", 28) is None
    assert one.position("nothing", 0) is None


def test_chromosomes_part_the_tensors_by_role() -> None:
    order = flat_order(*llama())

    parts = chromosomes(order, [("attention",), (), ("mlp.up", "mlp.gate")])

    assert sum(part.length for part in parts) == whole().length
    assert all(".self_attn." in tensor.name for tensor in parts[0].tensors)
    assert parts[2].tensors[0].name == "model.layers.0.mlp.gate_proj.weight"
    assert parts[1].tensors[-1].name == "lm_head.weight"


@pytest.mark.parametrize(
    ("groups", "field", "allowed"),
    [
        ([("attention",), ("attention.q",)], "chromosomes[0].roles", "overlap"),
        ([("attention",)], "chromosomes", "every role of this model"),
        ([("attntion",), ()], "chromosomes[0].roles", "a role of this model"),
        ([("attention", "mlp", "norm", "embedding", "head"), ()], "chromosomes[1].roles", "leave"),
    ],
)
def test_groups_that_do_not_part_a_model_are_refused(groups: Any, field: str, allowed: str) -> None:
    with pytest.raises(InvalidInputError, match=allowed) as caught:
        chromosomes(flat_order(*llama()), groups)
    assert caught.value.field == field


def test_units_are_places_to_split_at() -> None:
    one = whole(bias=True)
    starts = one.starts.tolist()

    exact, row, tensor, layer = (Units(one, g) for g in ("exact", "row", "tensor", "layer"))

    assert exact.number == one.length
    assert [exact.position(p) for p in (0, 17, one.length - 1)] == [0, 17, one.length - 1]
    assert [tensor.position(u) for u in range(tensor.number)] == starts[:-1]
    assert layer.number == 14  # before the layers, twelve of them, after
    assert [one.place(layer.position(u)) for u in (0, 1, 11, 13)] == [
        ("model.embed_tokens.weight", 0),
        ("model.layers.0.input_layernorm.weight", 0),
        ("model.layers.10.input_layernorm.weight", 0),
        ("model.norm.weight", 0),
    ]
    rows = [row.position(u) for u in range(row.number)]
    assert rows[:9] == [0, 4, 8, 12, 16, 20, 24, 28, 32]  # seven rows, a norm in one piece, the first row behind it
    assert np.all(np.diff(rows) > 0)
    assert set(starts[:-1]) <= set(rows)
