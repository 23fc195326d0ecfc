"""What a model directory holds beside weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.merge.slices import sliced_config
from evomerge.merge.template import write_template
from evomerge.recipe.schema import Dtype, Recipe
from evomerge.recipe.text import dump_yaml

COPIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
    "chat_template*", "generation_config.json",
)  # fmt: skip
"""Files of the base that the merged model takes over as they are."""


def write_sidecar(
    base: Path, config: Mapping[str, Any], recipe: Recipe, out: Path, sources: Sequence[Path] = ()
) -> None:
    """Copy tokenizer, chat template and generation config; write config.json with the new dtype and depth, and the
    recipe.

    Args:
        base: the base model's directory.
        config: its config.json.
        recipe: what the weights were made from, pinned.
        out: an existing directory.
        sources: the sources' directories, for `chat_template: auto`.

    Raises:
        CheckpointError: a file cannot be read or written.
    """
    try:
        for path in sorted({path for pattern in COPIED for path in base.glob(pattern) if path.is_file()}):
            shutil.copyfile(path, out / path.name)
        if recipe.chat_template is not None:
            write_template(recipe.chat_template, (base, *sources), out)
        config = sliced_config(config, recipe.slices)
        text = json.dumps({**config, **_dtypes(config, recipe.dtype)}, indent=2, ensure_ascii=False) + "\n"
        (out / "config.json").write_text(text, encoding="utf-8")
        (out / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be written beside the weights: {error.strerror}") from error


def _dtypes(config: Mapping[str, Any], dtype: Dtype) -> dict[str, str]:
    """The config's own spelling of the field: `dtype` since transformers 5, `torch_dtype` before."""
    return {key: dtype for key in ("dtype", "torch_dtype") if key in config} or {"dtype": dtype}
