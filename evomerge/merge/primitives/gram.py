"""Inner products of a few long vectors that come in blocks, each pair summed in one fixed order.

Entry i of every product goes to lane i mod 256, a lane adds up in the order of the entries, and the lanes are added up
at the end: the same float64, bit for bit, however the vectors are cut into blocks, and an order that a processor can
follow many lanes at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LANES = 256
_ROWS = 64
"""Lanes' worth of entries multiplied at a time: they stay in a core's second-level cache."""

Floats = npt.NDArray[np.float64]


class Gram:
    """All inner products of n vectors in float64.

    Attributes:
        lanes: [n·(n + 1)/2, LANES], the sums so far of the pairs (0, 0), (1, 0), (1, 1), (2, 0), …
        length: entries so far.

    >>> gram = Gram(2)
    >>> gram.add([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
    >>> gram.products.tolist()
    [[5.0, 11.0], [11.0, 25.0]]
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.lanes = np.zeros((number * (number + 1) // 2, LANES))
        self.length = 0

    @property
    def products(self) -> Floats:
        """[n, n]."""
        result = np.empty((self.number, self.number))
        rows, columns = _lower(self.number)
        result[rows, columns] = result[columns, rows] = self.lanes.sum(1)
        return result

    def add(self, vectors: Sequence[Tensor]) -> None:
        """Take the next entries of all vectors: flat, float32, of one length."""
        size = len(vectors[0])
        if vectors[0].device.type != "cpu":
            self._add_elsewhere(vectors)
        else:
            begin = 0
            while begin < size:
                skipped = (self.length + begin) % LANES
                end = min(begin + _ROWS * LANES - skipped, size)
                self._add([v[begin:end].numpy() for v in vectors], skipped)
                begin = end
        self.length += size

    def _add(self, parts: Sequence[npt.NDArray[np.float32]], skipped: int) -> None:
        rows = -(-(skipped + len(parts[0])) // LANES)
        wide = np.zeros((len(parts), rows * LANES))  # what is beside the entries adds zeros
        for row, part in zip(wide, parts, strict=True):
            row[skipped : skipped + len(part)] = part
        sums = np.empty((1 + rows, LANES))
        pair = 0
        for i in range(len(parts)):
            for j in range(i + 1):
                sums[0] = self.lanes[pair]
                np.multiply(wide[i], wide[j], out=sums[1:].reshape(-1))
                np.add.reduce(sums, axis=0, out=self.lanes[pair])  # row after row
                pair += 1

    def _add_elsewhere(self, vectors: Sequence[Tensor]) -> None:
        """On a device: in its own order."""
        wide = torch.stack([v.double() for v in vectors])
        products = (wide @ wide.T).cpu().numpy()
        self.lanes[:, 0] += products[np.tril_indices(self.number)]


@cache
def _lower(number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the pairs, in their order."""
    rows, columns = np.tril_indices(number)
    return rows, columns


ROW_LANES = 16
"""Lanes of a row's products: rows are short."""


def row_products(vectors: Sequence[Tensor]) -> Floats:
    """All inner products of the rows of n matrices, row by row, in float64.

    Entry i goes to lane i mod 16; lanes add up in the order of the entries, and their halves are added until one
    is left.

    Args:
        vectors: float32 [R, C] each.

    Returns:
        [R, n, n].
    """
    number, (rows, columns) = len(vectors), vectors[0].shape
    found = np.zeros((rows, number, number))
    if vectors[0].device.type != "cpu":
        wide = torch.stack([v.double() for v in vectors], dim=1)
        return (wide @ wide.mT).cpu().numpy()
    length = -(-columns // ROW_LANES)
    padded = np.zeros((number, rows, length * ROW_LANES))
    for matrix, vector in zip(padded, vectors, strict=True):
        matrix[:, :columns] = vector.numpy()
    for i in range(number):
        for j in range(i + 1):
            products = (padded[i] * padded[j]).reshape(rows, length, ROW_LANES)
            lanes = products[:, 0].copy()
            for k in range(1, length):
                lanes += products[:, k]
            while lanes.shape[1] > 1:
                half = lanes.shape[1] // 2
                lanes = lanes[:, :half] + lanes[:, half:]
            found[:, i, j] = found[:, j, i] = lanes[:, 0]
    return found
