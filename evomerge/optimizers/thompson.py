"""Thompson sampling: each proposal is the best genome of one world that the answers to single items allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Estimate, Evaluation, Genome, ItemAnswers, Proposal
from evomerge.optimizers.checks import check_evaluation, check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Design, Genes, Genomes, as_genome
from evomerge.optimizers.item_belief import ItemBelief
from evomerge.optimizers.item_process import Floats, distances
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.sampled_front import gains
from evomerge.optimizers.state import Restorable, pack
from evomerge.seeds import generator

WORLDS = 16
"""Samples of the posterior in which the second of the top two is looked for."""
MOST_OBJECTIVES = 3
"""Of more, nearly all genomes are on the front."""
CENTRES = 8
"""Genomes around which new ones are looked for."""
REMEMBERED = 64
"""Latest evaluations, failures included, that say where genomes are legal."""
NEAR, DOUBT = 0.1, 0.1
"""How far one of these counts, as a root mean square distance, and how much one such that was legal is presumed."""


class ThompsonOptions(Options):
    """Options of `ThompsonSearch`."""

    design: int | None = Field(
        default=None, ge=2,
        description="space-filling proposals before the first sample, start and seeds included; null: one more than "
        "genes, 4 to 16, and the seeds, at most a quarter of the budget",
    )  # fmt: skip
    top_two: float = Field(
        default=0.5, ge=0, lt=1,
        description="share of proposals that are the best of another world, where another genome is best",
    )  # fmt: skip
    most: int = Field(default=256, ge=8, le=1000, description="genomes whose answers are kept")
    pool: int = Field(default=256, ge=8, le=2000, description="new genomes among which the best is sought")
    generation_size: int = Field(default=1, ge=1, description="proposals that are scored on the same items")


class ThompsonSearch(Restorable):
    """Thompson sampling on answers to single items, for few items a candidate.

    - **Design**: the start (trial 0), the domain's seeds, then Sobol points.
    - **Then** an `ItemProcess` of all answers is sampled, and the genome that is worth most in the sample is proposed,
      known or new; every second time another one that is worth most in another sample (top-two Thompson sampling),
      which finds the best one sooner. A known genome that comes again answers other items.
    - **Two or three objectives** have a process each; proposed is what adds most, in a sample of all of them, to the
      hypervolume of what is believed of the known genomes (the idea of TSEMO, one proposal at a time).
    - **Space**: all genomes, where there are few; else those known, steps from the best of them, and random ones.
    - **Answers** of models that are no genomes (`know`) say how hard items are. An evaluation without
      answers to items is a score of the whole, with its error, or exact.
    - **Legal**: genomes near failures or violations are passed over as often as those near them were illegal.

    A proposal's random numbers are a function of seed and trial. State is the answers of `most` genomes and the fitted
    covariances, so it is bounded. Samples of pending proposals differ, so workers do not crowd.

    Args:
        problem: at most three objectives; genes of any kind.
        seed: of the design and of all random numbers.
        options: see `ThompsonOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, or more than three objectives.
        ValueError: `start` is empty or leaves [0, 1].

    Sources: Thompson 1933; Russo 2016, Simple Bayesian Algorithms for Best Arm Identification, arXiv:1602.08448;
    Bradford et al. 2018, Efficient multiobjective optimization employing Gaussian processes, spectral sampling and a
    genetic algorithm (TSEMO).
    """

    Options: ClassVar[type[Options]] = ThompsonOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.thompson/1"
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("thompson", problem, mixed=True, most_objectives=MOST_OBJECTIVES)
        self._problem, self._seed = problem, seed
        self._options = read(ThompsonOptions, options)
        self._genes = Genes(problem.domain)
        self._all = _everything(problem, self._genes, self._options.pool)
        self._design = Design(problem.domain, seed)
        self._trials = 0
        self._asked: dict[int, Genome] = {}
        self._beliefs = [ItemBelief(self._points) for _ in range(problem.num_objectives)]
        self._legal: list[tuple[Genome, bool]] = []

    @property
    def uses_items(self) -> bool:
        return True

    @property
    def generation_size(self) -> int:
        return self._options.generation_size

    @property
    def design_size(self) -> int:
        """Space-filling proposals before the first sample."""
        if self._options.design is not None:
            return self._options.design
        wanted = len(self._problem.domain.seeds) + int(np.clip(self._problem.domain.dim + 1, 4, 16))
        return wanted if self._problem.budget is None else max(2, min(wanted, self._problem.budget // 4))

    # -- ask ------------------------------------------------------------------------------------------------------

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        begun = self._design.drawn >= self.design_size and 2 * len(self._known) >= min(4, self.design_size)
        genome = self._best(generator(self._seed, "thompson", trial)) if begun else None
        self._asked[trial] = genome = genome or self._design.next()
        return Proposal(trial, genome, trial // self.generation_size)

    def _best(self, rng: np.random.Generator) -> Genome | None:
        """The best genome of a world; None where all are known exactly."""
        for belief in self._beliefs:
            belief.fit()
        new = self._new(rng)
        posteriors = [belief.posterior(new) for belief in self._beliefs]
        genomes = [*self._known, *map(as_genome, new)]
        legal = self._drawn_legal(np.array(genomes), rng)
        open_ = np.ones(len(genomes), dtype=np.bool_)
        open_[: len(self._known)] = ~np.all([belief.table.exact() for belief in self._beliefs], axis=0)
        if not open_.any():
            return None
        allowed = open_ & legal if (open_ & legal).any() else open_
        if len(posteriors) > 1:
            world = np.column_stack([posterior.draw(rng, 1)[0] for posterior in posteriors])
            known = np.column_stack([posterior.mean[: len(self._known)] for posterior in posteriors])
            return genomes[int(np.where(allowed, gains(world, known, rng), -np.inf).argmax())]
        worth = posteriors[0].draw(rng, WORLDS)
        worth[:, ~allowed] = -np.inf
        best = worth.argmax(axis=1)
        others = best[best != best[0]]
        second = len(others) > 0 and rng.random() < self._options.top_two
        return genomes[int(others[0] if second else best[0])]

    @property
    def _known(self) -> list[Genome]:
        """Genomes that answered; those of all objectives are the same, in the same order."""
        return self._beliefs[0].table.genomes

    def _new(self, rng: np.random.Generator) -> Genomes:
        """Genomes without answers, each once."""
        found = self._all if self._all is not None else self._nearby(rng)
        known = set(self._known)
        fresh = [genome for genome in dict.fromkeys(map(as_genome, found)) if genome not in known]
        return np.reshape(fresh, (-1, self._problem.domain.dim))

    def _nearby(self, rng: np.random.Generator) -> Genomes:
        """A third anywhere, the others some steps from the best known genomes."""
        dim, size = self._problem.domain.dim, self._options.pool
        means = [belief.posterior(np.empty((0, dim))).mean for belief in self._beliefs]
        centres = np.array(self._known)[_leading(means)[:CENTRES]]
        anywhere = rng.random((-(-size // 3), dim))
        near = centres[rng.integers(len(centres), size=size - len(anywhere))]
        moved = rng.random(near.shape) < rng.choice([1 / dim, 0.5, 1.0], size=(len(near), 1))
        moved[np.arange(len(near)), rng.integers(dim, size=len(near))] = True
        widths = np.exp(rng.uniform(math.log(0.02), math.log(0.4), (len(near), 1))) * self._genes.steps
        steps = widths * rng.standard_normal(near.shape)
        counts = self._genes.counts
        step = np.sign(steps[:, self._genes.chosen]) * np.ceil(np.abs(steps[:, self._genes.chosen]) * counts) / counts
        steps[:, self._genes.chosen] = step
        near = np.where(moved, near + steps, near)
        names = self._genes.chosen[~self._genes.ordered]  # of these none is beside another
        near[:, names] = np.where(moved[:, names], rng.random((len(near), len(names))), near[:, names])
        return self._genes.canonical(np.vstack([anywhere, near]))

    def _drawn_legal(self, genomes: Genomes, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Each genome as often as evaluations near it were legal; by one coin, for of many some are always lucky."""
        if all(legal for _, legal in self._legal):
            return np.ones(len(genomes), dtype=np.bool_)
        seen = np.array([genome for genome, _ in self._legal])
        weights = np.exp(-((distances(self._points(genomes), self._points(seen)) / NEAR) ** 2))
        votes = weights @ np.array([float(legal) for _, legal in self._legal])
        return np.asarray(rng.random() < (DOUBT + votes) / (DOUBT + weights.sum(axis=1)))

    # -- what is known --------------------------------------------------------------------------------------------

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
            check_answers(evaluation, self._problem.num_objectives)
        for evaluation in evaluations:
            genome = self._asked.pop(evaluation.trial, None)
            if genome is None:
                continue
            genome = as_genome(self._genes.canonical(np.array([genome]))[0])
            legal = evaluation.values is not None and evaluation.violation <= 0
            self._legal = [*self._legal, (genome, legal)][-REMEMBERED:]
            if evaluation.values is not None:
                self._add(genome, evaluation, evaluation.values)

    def _add(self, genome: Genome, evaluation: Evaluation, values: tuple[float, ...]) -> None:
        for k, belief in enumerate(self._beliefs):
            if evaluation.answers and evaluation.answers[k].places:
                belief.add(genome, evaluation.answers[k])
            else:  # everything was asked, or it is a cost
                belief.add_score(genome, evaluation.trial, values[k], evaluation.errors[k] if evaluation.errors else 0)
        while len(self._known) > self._options.most:
            self._drop()

    def _drop(self) -> None:
        """Of the older half the genome that is worst where it is best."""
        beyond = [belief.table.beyond()[: self._options.most // 2] for belief in self._beliefs]
        best = np.max(beyond if len(beyond) == 1 else [row / (row.std() or 1.0) for row in beyond], axis=0)
        for belief in self._beliefs:
            belief.drop(int(best.argmin()))

    def know(self, answers: tuple[ItemAnswers, ...]) -> None:
        if len(answers) == len(self._beliefs):
            for belief, found in zip(self._beliefs, answers, strict=True):
                if found.places:
                    belief.add_stranger(found)

    def believed(self, genomes: Sequence[Genome], objective: int = 0) -> list[Estimate | None]:
        belief, found = self._beliefs[objective], self._beliefs[objective].estimates(self._problem.domain.dim)
        rows = [belief.table.row(as_genome(self._genes.canonical(np.array([genome]))[0])) for genome in genomes]
        return [None if row is None else found[row] for row in rows]

    def _points(self, genomes: Genomes) -> Genomes:
        """Where genomes lie: categories that differ are as far apart as the ends of a gene."""
        genes = self._genes
        names = genes.chosen[~genes.ordered]
        plain = np.delete(genomes / genes.steps, names, axis=1)
        chosen = genes.choices(genomes)[:, ~genes.ordered]
        named = [np.eye(n)[chosen[:, k]] / math.sqrt(2) for k, n in enumerate(genes.counts[~genes.ordered])]
        points = np.hstack([plain, *named])
        return np.asarray(points * math.sqrt(points.shape[1] / genomes.shape[1]))

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        dim = self._problem.domain.dim
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "drawn": self._design.drawn,
            "asked": list(self._asked),
            "others": [belief.head() for belief in self._beliefs[1:]],
        } | self._beliefs[0].head()
        arrays: dict[str, NDArray[Any]] = {
            "asked": np.reshape(list(self._asked.values()), (-1, dim)),
            "seen": np.reshape([genome for genome, _ in self._legal], (-1, dim)),
            "legal": np.array([legal for _, legal in self._legal], dtype=np.bool_),
        }
        for k, belief in enumerate(self._beliefs):
            arrays |= {f"{_of(k)}{name}": found for name, found in belief.table.dump(dim).items()}
        return pack(self.SCHEMA, head, arrays)

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials = head["trials"]
        self._design = Design(self._problem.domain, self._seed, head["drawn"])
        self._asked = {t: as_genome(row) for t, row in zip(head["asked"], arrays["asked"], strict=True)}
        self._legal = [
            (as_genome(row), bool(legal)) for row, legal in zip(arrays["seen"], arrays["legal"], strict=True)
        ]
        self._beliefs = []
        for k, own in enumerate([head, *head.get("others", ())]):
            table = {name.removeprefix(_of(k)): found for name, found in arrays.items() if name.startswith(_of(k))}
            self._beliefs.append(ItemBelief.load(self._points, own, table))


def _of(objective: int) -> str:
    """What the names of its arrays begin with."""
    return f"{objective}." if objective else ""


def _leading(means: Sequence[Floats]) -> NDArray[np.intp]:
    """Numbers of genomes, best first; with several objectives in turn by each of them and by their sum."""
    if len(means) == 1:
        return np.argsort(-means[0])
    scaled = [mean / (mean.std() or 1.0) for mean in means]
    orders = np.array([np.argsort(-row) for row in [*scaled, np.sum(scaled, axis=0)]])
    return np.array([*dict.fromkeys(orders.T.ravel().tolist())], dtype=np.intp)


def check_answers(evaluation: Evaluation, num_objectives: int) -> None:
    """Raises ValueError unless the answers, if there are any, are one for each objective, finite and each to another
    item; of several objectives some may be without, which are costs."""
    trial, answers = evaluation.trial, evaluation.answers
    if not answers:
        return
    if len(answers) != num_objectives:
        raise ValueError(f"trial {trial}: expected answers of {num_objectives} objectives, got {len(answers)}")
    if not any(found.places for found in answers):
        raise ValueError(f"trial {trial}: expected a value and a share for each of one or more items, got {answers!r}")
    for found in answers:
        _check_items(trial, found)


def _check_items(trial: int, found: ItemAnswers) -> None:
    sizes = {len(found.places), len(found.values), len(found.shares)}
    if len(sizes) > 1 or len(set(found.places)) < len(found.places):
        raise ValueError(f"trial {trial}: expected a value and a share for each of one or more items, got {found!r}")
    if sizes == {0}:
        return
    if min(found.places) < 0 or not np.isfinite([found.values, found.shares]).all() or min(found.shares) <= 0:
        raise ValueError(f"trial {trial}: expected finite answers to items with a share above 0, got {found!r}")


def _everything(problem: Problem, genes: Genes, most: int) -> Genomes | None:
    """All genomes, where there are no more than `most`."""
    if not problem.domain.real and len(genes.real) == 0 and math.prod(genes.counts.tolist()) <= most:
        places = [((np.arange(n) + 0.5) / n).tolist() for n in genes.counts]
        return genes.canonical(np.array([*product(*places)]))
    return None
