"""What every optimizer refuses, before it changes anything."""

from __future__ import annotations

import math

from evomerge.candidate import Evaluation, Genome


def check_problem(start: Genome, num_objectives: int) -> None:
    """Raises ValueError unless there is something to search."""
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
