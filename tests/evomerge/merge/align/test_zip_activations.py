"""`evomerge zip` by activations, on models with a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evomerge.merge.structure.zip import Settings, zip_models
from evomerge.recipe.schema import Recipe


@pytest.mark.parametrize("how", ["pairs", "zip"])
def test_activations_find_a_twins_units(
    how: str, twins: Callable[[str], tuple[Path, Path]], items: Path, logits: Callable[[Path], Tensor], tmp_path: Path
) -> None:
    base, twin = twins("llama")
    asked = {
        "base": {"location": str(base)},
        "sources": {"twin": {"location": str(twin)}},
        "merge": {"method": "linear"},
        "align": {"twin": {"method": "weights", "units": ["attention"]}},
        "dtype": "float32",
    }
    settings = Settings(how, match="activations", items=items, tokens=150)
    out = zip_models(Recipe.model_validate(asked), tmp_path / "out", settings, root=tmp_path)

    torch.testing.assert_close(logits(out), logits(base), rtol=1e-3, atol=1e-3)
