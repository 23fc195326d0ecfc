"""The K-th largest of values that are read in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomerge.merge.primitives.measure import Rows, kth_largest, kth_values


def rows_of(values: Tensor, block: int) -> Rows:
    def rows() -> Iterator[tuple[int, dict[str, Tensor | None]]]:
        for part in values.split(block):
            yield part.numel(), {"a": part, "nothing": None}

    return rows


@given(
    st.lists(st.floats(-4, 4, width=32).map(lambda x: round(x, 1)), min_size=1, max_size=40),
    st.integers(1, 40),
    st.integers(1, 7),
)
def test_the_kth_value_is_that_of_a_sort(values: list[float], kth: int, block: int) -> None:
    kth = min(kth, len(values))
    tensor = torch.tensor(values)
    found = kth_values(rows_of(tensor, block), {"a": lambda size: kth, "nothing": lambda size: kth})

    assert found["a"] == tensor.sort(descending=True).values[kth - 1].item()
    assert found["nothing"] == 0


def test_matrices_are_counted_like_vectors() -> None:
    values = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    found = kth_largest(lambda: [(values.numel(), {"a": values})], {"a": lambda size: size // 3})

    assert found["a"] == values.abs().flatten().sort(descending=True).values[20].item()


@pytest.mark.parametrize("size", [(1 << 24) + 3])
@pytest.mark.slow
def test_quantiles_work_beyond_the_limit_of_torch_quantile(size: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(0))
    found = kth_values(rows_of(values, 1 << 16), {"a": lambda n: n // 10})

    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values, 0.9)
    assert int((values >= found["a"]).sum()) == size // 10
