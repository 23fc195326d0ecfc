from __future__ import annotations

import pytest
import torch

from evomerge.errors import NonFiniteError
from evomerge.models.finite import check_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 999_999])
def test_one_bad_entry_is_found_and_placed(dtype: torch.dtype, value: float, at: int) -> None:
    tensor = torch.ones(1000, 1000, dtype=dtype)
    tensor.view(-1)[at] = value

    with pytest.raises(NonFiniteError, match=rf"here: tensor 'w' .* 1 of 1000000 .* \[{at // 1000}, {at % 1000}\]"):
        check_finite(tensor, "w", "here")


def test_the_largest_numbers_and_nothing_at_all_are_fine() -> None:
    check_finite(torch.tensor([torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max]), "w", "here")
    check_finite(torch.zeros(0, 3), "w", "here")
    check_finite(torch.tensor(1.0), "w", "here")
