"""The tokenizer of a merge whose vocabulary is larger than that of the model it starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.vocabulary import Merged, vocabulary_of

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def write_union(merged: Merged, paths: Mapping[str, Path], out: Path) -> None:
    """Write the donor's tokenizer with the tokens of others added.

    Tokens that were added to another tokenizer (special ones, say) are added here in the same way. Tokens of another
    tokenizer's own vocabulary take their merges with them, behind the donor's: text is split as the donor does it, and
    what it leaves apart may then be joined.

    Args:
        merged: the vocabulary.
        paths: model → its directory, `base` among them.
        out: an existing directory; files in it are replaced.

    Raises:
        InvalidInputError: a kind of tokenizer that cannot take single tokens from another.
        CheckpointError: the files do not give the vocabulary that they should.
    """
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(paths[merged.donor], local_files_only=True).save_pretrained(out)
    tokenizer = _read(out / TOKENIZER)
    config = _read(out / CONFIG)
    entries = _Entries(merged, paths)
    for token in merged.added:
        if (entry := entries.added(token)) is not None:
            tokenizer["added_tokens"].append({"id": merged.ids[token], "content": token, **entry})
            config.setdefault("added_tokens_decoder", {})[str(merged.ids[token])] = {"content": token, **entry}
        else:
            _add_piece(tokenizer["model"], token, merged.ids[token], entries.merges(token))
    _state_numbers(tokenizer)
    _write(out / TOKENIZER, tokenizer)
    _write(out / CONFIG, config)
    found = vocabulary_of(out)
    if found is None or found.ids != merged.ids:
        raise CheckpointError(f"{out}: the union's tokenizer does not load as it was made; use `tokenizer: base`")


class _Entries:
    """What the models' own tokenizers say about tokens."""

    def __init__(self, merged: Merged, paths: Mapping[str, Path]) -> None:
        self.merged = merged
        self.files = {
            name: _read(path / TOKENIZER)
            for name, path in paths.items()
            if name != merged.donor and (path / TOKENIZER).exists()
        }

    def added(self, token: str) -> dict[str, bool] | None:
        """How a token is added, by the first model that adds it; None where it is a piece of a vocabulary."""
        for data in self.files.values():
            for entry in data.get("added_tokens", []):
                if entry["content"] == token:
                    return {key: bool(entry.get(key, value)) for key, value in _ADDED.items()}
        known = any(token in vocabulary.ids for vocabulary in self.merged.vocabularies.values())
        return None if known else dict(_ADDED)

    def merges(self, token: str) -> list[tuple[str, str]]:
        """The pairs that are joined to it, in the first model that has the token as a piece."""
        for data in self.files.values():
            model = data["model"]
            if isinstance(model.get("vocab"), dict) and token in model["vocab"]:
                return [pair for pair in map(_pair, model.get("merges", [])) if "".join(pair) == token]
        return []


def _add_piece(model: dict[str, Any], token: str, row: int, merges: list[tuple[str, str]]) -> None:
    if not isinstance(model.get("vocab"), dict):
        allowed = "a union with tokenizers whose vocabulary is a list of pieces and merges (BPE); or `tokenizer: base`"
        raise InvalidInputError("tokenizer", f"union with the piece {token!r} in a {model.get('type')} model", allowed)
    model["vocab"][token] = row
    if "merges" in model:
        as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
        model["merges"] += [" ".join(pair) if as_text else list(pair) for pair in merges]


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _state_numbers(tokenizer: dict[str, Any]) -> None:
    """Added tokens are numbered anew when a tokenizer is loaded, unless the model's vocabulary has them."""
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        for entry in tokenizer["added_tokens"]:
            vocabulary.setdefault(entry["content"], entry["id"])


def _read(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return data


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
