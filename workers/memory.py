"""What models have answered before, in this run or in others, and where a run's answers go.

Answers are kept under the fingerprint of the evaluator and the subject that gave them. Whoever asks the same model the
same question in the same way is told what is known; only the rest reaches a worker.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from pathlib import Path

from evomerge.merge.methods import method_of
from evomerge.models.content import content_hash
from evomerge.recipe.schema import Recipe
from evomerge.recipe.shared import VOCABULARY, keeps_vocabulary, shared_fields
from evomerge.storage.blocks import AnswerBlock, together
from evomerge.storage.store import CandidateRow, Store
from fitness.evaluator import Responses
from fitness.fingerprint import Evaluator, content_of, libraries, owned_content, tokenizer_hash
from fitness.items import EvalSet
from fitness.known import known_answers
from fitness.label_free import owner
from fitness.metrics import metric
from workers.job import WorkerSpec
from workers.setup import Search

Items = Mapping[str, Sequence[str]]

BANK = 20_000
"""Blocks of other runs' answers in which an item bank is looked for."""
MODEL = "model"
"""The name of a model that is asked alone, whatever it is called in a run."""
NO_ANSWERS_DEPEND_ON = (
    "recipe", "eval_sets", "device", "threads", "batch_tokens", "cache", "metrics", "allow_code", "judges",
    "generation", "generation_memory",
)  # fmt: skip
"""Fields of a worker's spec that change no answer, or that the fingerprint has in a better form. All others are part of
it as they are."""


def evaluator_of(worker: WorkerSpec, device: str, metrics: Sequence[str]) -> Evaluator:
    """How a run's workers ask.

    Args:
        device: that the workers use.
        metrics: that the run wants; what only some metrics depend on is left out without these.
    """
    others = [part.name for part in fields(worker) if part.name not in NO_ANSWERS_DEPEND_ON]
    settings = [(name, repr(getattr(worker, name))) for name in others]
    if any(metric(name).expert for name in metrics):  # answers are compared with those of the run's sources
        sources = {name: ref.sha256 or ref.location for name, ref in worker.recipe.sources.items()}
        settings.append(("experts", json.dumps(sources, sort_keys=True)))
    settings += _reading(worker.recipe)
    hashes = Path(worker.cache) / "hashes" if worker.cache else None
    for name, judge in worker.judges.items():
        if name in metrics:
            said = asdict(judge) | {"model": content_hash(Path(judge.model), hashes)}
            settings.append((name, json.dumps(said, sort_keys=True)))
    return Evaluator(
        tokenizer=tokenizer_hash(Path(worker.recipe.base.location)),
        dtype=worker.recipe.dtype,
        device=device.partition(":")[0],
        settings=tuple(settings),
        engine=libraries(worker.generation),
    )


def _reading(recipe: Recipe) -> list[tuple[str, str]]:
    """Whose tokens the models of a run read, where these are not the base's."""
    host = None if recipe.carry is None else recipe.carry.host
    said = {name: value for name, value in shared_fields(recipe).items() if name in VOCABULARY}
    if host is None and keeps_vocabulary(said):
        return []
    models = {name: ref.sha256 or ref.location for name, ref in recipe.sources.items()}
    return [("vocabulary", json.dumps({**said, "host": host, "models": models}, sort_keys=True))]


def subject_of(recipe: Recipe) -> str:
    """Whose answers those of a baseline are: the recipe's digest without what does not matter in it.

    A model alone has no name and nothing random, so it is the same subject under any alias and in runs of any seed.
    """
    method = method_of(recipe.merge)
    plain: dict[str, object] = {} if method.stochastic else {"seed": 0}
    plain |= {} if method.requires else {"calibration": None}
    plain |= {"carry": None, "chat_template": None}  # workers ask the language model, in the items' own words
    if recipe.merge.method == "passthrough" and len(recipe.sources) == 1:
        ((name, ref),) = recipe.sources.items()
        aligned = (recipe.align or {}).get(name)
        plain |= {"sources": {MODEL: ref}, "align": None if aligned is None else {MODEL: aligned}}
    return recipe.model_copy(update=plain).digest


class Memory:
    """One run's way to the answers of all runs.

    Args:
        device: that the run's workers use.
    """

    def __init__(self, store: Store, search: Search, run: str, device: str) -> None:
        self._store, self._run = store, run
        self._wanted = search.report.metrics_by_eval_set()
        sources = tuple(search.worker.recipe.sources)
        self._contents = {name: _contents(s, self._wanted[name], sources) for name, s in search.plan.eval_sets.items()}
        metrics = sorted(set[str]().union(*self._wanted.values()))
        evaluator = evaluator_of(search.worker, device, metrics)
        self.fingerprint = evaluator.fingerprint
        store.describe_evaluator(self.fingerprint, evaluator.to_dict())
        self._other_runs = search.spec.subset.bank
        self._baselines = dict(enumerate(map(subject_of, search.baselines.values())))
        self._asked = set(store.subjects(self.fingerprint))

    def subject(self, row: CandidateRow) -> str:
        """Under which name a candidate's answers are kept."""
        return self._baselines.get(row.number, row.digest)

    def has(self, row: CandidateRow) -> bool:
        """Whether a candidate's model may have answered something."""
        return self.subject(row) in self._asked

    def known(self, row: CandidateRow, items: Items, latest: Sequence[AnswerBlock] = ()) -> dict[str, Responses]:
        """What a candidate's model has answered of some items.

        Args:
            latest: its answers that are not in the store yet.
        """
        blocks = [*self._store.answers(self.fingerprint, subjects=[self.subject(row)]), *latest]
        if not self._other_runs:
            blocks = [block for block in blocks if block.run == self._run]
        return known_answers(blocks, items, self._contents, self._wanted)

    def bank(self, items: Items, before: datetime) -> list[tuple[str, dict[str, Responses]]]:
        """Subjects of other runs that answered all of some eval set's items, in the order of their names; the latest
        `BANK` blocks of answers are looked at.

        Args:
            before: only what was stored until then; when this run was made, so that it resumes with the same bank.
        """
        blocks: dict[str, list[AnswerBlock]] = {}
        older = [b for b in self._store.answers(self.fingerprint) if b.created is not None and b.created <= before]
        for block in older[-BANK:]:
            if block.run != self._run:
                blocks.setdefault(block.subject, []).append(block)
        known = {name: known_answers(blocks[name], items, self._contents, self._wanted) for name in sorted(blocks)}
        return [
            (subject, found)
            for subject, found in known.items()
            if any(len(answers.item_ids) == len(items[name]) for name, answers in found.items())
        ]

    def keep(
        self, row: CandidateRow, task: str, responses: Mapping[str, Responses]
    ) -> tuple[CandidateRow, tuple[AnswerBlock, ...]]:
        """A candidate with its answers to one task, and the blocks to store with it."""
        blocks = {name: self._block(row, name, found) for name, found in responses.items() if found.item_ids}
        self._asked.add(self.subject(row))
        named = {name: [block.key] for name, block in blocks.items()}
        held = {name: together([block]) for name, block in blocks.items()}
        answered = replace(row, answers=row.answers | {task: named}, responses=row.responses | {task: held})
        return answered, tuple(blocks.values())

    def _block(self, row: CandidateRow, eval_set: str, found: Responses) -> AnswerBlock:
        contents = tuple(map(self._contents[eval_set].__getitem__, found.item_ids))
        values = {name: found.values[name] for name in sorted(found.values)}
        return AnswerBlock(
            self.fingerprint, eval_set, self.subject(row), found.item_ids, contents, values, self._run, row.number
        )


def _contents(eval_set: EvalSet, wanted: Collection[str], sources: Sequence[str]) -> dict[str, str]:
    """Item → its content, with its owner where answers are compared with this source's: the same question in another
    eval set or group may belong to another."""
    if not any(metric(name).expert for name in wanted):
        return {item.id: content_of(item) for item in eval_set.items}
    return {item.id: owned_content(item, owner(item, eval_set.name, sources)) for item in eval_set.items}


def answered_like(row: CandidateRow, twin: CandidateRow) -> CandidateRow:
    """A candidate with a like one's answers to its generation's items."""
    return replace(row, answers={"subset": twin.answers["subset"]}, responses={"subset": twin.responses["subset"]})
