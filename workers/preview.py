"""The front that a run's answers predict: MAP's quadratics of the weights, fitted to what any optimizer found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evomerge.candidate import CandidateState, Genome
from evomerge.errors import EvomergeError
from evomerge.optimizers.domain import Problem
from evomerge.optimizers.quadratic import num_coefficients
from evomerge.optimizers.surrogate import MEMORY, MOST_GENES, Answers, predicted_front, prediction_errors
from evomerge.run.ranking import sign
from evomerge.run.spec import RunSpec
from evomerge.runtime import one_blas_thread
from evomerge.storage.store import CandidateQuery, CandidateRow, RunRow, Store
from search_spaces.space import SearchSpace
from workers.registry import Registry
from workers.setup import pinned_models, space_of

PAGE = 500


@dataclass(frozen=True, slots=True)
class Previewed:
    """What a run's answers predict.

    Attributes:
        genes: names of the genes.
        answers: how many were fitted, the newest ones.
        errors: for each objective by how much predictions miss answers that they do not know; none without points.
        genomes: of the predicted front.
        values: for each genome one an objective, in the objective's unit; those best in the first one come first.
        reason: why there is no prediction, if there is none.
    """

    genes: tuple[str, ...] = ()
    answers: int = 0
    errors: tuple[float, ...] = ()
    genomes: tuple[Genome, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()
    reason: str | None = None


def preview_of(store: Store, row: RunRow, registry: Registry) -> Previewed:
    """The whole front as a run's answers so far predict it, without an evaluation.

    A space that quadratics do not fit, too few answers, or models that are gone are a `reason`, not an error.
    """
    spec = RunSpec.model_validate(row.spec)
    try:
        space = _space(spec, registry)
    except EvomergeError as error:
        return Previewed(reason=f"the run's space cannot be read: {error}")
    needed = num_coefficients(space.dim)
    if space.domain.lineage is not None or not space.domain.real or space.dim > MOST_GENES:
        return Previewed(space.names, reason=f"quadratics are fitted to {MOST_GENES} genes at most, all real numbers")
    rows = _scored(store, row.id)
    if len(rows) < needed:
        return Previewed(space.names, len(rows), reason=f"{needed} scored candidates are needed, {len(rows)} are there")
    with one_blas_thread():
        return _predicted(spec, space, rows)


def _space(spec: RunSpec, registry: Registry) -> SearchSpace:
    """The run's; first steps by the sizes of task vectors change no prediction, and cost a look into the models."""
    plain = {name: value for name, value in spec.space.items() if name != "prior"}
    plain_spec = spec.model_copy(update={"space": plain})
    return space_of(plain_spec, pinned_models(spec, registry, check_hashes=False))


def _scored(store: Store, run: str) -> list[CandidateRow]:
    """The newest candidates with scores, newest first."""
    found: list[CandidateRow] = []
    cursor: str | None = None
    while len(found) < MEMORY:
        wanted = CandidateQuery(CandidateState.SCORED, "search", sort="-number", limit=PAGE, cursor=cursor)
        rows, cursor = store.candidates(run, wanted)
        found += rows
        if cursor is None:
            break
    return found[:MEMORY]


def _predicted(spec: RunSpec, space: SearchSpace, rows: list[CandidateRow]) -> Previewed:
    names, signs = [o.name for o in spec.objectives], np.array([sign(o) for o in spec.objectives])
    scores = [row.verified.get("search") or row.scores for row in rows]  # elites are known exactly
    answers = Answers(
        np.array([row.genome for row in rows], dtype=np.float64),
        signs * np.array([[score[name]["mean"] for name in names] for score in scores]),
        np.array([[score[name].get("se", np.nan) for name in names] for score in scores], dtype=np.float64),
        np.array([row.violation or 0.0 for row in rows]),
    )
    domain = replace(space.domain, seeds=())
    found = predicted_front(Problem(domain, len(names)), answers)
    return Previewed(
        space.names,
        len(rows),
        tuple(prediction_errors(answers).tolist()),
        tuple(tuple(genome) for genome in found.genomes.tolist()),
        tuple(tuple(values) for values in (signs * found.values).tolist()),
        None if len(found.genomes) else "no point is predicted to be feasible",
    )
