"""Steps down a loss in the coefficients.

A step makes the merged weights once, lets every item add its gradient by these weights, and pulls the sum back to the
coefficients tensor by tensor: it holds the weights, their gradients and the graph of one item at a time, however many
items a step has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.learn import items
from evomerge.merge.calibration.learn.adam import Adam, Steps
from evomerge.merge.calibration.learn.gates import Gates
from evomerge.merge.calibration.learn.losses import Objective
from evomerge.merge.calibration.learn.student import Student, Weights


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be made small.

    Attributes:
        student: runs.
        objective: the loss of an item.
        samples: source → items; their mean losses are added up over the sources.
        names: tensors that have coefficients.
    """

    student: Student
    objective: Objective
    samples: Mapping[str, Sequence[Sample]]
    names: Sequence[str]

    def gradients(self, weights: Weights, batches: Mapping[str, Sequence[Sample]]) -> tuple[float, dict[str, Tensor]]:
        """The loss, and its gradient by each of the weights."""
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        loss = self.student.loss(leaves, batches, self.objective)
        return loss, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def backward(problem: Problem, gates: Gates, batches: Mapping[str, Sequence[Sample]]) -> float:
    """The loss with its penalty; adds their gradient to `grad` of the gates' parameters."""
    with torch.no_grad():
        weights = {name: gates.weights(name) for name in problem.names}
    loss, gradients = problem.gradients(weights, batches)
    del weights
    for name in problem.names:
        made = gates.weights(name)
        if name in gradients and made.requires_grad:
            made.backward(gradients.pop(name))  # type: ignore[no-untyped-call]
    penalty = gates.penalty()
    if penalty is None:
        return loss
    if penalty.requires_grad:
        penalty.backward()  # type: ignore[no-untyped-call]
    return loss + float(penalty.detach())


def descend(
    problem: Problem, gates: Gates, adam: Adam, *, steps: int, batch: int, seed: int, done: Callable[[], None]
) -> None:
    """Move the gates' parameters, in place."""
    if not gates.parameters:
        return
    optimizer = Steps(adam, gates.parameters)
    for step in range(steps):
        batches = {s: items.batch(own, step, batch, seed) for s, own in problem.samples.items()}
        gates.at(step)
        backward(problem, gates, batches)
        optimizer.step()
        done()
