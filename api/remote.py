"""Searches on a server, followed from the terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from api.client import Client
from api.progress import RunView, paired_table, result_table
from evomerge.run.spec import RunSpec


def connect(server: str) -> Client:
    """The service at an address, with the key in EVOMERGE_API_KEY if there is one."""
    return Client(server, os.environ.get("EVOMERGE_API_KEY"))


def search_remotely(server: str, spec: RunSpec, console: Console, recipe: Path | None) -> str:
    """Submit a search and follow it to its end; returns its last state."""
    with connect(server) as client:
        run = client.submit(spec.model_dump(mode="json", by_alias=True))
        console.print(f"run {run['id']}: {server.rstrip('/')}/runs/{run['id']}", highlight=False, soft_wrap=True)
        return follow(client, run, console, recipe)


def resume_remotely(server: str, run_id: str, console: Console, recipe: Path | None) -> str:
    """Ask a paused run to go on and follow it to its end; returns its last state."""
    with connect(server) as client:
        run = client.run(run_id)
        if run["state"] == "paused":
            client.command(run_id, "resume")
        return follow(client, run, console, recipe)


def follow(client: Client, run: dict[str, Any], console: Console, recipe: Path | None) -> str:
    """Show a run's events from the first to the last, its result, and write the winning recipe if asked to."""
    spec = RunSpec.model_validate(run["spec"])
    view = RunView(console, spec.budget.candidates, [o.name for o in spec.objectives])
    state = view.follow((event.type, event.data) for event in client.events(run["id"]))
    result = client.run(run["id"])["summary"].get("result")
    if result:
        console.print(result_table(result))
        console.print(paired_table(result))
        if recipe is not None:
            recipe.write_text(client.recipe(run["id"], result["winner"]), encoding="utf-8")
            console.print(f"winning recipe in {recipe}", highlight=False)
    return state
