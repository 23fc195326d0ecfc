"""What a method requires of the models: from the cache, or collected now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.merge.calibration import activations, gradients, items, kinds, whole
from evomerge.merge.calibration.activations import Done, Named
from evomerge.merge.calibration.files import pin_file
from evomerge.merge.calibration.kinds import KINDS, MOMENT, Kind
from evomerge.merge.calibration.live import Live, load_live, tokenizer_of
from evomerge.merge.calibration.stored import key, stored
from evomerge.merge.plan import TensorJob
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.source import AdapterSource, Source
from evomerge.models.weights import Weights, open_weights
from evomerge.recipe.calibration import Calibration, FileRef

Progress = Callable[[str, int], None]
"""Told what is being collected, and how many items are done of it."""
MEMORY = 4 << 30
"""Bytes that sums may take while they are collected, beside the model itself."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose statistics are wanted.

    Attributes:
        digest: of its weights.
        source: None: the base.
    """

    digest: str
    source: Source | None


class Statistics:
    """What was collected for a recipe, mapped from disk."""

    def __init__(self, found: Mapping[str, Mapping[str, tuple[Weights | None, ...]]]) -> None:
        self._found = found

    def of(self, job: TensorJob) -> dict[str, dict[str, Tensor]]:
        """Source → kind → statistic, for one tensor; what a tensor has none of is missing."""
        every = {
            source: {kind: _read(KINDS[kind], parts, job) for kind, parts in found.items()}
            for source, found in self._found.items()
        }
        return {s: {kind: t for kind, t in found.items() if t is not None} for s, found in every.items()}


def _read(kind: Kind, parts: tuple[Weights | None, ...], job: TensorJob) -> Tensor | None:
    name = job.name
    if kind.per == "layer":
        behind = job.part.role.startswith(("norm.final", "head"))
        name = whole.layer_name(job.num_layers - 1 if behind else -1 if job.part.layer is None else job.part.layer)
    elif kind.per == "model":
        name = whole.MODEL
    read = [None if part is None else part.read(name) for part in parts if part is None or name in part.tensors]
    if not read:
        return None
    return torch.cat([torch.zeros(1) if tensor is None else tensor for tensor in read]) if len(read) > 1 else read[0]


@dataclass(frozen=True, slots=True)
class _Task:
    """One kind of one model on the items of one file; for distances, beside the model whose items they are."""

    kind: Kind
    model: Model
    items: FileRef
    other: Model | None = None


class Provider:
    """Collects statistics for the recipes over one base.

    Args:
        base, architecture: the open base model.
        digest: of the base's weights.
        cache: a directory that keeps what was collected; processes may share it.
        device: where models run.
        root: relative locations of items are under it.
        memory: see `MEMORY`.
        progress: told of every item.
    """

    def __init__(
        self,
        base: Checkpoint,
        architecture: Architecture,
        digest: str,
        cache: Path,
        *,
        device: str | torch.device = "cpu",
        root: Path = Path(),
        memory: int = MEMORY,
        progress: Progress | None = None,
    ) -> None:
        self.base, self.architecture = base, architecture
        self.cache, self.device, self.root = cache / "calibration", torch.device(device), root
        self.memory, self.progress = memory, progress
        self.own = Model(digest, None)
        """The base itself."""
        self._samples: dict[tuple[str, str | None, Path, int, int, int], list[items.Sample]] = {}
        self._opened: dict[str, Weights] = {}
        self._live: dict[str, Live] = {}

    def statistics(
        self, method: str, requires: frozenset[str], calibration: Calibration | None, models: Mapping[str, Model]
    ) -> Statistics:
        """What a method requires of the sources, collected where the cache lacks it.

        Args:
            method: its name, for messages.
            requires: kinds.
            models: source → model.

        Raises:
            InvalidInputError: the recipe does not say from what; names the field.
            HashMismatchError: the items are not the ones that the recipe names.
            CheckpointError, NonFiniteError: a model does not run, or gives NaN or infinity.
        """
        kinds.check_items(method, requires, calibration, models)
        if calibration is None:
            return Statistics({})
        try:
            return Statistics(
                {
                    source: {
                        kind: self._of(KINDS[kind], source, calibration, models)
                        for kind in sorted(kinds.kinds_of(requires, calibration, source))
                    }
                    for source in models
                }
            )
        finally:
            self._live.clear()

    def _of(
        self, kind: Kind, source: str, calibration: Calibration, models: Mapping[str, Model]
    ) -> tuple[Weights | None, ...]:
        model = self.own if kind.model == "base" else models[source]
        if kind.name == MOMENT:
            return (self._moments(calibration.moments[source], source),)
        if kind.items == "own":
            return (self._collected(_Task(kind, model, _items(calibration, source)), calibration),)
        if kind.name == "logit_distance":
            tasks = {j: _Task(kind, model, _items(calibration, j), models[j]) for j in sorted(models)}
            return tuple(None if j == source else self._collected(task, calibration) for j, task in tasks.items())
        files = dict.fromkeys(_items(calibration, j) for j in sorted(models))
        return tuple(self._collected(_Task(kind, model, file), calibration) for file in files)

    def _collected(self, task: _Task, calibration: Calibration) -> Weights:
        samples = self._encoded(task, calibration)
        digest = self._key(task, calibration, samples)
        if digest not in self._opened:
            what = task.model.source.name if task.model.source is not None else "base"
            self._opened[digest] = stored(
                self.cache, task.kind.name, digest, lambda: self._collect(task, calibration, samples), what
            )
        return self._opened[digest]

    def _key(self, task: _Task, calibration: Calibration, samples: list[items.Sample]) -> str:
        """Of all that the statistic depends on: weights, configs, tokens, formula and its options, tensors' names."""
        gradients = task.kind.gradients
        return key(
            {
                "kind": task.kind.name.removeprefix("base_"),
                "model": self.identity(task.model),
                "other": None if task.other is None else self.identity(task.other),
                "samples": items.digest(samples),
                "labels": [calibration.labels, calibration.seed if calibration.labels == "sampled" else 0]
                if gradients
                else [],
                "dtype": calibration.dtype,
                "names": sorted(self.architecture.parts),
            }
        )

    def samples(self, source: str, calibration: Calibration, models: Mapping[str, Model]) -> list[items.Sample]:
        """A source's items as its tokenizer reads them.

        Raises:
            InvalidInputError, HashMismatchError, CheckpointError: as `statistics`.
        """
        return self._encoded(_Task(KINDS["gram"], models[source], _items(calibration, source)), calibration)

    def identity(self, model: Model) -> list[str]:
        """Hashes of a model's weights and config, and of the base's where it is an adapter of it."""
        adapter = isinstance(model.source, AdapterSource)
        path = self.base.path if model.source is None or adapter else model.source.path
        config = hashlib.sha256((path / "config.json").read_bytes()).hexdigest()
        return [model.digest, config, self.own.digest if adapter else ""]

    def _encoded(self, task: _Task, calibration: Calibration) -> list[items.Sample]:
        reader = task.model if task.other is None else task.other
        path = self.base.path if reader.source is None else reader.source.path
        options = (calibration.number, calibration.max_tokens, calibration.seed)
        known = (task.items.location, task.items.sha256, path, *options)
        if known not in self._samples:
            file = Path(pin_file(task.items, "calibration items", self.root).location)
            texts = items.draw(items.read_texts(file), calibration.number, calibration.seed)
            tokenizer = tokenizer_of(reader.source, self.base)
            self._samples[known] = items.encode(tokenizer, texts, calibration.max_tokens, str(file))
        return self._samples[known]

    def _collect(self, task: _Task, calibration: Calibration, samples: list[items.Sample]) -> Named:
        live = self._loaded(task.model, calibration, keep=() if task.other is None else (task.other,))
        labels = gradients.Labels(calibration.labels == "sampled", calibration.seed)
        name, memory, done = task.kind.name.removeprefix("base_"), self.memory, self._done(task)
        if task.other is not None:
            other = self._loaded(task.other, calibration, keep=(task.model,))
            return whole.logit_distance(live, other, samples, done)
        if name in _ACTIVATIONS:
            return _ACTIVATIONS[name](live, samples, memory, done)
        if name in _GRADIENTS:
            return _GRADIENTS[name](live, samples, labels, memory, done)
        return _WHOLE[name](live, samples, done)

    def _loaded(self, model: Model, calibration: Calibration, keep: tuple[Model, ...]) -> Live:
        """The model that runs; others than those to keep are let go first."""
        for at in set(self._live) - {m.digest for m in (model, *keep)}:
            del self._live[at]
        if model.digest not in self._live:
            self._live[model.digest] = load_live(
                model.source, self.base, self.architecture, calibration.dtype, self.device
            )
        return self._live[model.digest]

    def _done(self, task: _Task) -> Done:
        count = 0
        what = f"{task.kind.name} of {task.model.source.name if task.model.source is not None else 'the base'}"

        def done() -> None:
            nonlocal count
            count += 1
            if self.progress is not None:
                self.progress(what, count)

        return done

    def _moments(self, file: FileRef, source: str) -> Weights:
        """The user's file, under the base's names."""
        path = Path(pin_file(file, f"calibration.moments.{source}", self.root).location)
        if path.suffix != ".safetensors":
            raise CheckpointError(f"{path}: expected a .safetensors file of second moments")
        opened = open_weights(path.parent, path.stem)
        named = {at: name for name in opened.tensors if (at := self.architecture.find(name)) is not None}
        return _Renamed(opened, named)


class _Renamed(Weights):
    """The same tensors under other names."""

    def __init__(self, weights: Weights, names: Mapping[str, str]) -> None:
        self._weights, self._names = weights, names
        self.tensors = {at: weights.tensors[name] for at, name in names.items()}

    def read(self, name: str) -> Tensor:
        """The tensor as stored."""
        return self._weights.read(self._names[name])

    def close(self) -> None:
        """Let the file go."""
        self._weights.close()


def _items(calibration: Calibration, source: str) -> FileRef:
    found = calibration.items_of(source)
    assert found is not None, "kinds.check_items refuses sources without items"
    return found


_ACTIVATIONS = {"gram": activations.gram, "features": activations.features}
_GRADIENTS = {
    "fisher": gradients.fisher,
    "saliency": gradients.saliency,
    "votes": gradients.votes,
    "output_gram": gradients.output_gram,
}
_WHOLE = {"hidden": whole.hidden, "loss": whole.loss}
