"""`evomerge items show` and `from-harness`: what an eval set holds, and eval sets made of the harness's tasks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api import cli_data_sets
from api.cli_data_sets import Holdout, Near, Seed
from api.progress import make_console
from evomerge.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fitness.harness.card import Card

out = make_console()


def show(
    eval_set: Annotated[Path, typer.Argument(help="JSONL file of an eval set.")],
) -> None:
    """What an eval set holds: items by split and group, its kind and digest, and the task that it was made of."""
    from fitness.harness.card import cards_of
    from fitness.items import load_eval_set
    from fitness.metrics import METRICS, common_kind

    found = load_eval_set(eval_set.stem, eval_set)
    kind = common_kind(found.items, str(eval_set))
    out.print(f"{found.name}: {len(found.items)} {kind} items, digest {found.digest[:16]}", highlight=False)
    for (split, group), count in sorted(Counter((i.split, i.group) for i in found.items).items()):
        out.print(f"  {split}{f' {group}' if group else ''}: {count}", highlight=False, markup=False)
    out.print(f"metrics: {', '.join(m.name for m in METRICS.values() if m.fits(kind))}", highlight=False)
    for card in cards_of(eval_set):
        print_card(card)


def print_card(card: Card) -> None:
    """A task, and what becomes of its metrics."""
    shots = f"{card.num_fewshot} examples drawn with seed {card.fewshot_seed}" if card.num_fewshot else "no examples"
    text = f"{card.task} {card.version} of lm-eval {card.harness}, {card.output_type}, {shots}"
    out.print(text, highlight=False, markup=False, soft_wrap=True)
    for one in card.metrics:
        how = f" ({one.reported} of it)" if one.metric and one.reported != "mean" else ""
        text = f"  {one.name}: {one.metric + how if one.metric else f'not here: {one.why_not}'}"
        out.print(text, highlight=False, markup=False, soft_wrap=True)
    for note in card.not_kept:
        out.print(f"  not kept: {note}", highlight=False, markup=False, soft_wrap=True)


def from_harness(
    task: Annotated[str, typer.Argument(help="A task, group or tag of lm-eval, or a YAML file of one.")],
    to: Annotated[Path, typer.Option("--to", help="A .jsonl file, or a folder for one file a task.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many documents of each task.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Examples; without it, the task's own number.")] = None,
    fewshot_seed: Annotated[int, typer.Option(help="Of the examples' draws; the default is the harness's.")] = 1234,
    holdout: Holdout = 0.2,
    seed: Seed = 0,
    near: Near = 0.8,
    include_path: Annotated[list[Path] | None, typer.Option(help="Folder with further tasks. Repeatable.")] = None,
    bundled: Annotated[
        bool, typer.Option(help="Know lm-eval's own tasks, too; to look through them takes seconds.")
    ] = True,
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie on this machine, by their names.")] = None,
    metadata: Annotated[str, typer.Option(help="JSON for tasks that generate their documents.")] = "{}",
    apply_chat_template: Annotated[
        Path | None, typer.Option(help="Directory of a model whose chat template is applied.")
    ] = None,
    system_instruction: Annotated[str | None, typer.Option(help="Before everything.")] = None,
    one_turn: Annotated[bool, typer.Option("--one-turn", help="Examples are no turns of a chat of their own.")] = False,
) -> None:
    """Write a task of the LM Evaluation Harness as eval sets: its prompts, examples, filters and metrics."""
    from fitness.harness.export import Splitting, from_harness, write
    from fitness.harness.questions import Prompting
    from fitness.harness.tasks import Asked

    tokenizer = _tokenizer(apply_chat_template) if apply_chat_template is not None else None
    found = from_harness(
        Asked(task, num_fewshot, fewshot_seed, tuple(include_path or ()), data_dir, bundled, _json(metadata)),
        Prompting(limit, system_instruction, tokenizer, multiturn=not one_turn),
        Splitting(holdout, seed, near),
    )
    for path in write(found, to):
        out.print(f"wrote {path}", highlight=False)
    for one in found:
        print_card(one.card)


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInputError("metadata", text, f"a JSON object ({error.msg})") from error
    if not isinstance(found, dict):
        raise InvalidInputError("metadata", text, "a JSON object")
    return found


def _tokenizer(model: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if not model.is_dir():
        raise InvalidInputError("apply-chat-template", str(model), "a model's directory")
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    if not found.chat_template:
        raise InvalidInputError("apply-chat-template", str(model), "a model with a chat template")
    return found


def add_to(items: typer.Typer) -> None:
    """Add the commands."""
    for command in (show, from_harness):
        items.command()(command)
    cli_data_sets.add_to(items)
