"""Commands that look at a recipe and build nothing: `lint` and `cite`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from api.progress import make_console

if TYPE_CHECKING:
    from evomerge.merge.lint import Report

out = make_console()


def lint(
    recipe: Annotated[Path, typer.Argument(help="Recipe file (YAML or JSON).")],
    layers: Annotated[int, typer.Option(min=1, help="How many layers to read, spread over the depth.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look for sources whose merge would be worthless without an error; exit status 1 if there are some.

    What `merge` would refuse is an error here, too.
    """
    from evomerge.merge.execute import merge_to_directory
    from evomerge.merge.inputs import open_inputs
    from evomerge.merge.lint import lint as look
    from evomerge.merge.plan import plan
    from evomerge.recipe.text import load_recipe

    asked, root = load_recipe(recipe).parameter_part, recipe.resolve().parent
    with TemporaryDirectory(prefix="evomerge-") as scratch:

        def build(path: Path) -> Path:
            made = Path(scratch) / str(len(list(Path(scratch).iterdir())))
            return merge_to_directory(load_recipe(path), made, root=path.parent)

        with open_inputs(asked, root, build) as inputs:
            plan(asked, inputs.base.tensors, inputs.architecture, inputs.changed)  # what `merge` would refuse
            report = look(inputs, num_layers=layers)
    if as_json:
        cosines = [{"sources": list(pair), "cosine": value} for pair, value in report.cosines.items()]
        sys.stdout.write(json.dumps({**asdict(report), "cosines": cosines}, indent=2) + "\n")
    else:
        _print(report)
    if any(finding.level != "note" for finding in report.findings):
        sys.exit(1)


def _print(report: Report) -> None:
    table = Table("source", "change", "cosine with the base", *(f"with {name}" for name in report.sources))
    for name, measured in report.sources.items():
        others = [report.cosines.get((name, o), report.cosines.get((o, name))) for o in report.sources]
        cells = ["" if cosine is None else f"{cosine:.3f}" for cosine in others]
        table.add_row(name, f"{measured.change:.2%}", f"{measured.cosine:.4f}", *cells)
    out.print(table)
    for finding in report.findings:
        out.print(f"{finding.level}: {finding.source}: {finding.kind}: {finding.text}", highlight=False, soft_wrap=True)
    if not report.findings:
        out.print("nothing speaks against these sources", highlight=False)


def print_vocabulary(model: Path) -> None:
    """One line about a merged vocabulary, where it is not simply that of all models."""
    from evomerge.merge.sidecar import VOCABULARY

    if not (model / VOCABULARY).exists():
        return
    found = json.loads((model / VOCABULARY).read_text(encoding="utf-8"))
    added = ", ".join(repr(token) for token in list(found["added"])[:5])
    lost = "".join(f"; {name} loses {len(tokens)}" for name, tokens in found["lost"].items())
    more = f" ({added}{', …' if len(found['added']) > 5 else ''})" if added else ""
    line = f"vocabulary: {found['tokens']} tokens in {found['rows']} rows, {len(found['added'])} added{more}{lost}"
    out.print(line, highlight=False, markup=False)


def cite(
    recipes: Annotated[list[Path], typer.Argument(help="Recipe files (YAML or JSON).")],
) -> None:
    """Print BibTeX of the papers whose methods the recipes use."""
    from evomerge.merge.literature import cited_by
    from evomerge.merge.methods import method_of
    from evomerge.recipe.text import load_recipe

    asked = [load_recipe(path) for path in recipes]
    for recipe in asked:
        method_of(recipe.merge)  # an unknown name is an error, not an empty list
    sys.stdout.write("".join(f"{paper.bibtex}\n\n" for paper in cited_by(asked)).rstrip("\n") + "\n")


def add_to(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    app.command()(lint)
    app.command()(cite)
