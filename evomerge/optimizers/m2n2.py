"""M2N2: crossing at a split point, competition for items, attraction between complements; one answer at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.errors import InvalidInputError
from evomerge.optimizers.breeding import Breeder, Child, Crossing, Genomes, Lineages
from evomerge.optimizers.checks import check_evaluation, check_foreign, check_problem, check_responses
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.niche_archive import Member, NicheArchive
from evomerge.optimizers.niches import Rules
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import Restorable, pack
from evomerge.seeds import derive

GENE_MUTATION = 0.02
"""Standard deviation of the noise on genes, unless an option says otherwise: without any, a search of genomes never
leaves the box that its first genomes span."""


class M2n2Options(Options):
    """Options of `M2n2`."""

    population: int = Field(
        default=15,
        ge=2,
        le=10_000,
        description="places in the archive; the paper: 15 for 1,000 evaluations, 20 for more",
    )
    alpha: float = Field(default=1.0, ge=0, le=10, description="how hard candidates compete for items; 0: not at all")
    attraction: Literal["paper", "code", "none"] = Field(
        default="paper",
        description="how second parents are chosen: by what they add (paper: eq. 4; code: the same, scaled with alpha, "
        "as the authors' program has it), or as first parents are (none)",
    )
    crossover: bool = Field(default=True, description="whether children have two parents")
    split: bool = Field(default=True, description="whether the two sides of a random place are mixed differently")
    warmup: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="random crossings of those to begin with before parents are selected; null: as many as places",
    )
    capacity: Literal["auto", "binary", "continuous"] = Field(
        default="auto",
        description="what an item offers: 1 (binary) or the best score on it (continuous); auto: by the scores",
    )
    baseline: Literal["auto", "none", "population_min"] = Field(
        default="auto",
        description="what is subtracted from scores first: nothing, or an item's worst score in the archive; "
        "auto: nothing where scores on items lie in [0, 1]",
    )
    mutation: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="standard deviation of noise on every weight of a lineage, or on every gene; "
        f"null: 0 in lineages, {GENE_MUTATION} on genes",
    )
    epoch: int = Field(
        default=0, ge=0, description="new items after so many evaluations, for the archive, too; 0: never"
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A proposal without an answer: its genome, its generation, and whether it is a member once more."""

    genome: Genome
    generation: int
    again: bool


class M2n2(Restorable):
    """Model merging of natural niches: parents by shared fitness and attraction, a child, the worst of all leaves.

    - **No generations**: every answer counts when it comes, every proposal is bred from the archive as it is then. Late
      answers are as good as early ones, failures undo nothing, and `ask` never waits.
    - **Lineages**: proposals are descents. First the sources, then random crossings of two sources, then selection.
    - **Genomes**: genes are mixed. First the start, the seeds, and where these are few, Sobol points around the start.
    - **Item scores**: candidates compete for the items of `Evaluation.responses`. Without these their values stand for
      one item per objective. All that a generation is told must be scored on the same items.
    - **New items** (`epoch`): the members, and the best by mean if it is none, are proposed again before anything else.
      Until their answers are in, parents come from the old archive; what enters that one late is proposed again, too.
    - **Constraints**: infeasible members leave first and have children only where nobody is feasible.
    - **Others' evaluations** (`learn`) of genomes come into the archive as children do, if they have scores on as many
      items as its members; in lineages, and with `epoch`, after which the same number is other items, they teach
      nothing.

    It differs from the authors' program in that nobody is crossed with itself, and in what is done where nobody
    attracts (`NicheArchive.parents`).

    State is exact and bounded: the archive with its scores on items, and the proposals without an answer. The random
    numbers of trial t are a function of seed and t.

    Args:
        problem: a lineage, or genes of any kind.
        seed: of all draws.
        options: see `M2n2Options`.

    Raises:
        InvalidInputError: an unknown option or a value out of range; nothing to cross and no mutation.
        ValueError: neither lineage nor start, or the start leaves [0, 1].

    Source: Abrantes et al. 2025, Competition and Attraction Improve Model Fusion, arXiv:2508.16204.
    """

    Options: ClassVar[type[Options]] = M2n2Options
    SCHEMA: ClassVar[str] = "evomerge.optimizer.m2n2/2"
    uses_responses: ClassVar[bool] = True

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("m2n2", problem, mixed=True, lineages=True)
        self._problem, self._seed = problem, seed
        self._options = read(M2n2Options, options)
        self._key = derive(seed, "m2n2")
        self._rules = Rules(
            self._options.alpha, self._options.capacity, self._options.baseline, self._options.attraction
        )
        self._breeder = self._make_breeder()
        self._trials = self._scored = self._guests = 0
        self._asked: dict[int, Asked] = {}
        self._again: deque[Member] = deque()
        self._archive = NicheArchive(self._options.population, self._rules, generation=0)
        self._next: NicheArchive | None = None

    def _make_breeder(self) -> Breeder:
        options, domain = self._options, self._problem.domain
        default = 0.0 if domain.lineage else GENE_MUTATION
        mutation = default if options.mutation is None else options.mutation
        alone = not options.crossover or (domain.lineage is not None and domain.lineage.sources < 2)
        if alone and not mutation:
            raise InvalidInputError("optimizer.options.mutation", mutation, "more than 0 where nothing is crossed")
        crossing = Crossing(options.crossover, options.split, mutation)
        if domain.lineage is not None:
            return Lineages(domain.lineage, crossing)
        return Genomes(domain, crossing, population=options.population, seed=self._seed)

    @property
    def generation_size(self) -> int:
        """Places in the archive."""
        return self._options.population

    @property
    def members(self) -> tuple[Member, ...]:
        """The archive: candidates that complement each other."""
        return self._archive.members

    @property
    def elite(self) -> tuple[Member, ...]:
        """The best by mean score on their generation's items, best first, whether the archive has them or not."""
        return self._archive.elite

    @property
    def coverage(self) -> float:
        """The share of items on which a member scores, in [0, 1]."""
        return self._archive.contest.coverage if self.members else 0.0

    @property
    def entropy(self) -> float:
        """How undecided the members are about items, in bits: high while they differ, low when they agree."""
        return self._archive.contest.entropy if self.members else 0.0

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, generation = self._trials, self._archives[-1].generation
        again = bool(self._again) and trial >= self._breeder.founders
        child = self._breeder.again(self._again.popleft()) if again else self._breed(trial)
        self._asked[trial] = Asked(child.genome, generation, again)
        self._trials += 1
        return Proposal(trial, child.genome, generation, child.descent)

    def _breed(self, trial: int) -> Child:
        founders, warmup = self._breeder.founders, self._options.warmup
        if trial < founders:
            return self._breeder.founder(trial)
        rng = np.random.Generator(np.random.Philox(key=self._key, counter=[0, trial, 0, 0]))
        if trial < founders + (self.generation_size if warmup is None else warmup) or len(self.members) < 2:
            a = int(rng.integers(founders))
            b = (a + 1 + int(rng.integers(founders - 1))) % founders if founders > 1 else a
            return self._breeder.cross_founders(a, b, rng)
        return self._breeder.cross(*self._archive.parents(rng), rng)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        layouts = {archive.generation: archive.layout for archive in self._archives}
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, self._problem.num_objectives)
            asked = self._asked.get(evaluation.trial)
            if asked is None or evaluation.values is None or asked.generation not in layouts:
                continue
            check_responses(evaluation, self._problem.num_objectives, layouts[asked.generation])
            layouts[asked.generation] = _layout(evaluation)
        for evaluation in evaluations:
            if (asked := self._asked.pop(evaluation.trial, None)) is not None:
                self._receive(asked, evaluation)

    def learn(self, genome: Genome, evaluation: Evaluation) -> None:
        check_foreign(evaluation, self._problem.num_objectives)
        fits = self._archive.layout in (None, _layout(evaluation))
        if self._options.epoch or self._problem.domain.lineage is not None or not fits:
            return
        check_responses(evaluation, self._problem.num_objectives, None)
        self._guests += 1
        guest = replace(evaluation, trial=-self._guests)  # a number that no proposal has
        self._enter(self._archive, Asked(genome, self._archive.generation, again=False), guest)

    @property
    def _archives(self) -> list[NicheArchive]:
        return [self._archive] if self._next is None else [self._archive, self._next]

    def _receive(self, asked: Asked, evaluation: Evaluation) -> None:
        for archive in self._archives:
            if archive.generation == asked.generation and evaluation.values is not None:
                self._enter(archive, asked, evaluation)
        self._turn()

    def _enter(self, archive: NicheArchive, asked: Asked, evaluation: Evaluation) -> None:
        archive.layout = _layout(evaluation)
        blocks = evaluation.responses or tuple((value,) for value in evaluation.values or ())
        stays = archive.add(evaluation.trial, asked.genome, evaluation.violation, blocks)
        self._scored += archive is self._archives[-1] and not asked.again
        if stays and archive is not self._archives[-1]:
            self._again.append(next(m for m in archive.members if m.trial == evaluation.trial))

    def _turn(self) -> None:
        """Open an archive for new items when it is time, and move there when the members were scored on them."""
        if self._next is None:
            if self._options.epoch and self._scored >= self._options.epoch and len(self._archive) > 1:
                self._next = NicheArchive(self.generation_size, self._rules, self._archive.generation + 1)
                best, self._scored = self.elite[0], 0
                self._again.extend(self.members if best in self.members else (*self.members, best))
            return
        waits = bool(self._again) or any(asked.again for asked in self._asked.values())
        if len(self._next) > 1 and (self._next.full or not waits):
            self._archive, self._next = self._next, None

    def state(self) -> bytes:
        head: dict[str, Any] = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "scored": self._scored,
            "guests": self._guests,
            "asked": [[trial, asked.generation, asked.again] for trial, asked in self._asked.items()],
            "again": [[m.trial, m.violation, m.mean] for m in self._again],
            "archives": [],
        }
        arrays: dict[str, NDArray[Any]] = {
            "asked": np.array([asked.genome for asked in self._asked.values()], float),
            "again": np.array([member.genome for member in self._again], float),
        }
        for i, archive in enumerate(self._archives):
            archive_head, archive_arrays = archive.dump()
            head["archives"].append(archive_head)
            arrays |= {f"archive{i}.{name}": array for name, array in archive_arrays.items()}
        return pack(self.SCHEMA, head, arrays)

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._scored, self._guests = head["trials"], head["scored"], head["guests"]
        for (trial, generation, again), genome in zip(head["asked"], arrays["asked"].tolist(), strict=True):
            self._asked[trial] = Asked(tuple(genome), generation, again)
        for (trial, violation, mean), genome in zip(head["again"], arrays["again"].tolist(), strict=True):
            self._again.append(Member(trial, tuple(genome), violation, mean))
        archives = []
        for i, archive_head in enumerate(head["archives"]):
            prefix = f"archive{i}."
            own = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
            archives.append(NicheArchive.load(self.generation_size, self._rules, archive_head, own))
        self._archive, self._next = archives[0], archives[1] if len(archives) > 1 else None


def _layout(evaluation: Evaluation) -> tuple[int, ...]:
    """Items of each objective; () without item scores."""
    return tuple(len(block) for block in evaluation.responses or ())
