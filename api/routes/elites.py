"""A run's candidates as quality-diversity archives: who is best at each objective, for each level of the others."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response

from api.deps import ProjectionsDep, RunDep
from api.problems import documented
from api.routes.conditional import tagged, unchanged
from api.schemas import EliteAxis, EliteCell, Elites
from api.schemas import EliteGrid as WireGrid
from evomerge.archive import EliteGrid, elite_grids

router = APIRouter(prefix="/api/v1", tags=["candidates"])


@router.get("/runs/{run_id}/elites", response_model=Elites, responses=documented(404, 422))
def get_elites(
    request: Request,
    row: RunDep,
    projections: ProjectionsDep,
    bins: Annotated[int, Query(ge=1, le=100, description="on each axis of a grid")] = 15,
) -> Response:
    """For each objective the best feasible candidate in each cell of a grid over the other objectives."""
    known = unchanged(request, f'"{row.last_seq}-{bins}"')
    if known is not None:
        return known
    points = projections.points(row.id)
    body = Elites(last_seq=points["last_seq"], bins=bins, grids=_grids(row.spec["objectives"], points, bins))
    return tagged(request, f'"{body.last_seq}-{bins}"', body)


def _grids(objectives: list[dict[str, Any]], points: dict[str, Any], bins: int) -> list[WireGrid]:
    names = [one["name"] for one in objectives]
    columns = [points["scores"].get(name, [None] * len(points["number"])) for name in names]
    rows = [
        (number, means)
        for number, violation, *means in zip(points["number"], points["violation"], *columns, strict=True)
        if not violation and None not in means
    ]
    values = np.reshape([means for _, means in rows], (-1, len(names)))
    signs = [-1.0 if one.get("direction") == "minimize" else 1.0 for one in objectives]
    numbers = [number for number, _ in rows]
    return [_wire(grid, names, numbers, values.tolist()) for grid in elite_grids(values, bins, signs=signs)]


def _wire(grid: EliteGrid, names: list[str], numbers: list[int], values: list[list[float]]) -> WireGrid:
    axes = zip(grid.axes, grid.ranges, strict=True)
    return WireGrid(
        quality=names[grid.quality],
        axes=[EliteAxis(objective=names[axis], low=low, high=high) for axis, (low, high) in axes],
        coverage=grid.coverage,
        cells=[
            EliteCell(bins=list(cell), number=numbers[row], quality=values[row][grid.quality])
            for cell, row in grid.elites.items()
        ],
    )
