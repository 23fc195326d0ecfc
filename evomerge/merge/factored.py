"""LoRA factors for methods that work on them: which tensors have them, and who has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evomerge.errors import InvalidInputError
from evomerge.merge.plan import Plan, TensorJob
from evomerge.models.factors import Factors
from evomerge.models.source import Source
from evomerge.models.weights import some


def with_factors(todo: Plan, sources: Mapping[str, Source | None]) -> Plan:
    """A plan whose jobs say where factors are read; the plan itself where its method needs none.

    Args:
        sources: name → what it is; None for the base itself, which changes nothing.

    Raises:
        InvalidInputError: the method works on LoRA factors, and a source is no LoRA adapter or has no factors for a
            tensor for which another has them.
    """
    if not todo.method.factored:
        return todo
    if any(job.origin is not None for job in todo.jobs):
        raise InvalidInputError(
            "slices", "slices", f"no slices with method {todo.method.name}, which reads LoRA factors"
        )
    for name, source in sources.items():
        if source is not None and source.changed and not source.factored:
            allowed = f"a LoRA adapter: {todo.method.name} works on LoRA factors, and this source has none"
            raise InvalidInputError(f"sources.{name}", str(source.path), allowed)
    return replace(todo, jobs=tuple(_with_factors(job, todo, sources) for job in todo.jobs))


def _with_factors(job: TensorJob, todo: Plan, sources: Mapping[str, Source | None]) -> TensorJob:
    changing = {name: source for name in job.changed if (source := sources[name]) is not None}
    lacking = sorted(name for name, source in changing.items() if job.name not in source.factored)
    if job.copy or len(lacking) == len(changing):
        return job
    if lacking:
        allowed = f"LoRA factors of {job.name!r} from all sources that change it, for {todo.method.name}"
        raise InvalidInputError(f"sources.{lacking[0]}", str(changing[lacking[0]].path), f"{allowed} ({some(lacking)})")
    return replace(job, factored=True, rank=sum(source.factored[job.name] for source in changing.values()))


def factors_of(job: TensorJob, sources: Mapping[str, Source | None]) -> dict[str, Factors]:
    """Source name → its factors of a tensor as (out × in), of the sources that change it.

    Raises:
        NonFiniteError: one holds NaN or infinity.
    """
    found = {}
    for name in job.changed:
        source = sources[name]
        assert source is not None, "the base changes nothing"
        factors = source.factors(job.name, transposed=job.transposed)
        assert factors is not None, f"{name} has factors of {job.name}"
        found[name] = factors
    return found
