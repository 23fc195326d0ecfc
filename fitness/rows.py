"""Rows of a data set: of a file, of a folder that `datasets` saved or reads, or of a hub."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError

Row = Mapping[str, Any]


def rows_of(
    source: str, *, split: str | None = None, config: str | None = None, revision: str | None = None
) -> Iterator[Row]:
    """Rows in order, one at a time where the format allows.

    Args:
        source: a file (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet`, `.txt` with a `text` a line), a folder
            that `datasets` saved or can load, or a hub's id `ORGANISATION/NAME`.
        split: of a folder or a hub's data set; None: the only one.
        config: the data set's configuration.
        revision: of the hub's repository.

    Raises:
        InvalidInputError: nothing there, a format that is not read, or a row that is broken; names the place.
    """
    path = Path(source).expanduser()
    if path.is_file():
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise InvalidInputError("data set", source, f"a file that ends in {', '.join(READERS)}")
        if split or config or revision:
            raise InvalidInputError(
                "split", split or config or revision, "none: a file has neither splits nor versions"
            )
        return reader(path)
    return _loaded(source, path, split, config, revision)


def texts_of(source: str) -> Iterator[str]:
    """All texts of each row, however deep, joined by line breaks: what a model trained on it has read.

    Raises:
        InvalidInputError: see `rows_of`; all splits of a folder count.
    """
    path = Path(source).expanduser()
    rows = rows_of(source) if path.is_file() else _all_splits(source, path)
    return ("\n".join(_strings(row)) for row in rows)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _object(line, f"{path}:{number}")


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(where, line[:60], f"one JSON object ({error.msg})") from error
    if not isinstance(row, dict):
        raise InvalidInputError(where, line[:60], "a JSON object")
    return row


def _json(path: Path) -> Iterator[Row]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InvalidInputError(str(path), error.doc[:60], f"JSON ({error.msg}, line {error.lineno})") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise InvalidInputError(str(path), type(found).__name__, "a list of objects")
    yield from found


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a context may be longer than the 128 KiB that csv allows
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, dialect="excel-tab" if path.suffix.lower() == ".tsv" else "excel"):
            if None in row or None in row.values():
                found = f"{len([v for k, v in row.items() if k is not None and v is not None])} columns or more"
                raise InvalidInputError(f"{path} row", found, "as many as the first line names")
            yield row


def _text(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from ({"text": line.rstrip("\n")} for line in file if line.strip())


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InvalidInputError("data set", str(path), "the extra: pip install 'evomerge[datasets]'") from error
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise InvalidInputError(str(path), str(error).splitlines()[0], "a Parquet file") from error


READERS = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
    ".txt": _text,
}  # fmt: skip


def _loaded(source: str, path: Path, split: str | None, config: str | None, revision: str | None) -> Iterator[Row]:
    found = _opened(source, path, config, revision)
    if isinstance(found, dict):
        found = _split(found, source, split)
    return (dict(row) for row in found)


def _all_splits(source: str, path: Path) -> Iterator[Row]:
    found = _opened(source, path, None, None)
    parts = found.values() if isinstance(found, dict) else [found]
    return (dict(row) for part in parts for row in part)


def _opened(source: str, path: Path, config: str | None, revision: str | None) -> Any:
    """A data set or, by split, several."""
    if not path.exists() and (path.suffix.lower() in READERS or source.count("/") > 1):
        raise InvalidInputError("data set", source, "a file or folder that exists, or a hub's id ORGANISATION/NAME")
    try:
        import datasets
    except ImportError as error:
        raise InvalidInputError("data set", source, "the extra: pip install 'evomerge[datasets]'") from error
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path) if path.exists() else source, config, revision=revision)
    except Exception as error:  # whatever a reader of some format or a network raises
        allowed = f"a file or folder on this machine, or a data set of a hub that can be reached: {error}"
        raise InvalidInputError("data set", source, allowed) from error


def _split(found: Mapping[str, Any], source: str, split: str | None) -> Any:
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split is None or split not in found:
        raise InvalidInputError("split", split, f"one of those of {source!r}: {', '.join(map(str, found))}")
    return found[split]
