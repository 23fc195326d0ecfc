"""`evomerge import`: recipes of other programs' configurations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.progress import make_console
from evomerge.errors import EvomergeError, InvalidInputError

err = make_console(stderr=True)


def add_to(app: typer.Typer) -> None:
    """Give the command line its command."""
    app.command("import")(import_mergekit)


def import_mergekit(
    file: Annotated[Path, typer.Argument(help="YAML file for mergekit-yaml, or for mergekit-multi.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Recipe file; recipes that it uses are written beside it."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A config.json of the models, for filters and gradients of models that are not here."),
    ] = None,
) -> None:
    """Write mergekit's YAML as a recipe that means the same merge."""
    from evomerge.merge.mergekit.read import read_mergekit
    from evomerge.recipe.document import read_text
    from evomerge.recipe.text import dump_yaml

    found = read_mergekit(read_text(file), str(file), config=config)
    for note in found.notes:
        err.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if output is None:
        if found.files:
            allowed = f"a file: the recipes {', '.join(found.files)} belong beside it"
            raise InvalidInputError("--output", None, allowed)
        sys.stdout.write(dump_yaml(found.recipe))
        return
    written = {**{output.parent / name: recipe for name, recipe in found.files.items()}, output: found.recipe}
    if len(written) <= len(found.files):
        raise InvalidInputError("--output", str(output), f"another name than {', '.join(found.files)}")
    try:
        for path, recipe in written.items():
            path.write_text(dump_yaml(recipe), encoding="utf-8")
            err.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    except OSError as error:
        raise EvomergeError(f"{error.filename}: cannot be written: {error.strerror}") from error
