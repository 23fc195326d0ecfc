"""Garbage and BLAS threads."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from evomerge.runtime import one_blas_thread, only_new_garbage


def blas_threads() -> set[int]:
    """Of every BLAS in this process."""
    assert np.linalg.det(np.eye(2)) == 1
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_linear_algebra_has_one_thread_inside_and_what_it_had_afterwards() -> None:
    with threadpool_limits(2, user_api="blas"):
        with one_blas_thread():
            inside = blas_threads()

        assert inside == {1}
        assert blas_threads() == {2}


def test_garbage_of_before_is_left_alone_and_found_afterwards() -> None:
    gc.collect()
    with only_new_garbage():
        frozen = gc.get_freeze_count()
        with only_new_garbage():
            assert gc.get_freeze_count() == frozen

        assert frozen > 0
    assert gc.get_freeze_count() == 0


def test_an_error_ends_it_too() -> None:
    with pytest.raises(ZeroDivisionError), only_new_garbage(), one_blas_thread():
        _ = 1 / 0

    assert gc.get_freeze_count() == 0
