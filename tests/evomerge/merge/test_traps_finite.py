"""Every method that reads no data, on small models at the edge of what a checkpoint may hold.

What comes out is finite, or the merge says in so many words why it cannot; and it is the same bytes however often it is
asked for, and in whatever order sources and tensors are named. A tensor that a source lacks is one that it left alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import InvalidInputError, NonFiniteError
from evomerge.merge.method import Method, Parameter
from evomerge.merge.methods import METHODS
from evomerge.models.factors import Factors
from evomerge.testing.merging import merge_tensors

NAMES = sorted(name for name, method in METHODS.items() if not method.requires)
EMPTY = ((0,), (0, 5), (5, 0), (3, 0, 2))
SHAPES = ((1, 1), (1, 5), (5, 1), (3, 4), (4, 3), (6, 6), (7,), (1,), (2, 3, 2))
ROLES = ("mlp.up", "attention.q", "embedding", "head")
CHANGES = ("normal", "zeros", "huge", "tiny", "one entry", "sparse", "equal columns", "equal", "opposite", "any scale")


@dataclass(frozen=True)
class Case:
    """A small model, its sources and the parameters to merge them with."""

    base: dict[str, Tensor]
    models: dict[str, dict[str, Tensor]]
    factors: dict[str, dict[str, Factors]]
    roles: dict[str, str]
    parameters: dict[str, Any]


def change(kind: str, shape: tuple[int, ...], generator: torch.Generator, first: Tensor | None) -> Tensor:
    """A task vector."""
    delta = torch.randn(shape, generator=generator)
    if kind == "one entry" and delta.numel():
        return delta * (torch.arange(delta.numel()).view(shape) == delta.numel() // 2)
    if kind in ("equal", "opposite") and first is not None:
        return first if kind == "equal" else -first
    scales: dict[str, float | Tensor] = {
        "zeros": 0.0,
        "huge": 1e30,
        "tiny": 1e-30,
        "sparse": (torch.rand(shape, generator=generator) < 0.2).float(),
        "any scale": 10 ** float(torch.empty(()).uniform_(-30, 30, generator=generator)),
    }
    return (delta[..., :1].expand(shape) if kind == "equal columns" and delta.numel() else delta) * scales.get(
        kind, 1.0
    )


def value(parameter: Parameter) -> st.SearchStrategy[Any]:
    """A value that a search may try."""
    if isinstance(parameter.default, bool):
        return st.booleans()
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    assert parameter.low is not None
    assert parameter.high is not None
    ends = st.sampled_from([parameter.default, parameter.low, parameter.high])
    return ends | st.floats(parameter.low, parameter.high)


@st.composite
def cases(draw: st.DrawFn, method: Method) -> Case:
    least, most = method.num_sources
    sources = "abcd"[: draw(st.integers(least, min(most or 4, 4)))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    base: dict[str, Tensor] = {}
    models: dict[str, dict[str, Tensor]] = {s: {} for s in sources}
    factors: dict[str, dict[str, Factors]] = {}
    roles: dict[str, str] = {}
    more = SHAPES if method.factored else SHAPES + EMPTY
    for number, shape in enumerate([draw(st.sampled_from(SHAPES)), *draw(st.lists(st.sampled_from(more), max_size=2))]):
        name, kind = f"t{number}", draw(st.sampled_from(CHANGES))
        roles[name] = draw(st.sampled_from(ROLES)) if len(shape) == 2 else "norm.mlp"
        base[name] = torch.randn(shape, generator=generator) * draw(st.sampled_from([0.0, 1.0, 1e-3]))
        first: Tensor | None = None
        for source in draw(st.lists(st.sampled_from(sources), unique=True)):
            if method.factored and len(shape) == 2:
                kind = "normal" if kind == "any scale" else kind  # a product of two of these is not a float32
                A, B = (change(kind, size, generator, None) for size in ((2, shape[1]), (shape[0], 2)))
                by = 1e-15 if kind == "huge" else 1.0
                factors.setdefault(name, {})[source] = Factors(A * by, B * by)
            else:
                delta = change(kind, shape, generator, first)
                first = delta if first is None else first
                models[source][name] = base[name] + delta
    parameters = {
        p.name: {s: draw(value(p)) for s in sources} if p.per_source else draw(value(p))
        for p in method.parameters
        if draw(st.booleans())
    }
    return Case(base, models, factors, roles, parameters)


def merged(method: Method, case: Case, *, turned: bool = False) -> dict[str, Tensor]:
    def some(named: Any) -> Any:
        return dict(reversed(named.items())) if turned else named

    models, factors = some(case.models), {n: some(f) for n, f in some(case.factors).items()}
    roles, asked = case.roles, some(case.parameters)
    return merge_tensors(method, some(case.base), models, roles=roles, factors=factors, seed=5, **asked)


def check(name: str, case: Case) -> None:
    method = METHODS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's "invalid value" and the like
        try:
            found = merged(method, case)
        except (InvalidInputError, NonFiniteError):
            return
        again, turned = merged(method, case), merged(method, case, turned=True)
        filled = merged(method, replace(case, models={s: case.base | m for s, m in case.models.items()}))
    for tensor in case.base:
        assert bool(torch.isfinite(found[tensor]).all())
        assert torch.equal(found[tensor], again[tensor])
        assert torch.equal(found[tensor], turned[tensor])
        moved = float((found[tensor] - case.base[tensor]).abs().max()) if found[tensor].numel() else 0.0
        torch.testing.assert_close(filled[tensor], found[tensor], rtol=1e-4, atol=1e-4 * moved)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None, suppress_health_check=QUIET, database=None, derandomize=True)
@given(data=st.data())
def test_small_models_merge_to_numbers_or_are_refused(name: str, data: st.DataObject) -> None:
    check(name, data.draw(cases(METHODS[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_many_small_models_merge_to_numbers_or_are_refused(name: str, data: st.DataObject) -> None:
    check(name, data.draw(cases(METHODS[name])))
