"""Runs: submit, check, list, look, command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from api import submission
from api.deps import RegistryDep, RunDep, SettingsDep, StoreDep
from api.problems import Problem, documented, field_error, invalid
from api.routes.conditional import link_next, tagged
from api.schemas import Checked, Run, RunListed, RunPage, run_listed, run_out
from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from evomerge.storage.store import TERMINAL, RunRow, RunState, Store, Verb

router = APIRouter(prefix="/api/v1", tags=["runs"])

SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            media_type: {"schema": {"$ref": "#/components/schemas/RunSpec"}}
            for media_type in ("application/json", "application/yaml")
        },
    }
}
ALREADY: dict[Verb, frozenset[str]] = {
    "pause": frozenset({"paused"}),
    "resume": frozenset({"running", "starting"}),
    "stop": frozenset({"stopping", "verifying", "succeeded"}),
    "cancel": frozenset({"cancelled"}),
}
"""States in which a verb has nothing left to do: asking again is no error."""


class RunQuery(BaseModel):
    """Which runs to list, newest first."""

    model_config = ConfigDict(extra="forbid")

    state: RunState | None = None
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, max_length=1000)


@router.post(
    "/runs", status_code=202, response_model=Run, responses=documented(409, 413, 415, 422), openapi_extra=SPEC_BODY
)
async def submit(
    request: Request,
    response: Response,
    store: StoreDep,
    registry: RegistryDep,
    settings: SettingsDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Run:
    """Submit a search. The same Idempotency-Key with the same search gives the same run again."""
    spec = submission.read(await request.body(), request.headers.get("content-type", ""))
    key = None if idempotency_key is None else (idempotency_key, _digest(spec))
    check = partial(submission.check, spec, registry, allow_code=settings.allow_code)
    row, created = await run_in_threadpool(_submit, store, spec, key, check)
    response.headers["Location"] = f"/api/v1/runs/{row.id}"
    response.headers["Retry-After"] = "1"
    if not created:
        response.headers["Idempotency-Replayed"] = "true"
    return run_out(row, [])


@router.post("/runs:validate", responses=documented(413, 415, 422), openapi_extra=SPEC_BODY)
async def validate(request: Request, registry: RegistryDep, settings: SettingsDep) -> Checked:
    """Check a search and say what it would be; nothing is created."""
    spec = submission.read(await request.body(), request.headers.get("content-type", ""))
    return await run_in_threadpool(submission.check, spec, registry, allow_code=settings.allow_code)


@router.get("/runs", responses=documented(422))
def list_runs(request: Request, response: Response, store: StoreDep, query: Annotated[RunQuery, Query()]) -> RunPage:
    """Runs, newest first, without their specs."""
    try:
        rows, cursor = store.runs(query.state, query.limit, query.cursor)
    except InvalidInputError as error:
        raise Problem("bad-cursor", str(error)) from error
    link_next(request, response, cursor)
    return RunPage(items=[run_listed(row) for row in rows], next_cursor=cursor)


@router.get("/runs/{run_id}", response_model=Run, responses=documented(404))
def get_run(request: Request, row: RunDep, store: StoreDep) -> Response:
    """One run, with its spec."""
    pending = store.pending_commands(row.id)
    newest = max((number for number, _ in pending), default=0)
    return tagged(request, f'"{row.version}.{newest}"', run_out(row, [verb for _, verb in pending]))


@router.post("/runs/{run_id}:pause", status_code=202, responses=documented(404, 409))
def pause(row: RunDep, store: StoreDep) -> RunListed:
    """No new candidates; those that run are finished."""
    return _command(store, row, "pause")


@router.post("/runs/{run_id}:resume", status_code=202, responses=documented(404, 409))
def resume(row: RunDep, store: StoreDep) -> RunListed:
    """Go on after a pause."""
    return _command(store, row, "resume")


@router.post("/runs/{run_id}:stop", status_code=202, responses=documented(404, 409))
def stop(row: RunDep, store: StoreDep) -> RunListed:
    """End the search now, verify the best and keep the result."""
    return _command(store, row, "stop")


@router.post("/runs/{run_id}:cancel", status_code=202, responses=documented(404, 409))
def cancel(row: RunDep, store: StoreDep) -> RunListed:
    """End at once; what runs is dropped and nothing is verified."""
    return _command(store, row, "cancel")


def _submit(
    store: Store, spec: RunSpec, key: tuple[str, str] | None, check: Callable[[], object]
) -> tuple[RunRow, bool]:
    check()
    try:
        return store.create_run(spec.model_dump(mode="json", by_alias=True), spec.name, key)
    except InvalidInputError as error:
        detail = field_error("", key and key[0], "a new key: this one came with another search before")
        raise invalid([detail.model_copy(update={"pointer": None, "parameter": "Idempotency-Key"})]) from error


def _digest(spec: RunSpec) -> str:
    """The same for the same search, however it was written."""
    text = json.dumps(spec.model_dump(mode="json", by_alias=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _command(store: Store, row: RunRow, verb: Verb) -> RunListed:
    if row.state not in ALREADY[verb]:
        if row.state in TERMINAL:
            raise Problem("conflict", f"run {row.id} is {row.state}; only a run that is not over can {verb}")
        pending = [one for _, one in store.pending_commands(row.id)]
        if pending[-1:] != [verb]:
            store.command(row.id, verb)
    return run_listed(row)
