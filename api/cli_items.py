"""`evomerge items`: eval sets, item banks and responses. The commands themselves lie in modules of their own."""

from __future__ import annotations

import typer

from api import cli_answers, cli_eval_sets, cli_flips, cli_item_report

items = typer.Typer(name="items", help="Make, check and describe eval sets.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the group of commands."""
    cli_eval_sets.add_to(items)
    cli_item_report.add_to(items)
    cli_flips.add_to(items)
    cli_answers.add_to(items)
    app.add_typer(items)
