"""Adapters on the command line: `extract`, and `merge --as-adapter`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.progress import make_console
from evomerge.errors import InvalidInputError

if TYPE_CHECKING:
    from evomerge.recipe.schema import Recipe

out = make_console()

AsAdapter = Annotated[bool, typer.Option("--as-adapter", help="Write a LoRA adapter of the base, not a whole model.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Adapter: most ranks of a matrix.")]
Energy = Annotated[float | None, typer.Option(help="Adapter: share of each change's energy that is kept, up to 1.")]
Alpha = Annotated[float | None, typer.Option(help="Adapter: its lora_alpha; by default its rank.")]
Drop = Annotated[bool, typer.Option("--drop", help="Adapter: leave out norms, embeddings, …, which it cannot hold.")]


def as_adapter(
    recipe: Recipe, wanted: bool, rank: int | None, energy: float | None, alpha: float | None, drop: bool
) -> Recipe:
    """A recipe with the output that the options ask for; what they do not say stays as the recipe has it.

    Raises:
        InvalidInputError: an option of adapters where no adapter is written, or a value that is not allowed.
    """
    given: dict[str, Any] = {"rank": rank, "energy": energy, "alpha": alpha, "others": "drop" if drop else None}
    given = {name: value for name, value in given.items() if value is not None}
    if not wanted and recipe.output is None:
        for name, value in given.items():
            raise InvalidInputError(_option(name), value, "--as-adapter beside it, or `output` in the recipe")
        return recipe
    from evomerge.recipe.output import Output
    from evomerge.recipe.text import validate

    said = recipe.output.model_dump(exclude_none=True) if recipe.output is not None else {}
    try:
        return recipe.model_copy(update={"output": validate(Output, {**said, **given})})
    except InvalidInputError as error:  # what the recipe said was valid
        raise InvalidInputError(_option(error.field), error.value, error.allowed) from error


def _option(field: str) -> str:
    """The option that sets a field of `output`."""
    return "--drop" if field == "others" else f"--{field}"


def print_report(made: Path) -> None:
    """What an adapter misses of the model that it stands for."""
    from evomerge.merge.adapter_output import REPORT

    if not (made / REPORT).exists():
        return
    report = json.loads((made / REPORT).read_text(encoding="utf-8"))
    ranks = sorted(entry["rank"] for entry in report["tensors"].values())
    error = f"relative error {report['relative_error']:.3g}"
    out.print(f"adapter of {len(ranks)} matrices, rank {ranks[0]} to {ranks[-1]}, {error}", highlight=False)
    if report["dropped"]:
        out.print(f"dropped: {', '.join(report['dropped'])}", highlight=False, soft_wrap=True)


def extract(
    base: Annotated[str, typer.Argument(help="The base model: a directory or hub:OWNER/NAME.")],
    model: Annotated[str, typer.Argument(help="A fine-tuned model of it, likewise.")],
    output: Annotated[Path, typer.Argument(help="Directory of the adapter; must not exist or be empty.")],
    rank: Rank = None,
    energy: Energy = None,
    alpha: Alpha = None,
    drop: Drop = False,
) -> None:
    """Write what a fine-tuned model changes as a LoRA adapter (PHLoRA: the leading singular values)."""
    from evomerge.merge.execute import merge_to_directory
    from evomerge.recipe.schema import Merge, ModelRef, Recipe

    if rank is None and energy is None:
        raise InvalidInputError("--rank", rank, "a rank, or --energy with a share (1 keeps everything)")
    recipe = Recipe(
        base=ModelRef(location=base),
        sources={"model": ModelRef(location=model)},
        merge=Merge(method="task_arithmetic"),
        dtype="float32",
    )
    made = merge_to_directory(as_adapter(recipe, True, rank, energy, alpha, drop), output, root=Path.cwd())
    print_report(made)
    out.print(f"adapter in {made}", highlight=False)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(extract)
