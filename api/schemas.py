"""What REST sends. Wire models only: the store has its own, so that neither leaks into the other."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evomerge.candidate import CandidateState
from evomerge.storage.store import CandidateRow, Event, RunRow, RunState, Verb

Score = dict[str, float]
"""`{mean, se, n}`, and `{low, high}` where an interval is known; in the metric's own direction."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class RunListed(_Wire):
    """A run in a list."""

    id: str
    name: str
    state: RunState
    reason: str | None
    created: datetime
    updated: datetime
    version: int
    last_seq: int = Field(description="number of the run's newest event")
    note: str
    summary: dict[str, Any] = Field(description="progress, best, front, result; empty before the run begins")


class Run(RunListed):
    """A run with what was asked for and what it was told since."""

    spec: dict[str, Any]
    pending: list[Verb] = Field(default=[], description="commands that the run's controller has not carried out yet")


class RunPage(_Wire):
    items: list[RunListed]
    next_cursor: str | None


class CandidateListed(_Wire):
    """A candidate in a list: no genome, recipe or responses."""

    number: int
    kind: str
    label: str
    state: CandidateState
    generation: int
    digest: str
    scores: dict[str, Score]
    verified: dict[str, dict[str, Score]]
    violation: float
    on_front: bool
    cached: bool
    attempts: int
    worker: str
    seconds: dict[str, float]
    failure: dict[str, str] | None


class Candidate(CandidateListed):
    """Everything about one candidate."""

    genome: tuple[float, ...]
    recipe: dict[str, Any]
    responses: dict[str, Any]


class CandidatePage(_Wire):
    items: list[CandidateListed]
    next_cursor: str | None


class Chance(_Wire):
    """How likely a feasible candidate is on the front, given the errors of all scores."""

    number: int
    probability: float


class Front(_Wire):
    """The candidates that no other one beats in every objective."""

    last_seq: int
    hypervolume: float | None
    reference: list[float] = Field(description="origin of the hypervolume; signed so that larger is better")
    members: list[CandidateListed]
    chances: list[Chance] = Field(description="the likeliest first; those below 0.01 are left out")


class EliteAxis(_Wire):
    """An objective that cells are told apart by."""

    objective: str
    low: float = Field(description="lower edge of the first bin, in the objective's unit")
    high: float = Field(description="upper edge of the last bin, which it belongs to")


class EliteCell(_Wire):
    """The best candidate of a cell."""

    bins: list[int] = Field(description="the bin on each axis, from 0")
    number: int
    quality: float


class EliteGrid(_Wire):
    """Who is best at one objective, for each level of the others; empty cells are left out."""

    quality: str = Field(description="the objective that elites are best at")
    axes: list[EliteAxis]
    coverage: float = Field(description="share of cells that have an elite")
    cells: list[EliteCell]


class Elites(_Wire):
    """A run's feasible candidates as quality-diversity archives, one an objective."""

    last_seq: int
    bins: int
    grids: list[EliteGrid]


class PreviewPoint(_Wire):
    """A point of a predicted front."""

    genome: list[float] = Field(description="one number in [0, 1] for each of the genes")
    values: dict[str, float] = Field(description="objective → predicted value, in its unit")


class Preview(_Wire):
    """The front that a run's scored candidates predict."""

    last_seq: int
    genes: list[str] = Field(description="names, in the order of genomes")
    answers: int = Field(description="scored candidates that the prediction rests on, the newest ones")
    errors: dict[str, float] = Field(
        description="objective → by how much good candidates are missed when they are predicted from the others"
    )
    points: list[PreviewPoint] = Field(description="those best in the first objective first")
    reason: str | None = Field(description="why there are no points, if there are none")


class RunItems(_Wire):
    """What a run's complete answers say of one eval set under one metric.

    Attributes:
        subjects: candidates and baselines that answered all search items.
        asked: search items that a candidate answers; null is all of them.
        report: `evomerge.item_report/1`: methods that need few items, cross-validated; null where subjects are too few.
        why: there is no report.
    """

    eval_set: str
    metric: str
    subjects: int
    asked: int | None
    report: dict[str, Any] | None
    why: str


class ItemReports(_Wire):
    """A run's item reports."""

    last_seq: int
    items: list[RunItems]


class Points(_Wire):
    """Every candidate as columns of equal length, for plots."""

    last_seq: int
    number: list[int]
    kind: list[str]
    label: list[str]
    generation: list[int]
    state: list[str]
    on_front: list[bool]
    violation: list[float | None]
    scores: dict[str, list[float | None]]
    se: dict[str, list[float | None]]


class History(_Wire):
    """One row for each change of the front, as columns of equal length."""

    last_seq: int
    seq: list[int]
    scored: list[int | None]
    hypervolume: list[float | None]
    best: dict[str, list[float | None]]


class EventOut(_Wire):
    seq: int
    type: str
    at: datetime | None
    data: dict[str, Any]


class EventPage(_Wire):
    items: list[EventOut]
    last_seq: int = Field(description="pass as `after` for the next page")


class BankOut(_Wire):
    """Everything that was answered to one eval set under one evaluator."""

    fingerprint: str
    eval_set: str
    settings: dict[str, Any] = Field(description="what the fingerprint stands for; empty where nobody said")
    metrics: tuple[str, ...]
    subjects: int = Field(description="models that answered anything")
    items: int
    answers: int = Field(description="of one subject to one item, whatever the metrics")
    complete: int = Field(description="subjects that answered every item")
    blocks: int
    bytes: int
    first: datetime
    last: datetime


class Banks(_Wire):
    items: list[BankOut]


class AnswerPage(_Wire):
    """A response matrix: some rows, all columns."""

    fingerprint: str
    eval_set: str
    metric: str
    items: list[str] = Field(description="columns")
    subjects: list[str] = Field(description="rows of this page: digests of recipes, or names of imported models")
    values: list[list[float | None]] = Field(description="[subjects, items]; null for what was not asked")
    next_cursor: str | None


class Checked(_Wire):
    """A search that could be run as it is."""

    spec: dict[str, Any] = Field(description="the search with every default filled in")
    dimension: int = Field(description="number of genes")
    genes: list[str]
    space: dict[str, Any]
    items: dict[str, dict[str, int]] = Field(description="eval set → search and holdout items")
    warnings: list[str]


class Alias(_Wire):
    """Something that the operator registered, by the name that requests use."""

    name: str
    available: bool = Field(description="whether its file or directory is there now")


class Aliases(_Wire):
    items: list[Alias]


class Described(_Wire):
    """An optimizer or a metric with its parameters."""

    name: str
    description: str
    parameters: dict[str, Any] = {}


class DescribedList(_Wire):
    items: list[Described]


class ParameterOut(_Wire):
    """A parameter of a merge method or a stage."""

    name: str
    default: bool | float | str | tuple[float, ...]
    range: tuple[float, float] | None = Field(
        description="worth searching; a recipe may go beyond; null where no search can vary it"
    )
    legal: tuple[float | None, float | None] | None = Field(
        description="outside of which a recipe is refused; null: no bound"
    )
    scale: Literal["linear", "log"] = Field(description="spacing of the range")
    choices: tuple[str, ...]
    per_source: bool = Field(description="one value a source, or one for all")
    text: str


class Needs(_Wire):
    """What a method or a stage must be given, and what its result hangs on beside the models."""

    sources: tuple[int, int | None] = Field(description="least and most sources; null: no limit")
    calibration: list[str] = Field(
        description="kinds of statistics: the search needs a `calibration` section if there are any"
    )
    adapters: bool = Field(description="every source must be a LoRA adapter")
    order: bool = Field(description="the result hangs on the sources' order (`order`)")
    seed: bool = Field(description="the result hangs on the seed")


class MethodOut(_Wire):
    """A published merge method."""

    name: str
    description: str = Field(description="title and paper")
    title: str
    paper: str
    needs: Needs
    cost: str = Field(description="the dearest thing done with a tensor: elementwise, sort, svd, solve or training")
    grain: Literal["entry", "tensor"] = Field(description="works on some entries at a time, or needs a whole tensor")
    parameters: list[ParameterOut]


class MethodList(_Wire):
    items: list[MethodOut]


class StageOut(_Wire):
    """A step that pipelines are made of."""

    name: str
    description: str
    kind: str = Field(description="what it does, and so where in a pipeline it may stand")
    needs: Needs
    cost: str
    grain: Literal["entry", "tensor"]
    parameters: list[ParameterOut]


class StageList(_Wire):
    items: list[StageOut]


class Status(_Wire):
    status: str


class Version(_Wire):
    version: str
    api: str = "v1"


def run_listed(row: RunRow) -> RunListed:
    """A stored run as it is listed."""
    return RunListed.model_validate(row)


def run_out(row: RunRow, pending: list[Verb]) -> Run:
    """A stored run as it is sent alone."""
    return Run(**dict(run_listed(row)), spec=row.spec, pending=pending)


def candidate_listed(row: CandidateRow) -> CandidateListed:
    """A stored candidate as it is listed."""
    return CandidateListed.model_validate(row)


def candidate_out(row: CandidateRow) -> Candidate:
    """A stored candidate as it is sent alone."""
    return Candidate.model_validate(row)


def event_out(event: Event) -> EventOut:
    """A stored event."""
    return EventOut.model_validate(event)
