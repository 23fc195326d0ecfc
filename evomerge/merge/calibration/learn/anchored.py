"""Scales that fit functional dual anchors: from the cache, or learned now.

Anchors depend on the base and a source alone, and are dear; scales depend on the initial merge as well. So each is kept
by itself: recipes that differ in how they merge share the anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.blocks import TensorWork, blocks_of, measure_model, measure_tensor
from evomerge.merge.calibration.activations import Named
from evomerge.merge.calibration.entries import Found
from evomerge.merge.calibration.kinds import ALL, ANCHORED
from evomerge.merge.calibration.learn.anchors import Adaptation, Search, anchors_of, initial, scales_of
from evomerge.merge.calibration.learn.learned import uniform
from evomerge.merge.calibration.learn.mlp import Mlp, mlps_of
from evomerge.merge.calibration.provider import Model, Provider
from evomerge.merge.calibration.stored import key, stored
from evomerge.merge.engine import one_thread_a_kernel
from evomerge.merge.method import Values
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives.weights import number
from evomerge.models.weights import Weights
from evomerge.recipe.schema import Recipe

ANCHORS = "anchors"
"""Kind under which anchors lie in the cache."""
SEARCH = ("anchors", "initial", "spread", "steps", "learning_rate")
"""Parameters of the anchors' search; one value each for all tensors."""
ADAPTATION = ("match", "epochs", "batch", "adaptation_rate")
"""Parameters of the scales' adaptation; likewise."""
_EPOCHS = "epochs"
"""Name under which their number lies beside the scales, so that a file of none at all has a tensor, too."""


def anchored_statistics(
    provider: Provider,
    recipe: Recipe,
    todo: Plan,
    work_of: Callable[[TensorJob], TensorWork],
    models: Mapping[str, Model],
) -> Callable[[TensorJob], Found]:
    """The scales of each tensor of the layers' MLPs; none for all others, and none with no epochs.

    In memory is one layer's MLP at a time, of base, sources and merge, in float32; no model runs as a whole. What is
    computed on a CPU takes one thread, and its bits do not depend on how many there are.

    Args:
        recipe: names the method.
        todo: its plan.
        work_of: a job's tensors.
        models: source → model.

    Raises:
        InvalidInputError: a parameter of the learning differs between tensors, or the chain reads adapters' factors.
        ArchitectureError: no layer has an MLP of its own.
        CheckpointError, NonFiniteError: as `Provider.statistics`.
    """
    if todo.method.factored:
        raise InvalidInputError("merge.pipeline", todo.method.name, "no stages that read factors of adapters")
    jobs = {job.name: job for job in todo.jobs if not job.buffer}
    values = uniform((*SEARCH, *ADAPTATION), list(jobs.values()))
    adaptation = _adaptation(values, todo.seed)
    if not any(job.changed and not job.copy for job in jobs.values()) or not adaptation.epochs:
        return lambda job: {}
    learning = _Learning(provider, todo, work_of, models, jobs, mlps_of(provider.base.path, provider.architecture))
    document = {
        "kind": ANCHORED,
        "method": list(recipe.merge.pipeline or (todo.method.name,)),
        "models": {source: provider.identity(model) for source, model in models.items()},
        "base": provider.identity(provider.own),
        "jobs": [_document(job) for job in jobs.values()],
        "seed": todo.seed,
    }
    search = _search(values, todo.seed)
    found = stored(
        provider.cache, ANCHORED, key(document), lambda: learning.scales(search, adaptation), "the merged model"
    )
    return lambda job: {ALL: {ANCHORED: found.read(job.name)}} if job.name in found.tensors else {}


@dataclass(frozen=True, slots=True)
class _Tensors:
    """One layer's: θ0, each source's and the initial merge, as stored, float32."""

    base: Mapping[str, Tensor]
    sources: Mapping[str, Mapping[str, Tensor]]
    merged: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Learning:
    provider: Provider
    todo: Plan
    work_of: Callable[[TensorJob], TensorWork]
    models: Mapping[str, Model]
    jobs: Mapping[str, TensorJob]
    mlps: list[Mlp]

    def scales(self, search: Search, how: Adaptation) -> Named:
        """Tensor → its scales."""
        done = self._done("epochs of anchored scales")
        yield _EPOCHS, torch.tensor([float(how.epochs)])
        with one_thread_a_kernel():
            kept = {source: self._anchors(source, search) for source in self.models}
            for mlp, tensors in self._layers():
                targets = []
                for source, own in tensors.sources.items():
                    anchors = kept[source].read(_name(mlp)).to(self.provider.device)
                    if len(anchors):
                        with torch.no_grad():
                            targets.append((anchors, mlp(own, anchors)))
                if targets:
                    for name, scale in scales_of(mlp, tensors.base, tensors.merged, targets, how, done).items():
                        yield name, scale.cpu()

    def _anchors(self, source: str, how: Search) -> Weights:
        """A source's, by layer."""
        document = {
            "kind": ANCHORS,
            "model": self.provider.identity(self.models[source]),
            "base": self.provider.identity(self.provider.own),
            "names": sorted(self.provider.architecture.parts),
            "search": [how.number, how.initial, how.spread, how.steps, how.rate, how.seed],
        }
        done = self._done(f"steps of anchors of {source}")

        def collect() -> Named:
            for mlp, tensors in self._layers():
                own = tensors.sources[source]
                start = initial(mlp, own, how).to(self.provider.device)
                yield _name(mlp), anchors_of(mlp, tensors.base, own, start, how, done).cpu()

        return stored(self.provider.cache, ANCHORS, key(document), collect, source)

    def _layers(self) -> Iterator[tuple[Mlp, _Tensors]]:
        device = self.provider.device
        measured: Mapping[str, float] | None = None
        if self.todo.measures == "model":
            works = [self.work_of(job) for job in self.jobs.values()]
            measured = measure_model(self.todo, lambda: works, device)
        for mlp in self.mlps:
            with torch.no_grad():
                parts = {name: self._tensor(self.jobs[name], measured) for name in mlp.names}
            yield (
                mlp,
                _Tensors(
                    {name: part[0] for name, part in parts.items()},
                    {source: {name: part[1][source] for name, part in parts.items()} for source in self.models},
                    {name: part[2] for name, part in parts.items()},
                ),
            )

    def _tensor(self, job: TensorJob, measured: Mapping[str, float] | None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """θ0, each source's θ and the initial merge: the method without scales."""
        work, device = self.work_of(job), self.provider.device
        found = measure_tensor(self.todo, work, device) if measured is None else measured
        merge = (lambda block: block.base) if job.copy else self.todo.method.merge
        blocks = [(block, merge(block)) for block in blocks_of(self.todo, work, found, device)]
        turned = job.transposed and self.todo.method.grain_of(job.shared) == "tensor"

        def whole(parts: list[Tensor]) -> Tensor:
            if turned:
                return parts[0].t().contiguous()
            return torch.cat([part.reshape(-1) for part in parts]).view(work.base.shape)

        base = whole([block.base for block, _ in blocks])
        sources = {}
        for source in self.models:
            deltas = [block.deltas.get(source) for block, _ in blocks]
            sources[source] = base + whole([d for d in deltas if d is not None]) if deltas[0] is not None else base
        return base, sources, whole([merged for _, merged in blocks])

    def _done(self, what: str) -> Callable[[], None]:
        count = 0

        def done() -> None:
            nonlocal count
            count += 1
            if self.provider.progress is not None:
                self.provider.progress(what, count)

        return done


def _name(mlp: Mlp) -> str:
    return f"layer {mlp.layer}"


def _document(job: TensorJob) -> list[object]:
    """What the initial merge of a tensor and the learning depend on."""
    return [job.name, dict(job.shared), {s: dict(v) for s, v in job.per_source.items()}, list(job.changed), job.copy]


def _search(values: Values, seed: int) -> Search:
    return Search(
        int(number(values, "anchors")),
        str(values["initial"]),
        number(values, "spread"),
        int(number(values, "steps")),
        number(values, "learning_rate"),
        seed,
    )


def _adaptation(values: Values, seed: int) -> Adaptation:
    return Adaptation(
        str(values["match"]),
        int(number(values, "epochs")),
        int(number(values, "batch")),
        number(values, "adaptation_rate"),
        seed,
    )
