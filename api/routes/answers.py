"""Answers of all runs and imports: which banks there are, and a bank as a response matrix."""

from __future__ import annotations

import hashlib
import math
from itertools import chain
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.banks import bank_named, pages_of
from api.deps import StoreDep
from api.problems import FieldError, Problem, documented, invalid
from api.routes.conditional import accepted, link_next, tagged, unchanged
from api.schemas import AnswerPage, BankOut, Banks
from evomerge.errors import InvalidInputError
from evomerge.storage import cursor as cursors
from evomerge.storage.blocks import Bank
from evomerge.storage.store import Store
from fitness.bank import page_matrix
from fitness.exchange import as_csv, as_npz

router = APIRouter(prefix="/api/v1", tags=["answers"])

Format = Literal["json", "csv", "npz"]
MEDIA_TYPES: dict[str, Format] = {
    "application/json": "json",
    "text/csv": "csv",
    "application/x-npz": "npz",
    "*/*": "json",
    "application/*": "json",
    "text/*": "csv",
}
Fingerprint = Annotated[str, Path(max_length=128, description="a fingerprint, or the beginning of one")]


@router.get("/answers", response_model=Banks, responses=documented())
def list_banks(request: Request, store: StoreDep) -> Response:
    """What there are answers to: a row for each evaluator (fingerprint) and eval set."""
    body = Banks(items=[BankOut.model_validate(bank) for bank in store.banks()])
    return tagged(request, f'"{hashlib.sha256(body.model_dump_json().encode()).hexdigest()[:32]}"', body)


@router.get(
    "/answers/{fingerprint}",
    response_model=AnswerPage,
    responses={
        200: {"content": {"text/csv": {}, "application/x-npz": {}}},
        304: {"description": "the client already has it"},
        **documented(404, 406, 422),
    },
)
def get_answers(
    request: Request,
    store: StoreDep,
    fingerprint: Fingerprint,
    eval_set: Annotated[str | None, Query(max_length=128, description="not needed where there is one")] = None,
    metric: Annotated[str | None, Query(max_length=80, description="not needed where there is one")] = None,
    limit: Annotated[int, Query(ge=1, le=5000, description="rows of a page of JSON")] = 500,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
    format: Format | None = None,
) -> Response:
    """A bank as a response matrix, subjects by items: pages of JSON, or all of it as CSV or npz."""
    chosen = format if format is not None else accepted(request.headers.get("accept", "*/*"), MEDIA_TYPES)
    bank, name = _bank(store, fingerprint, eval_set, metric)
    # Nothing is ever taken away: the number of blocks says which ones these are.
    tag = f'"{hashlib.sha256(repr((bank, name, chosen, limit, cursor)).encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Vary": "Accept"}
    if same := unchanged(request, tag):
        return same
    if chosen != "json":
        headers["Content-Disposition"] = f'attachment; filename="{bank.eval_set}-{name}.{chosen}"'
        pages = pages_of(store, bank, name)
        if chosen == "npz":
            return StreamingResponse(as_npz(pages), media_type="application/x-npz", headers=headers)
        text = chain([as_csv(next(pages))], (as_csv(page, header=False) for page in pages))
        return StreamingResponse(text, media_type="text/csv", headers=headers)
    page = _page(store, bank, name, limit, cursor)
    response = Response(page.model_dump_json(), media_type="application/json", headers=headers)
    link_next(request, response, page.next_cursor)
    return response


def _bank(store: Store, fingerprint: str, eval_set: str | None, metric: str | None) -> tuple[Bank, str]:
    banks = [bank for bank in store.banks() if bank.fingerprint.startswith(fingerprint)]
    if not banks:
        raise Problem("not-found", f"no answers under {fingerprint!r}; GET /api/v1/answers lists the fingerprints")
    try:
        bank = bank_named(banks, eval_set, fingerprint)
    except InvalidInputError as error:
        raise _wrong(error.field, error.value, error.allowed) from error
    if metric is None and len(bank.metrics) == 1:
        return bank, bank.metrics[0]
    if metric not in bank.metrics:
        raise _wrong("metric", metric, f"one of {', '.join(bank.metrics)}")
    return bank, metric


def _page(store: Store, bank: Bank, metric: str, limit: int, cursor: str | None) -> AnswerPage:
    after, until = ("", None) if cursor is None else _decoded(cursor)
    found = store.answer_page(bank.fingerprint, bank.eval_set, metric, after=after, limit=limit, until=until)
    matrix = page_matrix(found, metric)
    return AnswerPage(
        fingerprint=bank.fingerprint,
        eval_set=bank.eval_set,
        metric=metric,
        items=list(matrix.items),
        subjects=list(matrix.subjects),
        values=[[None if math.isnan(value) else value for value in row] for row in matrix.values.tolist()],
        next_cursor=cursors.encode("answers", found.subjects[-1], found.until) if found.more else None,
    )


def _decoded(cursor: str) -> tuple[str, int]:
    try:
        after, until = cursors.decode(cursor, "answers", str, int)
        after.encode()  # a lone surrogate names nobody
    except (InvalidInputError, UnicodeEncodeError) as error:
        raise Problem("bad-cursor", str(error)) from error
    return after.replace("\0", ""), until  # nor does a zero byte, which PostgreSQL refuses


def _wrong(name: str, value: object, allowed: str) -> Problem:
    detail = f"query parameter {name}: got {value!r}; expected {allowed}"
    return invalid([FieldError(parameter=name, detail=detail, value=value, allowed=allowed)])
