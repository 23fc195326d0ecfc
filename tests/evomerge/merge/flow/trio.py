"""Tiny real models of every family whose layers can be put on a path, and paths worked out the plain way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from evomerge.recipe.path import Hop, LayerPath
from evomerge.recipe.schema import Merge, ModelRef, Recipe

set_verbosity_error()
disable_progress_bar()

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}
"""Family → what its config says beside the shape; biases where there can be some, windows shorter than the texts."""
TEXT = torch.tensor([[5, 17, 80, 3, 44, 9, 61, 22, 70, 33, 8, 51], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]])
SCALES = (0.9, 1.2, 0.7, 1.4, 0.8, 1.1, 0.6)
SIGNED = (0.9, -1.2, 0.7, -1.4, -0.8, 1.1, 0.6)
HOPS = (("base", 0), ("base", 1), ("math", 1), ("code", 2), ("math", 1), ("base", 1), ("base", 2))


def path_of(
    scales: tuple[float, ...] = SCALES, semantics: str = "stream", host: str = "base", hops: Any = HOPS
) -> LayerPath:
    layers = tuple(Hop(model=m, layer=n, scale=s) for (m, n), s in zip(hops, scales, strict=True))
    return LayerPath.model_validate({"host": host, "semantics": semantics, "layers": layers})


def make_model(folder: Path, family: str, seed: int, dtype: torch.dtype = torch.float32, **asked: Any) -> Path:
    """A model whose every tensor is random, norms and biases too."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family], **asked})
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data = 1 + 0.2 * noise if "norm" in name else 0.2 * noise
    model.to(dtype).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Trio:
    """A base and two sources of one family."""

    base: Path
    math: Path
    code: Path

    @property
    def places(self) -> dict[str, Path]:
        return {"base": self.base, "math": self.math, "code": self.code}

    def recipe(self, path: LayerPath, dtype: str = "float32", **others: Any) -> Recipe:
        refs = {name: ModelRef(location=str(place)) for name, place in self.places.items()}
        base = refs.pop("base")
        data = {"base": base, "sources": refs, "path": path, "dtype": dtype, **others}
        return Recipe.model_validate(data)

    def hybrid(self, path: LayerPath, dtype: str = "float32") -> Recipe:
        weights = {"math": {"weight": 0.7}, "code": {"weight": 0.4}}
        merge = Merge(method="task_arithmetic", sources=weights)  # type: ignore[arg-type]
        return self.recipe(path, dtype, merge=merge)


def make_trio(root: Path, family: str, **asked: Any) -> Trio:
    places = {n: make_model(root / n, family, seed, **asked) for seed, n in enumerate(("base", "math", "code"))}
    return Trio(**places)


def load(place: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(place, dtype=dtype).eval()


@cache
def kept(place: Path) -> Any:
    """A model that nothing is changed in."""
    return load(place)


@torch.no_grad()
def logits_of(model: Any, tokens: Tensor = TEXT) -> Tensor:
    return model(tokens, use_cache=False).logits.float()  # type: ignore[no-any-return]


@torch.no_grad()
def walked(places: Mapping[str, Path], path: LayerPath, tokens: Tensor = TEXT) -> Tensor:
    """A path's logits from its definition: layers called one by one, scales written out, no cache, no fold.

    Each layer is run alone in the model that it comes from: all others are taken out, and what goes in and comes out is
    caught by hooks. `delta` is h + attention, then h + s·MLP, written out.
    """
    models = {name: kept(places[name]) for name in {path.host, *(hop.model for hop in path.layers)}}
    host = models[path.host]
    stream = host.get_input_embeddings()(tokens) * path.layers[0].scale
    pending = torch.zeros_like(stream)  # what the last MLP gave, for `delta`
    for number, hop in enumerate(path.layers):
        scale = hop.scale if number else 1.0
        stream = stream * scale if path.semantics == "stream" else stream + scale * pending
        out, mlp = one_layer(models[hop.model], hop.layer, stream, tokens)
        stream, pending = (out, pending) if path.semantics == "stream" else (out - mlp, mlp)
    last = stream if path.semantics == "stream" else stream + pending
    return host.get_output_embeddings()(host.base_model.norm(last)).float()


def one_layer(model: Any, number: int, stream: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer of a model makes of a residual stream, and the part of it that its MLP adds."""
    layer, caught = model.base_model.layers[number], {}

    def put_in(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
        return (stream, *args[1:]), kwargs

    hooks = [
        layer.register_forward_pre_hook(put_in, with_kwargs=True),
        layer.register_forward_hook(lambda module, args, out: caught.update(out=out)),
        layer.mlp.register_forward_hook(lambda module, args, out: caught.update(mlp=out)),
    ]
    model(tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return caught["out"], caught["mlp"]
