"""The tensors that coefficients multiply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evomerge.merge.blocks import TensorWork, blocks_of, measure_model, measure_tensor
from evomerge.merge.engine import one_thread_a_kernel
from evomerge.merge.method import VOCABULARY
from evomerge.merge.plan import Plan, TensorJob
from evomerge.recipe.schema import role_matches

Unit = Callable[[TensorJob, str], Mapping[str, Mapping[str, Tensor]]]
"""(job, source) → statistics under which the merge is θ0 plus that source's vector alone."""


@dataclass(frozen=True, slots=True)
class Atoms:
    """One tensor's.

    Attributes:
        job: of the tensor.
        base: θ0.
        vectors: source → the task vector as the method's stages leave it; zeros where the source leaves it alone.
        turned: whether these are transposed against what is stored.
    """

    job: TensorJob
    base: Tensor
    vectors: Mapping[str, Tensor]
    turned: bool

    @property
    def is_matrix(self) -> bool:
        """Whether it is a linear map inside the model, as `Block.kind` has it."""
        return self.base.dim() == 2 and not role_matches(self.job.part.role, VOCABULARY)

    def stored(self, tensor: Tensor) -> Tensor:
        """In the orientation that the model holds."""
        return tensor.t() if self.turned else tensor


def atoms_of(
    todo: Plan,
    works: Sequence[TensorWork],
    bases: Mapping[str, Tensor],
    unit: Unit,
    neutral: Mapping[str, float],
) -> dict[str, Atoms]:
    """Of every tensor that some source changes, in the order of the jobs.

    The merge is linear in its coefficients. So each vector is what the method itself makes of coefficients of one for
    a source and zero for all others: whatever its other stages do is in it.

    Args:
        works: the jobs' tensors, buffers left out.
        bases: tensor → θ0 as the model that runs holds it; the vectors take its dtype and device.
        neutral: parameters that scale the result alone, and the values at which they do not.
    """
    device = works[0].base.device if works else torch.device("cpu")
    with torch.no_grad(), one_thread_a_kernel():
        measured = measure_model(todo, lambda: works, device) if todo.measures == "model" else None
        return {
            work.job.name: _atoms(todo, work, measured, bases[work.job.name], unit, neutral)
            for work in works
            if work.job.changed and not work.job.copy
        }


def _atoms(
    todo: Plan,
    work: TensorWork,
    measured: Mapping[str, float] | None,
    base: Tensor,
    unit: Unit,
    neutral: Mapping[str, float],
) -> Atoms:
    found = measure_tensor(todo, work, work.base.device) if measured is None else measured
    turned = work.job.transposed and todo.method.grain_of(work.job.shared) == "tensor"
    shape = tuple(work.base.shape[::-1]) if turned else tuple(work.base.shape)
    parts: dict[str, list[Tensor]] = {source: [] for source in work.job.per_source}
    for block in blocks_of(todo, work, found, work.base.device):
        nothing = torch.zeros_like(block.base)
        shared = {name: neutral.get(name, value) for name, value in block.shared.items()}
        for source, vectors in parts.items():
            ones = {s: {k: t.to(nothing) for k, t in own.items()} for s, own in unit(work.job, source).items()}
            alone = replace(block, base=nothing, shared=shared, statistics=ones)
            vectors.append(todo.method.merge(alone).reshape(-1).to(base))
    whole = {source: torch.cat(pieces).view(shape) for source, pieces in parts.items()}
    return Atoms(work.job, base.detach().t() if turned else base.detach(), whole, turned)
