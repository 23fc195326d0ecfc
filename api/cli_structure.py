"""`compress`: a smaller model from one checkpoint. `moe`: a mixture of experts from dense fine-tunes.
`transplant`: another tokenizer for a model. `zip`: MLPs of two models, unit by unit."""

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
    memory: Annotated[str | None, typer.Option(help="Most bytes of tensors in memory at a time, such as 8GiB.")] = None,
) -> None:
    """Merge or prune the experts of a mixture, or fuse layers: a smaller model that transformers loads as it is."""
    from api.merging import size
    from evomerge.merge.structure.compress import Settings
    from evomerge.merge.structure.compress import compress as make

    settings = Settings(
        method, keep, router, linkage, shares, rank, scope, renormalise, layers, beta, number, max_tokens, seed
    )
    make(model, out, items, settings, memory=size(memory) if memory is not None else None)
    out_console.print(f"model in {out}; what was done in {out / 'structure.json'}", highlight=False, soft_wrap=True)


def moe(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe (YAML or JSON): base, sources, and how all but MLPs is merged.")
    ],
    out: Annotated[Path, typer.Argument(help="The directory to make.")],
    to: Annotated[str, typer.Option(help="mixtral (of Llama, Mistral), qwen2_moe (of Qwen2) or qwen3_moe (of Qwen3).")],
    experts_per_token: Annotated[int, typer.Option(help="How many experts each token takes.")] = 2,
    gate: Annotated[str, typer.Option(help="Rows of the routers: random, uniform, hidden or cheap_embed.")] = "hidden",
    prompts: Annotated[Path | None, typer.Option(help="hidden, cheap_embed: YAML of each expert's prompts.")] = None,
    states: Annotated[str, typer.Option(help="hidden: what enters the mlp, or the layer.")] = "mlp",
    tokens: Annotated[str, typer.Option(help="hidden: mean of a prompt's tokens, or the last.")] = "mean",
    with_base: Annotated[bool, typer.Option("--with-base", help="The base's MLPs are experts, too.")] = False,
    expand: Annotated[int, typer.Option(help="How many further experts are bred from the others.")] = 0,
    density: Annotated[float, typer.Option(help="Share of a parent's entries that breeding keeps.")] = 0.5,
    model: Annotated[
        list[str] | None, typer.Option(help="NAME=PLACE: where a source (or `base`) lies on this machine.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Tensors at a time; default: the cores it may use.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Most bytes of tensors in memory at a time while all but experts is merged.")
    ] = None,
) -> None:
    """Build a mixture of experts from dense models: every source's MLPs are experts, all else is merged."""
    from api.merging import bar, relocated, size
    from evomerge.merge.structure.blueprint import Settings
    from evomerge.merge.structure.moe import build_moe
    from evomerge.recipe.text import load_recipe

    settings = Settings(to, experts_per_token, gate, prompts, states, tokens, with_base, expand, density)
    asked = relocated(load_recipe(recipe), model or [])
    limit = size(memory) if memory is not None else None
    with bar(out_console) as progress:
        build_moe(asked, out, settings, root=recipe.resolve().parent, threads=threads, memory=limit, progress=progress)
    out_console.print(f"model in {out}; what is what in {out / 'structure.json'}", highlight=False, soft_wrap=True)


def transplant(
    model: Annotated[Path, typer.Argument(help="A checkpoint's directory.")],
    donor: Annotated[Path, typer.Argument(help="The model whose tokenizer it gets.")],
    out: Annotated[Path, typer.Argument(help="The directory to make.")],
    method: Annotated[
        str, typer.Option(help="Rows of new tokens: omp, interpolation, subword, mean, zero or normal.")
    ] = "omp",
    k: Annotated[int, typer.Option(help="omp, interpolation: common tokens in a combination.")] = 64,
    weights: Annotated[str, typer.Option(help="interpolation: distance, barycentric or least_squares.")] = "distance",
    cosine: Annotated[bool, typer.Option("--cosine", help="interpolation: the nearest by angle.")] = False,
    subword: Annotated[str, typer.Option(help="subword: mean, sum or ends.")] = "mean",
    prefix: Annotated[
        str, typer.Option(help="Where a new token takes the row of its beginning: none, embedding, head or both.")
    ] = "none",
    scale: Annotated[float, typer.Option(help="New rows are multiplied by it.")] = 1.0,
    noise: Annotated[float, typer.Option(help="Standard deviation of noise on new rows.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of noise and normal.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, or cuda (with :1 and so on).")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Batches of tokens at a time; default: the cores it may use.")
    ] = None,
) -> None:
    """Give a model another model's tokenizer: rows of tokens that it knows are kept, the others are made."""
    import json

    from evomerge.merge.structure.transplant import Settings
    from evomerge.merge.structure.transplant import transplant as make

    settings = Settings(method, k, weights, cosine, subword, prefix, scale, noise, seed)
    make(model, donor, out, settings, device=device, threads=threads)
    for name, said in json.loads((out / "structure.json").read_text(encoding="utf-8"))["tables"].items():
        line = f"{name}: {said['kept']} rows kept, {said['by_prefix']} by their beginning, {said['made']} made"
        error = said.get("relative_error_in_donor")
        line += "" if error is None else f" ({error:.1%} off in the donor)"
        out_console.print(line, highlight=False, soft_wrap=True)
    out_console.print(f"model in {out}", highlight=False, soft_wrap=True)


def zip_models(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe (YAML or JSON): base, one source, and how the rest is merged.")
    ],
    out: Annotated[Path, typer.Argument(help="The directory to make.")],
    how: Annotated[
        str, typer.Option(help="pairs: a unit with one of the other model. zip: the most similar, of either.")
    ] = "pairs",
    apart: Annotated[
        float, typer.Option(help="Share of the MLPs' units that stay side by side; they get wider.")
    ] = 0.0,
    match: Annotated[str, typer.Option(help="What tells which units are alike: weights or activations.")] = "weights",
    items: Annotated[Path | None, typer.Option(help="activations: JSONL items that both models read.")] = None,
    tokens: Annotated[int, typer.Option(help="activations: most tokens that are looked at.")] = 2048,
    share: Annotated[float, typer.Option(help="Of the source in what is joined.")] = 0.5,
    alpha: Annotated[float, typer.Option(help="zip: what a cluster's similarity is multiplied by.")] = 0.3,
    beta: Annotated[float, typer.Option(help="zip: share of a model's joins that may be within it.")] = 0.125,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Tensors at a time; default: the cores it may use.")
    ] = None,
) -> None:
    """Join the hidden units of two models' MLPs by what they compute; all else is merged as the recipe says."""
    from evomerge.merge.structure.zip import Settings
    from evomerge.merge.structure.zip import zip_models as make
    from evomerge.recipe.text import load_recipe

    settings = Settings(how, apart, match, None if items is None else items.resolve(), tokens, share, alpha, beta)
    make(load_recipe(recipe), out, settings, root=recipe.resolve().parent, threads=threads)
    out_console.print(f"model in {out}; what was done in {out / 'structure.json'}", highlight=False, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    app.command()(compress)
    app.command()(moe)
    app.command()(transplant)
    app.command("zip")(zip_models)
