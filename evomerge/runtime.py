"""What Python and BLAS do of their own accord, kept from standing in the way of the work."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

YOUNG = 20_000
"""Objects that are made between two looks at the young ones, some 10 MB; 700 is Python's number. Most garbage has no
cycles and goes without a look."""


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Let Python look for garbage among what is made from now on, and seldom: to look through all that was there before
    (torch and transformers: a quarter of a million objects) takes .1 s, in which no thread goes on, and happens in the
    middle of nearly every merge."""
    if gc.get_freeze_count():  # somebody has seen to it
        yield
        return
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Linear algebra of numpy and scipy in the thread that calls it, in the whole process; where several threads want
    that at a time, for as long as the first of them does.

    Matrices of some hundred rows gain nothing from more, and where workers keep the cores busy, threads that wait for
    each other take a hundred times as long: belief in 192 candidates took 19 s in place of .14.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
