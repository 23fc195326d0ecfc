"""`evomerge items report`: what a bank of answers says about its items, and about methods that need few of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

NUMBERS = "10,20,30,50,100"


def report(
    matrix: Annotated[Path, typer.Argument(help="A response matrix (npz): subjects by items.")],
    parents: Annotated[list[str] | None, typer.Option(help="A subject that is merged; may be repeated.")] = None,
    numbers: Annotated[str, typer.Option(help="How many items to try, with commas between.")] = NUMBERS,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cross-validate methods on a bank: errors, ranking, coverage, which items are broken, and what is recommended."""
    from fitness.irt.calibration import item_report
    from fitness.irt.contracts import Bank
    from fitness.irt.report_text import render
    from fitness.matrix import load_matrix

    bank = load_matrix(matrix).complete()
    found = item_report(
        Bank(bank, _rows(bank.subjects, parents or [])), eval_set=matrix.stem, seed=seed, numbers=_numbers(numbers)
    )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else render(found), nl=as_json)


def _rows(subjects: tuple[str, ...], names: list[str]) -> tuple[int, ...]:
    from evomerge.errors import InvalidInputError

    unknown = [name for name in names if name not in subjects]
    if unknown:
        raise InvalidInputError("parents", unknown[0], "a subject with complete answers in the matrix")
    return tuple(sorted({subjects.index(name) for name in names}))


def _numbers(text: str) -> list[int]:
    from evomerge.errors import InvalidInputError

    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInputError("numbers", text, f"whole numbers above 0 with commas between, like {NUMBERS}")
    return [int(part) for part in parts]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)
