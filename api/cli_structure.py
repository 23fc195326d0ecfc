"""`compress`: a smaller model from one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.progress import make_console

out_console = make_console()


def compress(
    model: Annotated[Path, typer.Argument(help="A checkpoint's directory.")],
    out: Annotated[Path, typer.Argument(help="The directory to make.")],
    items: Annotated[Path, typer.Option(help="JSONL items that show what the model is for.")],
    method: Annotated[str, typer.Option(help="Experts: hc_smoe, sub_moe, m_smoe, reap. Layers: mka.")] = "reap",
    keep: Annotated[float, typer.Option(help="Share of a layer's experts that is left.")] = 0.5,
    router: Annotated[str | None, typer.Option(help="shared, mean or core; the method's own by default.")] = None,
    linkage: Annotated[str, typer.Option(help="hc_smoe: average, complete or single.")] = "average",
    shares: Annotated[str, typer.Option(help="Of experts in a mean: frequency or uniform.")] = "frequency",
    rank: Annotated[float, typer.Option(help="sub_moe: share of the singular values that is kept.")] = 1.0,
    scope: Annotated[
        str, typer.Option(help="m_smoe: cores of the model (global) or of each layer (layer).")
    ] = "global",
    renormalise: Annotated[bool, typer.Option(help="reap: gates of the chosen experts sum to 1.")] = True,
    layers: Annotated[int, typer.Option(help="mka: how many layers are fused away.")] = 1,
    beta: Annotated[float, typer.Option(help="mka: how sharply the more similar layer is preferred.")] = 1.0,
    number: Annotated[int, typer.Option(help="Most items that are used.")] = 256,
    max_tokens: Annotated[int, typer.Option(help="An item longer than this is cut.")] = 512,
    seed: Annotated[int, typer.Option(help="Draws the items, and starts k-means.")] = 0,
) -> None:
    """Merge or prune the experts of a mixture, or fuse layers: a smaller model that transformers loads as it is."""
    from evomerge.merge.structure.compress import Settings
    from evomerge.merge.structure.compress import compress as make

    settings = Settings(
        method, keep, router, linkage, shares, rank, scope, renormalise, layers, beta, number, max_tokens, seed
    )
    make(model, out, items, settings)
    out_console.print(f"model in {out}; what was done in {out / 'structure.json'}", highlight=False, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Put this command on the command line."""
    app.command()(compress)
