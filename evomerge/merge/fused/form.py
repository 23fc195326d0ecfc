"""Which merges there are compiled loops for, and with what numbers. Pure.

Weighted sums of task vectors, and TIES and DARE; combinations of whole tensors say for themselves what they are
(`evomerge.merge.method.Combination`). Everything else, and every parameter that is not listed here, takes the torch
path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.merge.method import Values
from evomerge.merge.methods import task_arithmetic
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives import weights
from evomerge.merge.primitives.rescale import inverse
from evomerge.merge.primitives.sparsify import resolved

TRIM_STAGE, TIE = "0:", "3:tie sign"
"""Where TIES' chain keeps its thresholds and the sign of even votes."""
DARE_TIE = "2:tie sign"


@dataclass(frozen=True, slots=True)
class Form:
    """One tensor's merge.

    Attributes:
        kind: `total`: θ0 + λ·Σ votes; `disjoint`: θ0 + λ·Σ of the votes that agree.
        sources: those that take part, in order.
        sparsify: what makes votes of task vectors.
        bounds: source → threshold (`trim`) or density (`bernoulli`).
        factors, weights: source → what its entries are multiplied by, one after the other.
        divide: source → what it adds to the divisor where it agrees; empty: nothing is divided.
        tie: the sign of even votes.
        scale: λ.
    """

    kind: Literal["total", "disjoint"]
    sources: tuple[str, ...]
    sparsify: Literal["nothing", "trim", "bernoulli"]
    bounds: Mapping[str, float]
    factors: Mapping[str, float]
    weights: Mapping[str, float]
    divide: Mapping[str, float] | None = None
    tie: float = 1.0
    scale: float = 1.0


def form_of(plan: Plan, job: TensorJob, measured: Mapping[str, float]) -> Form | None:
    """The form of a job's merge; None where there is no loop for it."""
    make = _FORMS.get(plan.method.name)
    return make(job, measured) if make is not None and job.changed else None


def tie_of(plan: Plan) -> str:
    """The name under which the method measures the sign of even votes."""
    return TIE if plan.method.name == "ties" else DARE_TIE


def measurable(plan: Plan, job: TensorJob) -> bool:
    """Whether all that a job's method measures are TIES' thresholds and the sign of even votes."""
    name, shared = plan.method.name, job.shared
    if name == "ties":
        return _plain(shared) and shared["rescale"] == "none"
    return name == "dare_ties" and _plain(shared) and shared["rescale"] in ("inverse", "none")


def _task_arithmetic(job: TensorJob, measured: Mapping[str, float]) -> Form | None:
    w = task_arithmetic.coefficients(job.shared, job.per_source)
    sources = tuple(source for source in job.changed if w[source] != 0)
    return Form("total", sources, "nothing", {}, dict.fromkeys(sources, 1.0), w) if sources else None


def _ties(job: TensorJob, measured: Mapping[str, float]) -> Form | None:
    known = all(f"{TRIM_STAGE}{source}" in measured for source in job.changed)
    if not known or not _plain(job.shared) or job.shared["rescale"] != "none":
        return None
    bounds = {source: measured[f"{TRIM_STAGE}{source}"] for source in job.changed}
    return _disjoint(job, "trim", bounds, dict.fromkeys(job.changed, 1.0), measured.get(TIE, 1.0))


def _dare_linear(job: TensorJob, measured: Mapping[str, float]) -> Form | None:
    if (dropped := _dropped(job)) is None:
        return None
    w = weights.of_sources(job.per_source)
    if job.shared["normalize"] and sum(w.values()) != 1:
        return None
    scale = weights.number(job.shared, "lambda")
    return Form("total", job.changed, "bernoulli", *dropped, w, scale=scale)


def _dare_ties(job: TensorJob, measured: Mapping[str, float]) -> Form | None:
    dropped = _dropped(job)
    if dropped is None or not _plain(job.shared):
        return None
    return _disjoint(job, "bernoulli", *dropped, measured.get(DARE_TIE, 1.0))


def _disjoint(
    job: TensorJob,
    sparsify: Literal["trim", "bernoulli"],
    bounds: Mapping[str, float],
    factors: Mapping[str, float],
    tie: float,
) -> Form:
    w = weights.of_sources(job.per_source)
    signed = job.shared["divisor"] == "signed"
    divide = {source: w[source] if signed else abs(w[source]) for source in job.changed}
    scale = weights.number(job.shared, "lambda")
    return Form(
        "disjoint", job.changed, sparsify, bounds, factors, w,
        divide=divide if job.shared["normalize"] else None, tie=tie, scale=scale,
    )  # fmt: skip


def _plain(shared: Values) -> bool:
    return shared["election"] == "mass"


def _dropped(job: TensorJob) -> tuple[dict[str, float], dict[str, float]] | None:
    """Densities, and what makes up for what is dropped."""
    densities = {source: weights.number(job.per_source[source], "density") for source in job.changed}
    if job.shared["rescale"] == "inverse":
        return densities, {source: inverse(resolved(density)) for source, density in densities.items()}
    return (densities, dict.fromkeys(densities, 1.0)) if job.shared["rescale"] == "none" else None


_FORMS = {
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_linear": _dare_linear,
    "dare_ties": _dare_ties,
}
