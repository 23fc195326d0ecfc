"""`evomerge items show`, and how eval sets are made from tasks and datasets and checked for contamination."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from api.progress import make_console

out = make_console()


def show(
    eval_set: Annotated[Path, typer.Argument(help="JSONL file of an eval set.")],
) -> None:
    """What an eval set holds: items by split and group, its kind and digest."""
    from fitness.items import load_eval_set
    from fitness.metrics import METRICS, common_kind

    found = load_eval_set(eval_set.stem, eval_set)
    kind = common_kind(found.items, str(eval_set))
    out.print(f"{found.name}: {len(found.items)} {kind} items, digest {found.digest[:16]}", highlight=False)
    for (split, group), count in sorted(Counter((i.split, i.group) for i in found.items).items()):
        out.print(f"  {split}{f' {group}' if group else ''}: {count}", highlight=False, markup=False)
    out.print(f"metrics: {', '.join(m.name for m in METRICS.values() if m.kind == kind)}", highlight=False)


def add_to(items: typer.Typer) -> None:
    """Add the commands."""
    items.command()(show)
