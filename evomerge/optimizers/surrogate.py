"""MAP: the front as quadratics of few coefficients predict it, refined by evaluating what they predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.archive import non_dominated
from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers.blends import Nearby
from evomerge.optimizers.checks import check_evaluation, check_foreign, check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import Design, Genes, Genomes, as_genome
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.quadratic import Matrix, Quadratic, Vector, num_coefficients
from evomerge.optimizers.state import Restorable, pack
from evomerge.optimizers.steady_state import Members
from evomerge.optimizers.survival import Niches, by_crowding, reference_directions, survivors
from evomerge.optimizers.variation import Variation
from evomerge.seeds import generator

MOST_GENES = 12
"""Beyond it a quadratic has over a hundred coefficients: searching directly costs fewer evaluations."""

MEMORY = 1000
"""So many of the latest answers are fitted."""

FOCUS = 3.0
"""An answer at the bottom counts as if its error were e³ times as large: the fit must be good near the front."""

POPULATION, GENERATIONS = 100, 40
"""Of the search on the surrogates."""

NEAR = 0.01
"""A candidate no further than this, in every gene, from one that is known would teach nothing."""

FOLDS = 5
"""Of answers, to see how well others predict them."""

SHAKE = 0.05
"""Standard deviation of steps off the predicted front when more is asked than it has points."""


class MapOptions(Options):
    """Options of `MapSearch`."""

    design: int | None = Field(
        default=None, ge=2,
        description="answers to space-filling points before the first fit; null: 1.5 for each coefficient of a "
        "surrogate, at most half of the budget",
    )  # fmt: skip
    spread: float | None = Field(
        default=0.15, gt=0, le=1,
        description="standard deviation of space-filling points around the start; null: Sobol points everywhere",
    )  # fmt: skip
    batch: int = Field(default=8, ge=1, description="answers after which the surrogates are fitted anew")
    explore: float = Field(default=0.2, ge=0, le=1, description="share of proposals that go on filling the space")
    link: Literal["auto", "sigmoid", "identity"] = Field(
        default="auto", description="function around the quadratics; auto: sigmoid where all values lie in [0, 1]"
    )


@dataclass(frozen=True, slots=True)
class Preview:
    """The front as surrogates predict it.

    Attributes:
        genomes: shape [points, genes].
        values: predicted objectives, shape [points, objectives]; sorted by the first one, falling.
    """

    genomes: Genomes
    values: Matrix


@dataclass(slots=True)
class Answers:
    """What surrogates are fitted to; arrays of the same length, the oldest first; errors are NaN where unknown."""

    genomes: Matrix
    values: Matrix
    errors: Matrix
    violations: Vector

    @classmethod
    def none(cls, genes: int, objectives: int) -> Answers:
        return cls(np.empty((0, genes)), np.empty((0, objectives)), np.empty((0, objectives)), np.empty(0))

    def add(self, genome: Genome, evaluation: Evaluation) -> None:
        """Remember an answer; beyond `MEMORY` the oldest is forgotten."""
        unknown = (np.nan,) * self.values.shape[1]
        self.genomes = np.vstack([self.genomes, genome])[-MEMORY:]
        self.values = np.vstack([self.values, evaluation.values or unknown])[-MEMORY:]
        self.errors = np.vstack([self.errors, evaluation.errors or unknown])[-MEMORY:]
        self.violations = np.append(self.violations, evaluation.violation)[-MEMORY:]


class MapSearch(Restorable):
    """MAP: a quadratic surrogate for each objective, for up to 12 coefficients and any number of objectives.

    - **Design**: the start (trial 0), the domain's seeds, then steps from the start, or Sobol points everywhere.
    - **Then** f(c) = sigmoid(e + bᵀc + cᵀAc) is fitted to each objective (to the violation, too, where there was any),
      NSGA-II searches the surrogates (NSGA-III from three objectives on), and what it finds is evaluated, farthest from
      what is known first. A share of the proposals goes on filling the space, which keeps the fit honest.
    - **Order of arrival**: surrogates are fitted anew after each batch of answers, whatever answers they are. Until
      then proposals go down the list; past its end they are steps off it. Failures are left out.
    - **Weights**: answers count by their errors where these are known, and less the farther they lie below the front
      (`FOCUS`): far from it merges break in ways that no quadratic describes.
    - **Others' evaluations** (`learn`) are fitted, too, and count as answers.
    - **`preview`** is the whole predicted front at once, without another evaluation.

    The paper draws the design uniformly, fits once with equal weights and returns NSGA-III's front; it leaves the link
    to the metric. Here the loop goes on, and values outside [0, 1] are fitted without a link.

    State is bounded: the latest `MEMORY` answers, the list of the present batch, proposals without an answer. Fits are
    functions of the answers and are not stored.

    Args:
        problem: at most `MOST_GENES` real genes.
        seed: of the design and the search on surrogates.
        options: see `MapOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, too many genes, or genes that are not real.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Li et al. 2024, MAP: Low-compute Model Merging with Amortized Pareto Fronts via Quadratic Approximation,
    arXiv:2406.07529, algorithm 1.
    """

    Options: ClassVar[type[Options]] = MapOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.map/1"
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("map", problem)
        if problem.domain.dim > MOST_GENES:
            allowed = f"an optimizer of {problem.domain.dim} genes, such as cma_es, como_cma_es or nsga2; "
            raise InvalidInputError("optimizer.name", "map", f"{allowed}quadratics are fitted to {MOST_GENES} at most")
        self._problem, self._seed = problem, seed
        self._options = read(MapOptions, options)
        self._design = self._begin()
        self._trials = self._fits = self._fresh = self._taken = 0
        self._asked: dict[int, Genome] = {}
        self._answers = Answers.none(problem.domain.dim, problem.num_objectives)
        self._list = np.empty((0, problem.domain.dim))

    @property
    def generation_size(self) -> int:
        """Answers between two fits."""
        return self._options.batch

    @property
    def design_size(self) -> int:
        """Answers before the first fit."""
        needed = -(-3 * num_coefficients(self._problem.domain.dim) // 2)
        budget = self._problem.budget
        return self._options.design or (needed if budget is None else max(2, min(needed, budget // 2)))

    def _begin(self, drawn: int = 0) -> Design:
        if self._options.spread is None:
            return Design(self._problem.domain, self._seed, drawn)
        return Nearby(self._problem.domain, self._seed, drawn, spread=self._options.spread)

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        rng = generator(self._seed, "map", "proposal", trial)
        filling = not len(self._list) or rng.random() < self._options.explore
        self._asked[trial] = genome = self._design.next() if filling else self._take(rng)
        return Proposal(trial, genome, self._fits)

    def _take(self, rng: np.random.Generator) -> Genome:
        number, self._taken = self._taken, self._taken + 1
        if number < len(self._list):
            return as_genome(self._list[number])
        near = self._list[int(rng.integers(len(self._list)))]
        return as_genome(np.clip(near + SHAKE * rng.standard_normal(len(near)), 0.0, 1.0))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
        for evaluation in evaluations:
            genome = self._asked.pop(evaluation.trial, None)
            if genome is not None and evaluation.values is not None:
                self._answers.add(genome, evaluation)
                self._fresh += 1
                self._refit()

    def learn(self, genome: Genome, evaluation: Evaluation) -> None:
        check_foreign(evaluation, self._problem.num_objectives)
        self._answers.add(genome, evaluation)
        self._fresh += 1
        self._refit()

    def _refit(self) -> None:
        if self._fresh < (self.generation_size if self._fits else self.design_size):
            return
        members = self._search(self._surrogates(), generator(self._seed, "map", "search", self._fits))
        unknown = self._order(members.genomes)
        self._list = unknown if len(unknown) else members.genomes
        self._taken = 0 if len(unknown) else len(self._list)  # only steps off it are left to ask
        self._fits, self._fresh = self._fits + 1, 0

    def _surrogates(self) -> Callable[[Genomes], Members]:
        """Genomes → what they would score."""
        return _fitted(self._answers, self._options.link)

    def _search(self, predict: Callable[[Genomes], Members], rng: np.random.Generator) -> Members:
        """The population that NSGA ends with on the surrogates; its first front is the predicted one."""
        objectives = self._problem.num_objectives
        vary = Variation(Genes(self._problem.domain), 15.0, 20.0, 0.9)
        niches = Niches(reference_directions(objectives, POPULATION))
        best = partial(by_crowding if objectives < 3 else niches, rng=rng)
        known = self._answers.genomes[-POPULATION:]
        members = predict(np.vstack([known, rng.random((POPULATION, self._problem.domain.dim))]))
        for _ in range(GENERATIONS):
            members = survivors(members, POPULATION, best)
            pairs = rng.integers(len(members), size=(2, POPULATION))
            children = vary(members.genomes[pairs[0]], members.genomes[pairs[1]], rng)
            members = members.join(predict(np.clip(children, 0.0, 1.0)))
        return survivors(members, POPULATION, best)

    def _order(self, genomes: Genomes) -> Genomes:
        """Those that are not known yet, each the farthest from all that are known or come before it."""
        known = np.vstack([self._answers.genomes, *(np.array([g]) for g in self._asked.values())])
        distance = np.array([np.abs(known - genome).max(axis=1).min() for genome in genomes])
        chosen = []
        while len(distance) and (farthest := int(distance.argmax())) >= 0 and distance[farthest] > NEAR:
            chosen.append(genomes[farthest])
            distance = np.minimum(distance, np.abs(genomes - genomes[farthest]).max(axis=1))
        return np.reshape(chosen, (-1, genomes.shape[1]))

    def preview(self) -> Preview:
        """The whole front as the answers so far predict it, without an evaluation; empty before the first answer."""
        domain, objectives = self._problem.domain, self._problem.num_objectives
        if not len(self._answers.genomes):
            return Preview(np.empty((0, domain.dim)), np.empty((0, objectives)))
        members = self._search(self._surrogates(), generator(self._seed, "map", "preview", self._trials))
        feasible = members.pick(np.flatnonzero(members.violations == 0))
        front = feasible.pick(np.flatnonzero(non_dominated(feasible.values)) if len(feasible) else [])
        sorted_ = front.pick(np.argsort(-front.values[:, 0], kind="stable"))
        return Preview(sorted_.genomes, sorted_.values)

    def state(self) -> bytes:
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "fits": self._fits,
            "fresh": self._fresh,
            "taken": self._taken,
            "drawn": self._design.drawn,
            "asked": list(self._asked),
        }
        arrays: dict[str, NDArray[Any]] = {
            "asked": np.reshape(list(self._asked.values()), (-1, self._problem.domain.dim)),
            "list": self._list,
            "genomes": self._answers.genomes,
            "values": self._answers.values,
            "errors": self._answers.errors,
            "violations": self._answers.violations,
        }
        return pack(self.SCHEMA, head, arrays)

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._fits = head["trials"], head["fits"]
        self._fresh, self._taken = head["fresh"], head["taken"]
        self._design = self._begin(head["drawn"])
        self._asked = {t: as_genome(row) for t, row in zip(head["asked"], arrays["asked"], strict=True)}
        self._list = arrays["list"]
        self._answers = Answers(arrays["genomes"], arrays["values"], arrays["errors"], arrays["violations"])


def _fitted(answers: Answers, wanted: Literal["auto", "sigmoid", "identity"]) -> Callable[[Genomes], Members]:
    """Surrogates of all objectives and of the violation: genomes → what they would score."""
    fits = []
    doubt = np.exp(FOCUS * below_front(answers.values))
    for values, errors in zip(answers.values.T, answers.errors.T, strict=True):
        shares = bool(((values >= 0) & (values <= 1)).all())
        auto: Literal["sigmoid", "identity"] = "sigmoid" if shares else "identity"
        link = auto if wanted == "auto" else wanted
        values = np.clip(values, 0.0, 1.0) if link == "sigmoid" else values
        fits.append(Quadratic.fit(answers.genomes, values, _known(errors) * doubt, link))
    excess = Quadratic.fit(answers.genomes, answers.violations, np.ones(len(answers.violations)), "identity")

    def predict(genomes: Genomes) -> Members:
        values = np.stack([fit(genomes) for fit in fits], axis=1)
        violations = np.maximum(excess(genomes), 0.0) if answers.violations.any() else np.zeros(len(genomes))
        return Members(genomes, values, violations)

    return predict


def predicted_front(problem: Problem, answers: Answers) -> Preview:
    """The front that quadratics of any search's answers predict, whatever optimizer asked for them.

    Raises:
        InvalidInputError: a problem that `MapSearch` does not solve.
    """
    search = MapSearch(problem, seed=0)
    search._answers = answers
    return search.preview()


def prediction_errors(answers: Answers) -> Vector:
    """By how much quadratics miss answers that they do not know, shape [objectives].

    The root of the mean squared difference, over answers in the better half of the way to the front (where fits are
    meant to be good), each predicted from the other four fifths.
    """
    missed = np.empty_like(answers.values)
    for fold in range(FOLDS):
        held = np.arange(len(answers.values)) % FOLDS == fold
        known = Answers(*(a[~held] for a in (answers.genomes, answers.values, answers.errors, answers.violations)))
        missed[held] = _fitted(known, "auto")(answers.genomes[held]).values - answers.values[held]
    near = below_front(answers.values) <= 0.5
    return np.asarray(np.sqrt(np.mean(missed[near] ** 2, axis=0)))


def below_front(values: Matrix) -> Vector:
    """By how much all objectives must rise to reach the front, as a share of the largest such rise, shape [answers]."""
    spread = np.ptp(values, axis=0)
    scaled = values / np.where(spread > 0, spread, 1.0)
    front = scaled[non_dominated(scaled)]
    depth = np.max(np.min(front[None] - scaled[:, None], axis=2), axis=1, initial=0.0)
    return np.asarray(depth / (depth.max() or 1.0))


def _known(errors: Vector) -> Vector:
    """Errors > 0: unknown ones are as large as usual, and none is under a thousandth of that."""
    usual = float(np.nanmedian(errors)) if not np.isnan(errors).all() else 1.0
    return np.maximum(np.where(np.isnan(errors), usual, errors), 1e-3 * usual or 1.0)
