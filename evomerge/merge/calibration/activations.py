"""Statistics of activations: forward passes with hooks on the linear maps.

What one pass would have to hold at a time may be more than fits: then the maps are taken in groups, a pass over the
items for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.live import Live

Named = Iterator[tuple[str, Tensor]]
"""Name of what a statistic belongs to, and the statistic, float32 on the CPU."""
Done = Callable[[], None]
"""Called after every item."""


def gram(live: Live, samples: Sequence[Sample], memory: int, done: Done) -> Named:
    """XᵀX/n of the inputs X (n tokens × in) of every linear map, summed in float64."""
    widths = {name: _width(module) for name, module in live.linears.items()}
    for group in groups({name: 8 * width**2 for name, width in widths.items()}, memory):
        sums = {n: torch.zeros(widths[n], widths[n], dtype=torch.float64, device=live.device) for n in group}
        tokens = 0
        for sample, inputs in _passes(live, samples, group, done):
            tokens += len(sample.ids)
            for name, x in inputs.items():
                sums[name].addmm_(x.double().T, x.double())
        for name in group:
            yield name, (sums.pop(name) / tokens).float().cpu()


def features(live: Live, samples: Sequence[Sample], memory: int, done: Done) -> Named:
    """Mean input of every linear map over the tokens of an item; (items × in)."""
    sizes = {name: 4 * len(samples) * _width(module) for name, module in live.linears.items()}
    for group in groups(sizes, memory):
        rows: dict[str, list[Tensor]] = {name: [] for name in group}
        for _, inputs in _passes(live, samples, group, done):
            for name, x in inputs.items():
                rows[name].append(x.double().mean(0).float().cpu())
        for name in group:
            yield name, torch.stack(rows.pop(name))


def groups(sizes: Mapping[str, int], memory: int) -> Iterator[list[str]]:
    """Names in order, in groups whose sizes add up to `memory` at most; what is larger alone makes its own."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > memory:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _passes(
    live: Live, samples: Sequence[Sample], names: Iterable[str], done: Done
) -> Iterator[tuple[Sample, Mapping[str, Tensor]]]:
    """Each item with the inputs of the maps, (tokens × in)."""
    with torch.no_grad(), _inputs(live, names) as inputs:
        for sample in samples:
            inputs.clear()
            live.logits(sample)
            yield sample, inputs
            done()


@contextmanager
def _inputs(live: Live, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """The inputs of the linear maps in the latest forward pass."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[Any, Any], None]:
        def keep(module: Any, arguments: Any) -> None:
            seen[name] = arguments[0].detach().reshape(-1, arguments[0].shape[-1])

        return keep

    with ExitStack() as stack:
        for name in names:
            stack.callback(live.linears[name].register_forward_pre_hook(hook(name)).remove)
        yield seen


def _width(module: torch.nn.Module) -> int:
    """Number of inputs, for linear maps of either orientation."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[1] if isinstance(module, torch.nn.Linear) else weight.shape[0]
