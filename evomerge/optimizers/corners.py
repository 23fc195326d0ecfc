"""What is mixed: the genomes that mixtures have as their corners, such as each source alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evomerge.optimizers.domain import Domain

Corners = NDArray[np.float64]
"""Shape [corners, genes]."""


def corners(domain: Domain) -> Corners:
    """The domain's seeds; without two of them, its start with each gene at 0 and at 1."""
    if len(domain.seeds) > 1:
        return np.array(domain.seeds, dtype=np.float64)
    ends = np.tile(np.array(domain.start, dtype=np.float64), (2 * domain.dim, 1))
    for gene in range(domain.dim):
        ends[2 * gene : 2 * gene + 2, gene] = 0.0, 1.0
    return ends
