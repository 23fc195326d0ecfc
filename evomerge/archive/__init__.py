"""What a run remembers: Pareto fronts and hypervolume.

`pareto` has the geometry (`non_dominated`, `hypervolume`, `improvement`) and the front that grows point by point
(`ParetoArchive`, `FrontChange`). Objectives are maximised everywhere. `elites` shows the best of each kind: for every
objective a grid over the others (`elite_grids`).
"""

from evomerge.archive.elites import EliteGrid, elite_grids
from evomerge.archive.pareto import (
    FrontChange,
    ParetoArchive,
    front_probabilities,
    hypervolume,
    improvement,
    non_dominated,
)

__all__ = [
    "EliteGrid",
    "FrontChange",
    "ParetoArchive",
    "elite_grids",
    "front_probabilities",
    "hypervolume",
    "improvement",
    "non_dominated",
]
