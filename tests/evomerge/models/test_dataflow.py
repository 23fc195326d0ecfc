"""Live paths: shared parameters, own places in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.errors import ArchitectureError
from evomerge.models.dataflow import DataFlow, Visit, built_on, stack_of
from evomerge.recipe.path import LayerPath
from tests.evomerge.merge.flow.trio import (
    FAMILIES,
    SIGNED,
    TEXT,
    Trio,
    kept,
    load,
    logits_of,
    make_trio,
    path_of,
    walked,
)


@pytest.fixture(scope="module", params=FAMILIES)
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return make_trio(tmp_path_factory.mktemp("flow"), request.param)


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return make_trio(tmp_path_factory.mktemp("flow"), "llama")


def on_path(places: Mapping[str, Path], path: LayerPath) -> Any:
    """The host's model on a path."""
    model = load(places[path.host])
    flow = DataFlow(model)
    stacks = {name: flow.own if name == path.host else stack_of(kept(places[name])) for name in path.models}
    flow.follow([Visit(stacks[hop.model], hop.layer, hop.scale) for hop in path.layers], path.semantics)
    return model


def agree(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@torch.no_grad()
def token_by_token(model: Any, tokens: Tensor) -> Tensor:
    """Logits by incremental decoding with the cache."""
    cache, found = None, []
    for at in range(tokens.shape[1]):
        output = model(tokens[:, at : at + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits)
    return torch.cat(found, dim=1).float()


@pytest.mark.parametrize("semantics", ["stream", "delta"])
def test_a_live_path_is_the_path_with_and_without_a_cache(trio: Trio, semantics: str) -> None:
    path = path_of(SIGNED, semantics)
    model, expected = on_path(trio.places, path), walked(trio.places, path)

    agree(logits_of(model), expected)
    agree(token_by_token(model, TEXT), expected)


def test_generation_with_the_cache_gives_what_it_gives_without(trio: Trio) -> None:
    model = on_path(trio.places, path_of(SIGNED))
    asked = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TEXT)}

    assert torch.equal(model.generate(TEXT, **asked), model.generate(TEXT, use_cache=False, **asked))


def test_repeated_layers_share_their_parameters(llamas: Trio) -> None:
    model = on_path(llamas.places, path_of(SIGNED))
    layers = model.base_model.layers
    pointers = {id(p) for layer in layers for p in layer.parameters()}

    assert layers[2].mlp.down_proj.weight.data_ptr() == layers[4].mlp.down_proj.weight.data_ptr()
    assert layers[2] is not layers[4]
    assert (
        layers[2].mlp.down_proj.weight.data_ptr()
        == kept(llamas.math).base_model.layers[1].mlp.down_proj.weight.data_ptr()
    )
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(7))
    assert len(pointers) == 5 * len(list(layers[0].parameters()))  # 5 layers are visited, two of them twice


def test_one_module_in_two_hops_is_wrong(llamas: Trio) -> None:
    """Why layers are copied at all: without a cache all is well, with it both hops write to one place."""
    path = path_of((1.0,) * 4, hops=[("base", 0), ("base", 1), ("base", 1), ("base", 2)])
    model = load(llamas.base)
    layers = model.base_model.layers
    model.base_model.layers = torch.nn.ModuleList([layers[0], layers[1], layers[1], layers[2]])
    model.config.num_hidden_layers = 4
    expected = walked(llamas.places, path)

    assert (logits_of(model) - expected).abs().max() < 1e-3
    assert (token_by_token(model, TEXT) - expected).abs().max() > 0.1
    agree(token_by_token(on_path(llamas.places, path), TEXT), expected)


def test_paths_may_follow_each_other(llamas: Trio) -> None:
    model = load(llamas.base)
    flow, math = DataFlow(model), stack_of(load(llamas.math))
    before = logits_of(model)
    paths = [
        path_of(SIGNED[:n], semantics, hops=[("math", h % 3) if h % 2 else ("base", 2 - h % 3) for h in range(n)])
        for n, semantics in ((7, "stream"), (2, "delta"), (5, "stream"), (7, "delta"))
    ]
    for path in paths:
        stacks = {"base": flow.own, "math": math}
        flow.follow([Visit(stacks[hop.model], hop.layer, hop.scale) for hop in path.layers], path.semantics)

        agree(logits_of(model), walked(llamas.places, path))
    flow.leave()

    assert torch.equal(logits_of(model), before)
    assert torch.equal(logits_of(load(llamas.math)), logits_of(kept(llamas.math)))


def test_a_host_lends_embedding_norm_and_head(llamas: Trio) -> None:
    model, path = load(llamas.base), path_of(SIGNED, host="code")
    flow = DataFlow(model)
    stacks = {"base": flow.own, **{n: stack_of(kept(llamas.places[n])) for n in ("math", "code")}}
    visits = [Visit(stacks[hop.model], hop.layer, hop.scale) for hop in path.layers]
    flow.follow(visits, path.semantics, stacks["code"])

    agree(logits_of(model), walked(llamas.places, path))


def test_a_model_built_on_tensors_copies_none_of_them(llamas: Trio) -> None:
    math = kept(llamas.math)
    tensors = dict(math.named_parameters(remove_duplicate=False))
    stack = stack_of(built_on(math.config, torch.float32, lambda name, empty: tensors[name]))
    model = load(llamas.base)
    flow = DataFlow(model)
    path = path_of((1.0, 1.1), hops=[("base", 0), ("math", 2)])
    flow.follow([Visit(flow.own, 0), Visit(stack, 2, 1.1)], "stream")

    assert {p.data_ptr() for p in stack.layers[2].parameters()} <= {p.data_ptr() for p in math.parameters()}
    agree(logits_of(model), walked(llamas.places, path))


def test_models_of_another_build_are_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=2))
    with pytest.raises(ArchitectureError, match="GPT2LMHeadModel"):
        stack_of(tiny)
