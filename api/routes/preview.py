"""The front that a run's candidates predict, without another evaluation."""

from __future__ import annotations

import threading
from collections import OrderedDict

from fastapi import APIRouter, Request, Response

from api.deps import RegistryDep, RunDep, StoreDep
from api.problems import documented
from api.routes.conditional import tagged, unchanged
from api.schemas import Preview, PreviewPoint

router = APIRouter(prefix="/api/v1", tags=["candidates"])

KEPT = 64
"""Previews that are kept: a fit and a search on it take up to seconds."""
_kept: OrderedDict[str, Preview] = OrderedDict()
_one_at_a_time = threading.Lock()


@router.get("/runs/{run_id}/preview", response_model=Preview, responses=documented(404, 422))
def get_preview(request: Request, row: RunDep, store: StoreDep, registry: RegistryDep) -> Response:
    """The whole front as quadratics of the genes predict it (MAP), fitted to what was scored by any optimizer.

    For spaces of up to 12 real genes; `reason` says why there is none. It is made anew when more is scored.
    """
    tag = f'"{row.id}-{row.summary.get("scored", 0)}-{row.summary.get("complete", 0)}"'
    known = unchanged(request, tag)
    if known is not None:
        return known
    with _one_at_a_time:
        if tag not in _kept:
            from workers.preview import preview_of  # scipy with it, which other routes are spared

            found, names = preview_of(store, row, registry), [one["name"] for one in row.spec["objectives"]]
            points = [
                PreviewPoint(genome=list(genome), values=dict(zip(names, values, strict=True)))
                for genome, values in zip(found.genomes, found.values, strict=True)
            ]
            _kept[tag] = Preview(
                last_seq=row.last_seq, genes=list(found.genes), answers=found.answers,
                errors=dict(zip(names, found.errors, strict=False)), points=points, reason=found.reason,
            )  # fmt: skip
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        return tagged(request, tag, _kept[tag])
