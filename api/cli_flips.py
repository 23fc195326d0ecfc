"""`evomerge items flips`: a coefficient chosen without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from api.cli_calibrate import cache_of
from api.progress import make_console
from evomerge.errors import InvalidInputError

out = make_console()
err = make_console(stderr=True)


def flips(
    first: Annotated[Path, typer.Argument(help="Recipe at one end of the line.")],
    last: Annotated[Path, typer.Argument(help="Recipe at the other end: the same but for numbers in its `merge`.")],
    items: Annotated[Path, typer.Option("--items", help="JSONL file of questions; labels are not looked at.")],
    steps: Annotated[int, typer.Option(help="Recipes on the line, both ends among them.")] = 11,
    number: Annotated[
        int, typer.Option(min=1, help="Search items that are asked; as many as there are at most.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of the draw of the items.")] = 0,
    to: Annotated[Path | None, typer.Option(help="Write the recipe with the fewest flips here.")] = None,
    device: Annotated[str, typer.Option(help="Where the models run: cpu or cuda.")] = "cpu",
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where the database and caches lie.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the answers of merges along a coefficient with their neighbours', and name the one that differs least."""
    from evomerge.merge.resolve import pin
    from evomerge.recipe.line import line, places
    from evomerge.recipe.text import dump_yaml, load_recipe
    from fitness.items import load_eval_set
    from fitness.subset import draw
    from workers.flips import flips_along

    if to is not None and not to.resolve().parent.is_dir():
        raise InvalidInputError("to", str(to), "a file in a folder that is there")
    ends = [pin(load_recipe(path), path.resolve().parent) for path in (first, last)]
    recipes = line(ends[0], ends[1], steps)
    known = load_eval_set(items.stem, items)
    asked = known.pick(draw(known.split("search"), number, policy="random", seed=seed, generation=0).ids)
    with err.status("loading the models") as status:
        found = flips_along(
            recipes, asked, device=device, cache=cache_of(data_dir),
            progress=lambda n: status.update(f"recipe {n + 1} of {steps}"),
        )  # fmt: skip
    if to is not None:
        to.write_text(dump_yaml(recipes[found.best]), encoding="utf-8")
    rows = [{"place": at, "flips": share} for at, share in zip(places(steps), found.shares, strict=True)]
    if as_json:
        typer.echo(json.dumps({"items": len(asked), "recipes": rows, "best": found.best}, indent=2))
        return
    table = Table("place", "flips", "", title=f"{len(asked)} items of {known.name}")
    for n, row in enumerate(rows):
        table.add_row(f"{row['place']:.3f}", f"{row['flips']:.3f}", "fewest" if n == found.best else "")
    out.print(table)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(flips)
