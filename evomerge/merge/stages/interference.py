"""Stages that merge by least interference: task vectors stand in for the inputs that they were learnt from.

Source: Cheng et al. 2025, WUDI, arXiv:2503.08099: the rows of a task vector are combinations of the inputs of its
layer, so ‖(X − τᵢ) τᵢᵀ‖ bounds what a merged X changes in the outputs of task i. The authors minimise it by Adam with
steps of an absolute size, which is too much for small task vectors and nothing for large ones. The closed form has no
such scale, and a filter of its eigenvectors says how far to go (Wei et al. 2026, arXiv:2606.07289).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from evomerge.merge.method import Parameter
from evomerge.merge.primitives import solve, spectral, weights
from evomerge.merge.primitives.aggregate import sum_of
from evomerge.merge.primitives.measure import inner
from evomerge.merge.stage import Stage, State
from evomerge.merge.stages.spectral import is_matrix, rank_of_share
from evomerge.merge.stages.spectral_sums import OTHERS, RANK_SHARE, other
from evomerge.merge.workspace import Extent, eigen_bytes, svd_bytes

INITIAL = Parameter(
    "initial",
    "sum",
    choices=("sum", "mean", "zero"),
    text="what is kept along directions that are not solved: the sum of the task vectors, their mean, or nothing",
)
FILTER = Parameter(
    "filter",
    "none",
    choices=("none", "tikhonov", "landweber", "exponential"),
    text="how far to go along each eigenvector: all the way, ridge, steps of gradient descent, gradient flow",
)
ALPHA = Parameter(
    "ridge", 0.01, low=1e-4, high=1.0, scale="log", legal=(1e-12, 1e12), text="with filter: tikhonov, its α"
)
STEPS = Parameter(
    "steps",
    300.0,
    low=1.0,
    high=10000.0,
    scale="log",
    legal=(0.0, 1e9),
    whole=True,
    text="with filter: landweber, the number of steps, each of half the largest stable size",
)
TIME = Parameter(
    "time", 300.0, low=1.0, high=1e4, scale="log", legal=(0.0, 1e12), text="with filter: exponential, how long it flows"
)
DIRECTIONS = Parameter(
    "directions",
    "all",
    choices=("all", "share", "participation", "noise"),
    text="which eigenvectors are solved: all, a share, as many as take part (square roots), those above noise",
)
DIRECTION_SHARE = Parameter(
    "direction_share",
    0.65,
    low=0.3,
    high=1.0,
    legal=(1e-6, 1.0),
    text="with directions: share, how many of the eigenvectors",
)
CENTRED = Parameter(
    "centred", True, text="denoise what sets a source apart from the mean; otherwise its whole task vector"
)


def _initial(state: State, deltas: list[Tensor]) -> Tensor | None:
    rule = state.shared["initial"]
    if rule == "zero":
        return None
    total = sum_of(deltas)
    return total if rule == "sum" else total.div_(state.num_sources)


def _grams(deltas: list[Tensor]) -> Iterator[Tensor]:
    """τᵀτ / ‖τ‖², one at a time."""
    return (spectral.gram([delta.t()]).div_(inner(delta, delta)) for delta in deltas)


def _degree(state: State, deltas: list[Tensor]) -> solve.Filter:
    """The filter that the parameters ask for; eigenvalues are those of Σ τᵀτ/‖τ‖², whose trace is N."""
    soft: dict[str, solve.Filter | None] = {
        "none": None,
        "tikhonov": solve.tikhonov(weights.number(state.shared, "ridge")),
        "landweber": _descent(int(weights.number(state.shared, "steps"))),
        "exponential": solve.exponential(weights.number(state.shared, "time")),
    }
    then = soft[str(state.shared["filter"])]
    rule = state.shared["directions"]
    if rule == "participation":
        return solve.participating(then)
    if rule == "noise":
        rows, columns = sum(len(delta) for delta in deltas), deltas[0].shape[1]
        return solve.above_noise(min(rows, columns) / max(rows, columns), then)
    share = weights.number(state.shared, "direction_share") if rule == "share" else 1.0
    return solve.largest(share, then)


def _descent(steps: int) -> solve.Filter:
    """Steps of half the largest stable size."""
    return lambda values: solve.landweber(1 / float(values[-1]), steps)(values)


def _active(state: State) -> list[Tensor]:
    """Task vectors that are not zero: those alone have a direction."""
    return [delta for delta in state.deltas.values() if bool(delta.any())]


def _least_interference(state: State) -> State:
    """argmin Σᵢ ‖(X − τᵢ) τᵢᵀ‖² / ‖τᵢ‖²."""
    if not is_matrix(state):
        return other(state)
    deltas = _active(state)
    if not deltas:
        return state.with_merged(state.zeros)
    initial = _initial(state, deltas)
    return state.with_merged(solve.gram_solve(_grams(deltas), deltas, initial=initial, degree=_degree(state, deltas)))


def _denoised(state: State) -> State:
    """argmin Σᵢ ‖(X − Mᵢ) Vᵢ Σᵢ‖² / ‖τᵢ‖², V Σ the leading part of τᵢ, Mᵢ = τ̄ + the leading part of τᵢ − τ̄."""
    if not is_matrix(state):
        return other(state)
    deltas = _active(state)
    if not deltas:
        return state.with_merged(state.zeros)
    share = weights.number(state.shared, "rank_share")
    shape = deltas[0].shape
    count = rank_of_share(share, shape) if share else max(1, min(shape) // state.num_sources)
    mean = sum_of(deltas).div_(state.num_sources) if state.shared["centred"] else None

    def target(delta: Tensor) -> Tensor:
        if mean is None:
            return spectral.svd(delta, count=count).matrix
        return spectral.svd(delta - mean, count=count).matrix.add_(mean)

    grams = (_leading_gram(delta, count) for delta in deltas)
    targets = (target(delta) for delta in deltas)
    initial = _initial(state, deltas)
    return state.with_merged(solve.gram_solve(grams, targets, initial=initial, degree=_degree(state, deltas)))


def _leading_gram(delta: Tensor, count: int) -> Tensor:
    """V Σ² Vᵀ / ‖τ‖² with the leading `count` components."""
    lead = spectral.svd(delta, count=count)
    rows, found = lead.right.double().mul_(lead.values[:, None]), inner(delta, delta)
    del lead
    return (rows.t() @ rows).div_(found)


def _solved_bytes(x: Extent) -> int:
    """The Gram matrix of all sources and its eigenvectors, beside products in float64."""
    if not x.matrix:
        return 3 * x.one
    return eigen_bytes(x.shape[1]) + 6 * x.one


_FILTERS = (INITIAL, FILTER, ALPHA, STEPS, TIME, DIRECTIONS, DIRECTION_SHARE)
LEAST_INTERFERENCE = Stage(
    name="least_interference",
    kind="aggregate",
    text="the matrix that disturbs the sources' task vectors least, each measured along its own rows",
    apply=_least_interference,
    parameters=(*_FILTERS, OTHERS),
    grain="tensor",
    cost="solve",
    only_matrices=True,
    workspace=_solved_bytes,
)
DENOISED = Stage(
    name="least_interference_denoised",
    kind="aggregate",
    text="the same, measured along the sources' leading directions, towards their leading parts",
    apply=_denoised,
    parameters=(RANK_SHARE, CENTRED, *_FILTERS, OTHERS),
    grain="tensor",
    cost="solve",
    only_matrices=True,
    workspace=lambda x: _solved_bytes(x) + (svd_bytes(*x.shape) + 2 * x.one if x.matrix else 0),
)

STAGES = (LEAST_INTERFERENCE, DENOISED)
