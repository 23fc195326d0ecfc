"""`evomerge search`, `resume` and `replay`: runs from the command line."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.progress import make_console
from evomerge.errors import InvalidInputError

if TYPE_CHECKING:
    from api.settings import Settings
    from evomerge.storage.store import Store

out = make_console()

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where the database and caches lie.")]
RegistryFile = Annotated[Path | None, typer.Option("--registry", help="YAML file of model and eval set aliases.")]
Server = Annotated[str | None, typer.Option("--server", help="URL of a running `evomerge serve`; without it, here.")]
Near = Annotated[
    list[str] | None,
    typer.Option(help="Look early near what is known: a recipe, mergekit's YAML, or a run's id. Repeatable."),
]


def add_to(app: typer.Typer) -> None:
    """Give the command line its commands."""
    for command in (search, resume, replay):
        app.command()(command)


def search(
    spec: Annotated[Path, typer.Argument(help="YAML or JSON file that says what to search.")],
    data_dir: DataDir = None,
    registry: RegistryFile = None,
    server: Server = None,
    recipe: Annotated[Path | None, typer.Option(help="Write the winning recipe here when the run is over.")] = None,
    near: Near = None,
) -> None:
    """Run a search: on a server, or here in this process."""
    from api import local
    from api.seeding import with_seeds
    from api.settings import settings_of

    asked, own = local.read_search(spec)
    if near:
        settings = settings_of(data_dir=data_dir, registry=registry)
        known = own if own is not None else local.load_registry(settings)
        asked = with_seeds(asked, near, known, local.open_local(settings))
    if server is not None:
        from api.remote import search_remotely

        _end(search_remotely(server, asked, out, recipe))
        return
    settings = settings_of(data_dir=data_dir, registry=registry)
    store = local.open_local(settings)
    row, _ = store.create_run(asked.model_dump(mode="json", by_alias=True), asked.name)
    out.print(f"run {row.id}: {asked.name}", highlight=False)
    _drive(settings, store, row.id, own, recipe)


def resume(
    run: Annotated[str, typer.Argument(help="The run's id; `evomerge show` lists them.")],
    data_dir: DataDir = None,
    registry: RegistryFile = None,
    spec: Annotated[Path | None, typer.Option(help="The search's file again, if it brought its own aliases.")] = None,
    server: Server = None,
    recipe: Annotated[Path | None, typer.Option(help="Write the winning recipe here when the run is over.")] = None,
) -> None:
    """Go on with a run that was paused, interrupted or killed."""
    from api import local
    from api.settings import settings_of

    if server is not None:
        from api.remote import resume_remotely

        _end(resume_remotely(server, run, out, recipe))
        return
    settings = settings_of(data_dir=data_dir, registry=registry)
    store = local.open_local(settings)
    row = store.run(run)
    if row is None:
        raise InvalidInputError("run", run, f"a run of {settings.data_dir}")
    if row.state == "paused":
        store.command(run, "resume")
    _drive(settings, store, run, local.read_search(spec)[1] if spec else None, recipe)


def replay(
    run: Annotated[str, typer.Argument(help="The run's id; `evomerge show` lists them.")],
    data_dir: DataDir = None,
    registry: RegistryFile = None,
    spec: Annotated[Path | None, typer.Option(help="The search's file, if it brought its own aliases.")] = None,
) -> None:
    """Ask a stored run's candidates for again, from its spec and its answers, and compare every genome and recipe."""
    from api import local
    from api.settings import settings_of
    from workers.replay import replay as again

    settings = settings_of(data_dir=data_dir, registry=registry)
    store = local.open_local(settings)
    if store.run(run) is None:
        raise InvalidInputError("run", run, f"a run of {settings.data_dir}")
    own = local.read_search(spec)[1] if spec else None
    found = again(store, run, own if own is not None else local.load_registry(settings))
    out.print(
        f"run {run} ({found.state}): {found.candidates} candidates asked for again, {found.told} evaluations told, "
        f"{found.events} events: all as stored",
        highlight=False,
    )


def _drive(settings: Settings, store: Store, run: str, own: Any, recipe: Path | None) -> None:
    from api import local
    from api.progress import RunView
    from evomerge.run.spec import RunSpec

    row = store.run(run)
    assert row is not None, "looked up by the caller"
    spec = RunSpec.model_validate(row.spec)
    view = RunView(out, spec.budget.candidates, [o.name for o in spec.objectives])
    state = local.drive(settings, store, run, own, view)
    with closing(store):
        _finish(store, run, state, recipe)


def _finish(store: Store, run: str, state: str, recipe: Path | None) -> None:
    from api.progress import paired_table, result_table
    from api.recipes import recipe_in
    from evomerge.recipe.text import dump_yaml

    row = store.run(run)
    assert row is not None, "looked up by the caller"
    result = row.summary.get("result")
    if result:
        out.print(result_table(result))
        out.print(paired_table(result))
    if result and recipe is not None:
        recipe.write_text(dump_yaml(recipe_in(store, row, result["winner"])), encoding="utf-8")
        out.print(f"winning recipe in {recipe}", highlight=False)
    _end(state)


def _end(state: str) -> None:
    """A run that failed is a command that failed."""
    if state == "failed":
        sys.exit(1)
