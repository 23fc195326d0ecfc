"""`evomerge calibrate`: collect what a recipe's method reads of the models, before a merge or a search asks for it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from api.progress import make_console

out = make_console()
err = make_console(stderr=True)


def calibrate(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML or JSON) with a calibration section.")],
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where the database and caches lie.")] = None,
    device: Annotated[str, typer.Option(help="Where the models run: cpu or cuda.")] = "cpu",
) -> None:
    """Collect the statistics of the models that a recipe's method reads; what is there already stays."""
    from evomerge.merge.calibration.calibrated import calibrated
    from evomerge.merge.device import device_named
    from evomerge.merge.execute import merge_to_directory
    from evomerge.merge.inputs import open_inputs
    from evomerge.merge.methods import method_of
    from evomerge.merge.plan import plan
    from evomerge.merge.resolve import pin
    from evomerge.recipe.text import load_recipe

    root, cache, where = recipe.resolve().parent, cache_of(data_dir), device_named(device)
    asked = pin(load_recipe(recipe).parameter_part, root)
    requires = sorted(method_of(asked.merge).requires)
    if not requires:
        out.print(f"method {asked.merge.method} reads no statistics: nothing to do", highlight=False)
        return
    with TemporaryDirectory(prefix="evomerge-") as scratch:

        def build(path: Path) -> Path:
            made = Path(scratch) / str(len(list(Path(scratch).iterdir())))
            return merge_to_directory(load_recipe(path), made, root=path.parent, cache=cache)

        with open_inputs(asked, root, build) as inputs, err.status("calibrating") as status:
            plan(asked, inputs.base.tensors, inputs.architecture, inputs.changed)  # before hours of forward passes
            calibrated(
                inputs, asked, cache, root=root, device=where,
                progress=lambda what, done: status.update(f"{what}: {done} items"),
            )  # fmt: skip
    out.print(f"{', '.join(requires)} of {len(asked.sources)} source(s) in {cache / 'calibration'}", highlight=False)


def cache_of(data_dir: Path | None = None) -> Path:
    """The folder that merges and searches of this machine share."""
    from api.settings import Settings

    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    return settings.data_dir.resolve() / "cache"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)
