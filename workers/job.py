"""What is sent to a worker and what comes back. Plain values: Ray carries them, weights never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from evomerge.errors import Failure
from evomerge.recipe.schema import Recipe
from evomerge.recipe.written import Written
from fitness.evaluator import Responses, Slopes
from fitness.judge_spec import JudgeSpec
from fitness.racing import Race


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker keeps resident.

    Attributes:
        recipe: any recipe of the run: base, sources (absolute directories with hashes), dtype.
        eval_sets: name → absolute path of the JSONL file.
        device: torch device, `cpu` or `cuda`.
        threads: torch threads; one a worker keeps results the same and cores busy.
        batch_tokens: most tokens in one forward pass.
        cache: folder for what workers of one machine share (folded adapter deltas).
        metrics: eval set → the metrics that are wanted of it; where one is not named, all that cost nothing extra.
        allow_code: whether code that candidates write may run (in `fitness.sandbox`).
        judges: metric → the model that judges answers.
        generation: what writes answers, `transformers` or `vllm`.
        generation_memory: share of a GPU's memory that vLLM may fill.
    """

    recipe: Recipe
    eval_sets: dict[str, str]
    device: str = "cpu"
    threads: int = 1
    batch_tokens: int = 2048
    cache: str = ""
    metrics: dict[str, tuple[str, ...]] = field(default_factory=dict)
    allow_code: bool = False
    judges: dict[str, JudgeSpec] = field(default_factory=dict)
    generation: str = "transformers"
    generation_memory: float = 0.3


@dataclass(frozen=True, slots=True)
class Job:
    """One candidate to build and score.

    Attributes:
        number: the candidate's number in its run.
        recipe: or what is stored of it: a controller has that at hand, and text travels fastest.
        items: eval set name → ids of the items to score.
        deadline_s: seconds after which the pool gives the job up as `timeout`.
        slopes: for optimizers that follow gradients, what to differentiate, one an objective.
        race: its blocks are asked in the place of `items`, until it is lost.
        known: eval set → answers that the same model gave before; their items are not asked again.
    """

    number: int
    recipe: Recipe | Written | Mapping[str, Any]
    items: dict[str, tuple[str, ...]]
    deadline_s: float = 3600.0
    slopes: tuple[Slopes, ...] = ()
    race: Race | None = None
    known: dict[str, Responses] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobResult:
    """What became of a job.

    Attributes:
        responses: eval set name → responses, with those that were known; empty on failure.
        known: how many of them were.
        failure: why there are none.
        seconds: by phase: `materialize`, `score`, `gradient`.
        worker: its name.
        fidelity: of the block after which a race was lost; None when everything was asked.
        products: for each of the job's `slopes`, tensor → source → <d objective/dθ, the source's task vector>.
    """

    number: int
    responses: dict[str, Responses] = field(default_factory=dict)
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    worker: str = ""
    fidelity: float | None = None
    products: tuple[dict[str, dict[str, float]], ...] = ()
    known: int = 0


class Pool(Protocol):
    """Workers under one contract, in this process or on a cluster."""

    @property
    def size(self) -> int:
        """Jobs that can run at the same time."""
        ...

    @property
    def device(self) -> str:
        """Of the workers: `cpu` or `cuda`."""
        ...

    def submit(self, job: Job) -> None:
        """Hand over a job; returns at once (the local pool works in `wait`)."""
        ...

    def wait(self, timeout_s: float) -> list[JobResult]:
        """Finished jobs, at least one unless the time runs out. A lost worker gives `worker_lost`, a job over its
        deadline `timeout`; the pool mends itself."""
        ...

    def cancel(self) -> None:
        """Give up all jobs in flight; no results of theirs will come."""
        ...

    def close(self) -> None:
        """Stop all workers; nothing is left running."""
        ...
