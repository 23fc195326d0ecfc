"""What a token stands for, so that tokens of two tokenizers can be compared: bytes of text, or a part to play.

A byte-level vocabulary writes the bytes of UTF-8 as letters (a space is `Ġ`), a SentencePiece vocabulary writes a space
as `▁` and single bytes as `<0x0A>`. Compared as they are spelled, few of their tokens would be the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.vocabulary import FILES

Key = bytes | str
"""Text in UTF-8, or the name of a part (`bos_token`)."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenizer and what its tokens stand for.

    Attributes:
        ids: token → row.
        keys: token → what it stands for.
        rows: what a token stands for → row; of two tokens for one text the one that is no single byte.
        tokenizer: of transformers.
    """

    ids: Mapping[str, int]
    keys: Mapping[str, Key]
    rows: Mapping[Key, int]
    tokenizer: Any

    def text(self, token: str) -> str:
        """The text of a token; of a special one, how it is written."""
        key = self.keys[token]
        return key.decode("utf-8", errors="replace") if isinstance(key, bytes) else token


def tokens_of(path: Path) -> Tokens:
    """The tokens of a model's directory.

    Raises:
        InvalidInputError: it has no tokenizer.
        CheckpointError: it has one that cannot be read.
    """
    if not any((path / file).exists() for file in FILES):
        raise InvalidInputError("tokenizer", str(path), f"a directory with a tokenizer ({', '.join(FILES)})")
    from transformers import AutoTokenizer  # takes seconds

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers raises what its parts raise
        raise CheckpointError(f"{path}: its tokenizer cannot be read: {type(error).__name__}: {error}") from error
    ids = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    parts = _parts(tokenizer)
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    byte_level = is_byte_level(tokenizer)
    keys = {t: parts.get(t) or (t.encode() if t in added else key_of(t, byte_level=byte_level)) for t in ids}
    rows: dict[Key, int] = {}
    for token in sorted(ids, key=lambda t: (_BYTE.fullmatch(t) is not None, ids[t])):
        rows.setdefault(keys[token], ids[token])
    return Tokens(ids, keys, rows, tokenizer)


def _parts(tokenizer: Any) -> dict[str, str]:
    """Special token → the part that it plays; the first of several (a text may end and be padded with one token)."""
    found: dict[str, str] = {}
    for part, token in sorted(tokenizer.special_tokens_map.items()):
        if isinstance(token, str):
            found.setdefault(token, part)
    return found


def is_byte_level(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers writes bytes as letters."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    data = json.loads(backend.to_str())
    return any('"ByteLevel"' in json.dumps(data.get(part)) for part in ("pre_tokenizer", "decoder", "normalizer"))


def key_of(token: str, *, byte_level: bool) -> bytes:
    """The bytes that an ordinary token stands for.

    >>> key_of("Ġthe", byte_level=True), key_of("▁the", byte_level=False), key_of("<0x0A>", byte_level=False)
    (b' the', b' the', b'\\n')
    """
    if byte_level:
        letters = byte_letters()
        return bytes(letters[c] for c in token) if all(c in letters for c in token) else token.encode()
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace(_SPACE, " ").encode()


@cache
def byte_letters() -> Mapping[str, int]:
    """The letter that GPT-2's vocabulary writes for each byte → the byte.

    Bytes that are printable in Latin-1 are their own letter, the others are letters from U+0100 on, in their order.
    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.2.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def prefixes(key: Key) -> list[bytes]:
    """Beginnings of a text, the longest first, down to the first letter that is no space; none of a special token.

    >>> prefixes(b" the")
    [b' th', b' t']
    """
    if isinstance(key, str):
        return []
    return [key[:end] for end in range(len(key) - 1, 0, -1) if key[:end].strip()]
