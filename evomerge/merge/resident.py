"""Recipes to weights of a live model, in place: what a worker does for every candidate.

The base and the sources stay mapped, the model's parameters are overwritten block by block, and tensors that a recipe
leaves as they are in the base are not touched. The bytes are those of `merge_to_directory`: both run `merge_into` on
the same operands.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.blocks import Operand, TensorWork, measure_model, merge_into
from evomerge.merge.calibration.dependent import DEPENDENT, dependent_statistics
from evomerge.merge.calibration.entries import Found
from evomerge.merge.calibration.provider import Model, Provider
from evomerge.merge.engine import kept_memory, one_thread_a_kernel
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.factored import factors_of, with_factors
from evomerge.merge.flow.live import LivePaths
from evomerge.merge.folded import delta_key, exclusive, folded
from evomerge.merge.inputs import open_inputs
from evomerge.merge.placing import live_tensors, place_through_files
from evomerge.merge.plan import DTYPES, Plan, TensorJob, plan
from evomerge.merge.projection import Projection
from evomerge.merge.resolve import pin
from evomerge.merge.sidecar import of_vocabulary, write_tokenizer
from evomerge.merge.slices import sliced_config
from evomerge.merge.vocabularies import SAME
from evomerge.merge.vocabulary import BASE
from evomerge.models.checkpoint import Checkpoint, content_hash
from evomerge.models.family import BUFFER
from evomerge.models.finite import check_finite
from evomerge.models.source import AdapterSource, Source
from evomerge.models.weights import read_json
from evomerge.recipe.schema import ModelRef, Recipe
from evomerge.recipe.shared import VOCABULARY
from evomerge.recipe.slices import Slice
from evomerge.recipe.text import load_recipe


class Resident:
    """A live model that becomes one recipe after another.

    Args:
        recipe: any recipe of the search: its base, sources (absolute locations) and dtype are kept; later recipes may
            use those sources in any selection, under any name.
        device: where the model lives.
        cache: folder shared by the workers of this machine, for adapters' deltas and for sources that are recipes;
            without one they are made anew for this object.

    Raises:
        CheckpointError, ArchitectureError, NonFiniteError: the models cannot be opened, do not fit together or hold
            NaN or infinity.
    """

    def __init__(self, recipe: Recipe, *, device: str = "cpu", cache: Path | None = None) -> None:
        self._cache = self._scratch() if cache is None else cache
        self._recipe, self._device = recipe, torch.device(device)
        self._inputs = open_inputs(recipe, Path(), self._built, self._cache)
        self._base = {name: self._inputs.base.read(name).contiguous() for name in self._inputs.base.tensors}
        self._operands = {name: self._operands_of(name, source) for name, source in self._inputs.sources.items()}
        self._check_base()
        self.model = self._load_model()
        self._live = live_tensors(self.model, self._inputs.architecture, self._inputs.base.path, self._base)
        self._dirty = set(self._live)
        """Live tensors that may differ from the base."""
        self._placed: Recipe | None = None
        """What the live model's own layers are at present."""
        self.version = 0
        """Another number for every recipe that was asked for."""
        self.on_path = False
        """Whether tokens take another way through the layers than the model's own."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the live model's own layers, not copied, under the names of the base's files.

        Raises:
            ArchitectureError: the live model's tensors are not those of the files.
        """
        if not self._live:
            family = self._inputs.architecture.family
            raise ArchitectureError(f"weights of {family}: transformers gives it other tensors than its files have")
        yield from self._live.items()

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of what the recipes give, from transformers."""
        if self._inputs.vocabulary is None and self._host is None:
            return AutoTokenizer.from_pretrained(self._inputs.base.path, local_files_only=True)
        out = self._scratch()
        write_tokenizer(self._recipe, self._places, self._inputs.vocabulary, None, out)
        return AutoTokenizer.from_pretrained(out, local_files_only=True)

    @property
    def _host(self) -> str | None:
        return None if self._recipe.carry is None else self._recipe.carry.host

    @property
    def _places(self) -> dict[str, Path]:
        return {BASE: self._inputs.base.path, **{name: source.path for name, source in self._inputs.sources.items()}}

    def materialize(self, recipe: Recipe) -> None:
        """Make the live model that of a recipe; nothing of earlier ones is left.

        Weights are written in place; a path takes no weights: the layers that it visits take the live model's places.

        Raises:
            InvalidInputError: the recipe is illegal, or names a base, source or dtype that is not resident.
            NonFiniteError: NaN or infinity came out. The model is then half of this recipe; the next one mends it.
        """
        path, part = recipe.path, recipe.parameter_part.model_copy(update={"provenance": {}})
        resident = self._resident_names(recipe)
        self.version += 1
        self.on_path = path is not None
        if path is None:
            self._leave_path()
        if path is None or (path.uses_merged and part != self._placed):
            self._placed = None
            self._place(part, resident)
            self._placed = part
        if path is not None:
            self._paths.follow(path, resident)

    def projection(self) -> Projection:
        """Takes derivatives by the live model's weights to derivatives by its sources' coefficients.

        Sources by their resident names. The live model must not be on a path.

        Raises:
            ArchitectureError: the live model's tensors are not those of the files.
        """
        if not self._live:
            family = self._inputs.architecture.family
            raise ArchitectureError(f"gradients of {family}: transformers gives it other tensors than its files have")
        return Projection(self.model, self._inputs.architecture, self._base, self._operands)

    def _leave_path(self) -> None:
        if "_paths" in self.__dict__:  # no recipe before this one had any
            self._paths.leave()

    @cached_property
    def _paths(self) -> LivePaths:
        configs: dict[str | None, Mapping[str, Any]] = {None: self._inputs.base.config}
        for name, source in self._inputs.sources.items():
            if not isinstance(source, AdapterSource):
                configs[name] = read_json(source.path / "config.json")
        dtype = DTYPES[self._recipe.dtype]
        return LivePaths(self.model, self._inputs.architecture, configs, self._resident_weights, dtype, self._device)

    def _resident_weights(self, at: str | None, tensor: str) -> Tensor:
        return self._operand(at, tensor, None).tensor

    def _place(self, recipe: Recipe, resident: Mapping[str, str | None]) -> None:
        """Write the weights of a recipe without a path into the live model's own layers."""
        self._check_depth(recipe)
        if not self._live:
            place_through_files(self.model, recipe, self._room)
            return
        changed = {name: self._inputs.sources[at].changed if at else frozenset() for name, at in resident.items()}
        todo = plan(recipe, self._inputs.base.tensors, self._inputs.architecture, changed)
        todo = with_factors(todo, {name: self._source(at) for name, at in resident.items()})
        statistics = self._statistics(recipe, todo, resident)
        works = {job.name: self._work(job, resident, statistics) for job in todo.jobs}
        measured = self._measured(todo, works)
        threads = self._threads if todo.grain == "entry" else 1  # whole tensors take memory, one at a time
        with one_thread_a_kernel(), kept_memory(), ThreadPoolExecutor(threads, "materialize") as pool:
            for _ in pool.map(lambda job: self._materialize(job, works[job.name], todo, measured), todo.jobs):
                pass

    @property
    def _threads(self) -> int:
        """Tensors at a time: as many as the threads that this process gives to one kernel of torch."""
        return torch.get_num_threads() if self._device.type == "cpu" else 1

    @torch.no_grad()
    def _materialize(self, job: TensorJob, work: TensorWork, todo: Plan, measured: Mapping[str, float] | None) -> None:
        as_base = job.copy and job.theta0 == job.name
        if job.name not in self._live or (as_base and job.name not in self._dirty):
            return
        self._dirty.add(job.name)
        merge_into(self._live[job.name], todo, work, measured)
        if as_base:
            self._dirty.discard(job.name)

    def _measured(self, todo: Plan, works: Mapping[str, TensorWork]) -> Mapping[str, float] | None:
        if todo.measures != "model":
            return None
        threads = self._threads
        with one_thread_a_kernel(), kept_memory():
            return measure_model(todo, lambda: works.values(), self._device, threads)

    def _source(self, at: str | None) -> Source | None:
        return None if at is None else self._inputs.sources[at]

    def _statistics(
        self, recipe: Recipe, todo: Plan, resident: Mapping[str, str | None]
    ) -> Callable[[TensorJob], Found]:
        """What the method requires, collected by the first recipe that asks for it."""
        if not todo.method.requires:
            return lambda job: {}
        models = {name: self._calibrated(at) for name, at in resident.items()}
        if todo.method.requires & DEPENDENT:

            def work_of(job: TensorJob) -> TensorWork:
                return self._work(job, resident, lambda job: {})

            return dependent_statistics(self._provider, recipe, todo, work_of, models)
        return self._provider.statistics(todo.method.name, todo.method.requires, recipe.calibration, models).of

    @cached_property
    def _provider(self) -> Provider:
        base = self._inputs.base
        assert isinstance(base, Checkpoint), "recipes with a calibration keep the base's vocabulary"
        digest = self._recipe.base.sha256 or content_hash(base.path)
        return Provider(base, self._inputs.architecture, digest, self._cache, device=self._device)

    def _calibrated(self, at: str | None) -> Model:
        if at is None:
            return self._provider.own
        source = self._inputs.sources[at]
        return Model(self._recipe.sources[at].sha256 or content_hash(source.path), source)

    def _work(
        self, job: TensorJob, resident: Mapping[str, str | None], statistics: Callable[[TensorJob], Found]
    ) -> TensorWork:
        if job.factored:
            found = factors_of(job, {name: self._source(resident[name]) for name in job.changed})
            here = {name: factors.to(self._device) for name, factors in found.items()}
            return TensorWork(job, self._base[job.name], {}, factors=here)
        operands = {name: self._operand(resident[name], job.tensor_of(name), job.theta0) for name in job.changed}
        theta0 = job.theta0
        base = self._base[theta0] if theta0 is not None else operands[job.changed[0]].tensor
        return TensorWork(job, base, operands, {} if job.buffer else statistics(job))

    def _operand(self, source: str | None, tensor: str, theta0: str | None) -> Operand:
        """A resident source's tensor; the base's own where the source (None: it is the base) leaves it alone."""
        operand = self._operands[source].get(tensor) if source is not None else None
        if operand is None:
            return Operand("weights", self._base[tensor])
        if operand.kind == "delta" and tensor != theta0:  # a slice takes it from another layer than θ0
            return Operand("weights", operand.tensor + self._base[tensor].float())
        return operand

    def _check_depth(self, recipe: Recipe) -> None:
        """Slices may stack what they like, but the live model's layers cannot change in number or kind."""
        config = self._inputs.base.config
        if recipe.slices is not None and sliced_config(config, recipe.slices) != sliced_config(config, self._whole()):
            depth = self._inputs.architecture.num_layers
            allowed = f"{depth} layers of the base's kinds: a live model keeps its layers; merge to a directory instead"
            raise InvalidInputError("slices", f"{sum(p.num_layers for p in recipe.slices)} layers", allowed)

    def _whole(self) -> tuple[Slice, ...]:
        return (Slice(base=(0, self._inputs.architecture.num_layers - 1)),)

    def _resident_names(self, recipe: Recipe) -> dict[str, str | None]:
        """Source name in `recipe` → name of the resident source that it is; None for the base itself."""
        if not _same(recipe.base, self._recipe.base):
            raise InvalidInputError("base", recipe.base.location, f"the resident base {self._recipe.base.location}")
        if recipe.dtype != self._recipe.dtype:
            raise InvalidInputError("dtype", recipe.dtype, f"the resident model's {self._recipe.dtype}")
        for field, resident in _vocabulary(self._recipe).items():
            if (found := _vocabulary(recipe)[field]) != resident:
                raise InvalidInputError(field, found, f"{resident!r}, as in the resident model")
        return {name: self._resident_name(name, ref, recipe) for name, ref in recipe.sources.items()}

    def _resident_name(self, name: str, ref: ModelRef, recipe: Recipe) -> str | None:
        align = (recipe.align or {}).get(name)
        for at, resident in self._recipe.sources.items():
            if _same(ref, resident) and align == (self._recipe.align or {}).get(at):
                return at
        if _same(ref, self._recipe.base):
            return None
        known = ", ".join(f"{n} ({r.location})" for n, r in self._recipe.sources.items())
        raise InvalidInputError(f"sources.{name}", ref.location, f"one of the resident sources: {known}")

    def _operands_of(self, name: str, source: Source) -> dict[str, Operand]:
        if isinstance(source, AdapterSource):
            deltas = folded(source, self._delta_digest(name, source), self._inputs.shapes, self._cache)
            return {at: Operand("delta", delta.to(self._device)) for at, delta in deltas.items()}
        return {
            at: Operand("weights", source.weights(at).contiguous().to(self._device)) for at in sorted(source.changed)
        }

    def _delta_digest(self, name: str, source: Source) -> str:
        own = self._recipe.sources[name].sha256 or content_hash(source.path)
        return delta_key(source, own, lambda: self._recipe.base.sha256 or content_hash(self._inputs.base.path))

    def _check_base(self) -> None:
        for name, tensor in self._base.items():
            if self._inputs.architecture.parts[name].role != BUFFER:
                check_finite(tensor, name, f"the base model ({self._inputs.base.path})")
        self._base = {name: tensor.to(self._device) for name, tensor in self._base.items()}

    def _load_model(self) -> Any:
        dtype = DTYPES[self._recipe.dtype]
        model: Any = AutoModelForCausalLM.from_pretrained(self._inputs.base.path, dtype=dtype, local_files_only=True)
        self._adapt(model)
        model.requires_grad_(False)
        model.train(False)
        return model.to(self._device)

    def _adapt(self, model: Any) -> None:
        """To the vocabulary of what the recipes give: its rows, which the first one fills, and its special tokens."""
        vocabulary = self._inputs.vocabulary
        donor = self._host if vocabulary is None else vocabulary.donor
        if vocabulary is not None:
            model.resize_token_embeddings(vocabulary.num_rows, mean_resizing=False)
        if donor not in (None, BASE):
            place = self._places[donor]
            for key, value in of_vocabulary(vocabulary, place).items():
                setattr(model.config, key, value)
            if (place / "generation_config.json").exists():
                model.generation_config = GenerationConfig.from_pretrained(place, local_files_only=True)

    @cached_property
    def _room(self) -> Path:
        return self._scratch()

    def _scratch(self) -> Path:
        """A folder that goes with this object; mappings of files in it stay valid."""
        path = Path(tempfile.mkdtemp(prefix="evomerge-"))
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return path

    def _built(self, path: Path) -> Path:
        """The model of a recipe that is a source, built once for all workers that share the cache."""
        recipe = pin(load_recipe(path), path.parent)
        self._cache.mkdir(parents=True, exist_ok=True)
        out = self._cache / f"merged-{recipe.digest}"
        with exclusive(out.with_suffix(".lock")):
            if not out.exists():
                merge_to_directory(recipe, out, root=path.parent, check_hashes=False)
        return out


def _vocabulary(recipe: Recipe) -> dict[str, Any]:
    """What decides the rows of embedding and head."""
    said = {name: getattr(recipe, name) for name in VOCABULARY}
    return {**said, "tokenizer": BASE if recipe.tokenizer == SAME else recipe.tokenizer}


def _same(a: ModelRef, b: ModelRef) -> bool:
    """Whether two references mean one model: by content where both say it, else by place."""
    if a.sha256 is not None and b.sha256 is not None:
        return a.sha256 == b.sha256
    return (a.location, a.revision) == (b.location, b.revision)
