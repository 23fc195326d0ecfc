"""`evomerge items list`, `export` and `import`: the answers that a data directory keeps."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from api.banks import bank_named, pages_of
from api.cli_search import DataDir
from api.progress import make_console
from evomerge.errors import InvalidInputError

if TYPE_CHECKING:
    from evomerge.storage.blocks import AnswerBlock, Bank
    from evomerge.storage.store import Store
    from fitness.items import EvalSet
    from fitness.matrix import ResponseMatrix

out = make_console()

EvalSetName = Annotated[str, typer.Option("--eval-set", help="The eval set's name.")]
Items = Annotated[
    Path | None, typer.Option("--items", help="JSONL file of the eval set: says what its items ask, and their groups.")
]


def add_to(items: typer.Typer) -> None:
    """Add the commands."""
    items.command("list")(list_banks)
    items.command("export")(export)
    items.command("import")(import_)


def list_banks(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What there are answers to: by evaluator (fingerprint) and eval set, how many subjects, items and answers."""
    with closing(_store(data_dir)) as store:
        banks = store.banks()
    if as_json:
        found = [asdict(bank) | {"first": bank.first.isoformat(), "last": bank.last.isoformat()} for bank in banks]
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    elif not banks:
        out.print("no answers yet: runs and `evomerge items import` bring some", highlight=False)
    else:
        out.print(_table(banks))


def export(
    file: Annotated[Path, typer.Argument(help="File to write: .csv, .npz or .jsonl.")],
    eval_set: EvalSetName,
    metric: Annotated[str, typer.Option(help="Which metric's values.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="Whose answers: a fingerprint or its beginning; not needed where there is one.")
    ] = None,
    items: Items = None,
    split: Annotated[str, typer.Option(help="With --items: the search or the holdout items.")] = "search",
    complete: Annotated[bool, typer.Option("--complete", help="Subjects alone that answered everything.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Write answers as a response matrix, subjects by items."""
    from fitness.exchange import write_answers

    columns = None
    if items is not None:
        if split not in ("search", "holdout"):
            raise InvalidInputError("split", split, "'search' or 'holdout'")
        columns = [item for item in _eval_set(eval_set, items).items if item.split == split]
    counted = Counter[str]()

    def counting(pages: Iterator[ResponseMatrix]) -> Iterator[ResponseMatrix]:
        for page in pages:
            whole = page.complete()
            counted.update(subjects=len((whole if complete else page).subjects), complete=len(whole.subjects))
            counted["items"], counted["answered"] = len(page.items), counted["answered"] + len(page.subjects)
            yield whole if complete else page
        if not counted["answered"]:
            raise InvalidInputError("metric", metric, "one that these items were answered under")

    with closing(_store(data_dir)) as store:
        bank = bank_named(store.banks(), eval_set, fingerprint)
        if metric not in bank.metrics:
            allowed = f"one that these items were answered under: {', '.join(bank.metrics)}"
            raise InvalidInputError("metric", metric, allowed)
        write_answers(file, metric, counting(pages_of(store, bank, metric, columns)))
    out.print(
        f"{counted['subjects']} subjects, {counted['complete']} of them complete, "
        f"by {counted['items']} items in {file}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def import_(
    file: Annotated[
        Path, typer.Argument(help="Response matrix: .csv or .npz (subjects by items), or .jsonl, one answer a line.")
    ],
    eval_set: EvalSetName,
    metric: Annotated[str | None, typer.Option(help="What the values are; JSONL can say it itself.")] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            help="Of the evaluator that asked; without one `imported:EVAL_SET`, which no run takes as its own."
        ),
    ] = None,
    items: Items = None,
    data_dir: DataDir = None,
) -> None:
    """Keep answers that others have taken, all of the file or nothing."""
    from fitness.bank import blocks_of
    from fitness.exchange import read_answers

    matrices = read_answers(file, metric)
    known = None if items is None else _eval_set(eval_set, items)
    blocks = blocks_of(matrices, eval_set, fingerprint or f"imported:{eval_set}", known)
    counted, subjects = Counter[str](), set[str]()

    def counting() -> Iterator[AnswerBlock]:
        for block in blocks:
            counted.update(blocks=1, answers=len(block.items))
            subjects.add(block.subject)
            yield block

    with closing(_store(data_dir)) as store:
        new = store.add_answers(counting())
    out.print(
        f"{counted['answers']} answers of {len(subjects)} subjects to {eval_set!r}; "
        f"{new} of {counted['blocks']} blocks are new",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _store(data_dir: Path | None) -> Store:
    from api import local
    from api.settings import settings_of

    return local.open_local(settings_of(data_dir=data_dir))


def _eval_set(name: str, path: Path) -> EvalSet:
    from fitness.items import load_eval_set

    return load_eval_set(name, path)


def _table(banks: list[Bank]) -> Table:
    table = Table()
    table.add_column("fingerprint", no_wrap=True)
    for column in ("eval set", "subjects", "items", "answers", "complete", "asked with", "metrics"):
        table.add_column(column)
    for bank in banks:
        asked = " ".join(str(bank.settings[name]) for name in ("dtype", "device", "engine") if name in bank.settings)
        counts = (str(count) for count in (bank.subjects, bank.items, bank.answers, bank.complete))
        mark = bank.fingerprint if len(bank.fingerprint) < 64 else bank.fingerprint[:16]
        table.add_row(mark, bank.eval_set, *counts, asked, ", ".join(bank.metrics))
    return table
