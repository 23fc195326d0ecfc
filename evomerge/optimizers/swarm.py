"""Particle swarm on the coefficients of merges, as Model Swarms moves experts; answers in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evomerge.candidate import Evaluation, Genome, Proposal
from evomerge.optimizers.blends import Blends, Filling
from evomerge.optimizers.checks import check_evaluation, check_foreign, check_problem
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.genes import as_genome
from evomerge.optimizers.options import Option, Options, read
from evomerge.optimizers.state import Restorable, pack
from evomerge.seeds import generator

Vector = NDArray[np.float64]

Standing = tuple[float, float]
"""What is compared: (-violation, value), larger is better (Deb 2000)."""


class SwarmOptions(Options):
    """Options of `Swarm`."""

    particles: int = Field(default=10, ge=2, le=10_000, description="particles, and proposals per generation")
    inertia: float = Field(default=0.4, ge=0, description="φ of a particle's own velocity")
    cognitive: float = Field(default=0.3, ge=0, description="φ of the way to the particle's best place")
    social: float = Field(default=0.3, gt=0, description="φ of the way to the swarm's best place")
    repel: float = Field(default=0.01, ge=0, description="φ of the way off the swarm's worst place")
    step: float = Field(default=1.0, gt=0, le=10, description="λ, how much of the velocity is moved, at first")
    decay: float = Field(default=0.95, gt=0, le=1, description="λ is multiplied by it each generation")
    least_step: float = Field(default=0.1, gt=0, le=10, description="λ becomes no smaller")
    restart_after: int = Field(
        default=5, ge=1, description="answers without a better place after which a particle goes back to its best"
    )
    per_gene: bool = Field(
        default=True, description="draw r for each gene; false: one r a step, which never leaves the first places' span"
    )
    initial: Filling = Field(
        default="blended", description="after start and seeds: blends of two (Model Swarms), or seeds that lost genes"
    )


@dataclass(slots=True)
class Particle:
    """One expert that moves.

    Attributes:
        place: of its latest answer, shape [genes]; None before the first.
        velocity: with which it got there.
        best: its best place.
        standing: of the best.
        idle: answers since the best was found.
        moves: proposals so far.
    """

    place: Vector | None = None
    velocity: Vector | None = None
    best: Vector | None = None
    standing: Standing = (-np.inf, -np.inf)
    idle: int = 0
    moves: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A proposal without an answer: whose it is, where to, how fast."""

    particle: int
    place: Vector
    velocity: Vector


class Swarm(Restorable):
    """Particle swarm of merges; one objective, real genes.

    v ← (r₁φ_v·v + r₂φ_p(p - x) + r₃φ_g(g - x) - r₄φ_w(w - x)) / (r₁φ_v + r₂φ_p + r₃φ_g + r₄φ_w), x ← x + λ v

    with r uniform in [0, 1], p the particle's best place, g the swarm's best and w its worst; λ falls from generation
    to generation. A particle without a better place for `restart_after` answers goes back to its best one and loses its
    velocity. The first velocity points to another particle's first place. Others' evaluations (`learn`) may become the
    swarm's best or worst place.

    The paper draws one r for all weights of a model, so its swarm stays in the span of the experts it begins with. That
    is all of the space when each expert has one coefficient. With more genes (one for each layer group) it would search
    a few directions only, so here r is drawn for each gene by default.

    The released code's φ_w is 0.3; on merges it keeps the swarm from settling, so the default is small.

    The paper moves the weights of experts. All terms are linear in them, so where the merge method is linear, a
    particle can be the coefficients of a merge, and no weights are stored. Places are clipped to [0, 1].

    **Order of arrival**: the particle with the fewest proposals under way moves next, from the place of its latest
    answer; so a slow one is left behind, and nothing waits. Failures leave a particle where it was, or let it begin
    anew elsewhere if it was nowhere yet. Random numbers are functions of seed and trial. The state is four places a
    particle, and the proposals without an answer.

    Args:
        problem: one objective; its start, its seeds and what is made of them are the first places.
        seed: of everything random.
        options: see `SwarmOptions`.

    Raises:
        InvalidInputError: an unknown option, a value out of range, several objectives, or genes that are not real.
        ValueError: `start` is empty or leaves [0, 1].

    Source: Feng et al. 2024, Model Swarms: Collaborative Search to Adapt LLM Experts via Swarm Intelligence,
    arXiv:2410.11163, algorithm 1.
    """

    Options: ClassVar[type[Options]] = SwarmOptions
    SCHEMA: ClassVar[str] = "evomerge.optimizer.swarm/1"
    uses_responses: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, seed: int, **options: Option) -> None:
        check_problem("swarm", problem, most_objectives=1)
        self._problem, self._seed = problem, seed
        self._options = read(SwarmOptions, options)
        self._design = self._begin()
        self._trials = 0
        self._asked: dict[int, Move] = {}
        self._particles = [Particle() for _ in range(self.generation_size)]
        self._best, self._worst = Particle(), Particle(standing=(np.inf, np.inf))

    @property
    def generation_size(self) -> int:
        """Number of particles."""
        return self._options.particles

    def _begin(self, drawn: int = 0) -> Blends:
        return Blends(self._problem.domain, self._seed, drawn, reach=2.0, filling=self._options.initial)

    def ask(self, n: int) -> list[Proposal]:
        if n < 0:
            raise ValueError(f"can ask for 0 or more proposals, got {n}")
        return [self._propose() for _ in range(n)]

    def _propose(self) -> Proposal:
        trial, self._trials = self._trials, self._trials + 1
        number, generation = self._next(), trial // self.generation_size
        particle, rng = self._particles[number], generator(self._seed, "swarm", trial)
        particle.moves += 1
        place, velocity = self._move(particle, generation, rng)
        self._asked[trial] = Move(number, place, velocity)
        return Proposal(trial, as_genome(place), generation)

    def _next(self) -> int:
        """The particle with the fewest proposals under way; of these the one that moved least."""
        under_way = [0] * len(self._particles)
        for move in self._asked.values():
            under_way[move.particle] += 1
        return min(range(len(under_way)), key=lambda i: (under_way[i], self._particles[i].moves, i))

    def _move(self, particle: Particle, generation: int, rng: np.random.Generator) -> tuple[Vector, Vector]:
        known = (particle.place, particle.velocity, particle.best, self._best.best, self._worst.best)
        if any(vector is None for vector in known):
            return self._first(rng)
        place, velocity, own, best, worst = (np.asarray(vector) for vector in known)
        chosen = self._options
        phi = np.array([[chosen.inertia], [chosen.cognitive], [chosen.social], [chosen.repel]])
        weights = phi * rng.random((4, len(place) if chosen.per_gene else 1))
        pulls = np.array([velocity, own - place, best - place, place - worst])
        velocity = (weights / weights.sum(axis=0) * pulls).sum(axis=0)
        return np.clip(place + step_size(chosen, generation) * velocity, 0.0, 1.0), velocity

    def _first(self, rng: np.random.Generator) -> tuple[Vector, Vector]:
        place = np.array(self._design.next())
        others = [move.place for move in self._asked.values()] or [place]
        return place, others[int(rng.integers(len(others)))] - place

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            check_evaluation(evaluation, self._trials, 1)
        for evaluation in evaluations:
            if (move := self._asked.pop(evaluation.trial, None)) is not None and evaluation.values is not None:
                value = 0.0 if evaluation.violation else evaluation.values[0]
                self._learn(move, (-evaluation.violation, value))

    def learn(self, genome: Genome, evaluation: Evaluation) -> None:
        check_foreign(evaluation, 1)
        value = 0.0 if evaluation.violation or evaluation.values is None else evaluation.values[0]
        self._place(np.array(genome), (-evaluation.violation, value))

    def _learn(self, move: Move, standing: Standing) -> None:
        particle = self._particles[move.particle]
        particle.place, particle.velocity = move.place, move.velocity
        particle.idle += 1
        if standing > particle.standing:
            particle.best, particle.standing, particle.idle = move.place, standing, 0
        if particle.best is not None and particle.idle >= self._options.restart_after:
            particle.place, particle.velocity, particle.idle = particle.best, np.zeros_like(move.velocity), 0
        self._place(move.place, standing)

    def _place(self, place: Vector, standing: Standing) -> None:
        """Remember a place if it is the swarm's best or worst."""
        if standing > self._best.standing:
            self._best.best, self._best.standing = place, standing
        if standing < self._worst.standing:
            self._worst.best, self._worst.standing = place, standing

    def state(self) -> bytes:
        everyone = [*self._particles, self._best, self._worst]
        nowhere = np.full(self._problem.domain.dim, np.nan)
        head = {
            "problem": self._problem.dump(),
            "seed": self._seed,
            "options": self._options.model_dump(),
            "trials": self._trials,
            "drawn": self._design.drawn,
            "asked": [[trial, move.particle] for trial, move in self._asked.items()],
            "particles": [[p.idle, p.moves] for p in everyone],
        }
        arrays: dict[str, NDArray[Any]] = {
            name: np.array([nowhere if getattr(p, name) is None else getattr(p, name) for p in everyone])
            for name in ("place", "velocity", "best")
        }
        moves = [[move.place, move.velocity] for move in self._asked.values()]
        arrays["standing"] = np.array([p.standing for p in everyone])
        arrays["asked"] = np.reshape(moves, (-1, 2, self._problem.domain.dim))
        return pack(self.SCHEMA, head, arrays)

    def _restore(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._trials, self._design = head["trials"], self._begin(head["drawn"])
        self._asked = {
            trial: Move(particle, place, velocity)
            for (trial, particle), (place, velocity) in zip(head["asked"], arrays["asked"], strict=True)
        }
        vectors = zip(arrays["place"], arrays["velocity"], arrays["best"], arrays["standing"], strict=True)
        *self._particles, self._best, self._worst = [
            Particle(_there(place), _there(velocity), _there(best), (float(one), float(two)), idle, moves)
            for (place, velocity, best, (one, two)), (idle, moves) in zip(vectors, head["particles"], strict=True)
        ]


def step_size(options: SwarmOptions, generation: int) -> float:
    """λ of a generation."""
    return max(options.least_step, options.step * options.decay**generation)


def _there(vector: Vector) -> Vector | None:
    return None if np.isnan(vector).any() else vector
