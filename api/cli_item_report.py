"""`evomerge items report`: what a bank of answers says about its items, and about methods that need few of them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from api.cli_search import DataDir, RegistryFile
from evomerge.errors import InvalidInputError

NUMBERS = "10,20,30,50,100"


def report(
    matrix: Annotated[Path | None, typer.Argument(help="A response matrix (npz): subjects by items.")] = None,
    run: Annotated[str | None, typer.Option(help="Instead: the complete answers of a stored run.")] = None,
    data_dir: DataDir = None,
    registry: RegistryFile = None,
    parents: Annotated[list[str] | None, typer.Option(help="A subject that is merged; may be repeated.")] = None,
    numbers: Annotated[str, typer.Option(help="How many items to try, with commas between.")] = NUMBERS,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cross-validate methods on a bank: errors, ranking, coverage, which items are broken, and what is recommended."""
    if (matrix is None) == (run is None):
        raise InvalidInputError("matrix", matrix and str(matrix), "a file, or --run with a run's id, and not both")
    if run is not None:
        _report_run(run, data_dir, registry, as_json)
    elif matrix is not None:
        _report_matrix(matrix, parents or [], _numbers(numbers), seed, as_json)


def _report_run(run: str, data_dir: Path | None, registry: Path | None, as_json: bool) -> None:
    from api import local
    from api.settings import settings_of
    from fitness.irt.report_text import render
    from workers.item_reports import item_reports

    settings = settings_of(data_dir=data_dir, registry=registry)
    with closing(local.open_local(settings)) as store:
        row = store.run(run)
        if row is None:
            raise InvalidInputError("run", run, f"a run of {settings.data_dir}")
        found = item_reports(store, row, local.load_registry(settings))
    if as_json:
        typer.echo(json.dumps([one.to_dict() for one in found], indent=2))
        return
    for one in found:
        heading = f"{one.eval_set}, {one.metric}: {one.subjects} subjects answered all search items"
        typer.echo(f"{heading}; {one.why}" if one.report is None else f"{heading}\n{render(one.report)}")


def _report_matrix(matrix: Path, parents: list[str], numbers: list[int], seed: int, as_json: bool) -> None:
    from fitness.irt.calibration import item_report
    from fitness.irt.contracts import Bank
    from fitness.irt.report_text import render
    from fitness.matrix import load_matrix

    bank = load_matrix(matrix).complete()
    found = item_report(Bank(bank, _rows(bank.subjects, parents)), eval_set=matrix.stem, seed=seed, numbers=numbers)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else render(found), nl=as_json)


def _rows(subjects: tuple[str, ...], names: list[str]) -> tuple[int, ...]:
    unknown = [name for name in names if name not in subjects]
    if unknown:
        raise InvalidInputError("parents", unknown[0], "a subject with complete answers in the matrix")
    return tuple(sorted({subjects.index(name) for name in names}))


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInputError("numbers", text, f"whole numbers above 0 with commas between, like {NUMBERS}")
    return [int(part) for part in parts]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)
