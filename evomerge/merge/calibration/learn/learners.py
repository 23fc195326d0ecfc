"""The published procedures, by the kind of statistic that they learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from evomerge.merge.calibration import kinds
from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.learn import gates
from evomerge.merge.calibration.learn.adam import Adam
from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.calibration.learn.descent import Problem, descend
from evomerge.merge.calibration.learn.frank_wolfe import frank_wolfe
from evomerge.merge.calibration.learn.gates import Chunks, Columns, Gates, Learned, Shares
from evomerge.merge.calibration.learn.losses import Objective, alignment, objective
from evomerge.merge.calibration.learn.mask import Mask
from evomerge.merge.calibration.learn.soft_frank_wolfe import SoftPace, soft_frank_wolfe
from evomerge.merge.calibration.learn.student import Student
from evomerge.merge.calibration.learn.two_levels import AdaptiveMask, Pace, two_levels
from evomerge.merge.method import Values
from evomerge.merge.primitives.weights import number


@dataclass(frozen=True, slots=True)
class Setting:
    """What a learner works on.

    Attributes:
        student: the model that runs.
        atoms: tensor → what its coefficients multiply.
        samples: source → its items.
        values: the parameters that hold for all tensors.
        seed: of draws and orders.
        done: called after every step.
    """

    student: Student
    atoms: Mapping[str, Atoms]
    samples: Mapping[str, Sequence[Sample]]
    values: Values
    seed: int
    done: Callable[[], None]

    def number(self, name: str) -> float:
        """A parameter that is a number."""
        return number(self.values, name)

    def start(self, tensor: str, source: str) -> float:
        """A source's `weight` there."""
        return number(self.atoms[tensor].job.per_source[source], "weight")

    def share(self, tensor: str, source: str) -> float:
        """The same as a part of all sources' weights."""
        return self.start(tensor, source) / sum(self.start(tensor, s) for s in self.atoms[tensor].vectors)

    def problem(self, asked: Objective) -> Problem:
        """The loss in the weights."""
        return Problem(self.student, asked, self.samples, list(self.atoms))

    def descend(self, asked: Objective, found: Gates, **adam: float) -> Learned:
        """Learn, then what was learned."""
        steps, batch = int(self.number("steps")), int(self.number("batch"))
        how = Adam(self.number("learning_rate"), **adam)
        descend(self.problem(asked), found, how, steps=steps, batch=batch, seed=self.seed, done=self.done)
        return found.learned()


@dataclass(frozen=True, slots=True)
class Learner:
    """How a kind of statistic is learned.

    Attributes:
        learn: setting → coefficients.
        parameters: names of those that must hold for all tensors alike.
        neutral: parameters that scale the merged task vector alone, and the values at which they do not: what is
            learned does not depend on them.
        shared: whether there are coefficients beside those of a source, of all together.
    """

    learn: Callable[[Setting], Learned]
    parameters: tuple[str, ...]
    neutral: Mapping[str, float] = field(default_factory=lambda: {"lambda": 1.0})
    shared: bool = False


_DESCENT = ("steps", "learning_rate", "batch", "temperature")


def _weights(s: Setting) -> Learned:
    """AdaMerging: Adam on λ, kept in [0, 1]."""
    found = Shares(s.atoms, s.start, one_a_source=s.values["granularity"] == "source")
    return s.descend(objective(str(s.values["loss"]), s.number("temperature")), found)


def _columns(s: Setting) -> Learned:
    """DAM: MoFO on the columns' coefficients, which start from the sources' shares."""
    similar, l1, l2, overlap = (s.number(n) for n in ("similarity", "l1", "l2", "overlap"))

    def penalties(c: list[Tensor]) -> Tensor | None:
        terms = [x.norm(1) * l1 + x.norm(2) * l2 for x in c] if l1 or l2 else []
        if similar and (cosine := gates.similarity(c)) is not None:
            terms.append(cosine * similar)
        if overlap and (common := gates.overlap(c)) is not None:
            terms.append(common * overlap)
        return torch.stack(terms).sum() if terms else None

    found = Columns(
        s.atoms,
        s.share,
        whole=True,
        learns=partial(_learns, str(s.values["parts"])),
        shape=_SHAPES[str(s.values["shape"])],
        penalties=penalties,
    )
    asked = objective(str(s.values["loss"]), s.number("temperature"))
    return s.descend(asked, found, decay=s.number("decay"), moving=s.number("moving"), clip=1.0)


def _learns(parts: str, atoms: Atoms) -> bool:
    """Linear maps, the head among them; with `all` everything else, too."""
    role = atoms.job.part.role
    return parts == "all" or (atoms.base.dim() == 2 and not role.startswith(("embedding", "position")))


_SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda c: c,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


def _gates(s: Setting) -> Learned:
    """ZipLoRA: AdamW on the columns' coefficients, which start from the weights."""
    strength = s.number("similarity")

    def penalties(c: list[Tensor]) -> Tensor | None:
        common = gates.products(c) if strength else None
        return None if common is None else common * strength

    found = Columns(
        s.atoms,
        s.start,
        whole=False,
        learns=lambda atoms: atoms.base.dim() == 2,
        shape=_SHAPES["none"],
        penalties=penalties,
    )
    asked = objective(str(s.values["loss"]), s.number("temperature"))
    return s.descend(asked, found, decay=s.number("decay"), clip=1.0)


def _chunks(s: Setting) -> Learned:
    """Expert Merging: AdamW on z, c = σ(z)."""

    def chunks(tensor: str) -> int:
        return int(number(s.atoms[tensor].job.shared, "chunks"))

    s = replace(s, atoms={name: found for name, found in s.atoms.items() if found.is_matrix})
    strength = s.number("regularisation") * len(s.samples)  # the loss adds up over the sources, the paper averages
    found = Chunks(s.atoms, s.start, chunks, strength)
    asked = Objective(alignment(s.number("temperature"), s.number("hidden")), expert=True, hidden=True)
    return s.descend(asked, found, decay=s.number("decay"), clip=1.0)


def _mask(s: Setting) -> Learned:
    """Concrete: Adam on the logits of a mask that all sources share, drawn anew for every step."""
    found = Mask(s.atoms, s.start, one_for=str(s.values["one_for"]), softness=s.number("softness"), seed=s.seed)
    return s.descend(objective(str(s.values["loss"]), s.number("temperature")), found)


def _frank_wolfe(s: Setting) -> Learned:
    """Frank-Wolfe on the weights over the sources and the start."""
    return frank_wolfe(
        s.problem(objective(str(s.values["loss"]), s.number("temperature"))),
        s.atoms,
        s.start,
        steps=int(s.number("steps")),
        length=s.number("length"),
        batch=int(s.number("batch")),
        score=str(s.values["score"]),
        one_choice=s.values["granularity"] == "model",
        seed=s.seed,
        done=s.done,
    )


def _two_levels(s: Setting) -> Learned:
    """Concrete AdaMerging: the mask for coefficients after a step, then the coefficients under it."""
    found = AdaptiveMask(
        s.atoms,
        s.start,
        one_for=str(s.values["one_for"]),
        softness=s.number("softness"),
        seed=s.seed,
        one_a_source=s.values["granularity"] == "source",
    )
    pace = Pace(
        steps=int(s.number("steps")),
        rate=s.number("learning_rate"),
        inner_rate=s.number("inner_rate"),
        last_steps=int(s.number("last_steps")),
        last_rate=s.number("last_rate"),
        batch=int(s.number("batch")),
    )
    problem = s.problem(objective(str(s.values["loss"]), s.number("temperature")))
    return two_levels(problem, found, pace, s.seed, s.done)


def _soft_frank_wolfe(s: Setting) -> Learned:
    """FW-Merging, soft: several models a step, with learned coefficients."""
    pace = SoftPace(
        steps=int(s.number("steps")),
        batch=int(s.number("batch")),
        score=str(s.values["score"]),
        one_choice=s.values["granularity"] == "model",
        picks=int(s.number("picks")),
        first=s.number("first"),
        later=s.number("later"),
        inner_steps=int(s.number("inner_steps")),
        inner_rate=s.number("learning_rate"),
        inner_batch=int(s.number("inner_batch")),
    )
    warmth = s.number("temperature")
    picks, learns = (s.problem(objective(str(s.values[name]), warmth)) for name in ("loss", "inner_loss"))
    return soft_frank_wolfe(picks, learns, s.atoms, pace, s.seed, s.done)


LEARNERS: dict[str, Learner] = {
    kinds.WEIGHTS: Learner(_weights, (*_DESCENT, "loss", "granularity")),
    kinds.COLUMNS: Learner(
        _columns,
        (*_DESCENT, "loss", "parts", "shape", "similarity", "l1", "l2", "overlap", "decay", "moving"),
    ),
    kinds.GATES: Learner(_gates, (*_DESCENT, "loss", "similarity", "decay")),
    kinds.CHUNKS: Learner(_chunks, (*_DESCENT, "hidden", "regularisation", "decay")),
    kinds.MASK: Learner(_mask, (*_DESCENT, "loss", "one_for", "softness"), shared=True),
    kinds.ADAPTIVE: Learner(
        _two_levels,
        (*_DESCENT, "loss", "one_for", "softness", "granularity", "inner_rate", "last_steps", "last_rate"),
        shared=True,
    ),
    kinds.SOFT: Learner(
        _soft_frank_wolfe,
        (
            *_DESCENT,
            "loss",
            "score",
            "granularity",
            "picks",
            "first",
            "later",
            "inner_steps",
            "inner_batch",
            "inner_loss",
        ),
    ),
    kinds.CONVEX: Learner(_frank_wolfe, ("steps", "batch", "temperature", "loss", "length", "score", "granularity")),
}
