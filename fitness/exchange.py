"""Response matrices in files: CSV (subjects by items), npz (`ResponseMatrix.save`), JSONL (one answer a line)."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from evomerge.errors import InvalidInputError
from fitness.evaluator import Metric
from fitness.matrix import ResponseMatrix, load_matrix, make_matrix, stack

CORNER = "subject"
"""What stands above the subjects in a CSV."""
PIECE = 1 << 18
"""Bytes of values that are packed at a time."""
FIELDS = ("subject", "item", "metric", "value")
"""Of a line of JSONL; `metric` may be left out where it is said beside the file."""


def read_answers(path: Path, metric: Metric | None) -> dict[Metric, ResponseMatrix]:
    """Metric → matrix, from a file whose kind its ending says.

    Args:
        metric: of all values; only JSONL can say it itself.

    Raises:
        InvalidInputError: another ending, a file that is missing or broken; names its line.
    """
    if path.suffix not in _READERS:
        raise InvalidInputError("file", str(path), f"a file that ends in {', '.join(_READERS)}")
    if not path.is_file():
        raise InvalidInputError("file", str(path), "a file that exists")
    if metric is None and path.suffix != ".jsonl":
        raise InvalidInputError("metric", None, f"a metric's name: {path.suffix} files do not say what they hold")
    return _READERS[path.suffix](path, metric)


def write_answers(path: Path, metric: Metric, pages: Iterable[ResponseMatrix]) -> None:
    """To a file whose kind its ending says; all of it or nothing.

    Args:
        pages: some subjects at a time by the same items, at least one page; no more than one is held.

    Raises:
        InvalidInputError: another ending.
    """
    if path.suffix not in _READERS:
        raise InvalidInputError("file", str(path), f"a file that ends in {', '.join(_READERS)}")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with part.open("wb") as file:
            file.writelines(_pieces(path.suffix, metric, pages))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _pieces(suffix: str, metric: Metric, pages: Iterable[ResponseMatrix]) -> Iterator[bytes]:
    if suffix == ".npz":
        yield from as_npz(pages)
        return
    for number, page in enumerate(pages):
        texts = [as_csv(page, header=not number)] if suffix == ".csv" else as_jsonl(page, metric)
        yield from (text.encode() for text in texts)


def as_csv(matrix: ResponseMatrix, *, header: bool = True) -> str:
    """Header `subject` and the items' ids, a row a subject, an empty cell for what was not asked; groups and weights
    are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow((CORNER, *matrix.items))
    for subject, row in zip(matrix.subjects, matrix.values.tolist(), strict=True):
        writer.writerow((subject, *("" if math.isnan(value) else repr(value) for value in row)))
    return text.getvalue()


def as_npz(pages: Iterable[ResponseMatrix]) -> Iterator[bytes]:
    """All pages' rows together as `ResponseMatrix.save` writes them, in pieces.

    How many rows there are stands before the first, so values wait in a temporary file. What is held is a page, and the
    names of the subjects.
    """
    subjects = list[str]()
    with tempfile.TemporaryFile() as waiting:
        for page in pages:
            waiting.write(np.ascontiguousarray(page.values).tobytes())
            subjects += page.subjects
        waiting.seek(0)
        sink = _Sink()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
            with archive.open("values.npy", "w", force_zip64=True) as member:
                _write_header(member, (len(subjects), len(page.items)))
                while piece := waiting.read(PIECE):
                    member.write(piece)
                    yield sink.taken()
            names = {"subjects": subjects, "items": page.items, "groups": page.groups}
            arrays = {name: np.asarray(texts, dtype=np.str_) for name, texts in names.items()}
            for name, array in (arrays | {"weights": page.weights}).items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
                yield sink.taken()
    yield sink.taken()


def _write_header(member: IO[bytes], shape: tuple[int, int]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float64)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, described)


class _Sink:
    """What is written into it and not taken away yet; `zipfile` finds that it cannot go back."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def write(self, data: bytes) -> int:
        self._parts += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits anywhere else."""

    def taken(self) -> bytes:
        found = bytes(self._parts)
        self._parts.clear()
        return found


def as_jsonl(matrix: ResponseMatrix, metric: Metric) -> Iterator[str]:
    """A line for each answer."""
    for row, subject in enumerate(matrix.subjects):
        for place in np.flatnonzero(~np.isnan(matrix.values[row])):
            said = (subject, matrix.items[place], metric, float(matrix.values[row, place]))
            yield json.dumps(dict(zip(FIELDS, said, strict=True)), ensure_ascii=False) + "\n"


def _from_csv(path: Path, metric: Metric | None) -> dict[Metric, ResponseMatrix]:
    assert metric is not None, "the caller looked"
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = [(number, row) for number, row in enumerate(csv.reader(file, strict=True), start=1) if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidInputError("file", str(path), f"CSV in UTF-8 ({error})") from error
    if len(rows) < 2:
        raise InvalidInputError("file", str(path), "a header with the items' ids and a row a subject")
    (_, (_, *items)), *answers = rows
    values = np.empty((len(answers), len(items)))
    for place, (number, (subject, *row)) in enumerate(answers):
        found = [_number(cell, f"{path}:{number} {subject}") for cell in row]
        if len(row) != len(items):
            raise InvalidInputError(f"{path}:{number}", f"{len(row)} values", f"one for each of {len(items)} items")
        values[place] = found
    return {metric: make_matrix(values, [row[0] for _, row in answers], items)}


def _from_npz(path: Path, metric: Metric | None) -> dict[Metric, ResponseMatrix]:
    assert metric is not None, "the caller looked"
    return {metric: load_matrix(path)}


def _from_jsonl(path: Path, metric: Metric | None) -> dict[Metric, ResponseMatrix]:
    found: dict[Metric, dict[str, dict[str, float]]] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            subject, item, name, value = _answer(line, metric, f"{path}:{number}")
            row = found.setdefault(name, {}).setdefault(subject, {})
            if item in row:
                raise InvalidInputError(
                    f"{path}:{number}", f"{subject} {item}", "one answer a subject, item and metric"
                )
            row[item] = value
    if not found:
        raise InvalidInputError("file", str(path), "a line for each answer")
    return {name: _matrix(rows) for name, rows in found.items()}


def _matrix(rows: Mapping[str, Mapping[str, float]]) -> ResponseMatrix:
    items = list(dict.fromkeys(item for row in rows.values() for item in row))
    return make_matrix(stack(rows, items), list(rows), items)


def _answer(line: bytes, metric: Metric | None, where: str) -> tuple[str, str, str, float]:
    try:
        data: Any = json.loads(line)
    except ValueError as error:
        raise InvalidInputError(where, line[:60].decode(errors="replace"), f"one JSON object ({error})") from error
    if not isinstance(data, dict) or set(data) - set(FIELDS):
        raise InvalidInputError(where, str(data)[:80], f"an object with the fields {', '.join(FIELDS)}")
    data.setdefault("metric", metric)
    for field in FIELDS[:3]:
        if not isinstance(data.get(field), str) or not data[field]:
            raise InvalidInputError(f"{where} {field}", data.get(field), "a non-empty string")
    value = data.get("value")
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInputError(f"{where} value", value, "a finite number")
    return data["subject"], data["item"], data["metric"], float(value)


def _number(cell: str, where: str) -> float:
    if not cell.strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise InvalidInputError(where, cell, "a finite number, or nothing for an item that was not asked")
    return value


_READERS: dict[str, Callable[[Path, Metric | None], dict[Metric, ResponseMatrix]]] = {
    ".csv": _from_csv,
    ".npz": _from_npz,
    ".jsonl": _from_jsonl,
}
