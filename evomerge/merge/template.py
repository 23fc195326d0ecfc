"""The merged model's chat template: a recipe's own, or the one that most of its models have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.models.weights import read_json

FILE = "chat_template.jinja"


def write_template(asked: str, models: Sequence[Path], out: Path) -> None:
    """Put a chat template where transformers looks first, and take away any other.

    Args:
        asked: a template's text, or `auto`: the one that most of `models` have, of equally many the one whose model
            comes first; nothing changes where none of them has one.
        out: a directory with the tokenizer's files.
    """
    text = asked if asked != "auto" else _commonest(models)
    if text is None:
        return
    for path in out.glob("chat_template*"):
        path.unlink()
    (out / FILE).write_text(text, encoding="utf-8")
    config = out / "tokenizer_config.json"
    if config.is_file() and "chat_template" in (data := read_json(config)):
        rest = {key: value for key, value in data.items() if key != "chat_template"}
        config.write_text(json.dumps(rest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def template_of(model: Path) -> str | None:
    """A model directory's chat template; None where it has none."""
    if (file := model / FILE).is_file():
        return file.read_text(encoding="utf-8")
    config = model / "tokenizer_config.json"
    return _default(read_json(config).get("chat_template")) if config.is_file() else None


def _default(template: Any) -> str | None:
    """One template, or the default of several with names."""
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None


def _commonest(models: Sequence[Path]) -> str | None:
    found = Counter(template.strip() for model in models if (template := template_of(model)))
    return found.most_common(1)[0][0] if found else None
