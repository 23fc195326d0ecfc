"""What was asked for: one search, as frozen data. The same document in a file, over REST and in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evomerge.recipe.calibration import Calibration
from evomerge.recipe.schema import Dtype, Name, Recipe, SourceName, WrongFieldError
from evomerge.recipe.shared import Shared, check_shared

COSTS = {
    "layers": "layers that a token goes through",
    "unique_layers": "different layers among them: one that is visited again is kept once",
    "parameters": "numbers in the exported checkpoint",
    "flops_per_token": "floating-point operations of a forward pass for one token in a context of 1024",
}
"""Metrics of a recipe, not of answers: they need no items, are exact, and smaller is better."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Models(_Frozen):
    """The base and the sources to merge, by alias (registered with the service) or, on the command line, by path."""

    base: str = Field(min_length=1)
    sources: dict[SourceName, str] = Field(min_length=1, max_length=64)


class Objective(_Frozen):
    """One thing to maximise or minimise: a metric's mean over one eval set, or the mean over several; or a cost.

    Attributes:
        eval_sets: none for a cost.
        metric: of `fitness.metrics`, or of `COSTS`.
        items: search items a candidate answers, per eval set; None is all of them.
    """

    name: Name
    eval_sets: tuple[Name, ...] = ()
    metric: str = "accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    items: int | None = Field(default=None, ge=2)

    @property
    def is_cost(self) -> bool:
        """Whether it is known without asking a model."""
        return self.metric in COSTS

    @model_validator(mode="after")
    def _fits_its_metric(self) -> Objective:
        if not self.is_cost:
            if not self.eval_sets:
                raise WrongFieldError(("eval_sets",), [], f"an eval set or more, which {self.metric} is measured on")
            return self
        _no_items(self.metric, {"eval_sets": self.eval_sets, "items": self.items})
        if self.direction == "maximize":
            raise WrongFieldError(("direction",), self.direction, f"minimize: {self.metric} is a cost")
        return self


class Constraint(_Frozen):
    """A guard: the metric must not fall more than `max_drop` below the base model's on the same items. Or the limit of
    a cost, which must not be more than `max`.
    """

    name: Name
    eval_set: Name | None = None
    metric: str = "accuracy"
    max_drop: float | None = Field(default=None, ge=0)
    max: float | None = Field(default=None, gt=0)
    items: int | None = Field(default=None, ge=2)

    @property
    def is_cost(self) -> bool:
        """Whether it is known without asking a model."""
        return self.metric in COSTS

    @model_validator(mode="after")
    def _fits_its_metric(self) -> Constraint:
        if self.is_cost:
            _no_items(self.metric, {"eval_set": self.eval_set, "max_drop": self.max_drop, "items": self.items})
            wanted: dict[str, object] = {"max": self.max}
            reason = "a cost is limited by a number"
        else:
            wanted = {"eval_set": self.eval_set, "max_drop": self.max_drop}
            reason = "a guard compares answers with the base's"
            if self.max is not None:
                raise WrongFieldError(("max",), self.max, f"none; only costs have it: {', '.join(COSTS)}")
        for field, value in wanted.items():
            if value is None:
                raise WrongFieldError((field,), None, f"a value: {reason}")
        return self


def _no_items(metric: str, given: Mapping[str, object]) -> None:
    for field, value in given.items():
        if value:
            raise WrongFieldError((field,), value, f"none: {metric} is a cost, which needs no items")


class OptimizerSpec(_Frozen):
    """An optimizer by name, with its own options (`evomerge.optimizers`)."""

    name: str = "auto"
    options: dict[str, float | int | bool | str] = Field(default_factory=dict)


DrawPolicy = Literal["random", "stratified"]
"""How items are drawn; whatever else a policy does, it draws in one of these ways."""


Published = Literal["p_irt", "gp_irt", "mp_irt", "gmp_irt", "anchor_correctness", "anchor_irt", "ridge", "aipw"]
"""Estimators of full scores that others published, as they published them (`fitness.irt.published`)."""


class Subset(_Frozen):
    """How the items of a generation are drawn from the search split, and what is made of the answers.

    Attributes:
        policy: `random`; `stratified` by the items' group; `informed`: by how the baselines answered;
            `parent_neyman`: by whether the sources answered all wrong, divided or all right, most items where
            candidates differ most (Neyman's rule); `hybrid` and `adaptive`: stratified, and once the item bank shows
            that it pays, 60 % of the items are those that say most (of the full score by linear prediction, or of
            ability by item curves); `auto`: what pays most.
        exposure: share of the latest ten generations in which an item may be asked because it says much.
        rotate: new items every generation (a fixed subset is exploited by the optimizer).
        race: shares of the items after which a candidate that has no chance is asked no more; none: every candidate
            answers all of its items.
        elites: after so many scored candidates the best answer all search items; null: only at the end.
        elites_share: of the search candidates' answers, what elites may cost besides.
        screening: what optimizers are told: `unbiased` estimates; `auto`: what cross-validation on the item bank
            finds closest to the full score; or a published estimator's numbers, whatever the bank says of them.
        bank: whether answers that earlier runs gave to the same items are used.
    """

    policy: Literal["auto", "random", "stratified", "informed", "parent_neyman", "hybrid", "adaptive"] = "auto"
    exposure: float = Field(default=0.5, gt=0, le=1)
    rotate: bool = True
    race: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5)
    elites: int | None = Field(default=25, ge=1)
    elites_share: float = Field(default=0.25, gt=0, le=10)
    screening: Literal["auto", "unbiased"] | Published = "auto"
    bank: bool = True

    @model_validator(mode="after")
    def _race_grows(self) -> Subset:
        if list(self.race) != sorted(set(self.race)):
            raise WrongFieldError(("race",), list(self.race), "shares in rising order, such as [0.25, 0.5]")
        return self


class Budget(_Frozen):
    """When a search is over: at the first of these that is reached.

    Attributes:
        items: answers of search candidates to items; baselines and verification come on top.
        hours: of work on the search; pauses do not count.
        cost: hours × workers × `workers.price_per_hour`, in its currency.
        stagnation: candidates in a row that change nothing on the front.
        target: objective → value; all of them are reached, each by one standard error, if need be by different
            candidates.
    """

    candidates: int = Field(default=100, ge=1, le=1_000_000)
    items: int | None = Field(default=None, ge=1)
    hours: float | None = Field(default=None, gt=0)
    cost: float | None = Field(default=None, gt=0)
    stagnation: int | None = Field(default=None, ge=1)
    target: dict[Name, float] = Field(default_factory=dict)


class Verification(_Frozen):
    """What happens after the search: the best `top` candidates answer all search items, the winners and all baselines
    the holdout items.

    Attributes:
        metrics: reported beside each objective's own, as `objective.metric`.
    """

    top: int = Field(default=5, ge=1, le=100)
    metrics: tuple[str, ...] = ()
    holdout: bool = True


class WorkersSpec(_Frozen):
    """Where candidates are evaluated. `count` None: as many as cores or GPUs.

    Attributes:
        generation: what writes answers: this package's decoder on `transformers`, or `vllm`, which has to be installed.
        generation_memory: share of a GPU's memory that vLLM may fill, its own copy of the weights included.
        price_per_hour: of one worker, in any currency; for `budget.cost`.
    """

    pool: Literal["ray", "local"] = "ray"
    count: int | None = Field(default=None, ge=1, le=10_000)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_tokens: int = Field(default=2048, ge=64)
    generation: Literal["transformers", "vllm"] = "transformers"
    generation_memory: float = Field(default=0.3, gt=0, le=0.9)
    deadline_s: float = Field(default=3600.0, gt=0)
    attempts: int = Field(default=3, ge=1, le=10)
    price_per_hour: float | None = Field(default=None, gt=0)


class Judge(_Frozen):
    """A model that judges answers.

    Attributes:
        model: alias, as of the models that are merged. Each worker holds its weights, too.
        template: its prompt; `{answer}`, `{question}`, `{context}` and `{reference}` are filled in.
        yes, no: what it may go on with; their probabilities are compared.
        chat: whether the prompt is a user's turn in its own chat template.
        dtype: of its weights.
    """

    model: str = Field(min_length=1)
    template: str
    yes: str = Field(default=" yes", min_length=1)
    no: str = Field(default=" no", min_length=1)
    chat: bool = False
    dtype: Dtype = "bfloat16"

    @model_validator(mode="after")
    def _asks(self) -> Judge:
        if "{answer}" not in self.template:
            raise WrongFieldError(("template",), self.template, "a text with {answer} in it")
        if self.yes == self.no:
            raise WrongFieldError(("no",), self.no, "a text other than `yes`")
        return self


class RunSpec(Shared):
    """A search. `space` is read by `search_spaces.make_space`; the fields of `Shared` go into every candidate's recipe.

    Attributes:
        align, carry, tokenizer, tokens, pad_to_multiple_of, chat_template: as in a recipe; the location of items that
            an alignment reads is the name of an eval set.
        calibration: for methods that read statistics of the models; the locations of its items are names of eval sets
            (of which only search items are read).
        judge: for the metric `judge`.
        judges: further ones by name, for metrics `judge:NAME`.
        seeds: recipes of the same models that are worth a look early; each is taken to the nearest genome of the space.
    """

    schema_: Literal["evomerge.run/1"] = Field(default="evomerge.run/1", alias="schema")
    name: Annotated[str, Field(min_length=1, max_length=200)] = "search"
    models: Models
    space: dict[str, Any]
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=8)
    constraints: tuple[Constraint, ...] = ()
    optimizer: OptimizerSpec = OptimizerSpec()
    subset: Subset = Subset()
    budget: Budget = Budget()
    verify: Verification = Verification()
    workers: WorkersSpec = WorkersSpec()
    calibration: Calibration | None = None
    judge: Judge | None = None
    judges: dict[Name, Judge] = Field(default_factory=dict, max_length=16)
    seeds: tuple[Recipe, ...] = Field(default=(), max_length=1000)
    dtype: Dtype = "bfloat16"
    seed: int = Field(default=0, ge=0, lt=2**31)
    max_failed_share: float = Field(default=0.5, gt=0, le=1)

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _fits_its_sources(self) -> RunSpec:
        check_shared(self, self.models.sources)
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> RunSpec:
        names = [o.name for o in self.objectives] + [c.name for c in self.constraints]
        if len(set(names)) != len(names):
            raise ValueError(f"objectives and constraints need different names, got {names}")
        for name in self.budget.target:
            if name not in {o.name for o in self.objectives}:
                known = ", ".join(o.name for o in self.objectives)
                raise ValueError(f"budget.target names objectives ({known}), got {name!r}")
        if all(objective.is_cost for objective in self.objectives):
            allowed = "an objective that is measured on items, besides costs"
            raise WrongFieldError(("objectives",), [objective.metric for objective in self.objectives], allowed)
        if self.budget.cost is not None and self.workers.price_per_hour is None:
            raise ValueError("budget.cost needs workers.price_per_hour, the price of one worker")
        return self
