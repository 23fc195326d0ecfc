"""A run as it happens: events, and the columns that plots draw."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse

from api.deps import FeedsDep, ProjectionsDep, RunDep, StoreDep
from api.problems import documented
from api.routes.conditional import tagged, unchanged
from api.schemas import EventPage, History, Points, event_out
from evomerge.storage.store import TERMINAL

router = APIRouter(prefix="/api/v1", tags=["live"])

PING_S = 15
SEND_TIMEOUT_S = 30
LARGEST_SEQ = 2**53 - 1


@router.get(
    "/runs/{run_id}/events",
    response_model=EventPage,
    responses={
        200: {
            "description": "server-sent events, or with Accept: application/json a page of them",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "the run is over and the client has every event"},
        **documented(404, 422),
    },
)
async def events(
    request: Request,
    row: RunDep,
    store: StoreDep,
    feeds: FeedsDep,
    after: Annotated[int, Query(ge=0, le=LARGEST_SEQ, description="only events with a larger number")] = 0,
    limit: Annotated[int, Query(ge=1, le=5000, description="of a JSON page")] = 1000,
    last_event_id: Annotated[int | None, Header(ge=0, le=LARGEST_SEQ)] = None,
) -> Response:
    """Everything that happened and happens in the run, each event once, in order, numbered from 1 without gaps."""
    start = after if last_event_id is None else last_event_id
    accept = request.headers.get("accept", "")
    if "application/json" in accept and "text/event-stream" not in accept:
        rows = await run_in_threadpool(store.events, row.id, start, limit)
        page = EventPage(items=[event_out(one) for one in rows], last_seq=rows[-1].seq if rows else start)
        return Response(page.model_dump_json(), media_type="application/json")
    if row.state in TERMINAL and start >= row.last_seq:
        return Response(status_code=204)  # tells an EventSource not to come back
    return EventSourceResponse(
        feeds.stream(row.id, start),
        ping=PING_S,
        send_timeout=SEND_TIMEOUT_S,
        sep="\n",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get("/runs/{run_id}/points", response_model=Points, responses=documented(404))
def points(request: Request, row: RunDep, projections: ProjectionsDep) -> Response:
    """Every candidate as columns."""
    known = unchanged(request, f'"{row.last_seq}"')
    if known is not None:
        return known
    body = Points(**projections.points(row.id))
    return tagged(request, f'"{body.last_seq}"', body)


@router.get("/runs/{run_id}/history", response_model=History, responses=documented(404))
def history(request: Request, row: RunDep, projections: ProjectionsDep) -> Response:
    """How hypervolume and best scores grew."""
    known = unchanged(request, f'"{row.last_seq}"')
    if known is not None:
        return known
    body = History(**projections.course(row.id))
    return tagged(request, f'"{body.last_seq}"', body)
