"""Stages: primitives with parameters, of which pipelines are made.

A published method is a short chain of steps: sparsify the task vectors, rescale what is left, weigh, elect signs, add
up, reshape the sum's spectrum, scale. A stage is one such step; `compose` makes a `Method` of a chain of them. Presets
(`evomerge.merge.methods`) are chains with a name, a paper and its defaults; a recipe may spell out its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.entries import of_whole
from evomerge.merge.method import Block, Blocks, Grain, Method, Parameter, Scope, Values
from evomerge.merge.workspace import NOTHING, Extent, Workspace, tensors
from evomerge.recipe.schema import ParameterValue


@dataclass(frozen=True, slots=True)
class State:
    """What flows through a pipeline.

    Attributes:
        block: the tensor (or entries of it), its parameters and part; its deltas are those that the pipeline began
            with.
        deltas: source → δ as the stages so far have left it, in the order of the names; a source that leaves the tensor
            alone is missing (its δ is 0). Not to be written to.
        merged: the merged task vector; None before a stage has added the deltas up.
        weights: source → its share where a mean divides by weights; 1 where a stage has set none.
        measured: what this stage has measured.
        back: set by stages that change the basis (`within`): leads the merged task vector back; run right after the
            adding up.
    """

    block: Block
    deltas: Mapping[str, Tensor]
    merged: Tensor | None
    weights: Mapping[str, float]
    measured: Mapping[str, float]
    back: Callable[[Tensor], Tensor] | None = None

    @property
    def zeros(self) -> Tensor:
        """A task vector of zeros, in the basis that the deltas are in."""
        return torch.zeros_like(next(iter(self.deltas.values()), self.block.base))

    @property
    def size(self) -> int:
        """Entries of a task vector here, in the basis that the deltas are in."""
        return next(iter(self.deltas.values()), self.block.base).numel()

    @property
    def shared(self) -> Values:
        """The parameters that hold for all sources."""
        return self.block.shared

    def of(self, source: str) -> Values:
        """A source's parameters."""
        return self.block.per_source[source]

    @property
    def num_sources(self) -> int:
        """All sources of the recipe, those with δ = 0 here included."""
        return len(self.block.per_source)

    def with_deltas(self, deltas: Mapping[str, Tensor]) -> State:
        """The same state with other deltas."""
        return replace(self, deltas=deltas)

    def each(self, change: Callable[[str, Tensor], Tensor]) -> State:
        """Every delta changed by itself; `change` gets the source's name and δ, and returns new memory or δ itself."""
        return self.with_deltas({source: change(source, delta) for source, delta in self.deltas.items()})

    def within(self, deltas: Mapping[str, Tensor], back: Callable[[Tensor], Tensor]) -> State:
        """The task vectors in another basis.

        Args:
            deltas: in that basis.
            back: leads what is merged there back to the basis that this state is in.
        """
        before = self.back
        return replace(self, deltas=deltas, back=back if before is None else lambda merged: before(back(merged)))

    def begun(self, source: str) -> Tensor | None:
        """A source's task vector as the pipeline began with it, never in another basis; None where δ = 0."""
        factors = self.block.factors.get(source)
        return self.block.deltas.get(source) if factors is None else factors.product()

    def with_merged(self, merged: Tensor) -> State:
        """The same state with a merged task vector."""
        return replace(self, merged=merged)

    @property
    def sum(self) -> Tensor:
        """The merged task vector, for stages that come after the adding up."""
        assert self.merged is not None, "compose() puts these stages after an aggregate"
        return self.merged


States = Callable[[], Iterable[State]]
"""A tensor's (or the model's) blocks as a stage would get them; every call begins again."""
StageKind = Literal["sparsify", "rescale", "weight", "elect", "basis", "aggregate", "post"]
"""`aggregate` makes one tensor of many; `post` works on that one; all others work on the deltas before."""


def _nothing(shared: Values) -> Scope:
    return "nothing"


def _never(shared: Values) -> bool:
    return False


def _always(shared: Values) -> bool:
    return True


def by_scope(shared: Values) -> Scope:
    """The whole model with `scope: global`, else every tensor apart. Stages that measure by this one rule need a few
    entries at a time, however many of them a chain has."""
    return "model" if shared.get("scope") == "global" else "tensor"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step.

    Attributes:
        name: as pipelines spell it.
        kind: what it does, and where in a chain it may stand.
        text: one line for people.
        apply: state → state.
        parameters: what recipes may set. Two stages of one chain may share a parameter if they declare it alike.
        grain: what it must see to do its work: some entries, or the whole tensor.
        rowwise: whether, given the shared parameters, a stage of grain `tensor` may be shown some rows at a time
            (slices of the tensor's first dimension; a vector is one row).
        measure: states → floats that `apply` finds in `state.measured`.
        measures: over what `measure` runs, given the shared parameters.
        needed: whether, given the shared parameters, there is anything to measure; if not, `state.measured` is empty.
        only_matrices: whether a stage of grain `tensor` needs whole matrices of the network alone: of any other tensor
            some entries do.
        workspace: what it holds while it works beside the deltas (or the merged task vector) that it is given, those
            that it leaves included; None: what is usual for its kind.
        keeps: what its way back (`State.within`) holds until the deltas are added up.
        inside: of what extent the deltas are that it leaves; None: of the same.
        stochastic, ordered, requires, factored, cost, check: as in `Method`. A factored stage comes first.
    """

    name: str
    kind: StageKind
    text: str
    apply: Callable[[State], State]
    parameters: tuple[Parameter, ...] = ()
    grain: Grain = "entry"
    rowwise: Callable[[Values], bool] = _never
    measure: Callable[[States], Mapping[str, float]] | None = None
    measures: Callable[[Values], Scope] = _nothing
    needed: Callable[[Values], bool] = _always
    stochastic: bool = False
    ordered: bool = False
    requires: frozenset[str] = frozenset()
    factored: bool = False
    cost: Literal["elementwise", "sort", "svd", "solve", "training"] = "elementwise"
    check: Callable[[Values, Mapping[str, Values]], None] | None = None
    only_matrices: bool = False
    workspace: Workspace | None = None
    keeps: Workspace = NOTHING
    inside: Callable[[Extent], Extent] | None = None


_USUAL = {"aggregate": tensors(3, a_source=1), "post": tensors(2)}
"""What stages of these kinds hold, and below all others: new task vectors and two more."""
_CHANGED = tensors(2, a_source=1)
_ENTRIES = 1 << 16
"""Entries in the rows that are worked on at a time on a CPU: they fit in a core's second-level cache."""
_DEVICE_ENTRIES = 1 << 26
_COSTS = ("elementwise", "sort", "svd", "solve", "training")


def compose(
    name: str,
    title: str,
    paper: str,
    stages: Sequence[Stage],
    *,
    defaults: Mapping[str, ParameterValue] | None = None,
    fixed: Mapping[str, ParameterValue] | None = None,
    num_sources: tuple[int, int | None] = (1, None),
) -> Method:
    """A method that runs stages one after the other and adds the result to the base.

    Args:
        name, title, paper, num_sources: as in `Method`.
        stages: in order; exactly one aggregate, `post` stages after it and only there.
        defaults: defaults of this chain where they differ from a stage's own.
        fixed: parameters that recipes cannot set, and their values.

    Raises:
        InvalidInputError: the chain makes no sense; names the stage.
    """
    chain = _Chain(tuple(stages), dict(fixed or {}))
    _check_order(chain.stages)
    parameters = _parameters(chain.stages, defaults or {}, chain.fixed)
    return Method(
        name=name,
        title=title,
        paper=paper,
        merge=chain.merge,
        parameters=parameters,
        num_sources=num_sources,
        stochastic=any(s.stochastic for s in stages),
        measure=chain.measure,
        measures=chain.measures,
        check=chain.check,
        grain=chain.grain,
        requires=frozenset[str]().union(*(s.requires for s in stages)),
        factored=any(s.factored for s in stages),
        ordered=any(s.ordered for s in stages),
        cost=max((s.cost for s in stages), key=_COSTS.index),
        workspace=chain.workspace,
        rowwise=chain.rowwise,
        stages=() if fixed else tuple(stage.name for stage in stages),
    )


@dataclass(frozen=True, slots=True)
class _Chain:
    """Stages, and values of parameters that recipes cannot set."""

    stages: tuple[Stage, ...]
    fixed: Mapping[str, ParameterValue]

    @property
    def grain(self) -> Grain:
        """`tensor` too where stages measure by different rules, so that one may measure the model and the next a tensor
        of it: then what one tensor needs is measured on the way."""
        whole = any(s.grain == "tensor" for s in self.stages)
        return "tensor" if whole or len({s.measures for s in self.stages if s.measure is not None}) > 1 else "entry"

    def values(self, shared: Values) -> Values:
        """With the fixed values among them."""
        return {**shared, **self.fixed} if self.fixed else shared  # type: ignore[dict-item]  # no knots are fixed

    def measures(self, shared: Values) -> Scope:
        """The widest that has to be measured beforehand."""
        shared = self.values(shared)
        scopes = {s.measures(shared) for s in self.stages if s.measure is not None and s.needed(shared)}
        if "model" in scopes:
            return "model"
        return "tensor" if "tensor" in scopes and self.in_parts(shared) else "nothing"

    def rowwise(self, shared: Values) -> bool:
        """Whether a chain of grain `tensor` may be shown some rows at a time."""
        return self.grain == "tensor" and self.in_parts(self.values(shared))

    def in_parts(self, shared: Values) -> bool:
        """Whether no stage needs more than some entries, or some rows, of a tensor at a time."""
        one_rule = len({s.measures for s in self.stages if s.measure is not None}) < 2
        return one_rule and all(s.grain == "entry" or s.rowwise(shared) for s in self.stages)

    def by_rows(self, shared: Values, *, matrix: bool) -> bool:
        """Whether a tensor can be merged some rows at a time: also one that is no matrix of the network, where only
        those are decomposed, and nothing has to be measured of it on the way."""
        if self.in_parts(shared) or matrix:
            return self.in_parts(shared)
        measured = (s for s in self.stages if s.measure is not None and s.needed(shared))
        return all(s.grain == "entry" or s.rowwise(shared) or s.only_matrices for s in self.stages) and all(
            s.measures(shared) != "tensor" for s in measured
        )

    def workspace(self, extent: Extent) -> int:
        """The most that is held at a time beside the tensors that the chain is given: what the stage at work holds, and
        what those before it have left."""
        extent = replace(extent, shared=self.values(extent.shared))
        if self.by_rows(extent.shared, matrix=extent.matrix):
            return extent.one
        whole, left, kept, most = extent, 0, 0, 2 * extent.one
        for stage in self.stages:
            most = max(most, kept + left + (stage.workspace or _USUAL.get(stage.kind, _CHANGED))(extent))
            kept += stage.keeps(extent)
            if stage.inside is not None:
                extent = stage.inside(extent)
            if stage.kind in ("aggregate", "post"):
                most = max(most, kept + extent.num_sources * extent.one + 3 * whole.one if extent is not whole else 0)
                extent, left, kept = whole, whole.one, 0
            elif extent.matrix or not stage.only_matrices:
                left = extent.num_sources * extent.one
        return most

    def measure(self, blocks: Blocks) -> Mapping[str, float]:
        """What the stages measure beforehand, one after the other, each on what those before it leave."""
        shared = self.values(next(iter(blocks())).shared)
        measured: dict[str, float] = {}
        for number, stage in enumerate(self.stages):
            if stage.measure is None or not stage.needed(shared):
                continue
            scope = stage.measures(shared)
            if scope == "model" or (scope == "tensor" and self.in_parts(shared)):
                found = stage.measure(partial(self._states, blocks, number, dict(measured)))
                measured |= {f"{number}:{key}": value for key, value in found.items()}
        return measured

    def merge(self, block: Block) -> Tensor:
        """θ0 + the merged task vector."""
        if self.grain == "entry" or not self.by_rows(self.values(block.shared), matrix=block.kind == "matrix"):
            return torch.add(self._state(block, len(self.stages), block.measured).sum, block.base)
        result = torch.empty_like(block.base)
        flat = result.view(-1)
        for part in _rows(block):
            merged = self._state(part, len(self.stages), block.measured).sum
            first = part.offset - block.offset
            torch.add(merged, part.base, out=flat[first : first + part.base.numel()].view(part.base.shape))
        return result

    def check(self, shared: Values, per_source: Mapping[str, Values]) -> None:
        """Every stage's own check."""
        for stage in self.stages:
            if stage.check is not None:
                stage.check(self.values(shared), per_source)

    def _states(self, blocks: Blocks, until: int, measured: Mapping[str, float]) -> Iterator[State]:
        for block in blocks():
            for part in (
                _rows(block) if self.grain == "tensor" and self.in_parts(self.values(block.shared)) else (block,)
            ):
                yield self._measured(self._state(part, until, measured), until, measured)

    def _state(self, block: Block, until: int, measured: Mapping[str, float]) -> State:
        """A block after the first stages."""
        if self.fixed:
            block = replace(block, shared=self.values(block.shared))
        deltas = {source: delta for source, delta in block.deltas.items() if delta is not None}
        state = State(block, deltas, None, dict.fromkeys(block.per_source, 1.0), {})
        for number in range(until):
            state = self.stages[number].apply(self._measured(state, number, measured))
            if state.merged is not None and state.back is not None:
                state = replace(state, merged=state.back(state.merged), back=None)
        return state

    def _measured(self, state: State, number: int, measured: Mapping[str, float]) -> State:
        """The state with what stage `number` has measured; measured now where a whole tensor is all that it takes."""
        stage = self.stages[number]
        if stage.measure is None or not stage.needed(state.shared):
            return replace(state, measured={})
        if stage.measures(state.shared) == "tensor" and not self.in_parts(state.shared):
            return replace(state, measured=stage.measure(lambda: [state]))
        prefix = f"{number}:"
        return replace(state, measured={k[len(prefix) :]: v for k, v in measured.items() if k.startswith(prefix)})


def _rows(block: Block) -> Iterator[Block]:
    """A whole tensor, some rows at a time."""
    if block.base.dim() < 2 or not block.base.numel():
        yield block
        return
    row = block.base[0].numel()
    length = max(1, (_ENTRIES if block.base.device.type == "cpu" else _DEVICE_ENTRIES) // row)
    for begin in range(0, len(block.base), length):
        rows = slice(begin, begin + length)
        deltas = {source: None if d is None else d[rows] for source, d in block.deltas.items()}
        statistics = of_whole(block.statistics, itemgetter(rows))
        yield replace(
            block, base=block.base[rows], deltas=deltas, statistics=statistics, offset=block.offset + begin * row
        )


def _check_order(stages: tuple[Stage, ...]) -> None:
    names = [stage.name for stage in stages]
    kinds = [stage.kind for stage in stages]
    if kinds.count("aggregate") != 1:
        raise InvalidInputError("merge.pipeline", names, "exactly one stage that adds up (of kind aggregate)")
    at = kinds.index("aggregate")
    for number, stage in enumerate(stages):
        if number and stage.factored:
            allowed = "first: it works on adapters' factors, not on task vectors that other stages have changed"
            raise InvalidInputError(f"merge.pipeline[{number}]", stage.name, allowed)
        if (stage.kind == "post") != (number > at) and number != at:
            where = "after" if stage.kind == "post" else "before"
            raise InvalidInputError(f"merge.pipeline[{number}]", stage.name, f"{where} the stage that adds up")


def _parameters(
    stages: tuple[Stage, ...], defaults: Mapping[str, ParameterValue], fixed: Mapping[str, ParameterValue]
) -> tuple[Parameter, ...]:
    found: dict[str, Parameter] = {}
    for number, stage in enumerate(stages):
        for parameter in stage.parameters:
            if found.setdefault(parameter.name, parameter) != parameter:
                allowed = f"stages that mean the same by their parameter {parameter.name!r}"
                raise InvalidInputError(f"merge.pipeline[{number}]", stage.name, allowed)
    assert set(defaults) <= set(found), f"{sorted(set(defaults) - set(found))} are no parameters of these stages"
    assert set(fixed) <= set(found), f"{sorted(set(fixed) - set(found))} are no parameters of these stages"
    return tuple(replace(p, default=defaults.get(name, p.default)) for name, p in found.items() if name not in fixed)
