"""What every optimizer refuses, before it changes anything."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import LineageDomain, Problem


def check_problem(
    name: str, problem: Problem, *, mixed: bool = False, most_objectives: int | None = None, lineages: bool = False
) -> None:
    """Whether there is something to search that an optimizer can search.

    Args:
        name: the optimizer's.
        mixed: whether it takes genes that are no real numbers.
        most_objectives: how many objectives it takes; None: any number.
        lineages: whether it takes lineages; these need no start.

    Raises:
        InvalidInputError: it does not solve such problems.
        ValueError: there is less than one objective, or one source; or there is no start, or it leaves [0, 1].
    """
    start, num_objectives = problem.start, problem.num_objectives
    if num_objectives < 1:
        raise ValueError(f"expected at least 1 objective, got {num_objectives}")
    if problem.domain.lineage is not None and lineages:
        _check_lineage(problem.domain.lineage)
        return
    if problem.domain.lineage is not None:
        raise InvalidInputError(
            "optimizer.name", name, "an optimizer of lineages, such as m2n2: this space has no genes"
        )
    if not mixed and not problem.domain.real:
        allowed = "an optimizer of mixed genes, such as catcma: not all genes of this space are real numbers"
        raise InvalidInputError("optimizer.name", name, allowed)
    if most_objectives is not None and num_objectives > most_objectives:
        allowed = f"an optimizer for {num_objectives} objectives; it takes {most_objectives}"
        raise InvalidInputError("optimizer.name", name, allowed)
    if not start:
        raise ValueError("expected a start of at least one gene, got none")
    if not all(0 <= gene <= 1 for gene in start):
        raise ValueError(f"expected a start with every gene in [0, 1], got {start!r}")


def _check_lineage(lineage: LineageDomain) -> None:
    if lineage.sources < 1 or not lineage.units or min(lineage.units) < 1:
        raise ValueError(f"expected a source or more and chromosomes of at least one place, got {lineage!r}")


def check_evaluation(evaluation: Evaluation, asked: int, num_objectives: int) -> None:
    """Raises ValueError unless this can be the answer to one of the first `asked` proposals."""
    trial, values, violation = evaluation.trial, evaluation.values, evaluation.violation
    if not 0 <= trial < asked:
        raise ValueError(f"trial {trial!r} was never proposed: {asked} proposals so far, numbered from 0")
    if values is not None:
        _check_values(trial, values, violation, num_objectives)


def check_foreign(evaluation: Evaluation, num_objectives: int) -> None:
    """Raises ValueError unless somebody else's evaluation can be learnt from."""
    if evaluation.values is None:
        raise ValueError("expected an evaluation with values, got a failure: it teaches others nothing")
    _check_values(evaluation.trial, evaluation.values, evaluation.violation, num_objectives)


def _check_values(trial: int, values: tuple[float, ...], violation: float, num_objectives: int) -> None:
    if not (math.isfinite(violation) and violation >= 0):
        raise ValueError(f"trial {trial}: expected a finite violation of 0 or more, got {violation!r}")
    if len(values) != num_objectives:
        raise ValueError(f"trial {trial}: expected {num_objectives} objective values, got {len(values)}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"trial {trial}: expected finite values (None when the candidate failed), got {values!r}")


def check_responses(evaluation: Evaluation, num_objectives: int, layout: tuple[int, ...] | None) -> None:
    """Raises ValueError unless these scores on items can be compared with those of others.

    Args:
        layout: for each objective the number of items that others were scored on, () if they were told without scores
            on items; None if nobody was told yet.
    """
    trial, responses = evaluation.trial, evaluation.responses or ()
    sizes = tuple(map(len, responses))
    if sizes and len(sizes) != num_objectives:
        raise ValueError(f"trial {trial}: expected scores on items of {num_objectives} objectives, got {len(sizes)}")
    if layout is not None and sizes != layout:
        raise ValueError(f"trial {trial}: expected scores on {layout} items as others of its generation, got {sizes}")
    if 0 in sizes or not all(np.isfinite(block).all() for block in responses):
        raise ValueError(f"trial {trial}: expected one or more finite scores on items for each objective")


def check_gradients(evaluation: Evaluation, num_objectives: int, dim: int) -> None:
    """Raises ValueError unless the gradients, if there are any, are one a objective, finite, with one number a gene."""
    gradients = evaluation.gradients
    if gradients is None:
        return
    sizes = [len(gradient) for gradient in gradients]
    if sizes != [dim] * num_objectives or not all(np.isfinite(gradient).all() for gradient in gradients):
        expected = f"{num_objectives} gradients of {dim} finite numbers"
        raise ValueError(f"trial {evaluation.trial}: expected {expected}, got {gradients!r}")


def objective_weights(text: str, num_objectives: int) -> NDArray[np.float64]:
    """What an optimizer's option `weights` says, one a objective: numbers with commas between, or "" for 1 each.

    Raises:
        InvalidInputError: not as many numbers as objectives, or one that is negative or not finite, or zeros only.
    """
    try:
        found = np.array([float(part) for part in text.split(",")] if text else [1.0] * num_objectives)
    except ValueError:
        found = np.array([])
    if found.shape != (num_objectives,) or not np.isfinite(found).all() or (found < 0).any() or not found.any():
        allowed = f"{num_objectives} numbers of at least 0, not all 0, with commas between"
        raise InvalidInputError("optimizer.options.weights", text, allowed)
    return found
