"""One worker: the source models resident on one device, candidates built in place and scored. Whatever goes wrong with
a job comes back as a `Failure`, so that a search never dies of one candidate."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from evomerge.errors import EvomergeError, Failure, FailureReason, NonFiniteError
from evomerge.merge.projection import Products
from evomerge.merge.resident import Resident
from evomerge.recipe.written import read
from fitness.answer_metrics import Measure
from fitness.evaluator import Reference, Responses, Slopes, joined
from fitness.failures import failure_of
from fitness.generation import Engine, longest
from fitness.gradient import backward
from fitness.items import EvalSet, load_eval_set
from fitness.judge import load_judges
from fitness.known import completed, unknown
from fitness.metrics import kind_of
from fitness.racing import Race
from fitness.requirements import check_engine
from fitness.sandbox import CodePasses, Sandbox
from fitness.scorer import ItemScorer, make_scorer
from workers.experts import references
from workers.job import Job, JobResult, WorkerSpec

log = logging.getLogger(__name__)

# A CUDA error other than a full memory leaves the process without a usable device. Older torch has no class for it.
_DEVICE_ERROR: type[Exception] | tuple[()] = getattr(torch, "AcceleratorError", ())


@dataclass(frozen=True, slots=True)
class _Loaded:
    resident: Resident
    scorer: ItemScorer
    eval_sets: dict[str, EvalSet]
    metrics: dict[str, tuple[str, ...]]
    references: dict[str, dict[str, Reference]]


class Worker:
    """Holds the models of one run. Loads them at `start` or with the first job.

    Args:
        spec: what to keep resident.
        name: for results and logs.
    """

    def __init__(self, spec: WorkerSpec, name: str) -> None:
        self.name = name
        self._spec = replace(spec, device=device_of(spec.device))
        self._loaded: _Loaded | None = None

    def start(self) -> Failure | None:
        """Load models and eval sets now; what went wrong, if anything. The next job tries again."""
        try:
            self._load()
        except Exception as error:
            return _failure(error)
        return None

    def run(self, job: Job) -> JobResult:
        """Build and score one candidate."""
        seconds: dict[str, float] = {}
        try:
            loaded = self._load()
            began = time.perf_counter()
            if job.slopes or any(unknown(ids, job.known.get(name)) for name, ids in job.items.items()):
                loaded.resident.materialize(read(job.recipe))
            seconds["materialize"] = time.perf_counter() - began
            began = time.perf_counter()
            if job.race is None:
                outcome, lost_at = _score(loaded, job.items, job.known), None
            else:
                outcome, lost_at = _run_race(loaded, job.race, job.known)
            seconds["score"] = time.perf_counter() - began
            products: tuple[Products, ...] = ()
            if job.slopes and not isinstance(outcome, Failure):
                began = time.perf_counter()
                products = tuple(_products(loaded, slopes) for slopes in job.slopes)
                seconds["gradient"] = time.perf_counter() - began
        except Exception as error:
            outcome = _failure(error)
        if isinstance(outcome, Failure):
            return JobResult(job.number, failure=outcome, seconds=seconds, worker=self.name)
        known = sum(len(r.item_ids) - len(unknown(r.item_ids, job.known.get(n))) for n, r in outcome.items())
        return JobResult(
            job.number, responses=outcome, seconds=seconds, worker=self.name, fidelity=lost_at, products=products,
            known=known,
        )  # fmt: skip

    def _load(self) -> _Loaded:
        torch.set_num_threads(self._spec.threads)
        disable_progress_bar()  # type: ignore[no-untyped-call]
        if self._loaded is None:
            spec = self._spec
            sets = {name: load_eval_set(name, Path(path)) for name, path in spec.eval_sets.items()}
            resident = Resident(spec.recipe, device=spec.device, cache=Path(spec.cache) if spec.cache else None)
            scorer = make_scorer(
                resident.model, resident.tokenizer, batch_tokens=spec.batch_tokens, device=spec.device,
                measures=_measures(spec), engine=_engine(spec, resident, sets),
            )  # fmt: skip
            for eval_set in sets.values():
                scorer.expect(eval_set.items)
            beside = references(resident, scorer, spec.recipe, sets, spec.metrics)
            self._loaded = _Loaded(resident, scorer, sets, spec.metrics, beside)
        return self._loaded


def _measures(spec: WorkerSpec) -> dict[str, Measure]:
    """Metrics of answers that need more than the answer, where the run asks for them."""
    found: dict[str, Measure] = {}
    wanted = {name for names in spec.metrics.values() for name in names}
    if "code_passes" in wanted and spec.allow_code:
        found["code_passes"] = CodePasses(Sandbox())
    judges = {name: judge for name, judge in spec.judges.items() if name in wanted}
    return found | load_judges(judges, batch_tokens=spec.batch_tokens, device=spec.device)


def _engine(spec: WorkerSpec, resident: Resident, sets: Mapping[str, EvalSet]) -> Engine | None:
    """What writes answers in the place of the plain decoder, where the run asks for it and any item for an answer."""
    check_engine("workers.generation", spec.generation)
    asked = [item for eval_set in sets.values() for item in eval_set.items if kind_of(item) == "generation"]
    if spec.generation != "vllm" or not asked:
        return None
    from fitness.vllm_decoder import VllmDecoder  # an extra

    length = longest(resident.tokenizer, asked)
    return lambda plain: VllmDecoder(plain, resident, length=length, memory=spec.generation_memory)


def device_of(wanted: str) -> str:
    """`auto` is a GPU where there is one."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _score(
    loaded: _Loaded, items: Mapping[str, tuple[str, ...]], known: Mapping[str, Responses]
) -> dict[str, Responses] | Failure:
    """Answers to the items; those that are known are not asked for."""
    responses = {}
    for name, ids in items.items():
        asked = loaded.eval_sets[name].pick(unknown(ids, known.get(name)))
        outcome = loaded.scorer.score(asked, loaded.metrics.get(name), loaded.references.get(name))
        if isinstance(outcome, Failure):
            return replace(outcome, message=f"eval set {name!r}: {outcome.message}")
        responses[name] = completed(ids, known.get(name), outcome)
    return responses


def _run_race(
    loaded: _Loaded, race: Race, known: Mapping[str, Responses]
) -> tuple[dict[str, Responses] | Failure, float | None]:
    """All answers, and the fidelity of the block after which the race was lost, if it was."""
    responses: dict[str, Responses] = {}
    for number, lap in enumerate(race.laps):
        outcome = _score(loaded, lap.items, known)
        if isinstance(outcome, Failure):
            return outcome, None
        responses = {name: joined(responses[name], new) if name in responses else new for name, new in outcome.items()}
        if race.is_lost(number, responses):
            return responses, lap.fidelity
    return responses, None


def _products(loaded: _Loaded, slopes: Slopes) -> Products:
    """An objective's derivatives by the sources' coefficients, tensor by tensor.

    Raises:
        NonFiniteError: NaN or infinity came out.
    """
    products: Products = {}
    with loaded.resident.projection().into(products):
        for name, weights in slopes.weights.items():
            items = loaded.eval_sets[name].pick(tuple(weights))
            backward(loaded.scorer, items, slopes.metric, list(weights.values()), loaded.references.get(name))
    if not all(math.isfinite(product) for found in products.values() for product in found.values()):
        raise NonFiniteError(f"the gradient of {slopes.metric} is not finite")
    return products


def _failure(error: Exception) -> Failure:
    known = failure_of(error)
    if known is not None:
        return known
    if isinstance(error, NonFiniteError):
        return Failure(FailureReason.NON_FINITE, str(error))
    if isinstance(error, EvomergeError):
        return Failure(FailureReason.BAD_RECIPE, str(error))
    log.exception("a candidate could not be evaluated")
    if isinstance(error, _DEVICE_ERROR):
        return Failure(FailureReason.WORKER_LOST, f"the device failed: {_first_line(error)}")
    return Failure(FailureReason.BAD_RECIPE, f"unexpected {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
