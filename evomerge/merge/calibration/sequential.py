"""Gram matrices of inputs that have come through layers that are merged already.

What a layer of the merged model sees is not what it saw in any source. So layers are merged one after the other: each
source's own layer reads its items through the merged layers below, then it is merged, and so on upwards. The matrices
therefore depend on the method's parameters, and every candidate of a search needs its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from evomerge.merge.blocks import TensorWork, merge_into
from evomerge.merge.calibration import items
from evomerge.merge.calibration.activations import Named
from evomerge.merge.calibration.entries import Found
from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.kinds import MERGED_GRAM
from evomerge.merge.calibration.live import Live, load_live
from evomerge.merge.calibration.provider import Model, Provider
from evomerge.merge.calibration.stored import key, stored
from evomerge.merge.engine import one_thread_a_kernel
from evomerge.merge.plan import Plan, TensorJob
from evomerge.models.weights import Weights
from evomerge.recipe.schema import Recipe


class _Seen(Exception):  # noqa: N818  # no error: it ends a forward pass that has shown all that was asked for
    """Every linear map that is looked at has been reached."""


def sequential_statistics(
    provider: Provider,
    recipe: Recipe,
    todo: Plan,
    work_of: Callable[[TensorJob], TensorWork],
    models: Mapping[str, Model],
) -> Callable[[TensorJob], Found]:
    """The statistics of each tensor for a method that requires `merged_gram`, from the cache or collected now.

    The model that runs has the base's config, as the merged model will have; there is one of it in memory, and every
    layer costs a pass over all items through the layers below it.

    Args:
        recipe: names method, parameters and items.
        todo: its plan.
        work_of: a job's tensors.
        models: source → model.

    Raises:
        InvalidInputError, HashMismatchError, CheckpointError, NonFiniteError: as `Provider.statistics`.
    """
    assert recipe.calibration is not None, "the plan refuses recipes without it"
    samples = {source: provider.samples(source, recipe.calibration, models) for source in models}
    document = {
        "kind": MERGED_GRAM,
        "models": {source: provider.identity(model) for source, model in models.items()},
        "base": provider.identity(provider.own),
        "samples": {source: items.digest(found) for source, found in samples.items()},
        "merge": recipe.canonical()["merge"],
        "dtypes": [recipe.calibration.dtype, recipe.dtype],
    }
    passes = _Passes(provider, recipe.calibration.dtype, todo, work_of, models, samples)
    found = stored(provider.cache, MERGED_GRAM, key(document), passes.grams, "the model in the making")
    return lambda job: _of(found, job, models)


def _of(found: Weights, job: TensorJob, models: Mapping[str, Model]) -> Found:
    names = {source: f"{source} {job.name}" for source in models}
    return {source: {MERGED_GRAM: found.read(name)} if name in found.tensors else {} for source, name in names.items()}


class _Passes:
    """One model whose layers become merged ones from below."""

    def __init__(
        self,
        provider: Provider,
        dtype: str,
        todo: Plan,
        work_of: Callable[[TensorJob], TensorWork],
        models: Mapping[str, Model],
        samples: Mapping[str, Sequence[Sample]],
    ) -> None:
        self._provider, self._dtype, self._todo, self._work_of = provider, dtype, todo, work_of
        self._models, self._samples = models, samples

    def grams(self) -> Named:
        """`<source> <tensor>` and its matrix, layer by layer."""
        provider = self._provider
        live = load_live(None, provider.base, provider.architecture, self._dtype, provider.device)
        jobs = [job for job in self._todo.jobs if not job.buffer]
        self._merge(live, [job for job in jobs if job.part.layer is None], {})
        for layer in range(provider.architecture.num_layers):
            here = [job for job in jobs if job.part.layer == layer]
            linears = [job.name for job in here if job.name in live.linears]
            found: dict[str, dict[str, Tensor]] = {}
            for source, model in self._models.items():
                self._restore(live, model, here)
                found[source] = _grams(live, self._samples[source], linears)
                for name, gram in found[source].items():
                    yield f"{source} {name}", gram
            self._merge(live, here, found)

    def _restore(self, live: Live, model: Model, jobs: Sequence[TensorJob]) -> None:
        """Give a layer the weights that a source has there."""
        for job in jobs:
            base = self._provider.base.read(job.name)
            changed = model.source is not None and job.name in model.source.changed
            weights = model.source.weights(job.name) if model.source is not None and changed else base
            live.parameters[job.name].data.copy_(weights)

    def _merge(self, live: Live, jobs: Sequence[TensorJob], found: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give a layer the weights that the merged model will have there."""
        for job in jobs:
            here = {s: {MERGED_GRAM: g[job.name]} if job.name in g else {} for s, g in found.items()}
            work = replace(self._work_of(job), statistics=here)
            result = torch.empty(work.base.shape, dtype=job.dtype, device=work.base.device)
            with one_thread_a_kernel():
                merge_into(result, self._todo, work, None)
            live.parameters[job.name].data.copy_(result)


def _grams(live: Live, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, Tensor]:
    """XᵀX/n of these linear maps; the rest of the model is not run."""
    sums: dict[str, Tensor] = {}
    tokens = 0
    for sample in samples:
        tokens += len(sample.ids)
        for name, x in _inputs(live, sample, names):
            wide = x.double()
            sums[name] = torch.addmm(sums[name], wide.T, wide) if name in sums else wide.T @ wide
    return {name: (total / tokens).float().cpu() for name, total in sums.items()}


def _inputs(live: Live, sample: Sample, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The inputs of linear maps, (tokens × in)."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        def keep(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen[name] = arguments[0].reshape(-1, arguments[0].shape[-1])
            if len(seen) == len(names):
                raise _Seen

        return keep

    handles = [live.linears[name].register_forward_pre_hook(hook(name)) for name in names]
    try:
        with torch.no_grad():
            live.logits(sample)
    except _Seen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    yield from seen.items()
