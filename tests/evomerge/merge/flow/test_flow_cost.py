"""Costs against counts by hand, stored checkpoints, and torch's own counter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.errors import ArchitectureError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.flow.cost import cost_of
from evomerge.recipe.slices import Slice
from tests.evomerge.merge.flow.trio import FAMILIES, SHAPE, Trio, path_of

NUM_TOKENS = 12


def config_of(place: Path) -> dict[str, Any]:
    return json.loads((place / "config.json").read_text())  # type: ignore[no-any-return]


def test_counts_by_hand() -> None:
    """A Llama of width 4, 2 heads of width 2 (1 of keys and values), MLP 6, vocabulary 10."""
    config = {
        "model_type": "llama", "hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 10, "num_hidden_layers": 3, "tie_word_embeddings": False,
    }  # fmt: skip
    linear = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 6  # q, k, v, o, and the MLP's three
    layer = linear + 2 * 4
    trio = Trio(*[Path("nowhere")] * 3)
    found = cost_of(trio.recipe(path_of()), config, context=5)

    assert (found.layers, found.unique_layers) == (7, 5)
    assert found.parameters == 10 * 4 + 4 + 10 * 4 + 7 * layer
    assert found.unique_parameters == 10 * 4 + 4 + 10 * 4 + 5 * layer
    assert found.flops_per_token == 7 * (2 * linear + 5 * 4 * 2 * 2) + 2 * 10 * 4


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2", "gpt2", "gpt_neox"])
def test_flops_are_those_that_torch_counts(family: str) -> None:
    given = {**SHAPE, **FAMILIES.get(family, {}), **({"head_dim": 8} if family == "gemma2" else {})}
    given.pop("max_window_layers", None)
    for window in ("sliding_window", "use_sliding_window"):
        given.pop(window, None)
    config = AutoConfig.for_model(family, **given, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(NUM_TOKENS)[None], use_cache=False)
    found = cost_of(Trio(*[Path("nowhere")] * 3).recipe(path_of()).model_copy(update={"path": None}),
                    json.loads(config.to_json_string(use_diff=False)), context=NUM_TOKENS)  # fmt: skip
    rotary = counter.get_total_flops() - NUM_TOKENS * found.flops_per_token

    assert 0 <= rotary <= 2 * 8 * NUM_TOKENS  # the table of angles, once for the whole model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("first", [1.0, 0.9])
def test_parameters_are_those_of_the_export(first: float, tied: bool, tmp_path: Path) -> None:
    from tests.evomerge.merge.flow.trio import make_trio

    trio = make_trio(tmp_path, "qwen2", tie_word_embeddings=tied)
    recipe = trio.recipe(path_of((first, *[1.0] * 6)))
    out = merge_to_directory(recipe, tmp_path / "out", root=tmp_path, check_hashes=False)
    stored = sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values())

    assert cost_of(recipe, config_of(trio.base)).parameters == stored


def test_a_window_bounds_what_is_attended_to(llamas: Trio, trios: Any) -> None:
    """Qwen2 of the tests: layer 0 sees everything, layers 1 and 2 eight tokens."""
    config = config_of(trios["qwen2"].base)
    only = {n: trios["qwen2"].recipe(path_of((1.0,), hops=[("base", n)])) for n in (0, 1)}
    near, far = ({n: cost_of(r, config, context=c).flops_per_token for n, r in only.items()} for c in (8, 100))

    assert near[0] == near[1] == far[1]
    assert far[0] - near[0] == 92 * 4 * 4 * 8


def test_merges_without_a_path_have_all_layers_of_the_base(llamas: Trio) -> None:
    plain = llamas.recipe(path_of()).parameter_part
    sliced = plain.model_copy(update={"slices": (Slice(base=(0, 1)), Slice(base=(0, 2)))})
    config = config_of(llamas.base)

    assert (cost_of(plain, config).layers, cost_of(plain, config).unique_layers) == (3, 3)
    assert (cost_of(sliced, config).layers, cost_of(sliced, config).unique_layers) == (5, 5)


def test_an_unknown_family_is_named(llamas: Trio) -> None:
    with pytest.raises(ArchitectureError, match="model_type 'rwkv' is not a known family"):
        cost_of(llamas.recipe(path_of()), {**config_of(llamas.base), "model_type": "rwkv"})
