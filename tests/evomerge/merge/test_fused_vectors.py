"""Combinations of whole tensors, and means over the sources that agree: compiled loops give the torch path's bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.errors import InvalidInputError, NonFiniteError
from evomerge.merge import blocks
from evomerge.merge.blocks import Fresh, Operand, TensorWork, measure_model, measure_tensor, merge_into
from evomerge.merge.fused import measure as fused_measure
from evomerge.merge.fused import run
from evomerge.merge.methods import METHODS
from evomerge.merge.plan import Plan, TensorJob
from evomerge.merge.primitives.gram import LANES, Gram, row_products
from evomerge.models.weights import Place

CPU = torch.device("cpu")
WEIGHTS = st.sampled_from([0.0, 1.0, 0.5, 0.3, -0.4, 1e-50, 1.7])
PULLS = st.sampled_from([0.0, 1.0, 0.5, 0.3, 1.7])
COMBINATIONS = sorted(name for name, method in METHODS.items() if method.combination is not None)
MEANS = ("arcee_fusion", "nearswap", "ram", "ram_plus", "ramplus_tl", "sce")
AMPLIFIED: dict[str, st.SearchStrategy[Any]] = {
    "epsilon": st.sampled_from([0.0, 1e-5, 0.005]),
    "epsilon_unit": st.sampled_from(["absolute", "rms"]),
    "r": st.sampled_from([0.0, 0.3]),
    "alpha": st.sampled_from([0.1, 1.0]),
}
SHARED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "linear": {"normalize": st.booleans()},
    "passthrough": {"scale": st.sampled_from([0.0, 1.0, 0.7, -2.0])},
    "slerp": {"t": st.sampled_from([0.0, 0.3, 0.5, 1.0])},
    "nuslerp": {"origin": st.sampled_from(["zero", "base"]), "nuslerp_flatten": st.booleans()},
    "multislerp": {"origin": st.sampled_from(["zero", "base"]), "normalize_weights": st.booleans()},
    "model_stock": {"norm_floor": st.sampled_from([0.0, 1e-6]), "filter_wise": st.booleans()},
    "task_arithmetic": {"lambda": WEIGHTS, "normalize": st.booleans()},
    "arcee_fusion": {"iqr_factor": st.sampled_from([-1.0, 0.0, 1.5])},
    "nearswap": {"t": st.sampled_from([0.0, 1e-3, 1.0])},
    "ram": {name: AMPLIFIED[name] for name in ("epsilon", "epsilon_unit")},
    "ram_plus": AMPLIFIED | {"scope": st.sampled_from(["tensor", "global"])},
    "ramplus_tl": AMPLIFIED,
    "sce": {"select_topk": st.sampled_from([0.0, 0.1, 0.5, 1.0]), "energy_floor": st.sampled_from([0.0, 1e-3])},
}
KINDS = ("near", "equal", "parallel", "opposite", "zero", "coarse", "unchanged")


def tensors(seed: int, size: int, kinds: tuple[str, ...], zero: float) -> tuple[Tensor, dict[str, Tensor | None]]:
    """A base, and models that stand to it as `kinds` says; both hold zeros (−0 if `zero` is)."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(scale: float) -> Tensor:
        return scale * torch.randn(size, generator=generator)

    base, first = numbers(0.03), numbers(0.01)
    base[:: max(1, size // 5)] = 0.0
    base[1 :: max(1, size // 5)] = zero
    made: dict[str, Tensor | None] = {
        "near": base + numbers(0.01),
        "equal": base + first,
        "parallel": base * 2.0,
        "opposite": -base,
        "zero": 0 * base,
        "coarse": (base / 0.01).round() * 0.01,
        "unchanged": None,
    }
    found = {name: made[kind] for name, kind in zip("abcd", kinds, strict=False)}
    shape = (9, -1) if size % 9 == 0 else (-1,)
    models = {name: None if m is None else m.bfloat16().view(shape) for name, m in found.items()}
    return base.bfloat16().view(shape), models


class Files:
    """Tensors in files that nobody has looked at."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._handles = folder, list[int]()

    def fresh(self, tensor: Tensor, name: str) -> Fresh:
        path = self._folder / name
        path.write_bytes(tensor.contiguous().view(torch.int16).numpy().tobytes())
        self._handles.append(os.open(path, os.O_RDONLY))
        return Fresh("w", f"source {name!r}", Place(self._handles[-1], 0, tensor.nbytes))

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)


def of_rows(shared: Mapping[str, Any]) -> bool:
    """Whether every row has coefficients of its own."""
    return bool(shared.get("filter_wise")) or shared.get("nuslerp_flatten") is False


def merged(
    method: str,
    base: Tensor,
    models: Mapping[str, Tensor | None],
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    compiled: bool,
    block: int = 3001,
    files: Files | None = None,
) -> tuple[Tensor, Mapping[str, float]]:
    """One tensor through a method, and the coefficients that were measured."""
    found = METHODS[method]
    values = {p.name: shared.get(p.name, p.default) for p in found.parameters if not p.per_source}
    per_source = {
        s: {p.name: own.get(s, {}).get(p.name, p.default) for p in found.parameters if p.per_source} for s in models
    }
    given = {s: m for s, m in models.items() if m is not None}
    operands = {s: Operand("weights", m, files.fresh(m, s) if files else None) for s, m in given.items()}
    job = TensorJob("w", torch.bfloat16, False, False, values, per_source, tuple(operands))
    if found.check is not None:
        found.check(values, per_source)
    plan, work = (
        Plan(found, tuple(models), (job,), 5),
        TensorWork(job, base, operands, fresh=files.fresh(base, "base") if files else None),
    )
    matrix = base.dim() > 1
    with pytest.MonkeyPatch.context() as patch:
        for module in (run, fused_measure):
            patch.setattr(module, "worth_it", lambda num_entries: compiled)
        patch.setattr(blocks, "BLOCK", block)
        whole = measure_model(plan, lambda: [work], CPU, threads=2) if plan.measures == "model" else None
        measured = measure_tensor(plan, work, CPU) if whole is None else whole
        ran = run.fused(plan, work, measured, torch.bfloat16) is not None
        assert ran == (compiled and (bool(operands) if method in MEANS else matrix or not of_rows(shared)))
        out = torch.empty_like(base)
        merge_into(out, plan, work, whole)
    return out, measured


@st.composite
def merges(draw: st.DrawFn) -> dict[str, Any]:
    method = draw(st.sampled_from([*COMBINATIONS, *MEANS]))
    least, most = METHODS[method].num_sources
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=least, max_size=most or 4))
    weighed = {p.name for p in METHODS[method].parameters if p.per_source}
    numbers = {"weight": PULLS if method in ("nuslerp", "karcher") else WEIGHTS, "order": st.integers(0, 3)}
    return {
        "method": method,
        "kinds": tuple(kinds),
        "own": {name: {p: draw(numbers[p]) for p in sorted(weighed)} for name in "abcd"[: len(kinds)]},
        "shared": {name: draw(values) for name, values in SHARED.get(method, {}).items()},
        "seed": draw(st.integers(0, 99)),
        "zero": draw(st.sampled_from([0.0, -0.0])),
        "size": draw(st.sampled_from([1, 7, 255, 256, 1024, 2049, 9000])),
    }


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(asked=merges(), block=st.sampled_from([1, 100, 256, 3001, 1 << 17]))
def test_compiled_loops_give_the_bytes_of_the_torch_path(asked: dict[str, Any], block: int) -> None:
    pytest.importorskip("numba")
    base, models = tensors(asked["seed"], asked["size"], asked["kinds"], asked["zero"])

    def bytes_of(**how: Any) -> tuple[Any, Any]:
        try:
            out, measured = merged(asked["method"], base, models, asked["shared"], asked["own"], **how)
        except InvalidInputError as refused:
            return str(refused), None
        return out.view(-1).view(torch.int16).tolist(), measured

    slow = bytes_of(compiled=False)

    assert bytes_of(compiled=True) == slow
    if asked["size"] < 100 * block:
        assert bytes_of(compiled=True, block=block) == slow
        assert bytes_of(compiled=False, block=block) == slow


@pytest.mark.parametrize(
    ("method", "shared"),
    [
        *((name, {}) for name in (*COMBINATIONS, *MEANS)),
        ("nuslerp", {"nuslerp_flatten": False}),
        ("model_stock", {"filter_wise": True}),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_bad_entry_of_a_source_is_named_whatever_it_counts_for(
    method: str,
    shared: dict[str, Any],
    value: float,
    compiled: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if compiled:
        pytest.importorskip("numba")
    number = min(METHODS[method].num_sources[1] or 3, 3)
    base, models = tensors(1, 9000, ("near",) * number, 0.0)
    own = {name: {"weight": float(name != "a" or number == 1)} for name in models}
    with closing(Files(tmp_path)) as files:
        asked: dict[str, Any] = {"own": own, "shared": shared, "compiled": compiled, "files": files}
        whole, _ = merged(method, base, models, **asked)
        monkeypatch.setattr(blocks, "HELD_BYTES", 0)  # read again for every pass
        again, _ = merged(method, base, models, **asked)
        bad = models["a"]
        assert bad is not None
        bad.view(-1)[4321] = value

        assert torch.equal(again, whole)
        with pytest.raises(NonFiniteError, match=r"source 'a'.*'w' holds NaN or infinity in 1 of 9000"):
            merged(method, base, models, **asked)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), max_size=4), seed=st.integers(0, 99))
def test_inner_products_do_not_depend_on_the_blocks(cuts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = [10.0**k * torch.randn(1500, generator=generator) for k in (0, -8, 8)]
    whole, parts = Gram(3), Gram(3)
    whole.add(vectors)
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 1500], strict=True):
        parts.add([v[begin:end] for v in vectors])

    assert (whole.lanes == parts.lanes).all()
    exact = torch.stack([v.double() for v in vectors])
    torch.testing.assert_close(torch.from_numpy(whole.products), exact @ exact.T, rtol=1e-12, atol=0.0)
    one_by_one = [sum((exact[1, i::LANES] * exact[0, i::LANES]).tolist(), 0.0) for i in range(LANES)]
    assert whole.lanes[1].tolist() == one_by_one


def test_products_of_rows_are_the_same_in_whatever_company() -> None:
    generator = torch.Generator().manual_seed(0)
    for columns in (1, 15, 16, 17, 100):
        a, b = torch.randn(2, 40, columns, generator=generator)
        found = row_products([a, b])

        assert row_products([a[7:9], b[7:9]]).tolist() == found[7:9].tolist()
        exact = torch.stack([a, b], 1).double()
        torch.testing.assert_close(torch.from_numpy(found), exact @ exact.mT, rtol=1e-12, atol=1e-12)
