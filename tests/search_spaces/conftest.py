from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evomerge.models.architecture import Architecture
from evomerge.recipe.schema import ModelRef
from search_spaces import SearchSpace, make_space
from tests.search_spaces.architectures import llama

MakeSpace = Callable[..., SearchSpace]


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
