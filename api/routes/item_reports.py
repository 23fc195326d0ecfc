"""What a run's complete answers say of its items, and of ways to need few of them."""

from __future__ import annotations

import threading
from collections import OrderedDict

from fastapi import APIRouter, Request, Response

from api.deps import RegistryDep, RunDep, StoreDep
from api.problems import documented
from api.routes.conditional import tagged, unchanged
from api.schemas import ItemReports, RunItems

router = APIRouter(prefix="/api/v1", tags=["runs"])

KEPT = 16
"""Reports that are kept: cross-validation takes seconds."""
_kept: OrderedDict[str, ItemReports] = OrderedDict()
_one_at_a_time = threading.Lock()


@router.get("/runs/{run_id}/items", response_model=ItemReports, responses=documented(404, 422))
def get_item_reports(request: Request, row: RunDep, store: StoreDep, registry: RegistryDep) -> Response:
    """For every eval set and metric of the objectives: how well few items predict the full score, by each method.

    It is made anew when further candidates have answered everything.
    """
    tag = f'"{row.id}-{row.summary.get("complete", 0)}-{len(row.summary.get("baselines", ()))}"'
    known = unchanged(request, tag)
    if known is not None:
        return known
    with _one_at_a_time:
        if tag not in _kept:
            from workers.item_reports import item_reports  # scipy with it, which other routes are spared

            found = [RunItems(**one.to_dict()) for one in item_reports(store, row, registry)]
            _kept[tag] = ItemReports(last_seq=row.last_seq, items=found)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        return tagged(request, tag, _kept[tag])
