"""The command line. Every command is a few lines over what the floors below offer; imports wait until one is called."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.text import Text

from api import cli_adapter, cli_calibrate, cli_checks, cli_import, cli_items, cli_search, cli_structure
from api.cli_search import DataDir, RegistryFile
from api.progress import make_console
from evomerge import __version__
from evomerge.errors import EvomergeError, InvalidInputError

if TYPE_CHECKING:
    from api.settings import Settings
    from evomerge.recipe.schema import Recipe

app = typer.Typer(
    help="Search for model-merge recipes, and build what they describe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = make_console()
err = make_console(stderr=True)


class Form(StrEnum):
    """How a recipe is written."""

    YAML = "yaml"
    JSON = "json"
    MERGEKIT = "mergekit"


def main() -> None:
    """Run the command line; a person's mistake ends in one line, not in a traceback."""
    try:
        app()
    except (EvomergeError, ValidationError, OSError) as error:
        err.print(Text.assemble(("error: ", "bold red"), _one_line(error)), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=False)
def _setup(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
    configure_logging(logging.INFO if verbose else logging.WARNING)


@app.command()
def serve(
    data_dir: DataDir = None,
    registry: RegistryFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; anything but loopback needs a key.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.")] = None,
) -> None:
    """Start the service: REST, dashboard and the controller that runs searches."""
    from api.supervisor import python, supervise

    settings = _settings(data_dir=data_dir, registry=registry, host=host, port=port)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if settings.registry is not None:
        from api.local import load_registry

        load_registry(settings)  # a bad file is an error now, not at the first request
    environment = {
        "EVOMERGE_DATA_DIR": str(settings.data_dir.resolve()),
        "EVOMERGE_REGISTRY": str(settings.registry_path.resolve()),
        "EVOMERGE_HOST": settings.host,
        "EVOMERGE_PORT": str(settings.port),
    }
    out.print(f"evomerge {__version__}: http://{settings.host}:{settings.port}/  (data in {settings.data_dir})")
    sys.exit(supervise(environment, {"api": python("-v", "api"), "controller": python("-v", "controller")}))


@app.command(hidden=True)
def api() -> None:
    """The API's process alone (settings from the environment)."""
    from api.app import serve as serve_api

    serve_api(_settings())


@app.command(hidden=True)
def controller(data_dir: DataDir = None, registry: RegistryFile = None) -> None:
    """The controller's process alone."""
    from api.local import serve_controller

    serve_controller(_settings(data_dir=data_dir, registry=registry))


@app.command()
def show(
    run: Annotated[str | None, typer.Argument(help="A run's id; without it, the runs.")] = None,
    candidate: Annotated[int | None, typer.Argument(help="A candidate's number.")] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What the store knows: all runs, one run with its result, or one candidate."""
    from api import local, tables

    store = local.open_local(_settings(data_dir=data_dir))
    if run is None:
        found: Any = store.runs()[0]
    else:
        found = store.run(run) if candidate is None else store.candidate(run, candidate)
        if found is None:
            what = run if candidate is None else f"{run} {candidate}"
            raise InvalidInputError("run" if candidate is None else "candidate", what, "one of this data directory")
    if as_json:
        sys.stdout.write(json.dumps(tables.plain(found), indent=2, ensure_ascii=False) + "\n")
    else:
        for part in tables.of(found):
            out.print(part)


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="A recipe file, a run's id (its winner), or RUN:NUMBER.")],
    to: Annotated[Form, typer.Option(help="The form to write.")] = Form.YAML,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; without it, standard output.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a recipe as YAML, JSON or mergekit's YAML."""
    text = _written(_recipe_named(what, data_dir), to)
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")
        out.print(f"wrote {output}", highlight=False)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML or JSON).")],
    output: Annotated[Path, typer.Argument(help="Directory of the merged model; must not exist or be empty.")],
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=PLACE: where a source (or `base`) lies on this machine.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Tensors at a time; default: the cores it may use.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Most bytes of tensors in memory at a time, such as 2GiB.")] = None,
    device: Annotated[str, typer.Option(help="Where the arithmetic is done: cpu or cuda.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read all weights for their hashes, also those that look unchanged.")
    ] = False,
    as_adapter: cli_adapter.AsAdapter = False,
    rank: cli_adapter.Rank = None,
    energy: cli_adapter.Energy = None,
    alpha: cli_adapter.Alpha = None,
    drop: cli_adapter.Drop = False,
) -> None:
    """Build the merged model that a recipe describes; the same command goes on where a killed one stopped."""
    from api.merging import bar, relocated, size, table_of
    from api.settings import user_cache
    from evomerge.merge.execute import foresee, merge_to_directory
    from evomerge.recipe.text import load_recipe

    asked, root = relocated(load_recipe(recipe), model or []), recipe.resolve().parent
    asked = cli_adapter.as_adapter(asked, as_adapter, rank, energy, alpha, drop)
    limit = size(memory) if memory is not None else None
    if dry_run:
        found = foresee(asked, output, root=root, threads=threads, memory=limit, device=device)
        out.print(table_of(found))
        if not found.fits:
            sys.exit(1)
        return
    with bar(err) as told:
        made = merge_to_directory(
            asked, output, root=root, progress=told, threads=threads, memory=limit, device=device,
            cache=cli_calibrate.cache_of(), hashes=None if rehash else user_cache() / "hashes",
        )  # fmt: skip
    cli_adapter.print_report(made)
    cli_checks.print_vocabulary(made)
    out.print(f"{'merged model' if asked.output is None else 'adapter'} in {made}", highlight=False)


@app.command()
def chat(
    model: Annotated[Path, typer.Argument(help="Directory of a model.")],
    prompt: Annotated[str | None, typer.Option(help="Answer this and end; without it, a conversation.")] = None,
    plain: Annotated[bool, typer.Option(help="Continue the text as it is, without the chat template.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
) -> None:
    """Talk to a model, greedily decoded."""
    from api.chat import Chat

    talk = Chat(model, plain=plain, max_new_tokens=max_new_tokens)
    if prompt is not None:
        out.print(talk.answer(prompt), highlight=False, markup=False)
        return
    while True:
        try:
            line = out.input("> ")
        except EOFError:
            return
        if line.strip():
            out.print(talk.answer(line), highlight=False, markup=False)


cli_checks.add_to(app)
cli_structure.add_to(app)
cli_calibrate.add_to(app)
cli_import.add_to(app)
cli_adapter.add_to(app)
cli_items.add_to(app)
cli_search.add_to(app)


def configure_logging(level: int) -> None:
    """Readable on a terminal, one JSON object a line elsewhere; only the application configures handlers."""
    handler = logging.StreamHandler()
    if not sys.stderr.isatty():
        handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], format="%(levelname)s %(name)s: %(message)s", force=True)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _settings(**given: object) -> Settings:
    from api.settings import settings_of  # pydantic-settings is slow to import

    return settings_of(**given)


def _recipe_named(what: str, data_dir: Path | None) -> Recipe:
    from evomerge.recipe.text import load_recipe

    if Path(what).exists():
        return load_recipe(Path(what))
    from api import local
    from api.recipes import recipe_in

    store = local.open_local(_settings(data_dir=data_dir))
    run, _, number = what.partition(":")
    row = store.run(run)
    if row is None or (number and not number.isdigit()):
        raise InvalidInputError("what", what, "a recipe file, a run's id, or RUN:NUMBER")
    with closing(store):
        if number:
            return recipe_in(store, row, int(number))
        if not row.summary.get("result"):
            raise InvalidInputError("what", what, f"RUN:NUMBER; the run is {row.state} and has no winner yet")
        return recipe_in(store, row, row.summary["result"]["winner"])


def _written(recipe: Recipe, form: Form) -> str:
    from api.problems import Problem
    from api.recipes import write

    try:
        return write(recipe, form.value)[0]
    except Problem as problem:
        raise EvomergeError(problem.detail) from problem


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
