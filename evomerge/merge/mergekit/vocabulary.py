"""mergekit's tokenizer and chat template as a recipe's fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.merge.mergekit.config import Config, Model, parse_model
from evomerge.recipe.document import DocumentPath
from evomerge.recipe.tokens import TokenRule


def vocabulary(config: Config, base: Model, names: Mapping[Model, str]) -> dict[str, Any]:
    """The recipe's `tokenizer`, `tokens`, `pad_to_multiple_of` and `chat_template`.

    Raises:
        InvalidInputError: a model that is not merged, a token's place that means nothing, a template by name.
    """
    return {
        "tokenizer": _source(config, base, names),
        "tokens": {token: _rule(config, token, rule, base, names) for token, rule in config.tokens.items()} or None,
        "pad_to_multiple_of": config.pad_to_multiple_of,
        "chat_template": _template(config),
    }


def _source(config: Config, base: Model, names: Mapping[Model, str]) -> str:
    if config.tokenizer is None:
        return "same"  # mergekit then merges rows by their number
    if isinstance(config.tokenizer, str):
        return config.tokenizer
    path = ("tokenizer_source",) if "tokenizer_source" in config.document.data else ("tokenizer", "source")
    return _name(config, path, config.tokenizer, base, names)


def _name(config: Config, path: DocumentPath, model: Model, base: Model, names: Mapping[Model, str]) -> str:
    if model == base:
        return "base"
    if model not in names:
        raise config.refuse(path, str(model), f"union, base, or a model that is merged: {', '.join(map(str, names))}")
    return names[model]


def _rule(config: Config, token: str, rule: Any, base: Model, names: Mapping[Model, str]) -> TokenRule:
    path: DocumentPath = ("tokenizer", "tokens", token)
    if not isinstance(rule, dict) or not isinstance(rule.get("force", False), bool):
        raise config.refuse(path, rule, "a mapping with `source` and, perhaps, `force`: true or false")
    force, source = rule.get("force", False), rule.get("source")
    at = (*path, "source")
    if source is None:
        return TokenRule(force=force)
    if isinstance(source, dict) and source.get("kind") == "zero":
        return TokenRule(fill="zero", force=force)
    if not isinstance(source, dict) or source.get("kind") != "model_token":
        return TokenRule(model=_name(config, at, parse_model(config.document, at, source), base, names), force=force)
    model = _name(config, at, parse_model(config.document, (*at, "model"), source.get("model")), base, names)
    text, number = source.get("token"), source.get("token_id")
    if (text is None) == (number is None) or not isinstance(text, str | None) or not _is_token_id(number):
        raise config.refuse(at, source, "`token`, a text, or `token_id`, a number from 0")
    return TokenRule(model=model, token=text, token_id=number, force=force)


def _is_token_id(number: object) -> bool:
    return number is None or (isinstance(number, int) and not isinstance(number, bool) and number >= 0)


def _template(config: Config) -> str | None:
    template = config.chat_template
    if template not in (None, "auto") and "{" not in str(template):
        allowed = "auto, or the text of a Jinja template: mergekit's named templates are files of its own"
        raise config.refuse(("chat_template",), template, allowed)
    return template
