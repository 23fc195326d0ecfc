"""Answers that need not be asked for again: what is known of a subject, and the rest that is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from evomerge.storage.blocks import AnswerBlock
from fitness.evaluator import Metric, Responses


def known_answers(
    blocks: Sequence[AnswerBlock],
    items: Mapping[str, Sequence[str]],
    contents: Mapping[str, Mapping[str, str]],
    wanted: Mapping[str, Collection[Metric]],
) -> dict[str, Responses]:
    """What blocks of one subject and one evaluator answer of some items, by eval set, where that is anything.

    An item is the same question where its content is, whatever it was called. Of several answers the last one counts.

    Args:
        blocks: oldest first.
        items: eval set → ids.
        contents: eval set → id → the item's content.
        wanted: eval set → metrics that an answer must have.
    """
    found = {}
    for name, ids in items.items():
        asked = {i: contents[name][i] for i in ids}
        metrics, answers = _answers(blocks, set(asked.values()), wanted[name])
        here = [(i, answers[content]) for i, content in asked.items() if content in answers]
        if here:
            columns = zip(*(values for _, values in here), strict=True)
            found[name] = Responses(tuple(i for i, _ in here), dict(zip(metrics, columns, strict=True)), 0.0, 0)
    return found


def unknown(ids: Sequence[str], known: Responses | None) -> tuple[str, ...]:
    """Those of `ids` that are still to be asked, in their order."""
    return tuple(ids) if known is None else tuple(i for i in ids if i not in set(known.item_ids))


def completed(ids: Sequence[str], known: Responses | None, new: Responses) -> Responses:
    """Answers to `ids` in their order, under the metrics that known and new ones have.

    Args:
        new: answers to `unknown(ids, known)`.
    """
    if known is None:
        return new
    metrics = [name for name in known.values if name in new.values or not new.item_ids]
    values = []
    for name in metrics:
        by_id = dict(zip(known.item_ids, known.values[name], strict=True))
        by_id |= dict(zip(new.item_ids, new.values.get(name, ()), strict=True))
        values.append(tuple(by_id[i] for i in ids))
    return Responses(tuple(ids), dict(zip(metrics, values, strict=True)), new.seconds, new.tokens)


def _answers(
    blocks: Sequence[AnswerBlock], contents: Collection[str], wanted: Collection[Metric]
) -> tuple[list[Metric], dict[str, tuple[float, ...]]]:
    """The metrics that all blocks with answers to these contents have, and content → the values. Blocks that lack a
    wanted metric, or that do not say what was asked, are left out."""
    fit = [b for b in blocks if b.values.keys() >= set(wanted) and not set(contents).isdisjoint(b.contents)]
    metrics = sorted(set(fit[0].values).intersection(*(b.values for b in fit))) if fit else []
    answers: dict[str, tuple[float, ...]] = {}
    for block in fit:
        answers.update(zip(block.contents, zip(*(block.values[m] for m in metrics), strict=True), strict=True))
    return metrics, answers
