"""Stored answers as a response matrix, and a matrix as answers to store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from evomerge.errors import InvalidInputError
from evomerge.storage.blocks import AnswerBlock, BankPage
from fitness.evaluator import Metric
from fitness.fingerprint import content_of, unowned
from fitness.items import EvalSet, Item
from fitness.matrix import Floats, ResponseMatrix, make_matrix
from fitness.metrics import METRICS
from fitness.metrics import metric as metric_named

UNKNOWN = ""
"""The content of an item of which only its id is known."""


def matrix_of(blocks: Sequence[AnswerBlock], metric: Metric, items: Sequence[Item] | None = None) -> ResponseMatrix:
    """The answers of one evaluator as [subjects, items], NaN for what was not asked.

    Of answers to the same question the last one counts. Where an item changed under its id, answers to what it says now
    count (without `items`: what it said last); answers that do not say what was asked count by the id.

    Args:
        blocks: of one eval set, oldest first; those without the metric are left out.
        items: the columns, with their groups and weights; None: everything that was asked, equally weighted.

    Raises:
        InvalidInputError: nobody answered any of it under this metric.
    """
    here = [block for block in blocks if metric in block.values]
    asked = [(block.items, block.contents) for block in here]
    columns = last_asked(asked, metric) if items is None else {item.id: content_of(item) for item in items}
    subjects = list(dict.fromkeys(b.subject for b in here if not columns.keys().isdisjoint(b.items)))
    if not subjects:
        raise InvalidInputError("metric", metric, f"one that these items were answered under: {_metrics(blocks)}")
    matrix = make_matrix(
        _filled(here, metric, columns, subjects), subjects, list(columns),
        groups=None if items is None else [item.group for item in items],
        weights=None if items is None else [item.weight for item in items],
    )  # fmt: skip
    return matrix.of(np.flatnonzero(~np.isnan(matrix.values).all(axis=1)))


def page_matrix(page: BankPage, metric: Metric, items: Sequence[Item] | None = None) -> ResponseMatrix:
    """A page's subjects by all items of the bank, NaN for what was not asked; subjects of whose answers none counts are
    left out. What counts, and what `items` are, is what `matrix_of` says."""
    if items is None:
        contents = last_asked(page.lists_last, metric)
        columns = {item: contents[item] for ids, _ in page.lists for item in ids}
    else:
        columns = {item.id: content_of(item) for item in items}
    matrix = make_matrix(
        _filled(page.blocks, metric, columns, page.subjects), page.subjects, list(columns),
        groups=None if items is None else [item.group for item in items],
        weights=None if items is None else [item.weight for item in items],
    )  # fmt: skip
    return matrix.of(np.flatnonzero(~np.isnan(matrix.values).all(axis=1)))


def last_asked(lists: Iterable[tuple[Sequence[str], Sequence[str]]], metric: Metric) -> dict[str, str]:
    """Item → its content when it was asked last; with its owner for metrics that compare with the owner's answer.

    Args:
        lists: ids and contents of items that were asked together, the list that was asked last at the end.
    """
    found: dict[str, str] = {}
    for ids, contents in lists:
        asked = zip(ids, contents or (UNKNOWN,) * len(ids), strict=True)
        found.update({i: content for i, content in asked if content != UNKNOWN or i not in found})
    compared = metric in METRICS and METRICS[metric].expert
    return found if compared else {i: unowned(content) for i, content in found.items()}


def _filled(
    blocks: Sequence[AnswerBlock], metric: Metric, columns: Mapping[str, str], subjects: Sequence[str]
) -> Floats:
    places = {item: place for place, item in enumerate(columns)}
    rows = {subject: row for row, subject in enumerate(subjects)}
    values = np.full((len(subjects), len(columns)), np.nan)
    for block in blocks:
        contents = block.contents or (UNKNOWN,) * len(block.items)
        for item, content, value in zip(block.items, contents, block.values[metric], strict=True):
            if item in places and (columns[item] in (content, unowned(content)) or UNKNOWN in (content, columns[item])):
                values[rows[block.subject], places[item]] = value
    return values


def _metrics(blocks: Sequence[AnswerBlock]) -> str:
    return ", ".join(sorted({name for block in blocks for name in block.values})) or "none"


def blocks_of(
    matrices: Mapping[Metric, ResponseMatrix], eval_set: str, fingerprint: str, items: EvalSet | None = None
) -> Iterator[AnswerBlock]:
    """One subject's answers after another's, as they are stored; made as they are taken.

    Args:
        items: says what the items ask; without it their answers are known by id alone, and never stand in for asking.

    Raises:
        InvalidInputError: an unknown metric, a value outside of its bounds, a name that cannot be kept, or an item that
            `items` does not hold; all before the first block.
    """
    _check_names(eval_set, fingerprint)
    for name, matrix in matrices.items():
        _check_values(name, matrix)
    contents = None if items is None else _contents(matrices.values(), items)
    return _blocks(matrices, eval_set, fingerprint, contents)


def _blocks(
    matrices: Mapping[Metric, ResponseMatrix], eval_set: str, fingerprint: str, contents: Mapping[str, str] | None
) -> Iterator[AnswerBlock]:
    rows = {name: {s: row for row, s in enumerate(matrix.subjects)} for name, matrix in matrices.items()}
    for subject in dict.fromkeys(s for matrix in matrices.values() for s in matrix.subjects):
        by_items: dict[tuple[str, ...], dict[Metric, tuple[float, ...]]] = {}
        for name, matrix in matrices.items():
            if subject in rows[name]:
                row = matrix.values[rows[name][subject]]
                places = np.flatnonzero(~np.isnan(row))
                answered = tuple(matrix.items[place] for place in places)
                by_items.setdefault(answered, {})[name] = tuple(row[places].tolist())
        for asked, values in by_items.items():
            if asked:
                known = () if contents is None else tuple(contents[item] for item in asked)
                yield AnswerBlock(fingerprint, eval_set, subject, asked, known, dict(sorted(values.items())))


def _contents(matrices: Iterable[ResponseMatrix], items: EvalSet) -> dict[str, str]:
    """Item → what it asks, of all that anybody answered."""
    held = {item.id: item for item in items.items}
    found = {}
    for matrix in matrices:
        for place in np.flatnonzero(~np.isnan(matrix.values).all(axis=0)):
            item = matrix.items[place]
            if item not in held:
                raise InvalidInputError("items", item, f"ids of {items.name!r}, which has {len(held)} items")
            found[item] = content_of(held[item])
    return found


def _check_names(eval_set: str, fingerprint: str) -> None:
    for field, text in (("eval_set", eval_set), ("fingerprint", fingerprint)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}", text):
            allowed = "up to 128 letters, digits and . _ : - that begin with a letter or digit"
            raise InvalidInputError(field, text, allowed)


def _check_values(name: Metric, matrix: ResponseMatrix) -> None:
    low, high = metric_named(name).bounds
    wrong = ~np.isnan(matrix.values) & (
        (matrix.values < (-np.inf if low is None else low)) | (matrix.values > (np.inf if high is None else high))
    )
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f"{name} of {matrix.subjects[row]!r} for item {matrix.items[column]!r}"
        bounds = f"{'-∞' if low is None else low} to {'∞' if high is None else high}"
        raise InvalidInputError(where, float(matrix.values[row, column]), f"a value from {bounds}")
