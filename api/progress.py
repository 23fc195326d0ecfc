"""A run in the terminal: a bar while it goes, tables when it is over. Fed with events, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

EVERY = 10
"""Without a terminal, one line for so many candidates."""


WIDTH = 120
"""Columns where there is no terminal to ask."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables into 80 columns when its output goes to a file.

    It takes text as it is: brackets in paths and names are no markup.
    """
    console = Console(stderr=stderr, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, markup=False, width=WIDTH)


class RunView:
    """Shows one run's events on a console."""

    def __init__(self, console: Console, budget: int, objectives: list[str]) -> None:
        self.console, self.objectives, self.budget = console, objectives, budget
        self.best: dict[str, Any] = {}
        self.believed: dict[str, Any] = {}
        self.hypervolume = 0.0
        self.scored = 0
        self.state = "queued"
        self.front = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def follow(self, events: Iterable[tuple[str, dict[str, Any]]]) -> str:
        """Show events until the run is over; returns its last state."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            self._bar, self._task = bar, bar.add_task("queued", total=self.budget)
            for kind, data in events:
                self.show(kind, data)
        return self.state

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """One event."""
        match kind:
            case "run.state":
                self.state = data["state"]
                self._say(f"run {data['state']}" + (f": {data['reason']}" if data.get("reason") else ""))
            case "run.note":
                self._say(data["text"])
            case "candidate.scored":
                self._scored(data)
            case "candidate.failed":
                self._say(f"candidate {data['number']} failed, {data['reason']}: {data['message']}")
            case "front.updated":
                self.best, self.hypervolume, self.front = data["best"], data["hypervolume"], len(data["front"])
            case "belief.updated":
                self.believed = data["best"]
            case "candidate.verified":
                name = data["label"] or f"candidate {data['number']}"
                self._say(f"verified on {data['split']} items: {name}: {_scores(data['scores'], self.objectives)}")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.scored, description=self._line())

    def _scored(self, data: dict[str, Any]) -> None:
        if data["kind"] == "baseline":
            self._say(f"{data['label']}: {_scores(data['scores'], self.objectives)}")
            return
        self.scored += 1
        if not self.console.is_terminal and self.scored % EVERY == 0:
            self._say(self._line())

    def _line(self) -> str:
        best = ", ".join(f"{name} {found['mean']:.3f}{self._believed(name)}" for name, found in self.best.items())
        front = f", front {self.front}" if len(self.objectives) > 1 else ""
        return f"{self.state}  {self.scored}/{self.budget}  best {best or '-'}{front}"

    def _believed(self, name: str) -> str:
        return f" (believed {self.believed[name]['mean']:.3f})" if name in self.believed else ""

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def _scores(scores: dict[str, dict[str, float]], names: list[str]) -> str:
    return ", ".join(f"{name} {s['mean']:.3f} ± {s['se']:.3f}" for name, s in scores.items() if name in names)


def result_table(result: dict[str, Any]) -> Table:
    """Holdout scores with 95 % intervals: the winners first, then every baseline."""
    names = [n for row in result["table"] for n in (row["holdout"] or row["search"] or {})]
    names = list(dict.fromkeys(names))
    split = "holdout" if any(row["holdout"] for row in result["table"]) else "search"
    table = Table(title=f"Scores on all {split} items, with 95 % intervals")
    table.add_column("model")
    for name in names:
        table.add_column(name, justify="right")
    for row in result["table"]:
        label = row["label"] or f"candidate {row['number']}" + (
            " (winner)" if row["number"] == result["winner"] else ""
        )
        scores = row[split] or {}
        cells = [f"{s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" if (s := scores.get(n)) else "-" for n in names]
        table.add_row(label, *cells, style="bold" if row["kind"] == "search" else "")
    return table


def paired_table(result: dict[str, Any]) -> Table:
    """The winner against every baseline on the same items."""
    table = Table(title="The winner against each baseline, same holdout items")
    for column in ("against", "objective", "difference", "95 % interval", "right/wrong only here", "sign test p"):
        named = column in ("against", "objective")
        table.add_column(column, justify="left" if named else "right", no_wrap=named)
    for p in result["paired"]:
        interval = f"[{p['low']:+.3f}, {p['high']:+.3f}]"
        counts = f"{p['wins']} / {p['losses']}"
        table.add_row(p["against"], p["objective"], f"{p['difference']:+.3f}", interval, counts, f"{p['p_sign']:.2g}")
    return table
