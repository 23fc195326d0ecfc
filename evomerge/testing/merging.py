"""Merge methods on tensors alone, without files: for tests of methods, ours and a plug-in's.

    class TestMine(MethodContract):
        method = MINE

inherits the laws that hold for every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from evomerge.merge.blocks import Operand, TensorWork, measure_model, merge_into
from evomerge.merge.method import Method
from evomerge.merge.plan import Plan, TensorJob
from evomerge.models.architecture import Part
from evomerge.models.factors import Factors

Tensors = Mapping[str, Tensor]
"""Tensor name → values."""


def merge_tensors(
    method: Method,
    base: Tensors,
    models: Mapping[str, Tensors],
    *,
    roles: Mapping[str, str] | None = None,
    layers: Mapping[str, int] | None = None,
    num_layers: int = 1,
    statistics: Mapping[str, Mapping[str, Mapping[str, Tensor]]] | None = None,
    factors: Mapping[str, Mapping[str, Factors]] | None = None,
    seed: int = 0,
    **parameters: Any,
) -> dict[str, Tensor]:
    """A small model through a method, as files and resident models go through it.

    Args:
        base: θ0, float32.
        models: source name → θk; tensors that it leaves alone may be missing.
        roles: tensor name → role; by default `mlp.up`, which is a matrix where the tensor has two dimensions.
        layers: tensor name → layer; by default 0.
        statistics: tensor name → source (`""`: the base) → kind → what calibration collected.
        factors: tensor name → source → its LoRA factors, in place of that tensor's models.
        parameters: the method's; a mapping gives one value a source (`weight={"a": 2.0}`), others keep the default.

    Returns:
        tensor name → merged, float32.

    Raises:
        InvalidInputError: as the method's check.
    """
    low_rank = factors or {}
    sources = tuple(sorted({*models, *(source for found in low_rank.values() for source in found)}))
    assert set(parameters) <= {p.name for p in method.parameters}, "parameters that the method has not"
    shared = {p.name: parameters.get(p.name, p.default) for p in method.parameters if not p.per_source}
    per_source = {s: {p.name: _of(parameters, p.name, s, p.default) for p in method.parameters if p.per_source}
                  for s in sources}  # fmt: skip
    if method.check is not None:
        method.check(shared, per_source)
    works = []
    for name, tensor in base.items():
        part = Part((roles or {}).get(name, "mlp.up"), (layers or {}).get(name, 0))
        factored = low_rank.get(name, {})
        changed = tuple(s for s in sources if (s in factored if factored else name in models.get(s, {})))
        job = TensorJob(
            name, torch.float32, False, False, shared, per_source, changed, part, num_layers, factored=bool(factored)
        )
        operands = {} if factored else {s: Operand("weights", models[s][name].contiguous()) for s in changed}
        collected = (statistics or {}).get(name, {})
        works.append(TensorWork(job, tensor.contiguous(), operands, collected, factors=factored))
    plan = Plan(method, sources, tuple(work.job for work in works), seed)
    measured = measure_model(plan, lambda: works, torch.device("cpu")) if plan.measures == "model" else None
    merged = {}
    for work in works:
        merged[work.job.name] = torch.empty_like(work.base)
        merge_into(merged[work.job.name], plan, work, measured)
    return merged


def merge_tensor(method: Method, base: Tensor, models: Tensors, **parameters: Any) -> Tensor:
    """One tensor through a method; see `merge_tensors`."""
    role = parameters.pop("role", "mlp.up")
    whole = {source: {"w": model} for source, model in models.items()}
    return merge_tensors(method, {"w": base}, whole, roles={"w": role}, **parameters)["w"]


def _of(parameters: Mapping[str, Any], name: str, source: str, default: Any) -> Any:
    given = parameters.get(name, default)
    return given.get(source, default) if isinstance(given, Mapping) else given


class MethodContract:
    """Laws of all merge methods.

    Attributes:
        method: the one under test.
        parameters: with which it is tested; defaults where it says nothing.
        scale: standard deviation of the task vectors.
        orderless: whether the names of the sources must not matter.
    """

    method: Method
    parameters: ClassVar[Mapping[str, Any]] = {}
    scale = 0.1
    orderless = True

    def models(self, seed: int = 0, rows: int = 24, columns: int = 17) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A matrix, a vocabulary and a vector, and as many sources as the method takes, three at most."""
        generator = torch.Generator().manual_seed(seed)
        shapes = {"matrix": (rows, columns), "embedding": (rows + 7, columns), "norm": (columns,)}
        base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        number = min(self.method.num_sources[1] or 3, max(3, self.method.num_sources[0]))
        sources = {
            s: {n: t + self.scale * torch.randn(t.shape, generator=generator) for n, t in base.items()}
            for s in ("a", "b", "c", "d", "e")[:number]
        }
        return base, sources

    def merge(self, base: Tensors, models: Mapping[str, Tensors], seed: int = 3) -> dict[str, Tensor]:
        """The method on a small model."""
        roles = {"matrix": "mlp.up", "embedding": "embedding", "norm": "norm.mlp"}
        return merge_tensors(self.method, base, models, roles=roles, seed=seed, **self.parameters)

    def test_sources_equal_to_the_base_give_the_base(self) -> None:
        """δ = 0 everywhere."""
        base, models = self.models()
        merged = self.merge(base, {source: dict(base) for source in models})

        for name in base:
            torch.testing.assert_close(merged[name], base[name], rtol=1e-5, atol=1e-6)

    def test_the_same_call_gives_the_same_bytes(self) -> None:
        """No hidden randomness."""
        base, models = self.models()
        first, second = self.merge(base, models), self.merge(base, models)

        assert all(torch.equal(first[name], second[name]) for name in base)

    def test_the_sources_names_do_not_matter(self) -> None:
        """Where the paper gives no order, there is none."""
        if not self.orderless or self.method.stochastic or self.method.ordered:
            pytest.skip("masks are drawn by name, or the order is a parameter")
        base, models = self.models()
        turned = dict(zip(models, [models[s] for s in reversed(models)], strict=True))
        first, second = self.merge(base, models), self.merge(base, turned)

        for name in base:
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)

    def test_inputs_are_not_written_to(self) -> None:
        """Operands are mapped files or resident memory."""
        base, models = self.models()
        before = (
            {n: t.clone() for n, t in base.items()},
            {s: {n: t.clone() for n, t in m.items()} for s, m in models.items()},
        )
        self.merge(base, models)

        assert all(torch.equal(base[n], t) for n, t in before[0].items())
        assert all(torch.equal(models[s][n], t) for s, m in before[1].items() for n, t in m.items())

    def test_a_source_that_leaves_a_tensor_alone_counts_as_zero(self) -> None:
        """Missing tensors and unchanged ones are the same."""
        base, models = self.models()
        first = next(iter(models))
        lacking = {**models, first: {n: t for n, t in models[first].items() if n != "matrix"}}
        same = {**models, first: {**models[first], "matrix": base["matrix"]}}
        left, right = self.merge(base, lacking), self.merge(base, same)

        for name in base:
            torch.testing.assert_close(left[name], right[name], rtol=1e-5, atol=1e-6)
