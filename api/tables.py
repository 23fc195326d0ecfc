"""What `evomerge show` prints: rows of the store as tables for people or plain data for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from api.progress import paired_table, result_table
from evomerge.storage.store import CandidateRow, RunRow


def plain(found: Any) -> Any:
    """Rows as JSON-ready data."""
    if isinstance(found, list):
        return [plain(one) for one in found]
    data = asdict(found)
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in data.items()}


def of(found: list[RunRow] | RunRow | CandidateRow) -> Iterator[RenderableType]:
    """Tables of what was found."""
    if isinstance(found, list):
        yield _runs(found)
    elif isinstance(found, RunRow):
        yield from _run(found)
    else:
        yield from _candidate(found)


def _runs(rows: list[RunRow]) -> Table:
    table = Table()
    table.add_column("run", no_wrap=True)  # an id that is cut is of no use
    for column in ("name", "state", "scored", "best", "updated"):
        table.add_column(column)
    for row in rows:
        summary = row.summary
        best = ", ".join(f"{n} {b['mean']:.3f}" for n, b in summary.get("best", {}).items())
        scored = f"{summary.get('scored', 0)}/{summary.get('budget', row.spec['budget']['candidates'])}"
        table.add_row(row.id, row.name, row.state, scored, best, f"{row.updated:%Y-%m-%d %H:%M}")
    return table


def _run(row: RunRow) -> Iterator[RenderableType]:
    yield _runs([row])
    if row.reason:
        yield f"reason: {row.reason}"
    result = row.summary.get("result")
    if result:
        yield result_table(result)
        yield paired_table(result)


def _candidate(row: CandidateRow) -> Iterator[RenderableType]:
    label = f" ({row.label})" if row.label else ""
    yield f"candidate {row.number}{label}: {row.state.value}, generation {row.generation}, recipe {row.digest}"
    if row.failure:
        yield f"failed, {row.failure['reason']}: {row.failure['message']}"
    table = Table("items", "objective", "mean", "standard error", "items answered")
    for items, scores in {"subset": row.scores, **row.verified}.items():
        for name, s in scores.items():
            table.add_row(items, name, f"{s['mean']:.4f}", f"{s['se']:.4f}", f"{s['n']:.0f}")
    yield table
