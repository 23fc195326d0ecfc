"""One of several CMA-ES that share a front: its distribution, its place on the front, the answers it waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evomerge.candidate import Evaluation, Genome
from evomerge.optimizers.cma_es import MAX_AGE
from evomerge.optimizers.distribution import Settings, Vector
from evomerge.optimizers.mixed import MixedSettings
from evomerge.optimizers.ranking import Matrix, costs

CONVERGED = 0.1
"""A kernel is done when its widest standard deviation fell to this share of the first: what is finer is noise."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A proposal without an answer.

    Attributes:
        kernel: number of the kernel that it was drawn from.
        birth: the kernel's generation then.
        point: what was drawn (`SearchDistribution`).
        mean: whether it is the kernel's mean.
    """

    kernel: int
    birth: int
    point: Vector
    mean: bool = False


class Kernel:
    """A CMA-ES, or a relative for mixed genes, whose objective changes while the others move.

    Attributes:
        size: λ, answers that make a generation.
        generation: how often the distribution changed.
        outstanding: samples of this generation without an answer.
        incumbent: what the mean scored when it was last evaluated; None while unknown, failed or infeasible.
        place: the genome of that mean.
        due: whether the mean is new and was not asked yet.

    Args:
        settings: start, step size and λ; the start changes where pycma would stop.
        numbers: of a distribution to go on from.
    """

    def __init__(self, settings: Settings | MixedSettings, numbers: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        self._distribution = settings.open(numbers)
        self._answered: list[tuple[Sample, Evaluation]] = []
        self._outcomes: deque[bool] = deque(maxlen=2 * self.size)  # True: no failure
        self._restarted = 0
        self._judged = -1  # the generation of the mean that `incumbent` belongs to
        self.generation = self.outstanding = 0
        self.incumbent: tuple[float, ...] | None = None
        self.place = settings.start
        self.due = True

    @property
    def size(self) -> int:
        return self._settings.population

    @property
    def load(self) -> int:
        """Answers of this generation that are there or on their way."""
        return self.outstanding + len(self._answered)

    def draw(self) -> Vector:
        """A new point; takes a row of the settings' normal numbers, zeros give the mean."""
        return self._distribution.sample()

    def genome(self, point: Vector) -> Genome:
        """The genome of a point."""
        return tuple(self._distribution.genome(point).tolist())

    def receive(self, sample: Sample, evaluation: Evaluation) -> bool:
        """Whether a generation is full now.

        As in `CmaEs`, failures are left out unless most of the latest answers were failures, and so are answers from
        before a restart or of samples older than `MAX_AGE` generations.
        """
        self.outstanding -= sample.birth == self.generation
        failed = evaluation.values is None
        self._outcomes.append(not failed)
        rare = failed and self._outcomes.count(False) <= self.size
        if not rare and sample.birth >= max(self._restarted, self.generation - MAX_AGE):
            self._answered.append((sample, evaluation))
        return len(self._answered) >= self.size

    def judge(self, sample: Sample, evaluation: Evaluation) -> None:
        """Take in what the mean of `sample.birth` scored, unless a later one is known."""
        if sample.birth < max(self._restarted, self._judged):
            return
        self._judged = sample.birth
        self.incumbent = None if evaluation.violation else evaluation.values
        self.place = self.genome(sample.point)

    def begin_again(self, start: Genome) -> None:
        """Leave for another place, which was evaluated before; what is under way is forgotten."""
        self._settings = replace(self._settings, start=start)
        self._distribution = self._settings.open()
        self._answered, self._restarted = [], self.generation
        self.incumbent, self.place, self.due, self.outstanding = None, start, False, 0

    def close(self, quality: Callable[[Matrix], Vector]) -> bool:
        """Learn from a full generation, and whether the kernel is done: it converged, or pycma would stop.

        Args:
            quality: of values, shape [answers, objectives], larger is better.
        """
        answered, self._answered = self._answered, []
        evaluations = [evaluation for _, evaluation in answered]
        if all(e.values is None for e in evaluations):
            return False  # nothing to compare: draw more from where we are
        stale = {i for i, (sample, _) in enumerate(answered) if sample.birth < self.generation}
        points = [sample.point for sample, _ in answered]
        numbers, stop = self._distribution.tell(points, costs(evaluations, quality), stale)
        self.generation, self.outstanding, self.due = self.generation + 1, 0, True
        self._distribution = self._settings.open(numbers)
        return bool(stop) or self._settings.widest(numbers) < CONVERGED * self._settings.sigma

    def dump(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """JSON and arrays for an optimizer's state."""
        head = {
            "generation": self.generation,
            "outstanding": self.outstanding,
            "incumbent": self.incumbent,
            "place": self.place,
            "due": self.due,
            "restarted": self._restarted,
            "judged": self._judged,
            "outcomes": list(self._outcomes),
            "answered": [
                {"birth": s.birth, "kernel": s.kernel, "trial": e.trial, "values": e.values, "violation": e.violation}
                for s, e in self._answered
            ],
        }
        points = [sample.point for sample, _ in self._answered]
        start = np.array(self._settings.start)
        arrays = {"answered": np.reshape(points, (-1, len(start))), "start": start}
        numbers = self._distribution.numbers or {}
        return head, arrays | {f"distribution.{name}": np.asarray(value) for name, value in numbers.items()}

    @classmethod
    def load_from(
        cls, settings: Settings | MixedSettings, head: Mapping[str, Any], arrays: Mapping[str, Any]
    ) -> Kernel:
        """What `dump` wrote."""
        prefix = "distribution."
        numbers = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        kernel = cls(replace(settings, start=tuple(arrays["start"].tolist())), numbers or None)
        kernel.generation, kernel.outstanding = head["generation"], head["outstanding"]
        kernel.incumbent, kernel.due = head["incumbent"] and tuple(head["incumbent"]), head["due"]
        kernel.place = tuple(head["place"])
        kernel._restarted, kernel._judged = head["restarted"], head["judged"]
        kernel._outcomes.extend(head["outcomes"])
        kernel._answered = [
            (
                Sample(a["kernel"], a["birth"], point),
                Evaluation(a["trial"], a["values"] and tuple(a["values"]), a["violation"]),
            )
            for a, point in zip(head["answered"], arrays["answered"], strict=True)
        ]
        return kernel
