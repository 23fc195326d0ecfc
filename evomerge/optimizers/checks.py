"""What every optimizer refuses, before it changes anything."""

from __future__ import annotations

import math

from evomerge.candidate import Evaluation
from evomerge.errors import InvalidInputError
from evomerge.optimizers.domain import Problem


def check_problem(name: str, problem: Problem, *, mixed: bool = False, most_objectives: int | None = None) -> None:
    """Whether there is something to search that an optimizer of genomes can search.

    Args:
        name: the optimizer's.
        mixed: whether it takes genes that are no real numbers.
        most_objectives: how many objectives it takes; None: any number.

    Raises:
        InvalidInputError: it does not solve such problems.
        ValueError: there is no start, or it leaves [0, 1].
    """
    start, num_objectives = problem.start, problem.num_objectives
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
    if num_objectives < 1:
        raise ValueError(f"expected at least 1 objective, got {num_objectives}")


def check_evaluation(evaluation: Evaluation, asked: int, num_objectives: int) -> None:
    """Raises ValueError unless this can be the answer to one of the first `asked` proposals."""
    trial, values, violation = evaluation.trial, evaluation.values, evaluation.violation
    if not 0 <= trial < asked:
        raise ValueError(f"trial {trial!r} was never proposed: {asked} proposals so far, numbered from 0")
    if values is None:
        return
    if not (math.isfinite(violation) and violation >= 0):
        raise ValueError(f"trial {trial}: expected a finite violation of 0 or more, got {violation!r}")
    if len(values) != num_objectives:
        raise ValueError(f"trial {trial}: expected {num_objectives} objective values, got {len(values)}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"trial {trial}: expected finite values (None when the candidate failed), got {values!r}")
