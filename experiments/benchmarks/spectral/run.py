"""What merges by singular values cost: floating-point operations, time, and time over that of their matrix products.

    OMP_NUM_THREADS=1 python experiments/benchmarks/spectral/run.py [--down | --memory]

Every method merges one random matrix of three sources. While it does, all its matrix products and eigendecompositions
are recorded; the products are then made again, alone, on random numbers of the same shapes and precision.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evomerge.merge.methods import METHODS
from evomerge.testing.merging import merge_tensor

SHAPES = {"135M": (1536, 576), "1.1B": (5632, 2048)}
DOWN = {"1.1B down": (2048, 5632)}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "task arithmetic": ("task_arithmetic", {}),
    "STAR": ("star", {}),
    "TSV-M": ("tsv_m", {}),
    "Iso-C": ("iso_c", {}),
    "Iso-C, Newton-Schulz": ("iso_c", {"polar": "newton_schulz"}),
    "WUDI": ("wudi", {}),
}
EIGEN = 9
"""Operations of a symmetric eigendecomposition with vectors, over n³ (Golub and Van Loan, Matrix Computations, 8.3)."""

Product = tuple[int, int, int, torch.dtype]
"""m × k times k × n."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has untyped hooks
    """Matrix products and eigendecompositions as they are made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: Counter[Product] = Counter()
        self.eigen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.products[(left.shape[0], left.shape[1], right.shape[1], left.dtype)] += 1
        elif name == "_linalg_eigh":
            self.eigen.append(args[0].shape[-1])
        return func(*args, **(kwargs or {}))

    @property
    def operations(self) -> float:
        """Of the products and the decompositions together."""
        products = sum(2.0 * m * k * n * count for (m, k, n, _), count in self.products.items())
        return products + sum(EIGEN * float(n) ** 3 for n in self.eigen)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds: on a machine that others use too, wall time says how busy it was."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return statistics.median(found)


def products_alone(products: Counter[Product]) -> float:
    """CPU seconds that the products take by themselves; each shape is timed once and counted as often as it came."""
    total = 0.0
    for (m, k, n, dtype), count in products.items():
        left, right = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        total += count * seconds(lambda left=left, right=right: left @ right, 1)  # type: ignore[misc]
    return total


def row(title: str, base: Tensor, models: dict[str, Tensor], repeats: int) -> str:
    """One method's line of the table."""
    name, parameters = RUNS[title]

    def merge() -> Tensor:
        return merge_tensor(METHODS[name], base, models, **parameters)

    with Recorder() as seen:
        begin = time.process_time()
        merge()
        took = time.process_time() - begin
    if repeats > 1:
        took = seconds(merge, repeats)
    alone = products_alone(seen.products)
    ratio = f"{took / alone:.1f}" if alone else "-"
    return f"| {title} | {seen.operations / 1e9:.1f} | {took:.2f} | {alone:.2f} | {ratio} |"


MEMORY = ("task_arithmetic", "star", "tsv_m", "axis", "drm")


def _inputs(shape: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator) * 0.02
    return base, {s: base + 1e-3 * torch.randn(shape, generator=generator) for s in "abc"}


def peak(name: str, shape: tuple[int, int]) -> float:
    """Most memory that a merge takes beyond its inputs, in float32 matrices of that shape. For a process of its own."""
    torch.set_num_threads(1)
    small, smalls = _inputs((64, 64))
    merge_tensor(METHODS[name], small, smalls)  # loads libraries
    base, models = _inputs(shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    merge_tensor(METHODS[name], base, models)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / base.nbytes


def print_memory() -> None:
    """A method a line."""
    print("| method | 768 × 768 | 2112 × 768 | 768 × 2112 |\n|---|--:|--:|--:|")
    for name in MEMORY:
        found = []
        for shape in ((768, 768), (2112, 768), (768, 2112)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found.append(f"{pool.apply(peak, (name, shape)):.1f}")
        print(f"| {name} | {' | '.join(found)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--down", action="store_true", help="also WUDI where its Gram matrix is 5632 × 5632 (minutes)")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    asked = parser.parse_args()
    if asked.memory:
        return print_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), load {os.getloadavg()[0]:.1f}")
    for label, shape in {**SHAPES, **(DOWN if asked.down else {})}.items():
        base, models = _inputs(shape)
        print(f"\n{label}: {shape[0]} × {shape[1]}, 3 sources\n")
        print("| method | Gflop | CPU s | products alone, CPU s | ratio |")
        print("|---|--:|--:|--:|--:|")
        for title in RUNS if label in SHAPES else ("WUDI",):
            print(row(title, base, models, repeats=3 if max(shape) < 2000 else 1), flush=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")
    return None


if __name__ == "__main__":
    main()
