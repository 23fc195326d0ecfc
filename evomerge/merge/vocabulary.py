"""Vocabularies: which row of an embedding is which token, in one model and in a merge of several.

Models of one base usually share its tokenizer, and row i means the same token in all. Where it does not, adding rows up
by their number would mix unrelated tokens without any error; rows are then matched by the tokens' text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, InvalidInputError
from evomerge.merge.structure.approximate import matching_pursuit
from evomerge.recipe.tokens import TokenRule

BASE = "base"
SHOWN = 5
PURSUED = 64
"""Rows in a combination of `fill: omp`, as in `evomerge transplant`."""
FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
"""One of these holds a vocabulary."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One tokenizer's tokens.

    Attributes:
        ids: token → its row.
        added: tokens that were added to the tokenizer's own vocabulary (special ones and others).
    """

    ids: Mapping[str, int]
    added: frozenset[str]


def vocabulary_of(path: Path) -> Vocabulary | None:
    """The vocabulary of a model's directory; None where it has no tokenizer.

    Raises:
        CheckpointError: there is one that cannot be read.
    """
    if not any((path / file).exists() for file in FILES):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # transformers raises what its parts raise
        raise CheckpointError(f"{path}: its tokenizer cannot be read: {type(error).__name__}: {error}") from error
    return Vocabulary(dict(tokenizer.get_vocab()), frozenset(str(t) for t in tokenizer.added_tokens_decoder.values()))


def same_files(a: Path, b: Path) -> bool:
    """Whether two directories hold the same tokenizer, byte by byte: the usual case, told without parsing."""
    found = [file for file in ("tokenizer.json", "tokenizer.model") if (a / file).exists()]
    return bool(found) and all((b / f).exists() and (a / f).read_bytes() == (b / f).read_bytes() for f in found)


def differing(base: Vocabulary, other: Vocabulary) -> list[str]:
    """What two vocabularies disagree on, one line a token: its rows in both, or the one that lacks it."""
    lines = []
    for token in sorted({*base.ids, *other.ids}, key=lambda t: (base.ids.get(t, 1 << 60), other.ids.get(t, 0))):
        ours, theirs = base.ids.get(token), other.ids.get(token)
        if ours != theirs:
            lines.append(f"{token!r}: {_row(ours)} in the base, {_row(theirs)} in the source")
    return lines


def _row(number: int | None) -> str:
    return "missing" if number is None else f"row {number}"


def check_same(name: str, base: Vocabulary | None, other: Vocabulary | None) -> None:
    """Refuse a source whose tokens have other rows than the base's.

    Raises:
        InvalidInputError: naming the first tokens that differ and what can be done.
    """
    if base is None or other is None:
        return  # a source without a tokenizer of its own uses the base's
    lines = differing(base, other)
    if lines:
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise InvalidInputError(
            f"sources.{name}",
            f"a vocabulary that differs from the base's ({'; '.join(lines[:SHOWN])}{more})",
            "the base's; or set `tokenizer` to base, union or a source's name: rows are then matched by token",
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """The vocabulary of a merge.

    Attributes:
        ids: token → row.
        num_rows: of embedding and head; more than there are tokens where they are padded.
        donor: the model whose tokenizer the merged model starts from, and whose rows without a token are kept.
        vocabularies: model → its own vocabulary; models without a tokenizer have the base's.
        rules: token → where its rows come from.
    """

    ids: Mapping[str, int]
    num_rows: int
    donor: str
    vocabularies: Mapping[str, Vocabulary]
    rules: Mapping[str, TokenRule]

    @property
    def added(self) -> list[str]:
        """Tokens that the donor lacks, in the order of their rows."""
        have = self.vocabularies[self.donor].ids
        return sorted((token for token in self.ids if token not in have), key=self.ids.__getitem__)

    @property
    def lost(self) -> dict[str, list[str]]:
        """Model → its tokens that the merged model does not have."""
        lost = {name: [t for t in v.ids if t not in self.ids] for name, v in self.vocabularies.items()}
        return {name: tokens for name, tokens in lost.items() if tokens}

    def rows_of(self, model: str, num_rows: int) -> Tensor:
        """Merged row → row of a model, −1 where the model has none; int64 of shape [rows].

        Args:
            num_rows: of the model's own embedding.
        """
        rows = torch.full((self.num_rows,), -1, dtype=torch.int64)
        if model == self.donor:
            kept = min(num_rows, self.num_rows)
            rows[:kept] = torch.arange(kept)  # rows without a token, too
        ids = self.vocabularies[model].ids
        for token, row in self.ids.items():
            rows[row] = ids.get(token, -1)
        if int(rows.max()) >= num_rows:
            raise CheckpointError(
                f"model {model!r} has a token at row {int(rows.max())}, its embedding {num_rows} rows"
            )
        return rows


def merged_vocabulary(
    wanted: str,
    vocabularies: Mapping[str, Vocabulary],
    num_rows: Mapping[str, int],
    rules: Mapping[str, TokenRule],
    pad_to_multiple_of: int | None,
) -> Merged:
    """The vocabulary that a recipe asks for.

    Args:
        wanted: `base`, `union` or a source's name.
        vocabularies: `base` and every source → its vocabulary.
        num_rows: the same → rows of its embedding.
        rules: the recipe's `tokens`: they are in the vocabulary, whoever has them.

    Raises:
        InvalidInputError: a rule names a token or a model that is not there.
    """
    donor = BASE if wanted == "union" else wanted
    ids = dict(vocabularies[donor].ids)
    rows = max(num_rows[donor], max(ids.values(), default=-1) + 1)
    following = max(ids.values(), default=-1) + 1  # new tokens take the donor's unused rows first
    extra = (
        [t for v in vocabularies.values() for t in sorted(v.ids, key=v.ids.__getitem__)] if wanted == "union" else []
    )
    for token in [*extra, *rules]:
        if token not in ids:
            ids[token] = following
            following += 1
    rows = max(rows, following)
    if pad_to_multiple_of:
        rows = -(-rows // pad_to_multiple_of) * pad_to_multiple_of
    merged = Merged(ids, rows, donor, vocabularies, rules)
    _check_rules(merged)
    return merged


def _check_rules(merged: Merged) -> None:
    for token, rule in merged.rules.items():
        if rule.model is None:
            has_it = any(token in v.ids for v in merged.vocabularies.values())
            if not has_it and rule.fill != "zero":
                raise InvalidInputError(
                    f"tokens.{token}", token, "a token that a model has, or `model`, or `fill: zero`"
                )
            continue
        ids = merged.vocabularies[rule.model].ids
        if rule.token_id is None and (rule.token or token) not in ids:
            raise InvalidInputError(f"tokens.{token}", rule.token or token, f"a token that {rule.model!r} has")


@dataclass(frozen=True, slots=True)
class Table:
    """One model's embedding or head.

    Attributes:
        values: [rows, width], as stored.
        rows: merged row → row of `values`, −1 where there is none.
    """

    values: Tensor
    rows: Tensor

    def gathered(self) -> tuple[Tensor, Tensor]:
        """[merged rows, width] in float32, zeros where there is no row; and which rows there are."""
        has = self.rows >= 0
        return self.values[self.rows.clamp(min=0)].float() * has[:, None], has


def merged_tables(merged: Merged, tables: Mapping[str, Table]) -> dict[str, Tensor]:
    """Every model's table in the merged vocabulary, [merged rows, width], float32.

    A row that a model lacks is, in this order: what a rule says; the base's row, so that the source changes nothing
    there; the mean of the models that have it; zero.

    Args:
        tables: `base` and the sources that have a table of their own.
    """
    gathered = {name: table.gathered() for name, table in tables.items()}
    base, base_has = gathered[BASE]
    total = torch.stack([values for values, _ in gathered.values()]).double().sum(dim=0)
    count = torch.stack([has for _, has in gathered.values()]).sum(dim=0)
    # Rounded as the base is stored, so that a source that lacks a row differs from the base in nothing.
    dtype = tables[BASE].values.dtype
    mean = (total / count.clamp(min=1)[:, None]).to(dtype).float()
    filled = torch.where(base_has[:, None], base, mean)
    results = {name: torch.where(has[:, None], values, filled) for name, (values, has) in gathered.items()}
    _pursue([merged.ids[t] for t, rule in merged.rules.items() if rule.fill == "omp"], gathered, results, dtype)
    for token, rule in merged.rules.items():
        if rule.fill == "omp":
            continue
        row = merged.ids[token]
        given = _given(merged, tables, token, rule, mean[row])
        given = None if given is None else given.to(dtype).float()
        for name, (_, has) in gathered.items():
            if given is not None and (rule.force or not has[row]):
                results[name][row] = given
    return results


def _pursue(
    wanted: Sequence[int],
    gathered: Mapping[str, tuple[Tensor, Tensor]],
    results: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Rows that a model lacks: as the first model that has one writes it in its rows of tokens that both have, the same
    combination of the model's own rows.

    Args:
        wanted: merged rows.
        gathered: model → its rows, and which there are.
        results: model → its rows in the merged vocabulary; written to.

    Source: Goddard and Fernandes Neto 2025, arXiv:2506.06607.
    """
    for name, (own, has) in gathered.items():
        lacking = [row for row in wanted if not has[row]]
        for theirs, known in gathered.values():
            rows = [row for row in lacking if known[row]]
            both = (has & known).nonzero()[:, 0]
            if not rows or not len(both):
                continue
            k = min(PURSUED, len(both), theirs.shape[1])
            found = matching_pursuit(theirs[rows], theirs[both], k)
            results[name][rows] = found.of(own[both]).to(dtype).float()
            lacking = [row for row in lacking if row not in rows]


def _given(merged: Merged, tables: Mapping[str, Table], token: str, rule: TokenRule, mean: Tensor) -> Tensor | None:
    """The row that a rule gives; None where it only says that the token is in the vocabulary."""
    if rule.fill is not None:
        return torch.zeros_like(mean) if rule.fill == "zero" else mean
    if rule.model is None:
        return mean if rule.force else None
    # A source without a table of its own (an adapter) has the base's.
    values = tables.get(rule.model, tables[BASE]).values
    at = rule.token_id if rule.token_id is not None else merged.vocabularies[rule.model].ids[rule.token or token]
    if at >= len(values):
        raise InvalidInputError(f"tokens.{token}.token_id", at, f"a row of {rule.model!r}, below {len(values)}")
    return values[at].float()


def report(merged: Merged, names: Sequence[str]) -> dict[str, Any]:
    """Where the rows of tokens that not all models share come from, JSON-ready.

    Args:
        names: models with tables of their own.
    """
    sources = {token: [name for name in names if token in merged.vocabularies[name].ids] for token in merged.added}
    return {
        "tokens": len(merged.ids),
        "rows": merged.num_rows,
        "added": {token: {"row": merged.ids[token], "from": have or "rule"} for token, have in sources.items()},
        "lost": merged.lost,
    }
