"""Candidates that are asked the same of the same model: the first of them answers for all, also while it is asked."""

from __future__ import annotations

from collections.abc import Iterable

from evomerge.run.state import RunMachine
from evomerge.storage.store import Event

Question = tuple[str, int, float]
"""A recipe's digest, a generation and a fidelity: who shares them answers the same items alike."""


class Twins:
    """Who answers for whom; told of candidates live as from a run's stored events."""

    def __init__(self) -> None:
        self._first: dict[Question, int] = {}
        self._questions: dict[int, Question] = {}  # of the first ones
        self._waiting: dict[int, int] = {}  # whose first one is being asked → that one

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, number: int) -> bool:
        """Whether a candidate waits for another one's answers."""
        return number in self._waiting

    def proposed(self, number: int, question: Question) -> int | None:
        """A candidate came; who answers for it, if not it itself."""
        first = self._first.setdefault(question, number)
        if first == number:
            self._questions[number] = question
            return None
        self._waiting[number] = first
        return first

    def scored(self, number: int) -> list[int]:
        """A candidate was scored; those that wait for it, each of which is `scored` by its answers now."""
        self._waiting.pop(number, None)
        return [] if number not in self._questions else [n for n, first in self._waiting.items() if first == number]

    def failed(self, number: int) -> None:
        """A candidate has no score: the next one like it is asked, and answers for the others."""
        question = self._questions.pop(number, None)
        if question is None:
            self._waiting.pop(number, None)
            return
        del self._first[question]
        for other in [n for n, first in self._waiting.items() if first == number]:
            del self._waiting[other]
            self.proposed(other, question)

    def recall(self, events: Iterable[Event], machine: RunMachine) -> None:
        """What a run's stored events say of its search candidates.

        Args:
            machine: after these.
        """
        for event in events:
            number = event.data.get("number", -1)
            if not machine.dialogue.is_about(number):
                continue
            if event.type == "candidate.proposed":
                fidelity = machine.dialogue.fidelity(number)
                self.proposed(number, (event.data["digest"], event.data["generation"], fidelity))
            elif event.type == "candidate.scored":
                self.scored(number)
            elif event.type == "candidate.failed" and event.data["task"] == "subset":
                self.failed(number)
        # In runs from before twins waited, each was asked by itself: nobody waits for one who has answered.
        self._waiting = {n: first for n, first in self._waiting.items() if (first, "subset") in machine.open}
