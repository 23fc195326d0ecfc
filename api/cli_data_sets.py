"""`evomerge items from-dataset` and `overlap`: eval sets of one's own data, and what experts may have seen of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.progress import make_console
from evomerge.errors import InvalidInputError

if TYPE_CHECKING:
    from fitness.overlap import Overlap

out = make_console()

Holdout = Annotated[float, typer.Option(help="Share of the items that only report a search's result.")]
Seed = Annotated[int, typer.Option(help="Another seed, another split.")]
Near = Annotated[
    float, typer.Option(help="Questions at least this similar (Jaccard of word 5-grams) stay on one side of the split.")
]


def from_dataset(
    source: Annotated[str, typer.Argument(help="A file, a folder of a data set, or a hub's id.")],
    template: Annotated[str, typer.Option(help="YAML file of Jinja2 templates for an item's parts, or the YAML.")],
    to: Annotated[Path, typer.Option("--to", help="The .jsonl file to write.")],
    split: Annotated[str | None, typer.Option(help="Of a folder or a hub's data set.")] = None,
    holdout_split: Annotated[
        str | None, typer.Option(help="The data set's split that becomes the holdout, instead of a share by hash.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="The data set's configuration.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the hub's repository.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    holdout: Holdout = 0.2,
    seed: Seed = 0,
    near: Near = 0.8,
) -> None:
    """Write an eval set of a data set's rows."""
    from fitness.items import write_items
    from fitness.rows import rows_of
    from fitness.split import split_by_hash
    from fitness.templates import Template, items_of

    said = Template.load(template)
    rows = rows_of(source, split=split, config=config, revision=revision)
    items = items_of(rows, said, source=source, limit=limit)
    if holdout_split is None:
        items = split_by_hash(items, holdout, seed=seed, near=near)
    else:
        rows = rows_of(source, split=holdout_split, config=config, revision=revision)
        kept = items_of(rows, said, source=f"{source} {holdout_split}", limit=limit)
        items += [replace(item, split="holdout") for item in kept]
    write_items(items, to)
    count = sum(item.split == "holdout" for item in items)
    out.print(f"wrote {to}: {len(items) - count} search and {count} holdout items", highlight=False)


def overlap(
    eval_set: Annotated[Path, typer.Argument(help="JSONL file of an eval set.")],
    training: Annotated[list[str] | None, typer.Argument(help="Files or data sets that experts trained on.")] = None,
    gram: Annotated[int, typer.Option(help="Words in a run that counts as seen.")] = 13,
    common: Annotated[int, typer.Option(help="Runs that more items than this share do not count.")] = 10,
    near: Near = 0.8,
    registry: Annotated[
        Path | None, typer.Option(help="YAML file of aliases: look in the training data that it names, too.")
    ] = None,
    drop: Annotated[Path | None, typer.Option(help="Write the eval set without the items found to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look for an eval set's items in training data, and for near duplicates in both of its splits.

    Exit status 1 if there are some.
    """
    from fitness import overlap as contamination
    from fitness.harness.card import cards_of, write_cards
    from fitness.items import load_eval_set, write_items
    from fitness.rows import texts_of
    from workers.registry import Registry

    items = load_eval_set(eval_set.stem, eval_set).items
    known = Registry.load(registry).training if registry is not None else {}
    places = dict.fromkeys([*(training or ()), *(place for data in known.values() for place in data)])
    texts = {source: texts_of(source) for source in places}
    found = contamination.overlap(items, texts, gram=gram, common=common)
    crossing = contamination.crossing(items, near)
    if as_json:
        report = found.to_dict() | {"near_duplicates_across_splits": [list(ids) for ids in crossing]}
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    else:
        _print(found, crossing)
    if drop is not None:
        if drop.resolve() == eval_set.resolve():
            raise InvalidInputError("drop", str(drop), "another file than the eval set itself")
        twins = {i for ids in crossing for i in ids}
        searched = {item.id for item in items if item.split == "search"}
        left = contamination.without(items, found.ids | (twins & searched))
        write_items(left, drop)
        if cards := cards_of(eval_set):
            write_cards(cards, drop)
        out.print(f"wrote {drop}: {len(left)} of {len(items)} items", highlight=False)
    if found.ids or crossing:
        sys.exit(1)


def _print(found: Overlap, crossing: list[tuple[str, ...]]) -> None:
    for source, count in found.texts.items():
        out.print(f"{source}: {count} texts", highlight=False, markup=False)
    for split, size in found.sizes.items():
        hits = found.hits[split]
        out.print(f"{split}: {len(hits)} of {size} items found", highlight=False)
        for hit in hits:
            line = f"  {hit.item}: text {hit.text} of {hit.source}: {hit.found}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    for ids in crossing:
        line = f"near duplicates in both splits: {', '.join(ids)}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def add_to(items: typer.Typer) -> None:
    """Add the commands."""
    for command in (from_dataset, overlap):
        items.command()(command)
