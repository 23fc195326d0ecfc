"""What a model directory holds beside weights."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.merge.card import model_card
from evomerge.merge.carried import carried_config, copy_processors
from evomerge.merge.licence import licence_of
from evomerge.merge.slices import sliced_config
from evomerge.merge.template import write_template
from evomerge.merge.union_tokenizer import write_union
from evomerge.merge.vocabulary import BASE, Merged, report
from evomerge.models.weights import read_json
from evomerge.recipe.schema import Dtype, Recipe
from evomerge.recipe.text import dump_yaml

log = logging.getLogger(__name__)
VOCABULARY = "vocabulary.json"
"""Says where rows of tokens come from that not all models share."""
COPIED = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
    "chat_template*", "generation_config.json",
)  # fmt: skip
"""Files of the base (of the tokenizer's donor) that the merged model takes over as they are."""
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "decoder_start_token_id")


def write_sidecar(
    base: Path,
    config: Mapping[str, Any],
    recipe: Recipe,
    out: Path,
    sources: Mapping[str, Path],
    vocabulary: Merged | None = None,
    donor: Path | None = None,
) -> None:
    """Copy tokenizer, chat template and generation config; write config.json with the new dtype and depth, and the
    recipe.

    Args:
        base: the base model's directory.
        config: its config.json.
        recipe: what the weights were made from, pinned.
        out: an existing directory.
        sources: source name → its directory.
        vocabulary: of the merged model, where it is not simply that of all.
        donor: whose tokenizer it has, where that is neither the base nor the vocabulary's donor.

    Raises:
        CheckpointError: a file cannot be read or written.
    """
    for name, place in ((BASE, base), *sources.items()):
        if warning := licence_of(place).warning:
            log.warning("%s (%s): %s", name, place.name, warning)
    carry = recipe.carry
    try:
        if carry is not None:
            config = carried_config(carry, config, sources, recipe.dtype)
        donor = write_tokenizer(recipe, {BASE: base, **sources}, vocabulary, donor, out)
        if recipe.chat_template is not None:
            write_template(recipe.chat_template, (base, *sources.values()), out)
        if carry is not None:
            copy_processors(carry, sources, out)
        config = _with_vocabulary(sliced_config(config, recipe.slices), of_vocabulary(vocabulary, donor))
        text = json.dumps({**config, **_dtypes(config, recipe.dtype)}, indent=2, ensure_ascii=False) + "\n"
        (out / "config.json").write_text(text, encoding="utf-8")
        (out / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
        (out / "README.md").write_text(model_card(recipe, {BASE: base, **sources}), encoding="utf-8")
        if vocabulary is not None:
            found = report(vocabulary, (BASE, *sources))
            (out / VOCABULARY).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be written beside the weights: {error.strerror}") from error


def write_tokenizer(
    recipe: Recipe, places: Mapping[str, Path], vocabulary: Merged | None, donor: Path | None, out: Path
) -> Path:
    """Write the tokenizer of a merged model, and its generation config; whose they are.

    Args:
        places: `base` or source → its directory.
        vocabulary, donor, out: as for `write_sidecar`.

    Raises:
        OSError: a file cannot be read or written.
        CheckpointError, InvalidInputError: as `write_union`.
    """
    host = None if recipe.carry is None else recipe.carry.host
    if host is not None and vocabulary is None:
        donor = places[host]
    donor = donor or places[vocabulary.donor if vocabulary else BASE]
    for path in sorted({path for pattern in COPIED for path in donor.glob(pattern) if path.is_file()}):
        shutil.copyfile(path, out / path.name)
    if vocabulary is not None and vocabulary.added:
        write_union(vocabulary, places, out)
    return donor


def _with_vocabulary(config: dict[str, Any], vocabulary: dict[str, Any]) -> dict[str, Any]:
    """What is said of a vocabulary stands where the config says it: of a multimodal model, with the language model."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return {**config, **vocabulary}
    own = {key: value for key, value in vocabulary.items() if key in text or key not in config}
    return {**config, **{k: v for k, v in vocabulary.items() if k in config}, "text_config": {**text, **own}}


def of_vocabulary(vocabulary: Merged | None, donor: Path) -> dict[str, Any]:
    """What a config says about the vocabulary: its size, and which tokens begin and end a text."""
    if vocabulary is None:
        return {}
    theirs = read_json(donor / "config.json") if vocabulary.donor != BASE else {}
    return {"vocab_size": vocabulary.num_rows} | {k: v for k, v in theirs.items() if k in SPECIAL}


def _dtypes(config: Mapping[str, Any], dtype: Dtype) -> dict[str, str]:
    """The config's own spelling of the field: `dtype` since transformers 5, `torch_dtype` before."""
    return {key: dtype for key in ("dtype", "torch_dtype") if key in config} or {"dtype": dtype}
