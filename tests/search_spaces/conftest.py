from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evomerge.models.architecture import Architecture, architecture_of
from evomerge.models.family import families
from evomerge.recipe.schema import ModelRef
from search_spaces import SearchSpace, make_space

MakeSpace = Callable[..., SearchSpace]


def llama(num_layers: int = 10, *, tied: bool = False) -> Architecture:
    config: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": num_layers, "tie_word_embeddings": tied}
    names = [
        f"{module.format(layer=layer)}.weight"
        for module in families()["llama"].modules
        for layer in (range(num_layers) if "{layer}" in module else [None])
    ]
    return architecture_of(config, [name for name in names if not (tied and name == "lm_head.weight")])


@pytest.fixture
def architecture() -> Architecture:
    return llama()


@pytest.fixture
def tied_architecture() -> Architecture:
    return llama(tied=True)


@pytest.fixture
def make(architecture: Architecture) -> MakeSpace:
    """Space of a spec over sources with one-letter names."""

    def make_(spec: dict[str, Any], names: str = "abc", *, of: Architecture = architecture) -> SearchSpace:
        sources = {name: ModelRef(location=f"/models/{name}", sha256=name * 64) for name in names}
        base = ModelRef(location="/models/base", sha256="0" * 64)
        return make_space(spec, base=base, sources=sources, architecture=of, dtype="float32", seed=7)

    return make_
