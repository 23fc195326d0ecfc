"""The demo's aliases: the prepared base, the committed adapters and their items."""

from __future__ import annotations

from pathlib import Path

import yaml

ZOO = Path(__file__).resolve().parent.parent / "zoo"
SOURCES = ("math", "ja", "es", "geo")
EVAL_SETS = (*SOURCES, "ja_math")


def write_registry(path: Path, base: Path) -> None:
    """A registry file for `evomerge serve`."""
    data = {
        "models": {"smollm2-135m-instruct": str(base), **{s: str(ZOO / "adapters" / s) for s in SOURCES}},
        "eval_sets": {name: str(ZOO / "items" / f"{name}.jsonl") for name in EVAL_SETS},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
