"""What a run remembers: Pareto fronts and hypervolume.

`pareto` has the geometry (`non_dominated`, `hypervolume`, `improvement`) and the front that grows point by point
(`ParetoArchive`, `FrontChange`). Objectives are maximised everywhere.
"""

from evomerge.archive.pareto import FrontChange, ParetoArchive, hypervolume, improvement, non_dominated

__all__ = ["FrontChange", "ParetoArchive", "hypervolume", "improvement", "non_dominated"]
