"""What a run's optimizer is asked and told, under the numbers that candidates have in the run.

Applying a proposal asks the optimizer and compares: a replay that asks another genome than the stored one is an error,
never another run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.candidate import Evaluation, ItemAnswers, Proposal
from evomerge.errors import EvomergeError
from evomerge.optimizers.optimizer import Optimizer, uses_items
from evomerge.run.standing import Beliefs


class ReplayError(EvomergeError):
    """The stored events and the optimizer disagree: another version, another seed or a damaged store."""


class Dialogue:
    """Asks and tells.

    Attributes:
        optimizer: the one that is asked; after a resume, from a snapshot.
    """

    def __init__(self, optimizer: Optimizer, first: int) -> None:
        """
        Args:
            first: number of the candidate that comes of the optimizer's trial 0.
        """
        self.optimizer = optimizer
        self._first = first
        self._asked: Proposal | None = None
        self._fidelities: dict[int, float] = {}

    def is_about(self, number: int) -> bool:
        """Whether a candidate comes from the optimizer."""
        return number >= self._first

    def fidelity(self, number: int) -> float:
        """How many times the usual number of items a candidate should answer."""
        return self._fidelities.get(number, 1.0)

    def next(self) -> tuple[int, Proposal]:
        """The next candidate's number and proposal, the same until it is `taken`."""
        if self._asked is None:
            self._asked = self.optimizer.ask(1)[0]
        return self._first + self._asked.trial, self._asked

    def taken(self, data: dict[str, Any], *, ask: bool) -> None:
        """A proposal became a candidate.

        Args:
            data: of the event.
            ask: whether the optimizer has not been asked for it yet.

        Raises:
            ReplayError: the optimizer asks for another one.
        """
        if ask:
            number, proposal = self.next()
            asked = proposed(proposal)
            if number != data["number"] or asked != {key: data.get(key) for key in asked}:
                raise ReplayError(
                    f"event {data} does not follow from the events before it: the optimizer asks for candidate "
                    f"{number} with {asked}"
                )
        if "fidelity" in data:
            self._fidelities[data["number"]] = data["fidelity"]
        self._asked = None

    def answered(self, data: dict[str, Any], values: Sequence[float], errors: Sequence[float]) -> None:
        """Tell what a candidate answered.

        Args:
            data: of the event.
            values, errors: one an objective, larger values are better.
        """
        self.optimizer.tell(
            [
                Evaluation(
                    data["number"] - self._first,
                    tuple(values),
                    data["violation"],
                    errors=tuple(errors),
                    responses=data.get("responses") and tuple(map(tuple, data["responses"])),
                    gradients=data.get("gradients") and tuple(map(tuple, data["gradients"])),
                    answers=_answers(data),
                )
            ]
        )

    def known(self, data: dict[str, Any]) -> None:
        """Tell what a model answered that is nobody's proposal, where the optimizer learns from answers to items."""
        answers = _answers(data)
        if answers is not None and uses_items(self.optimizer):
            self.optimizer.know(answers)

    def failed(self, number: int) -> None:
        """Tell that a candidate has no score."""
        self.optimizer.tell([Evaluation(number - self._first, None)])

    def beliefs(self) -> Beliefs | None:
        """What the optimizer believes of genomes, if it learns from single items."""
        return self.optimizer.believed if uses_items(self.optimizer) else None


def _answers(data: dict[str, Any]) -> tuple[ItemAnswers, ...] | None:
    return tuple(map(ItemAnswers.load, data["answers"])) if "answers" in data else None


def proposed(proposal: Proposal) -> dict[str, Any]:
    """What an optimizer asked for, as `candidate.proposed` holds it, JSON-ready."""
    data: dict[str, Any] = {"genome": list(proposal.genome)}
    if proposal.descent is not None:
        data["descent"] = proposal.descent.dump()
    if proposal.fidelity != 1:
        data["fidelity"] = proposal.fidelity
    return data
