"""Errors over HTTP as problem documents (RFC 9457): what was wrong, where, what it was and what would do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from evomerge.errors import EvomergeError, InvalidInputError, StoreError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPES: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be read"),
    "bad-cursor": (400, "The cursor is not one that this service gave"),
    "host-not-allowed": (400, "The Host header names a host that this service does not answer for"),
    "unauthorized": (401, "An API key is needed"),
    "cross-origin": (403, "Another web site asked for a change"),
    "not-found": (404, "There is no such thing here"),
    "method-not-allowed": (405, "This address does not take that method"),
    "not-acceptable": (406, "None of the accepted formats is offered"),
    "conflict": (409, "The present state does not allow this"),
    "not-expressible": (409, "The recipe cannot be said in this format"),
    "too-large": (413, "The request body is too large"),
    "unsupported-media-type": (415, "The body's media type is not read here"),
    "invalid": (422, "A field holds a value that is not allowed"),
    "internal": (500, "The service failed; its log says why"),
    "unavailable": (503, "The database does not answer"),
}
"""Kind → (status, title). A problem's `type` is the address `/api/v1/problems/KIND`."""
_BY_STATUS = {status: kind for kind, (status, _) in reversed(TYPES.items())}
"""Status → its general kind, which stands first."""


class FieldError(BaseModel):
    """One field that is wrong."""

    pointer: str | None = Field(default=None, description="JSON Pointer (RFC 6901) into the request body")
    parameter: str | None = Field(default=None, description="name of a query, path or header parameter")
    detail: str
    value: Any = None
    allowed: str = ""


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] = []


@dataclass(slots=True)
class Problem(Exception):  # noqa: N818 - the name that RFC 9457 gives it
    """Raised anywhere below a route; becomes the response."""

    kind: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] | None = None


def invalid(errors: Iterable[FieldError]) -> Problem:
    """A 422 with one line per field."""
    found = list(errors)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Problem("invalid", found[0].detail + more, found)


def field_error(pointer: str, value: object, allowed: str) -> FieldError:
    """A body field that is wrong, with what was expected."""
    shown = shorten(value)
    return FieldError(
        pointer=pointer, detail=f"{pointer or 'body'}: got {shown!r}; expected {allowed}", value=shown, allowed=allowed
    )


def at(pointer: str, error: InvalidInputError) -> FieldError:
    """An error from below, which knows a field of its own, at the place of the request that caused it."""
    return FieldError(pointer=pointer, detail=f"{pointer}: {error}", value=shorten(error.value), allowed=error.allowed)


def pointer(path: Iterable[str | int]) -> str:
    """A JSON Pointer (RFC 6901).

    >>> pointer(["objectives", 0, "a/b"])
    '/objectives/0/a~1b'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def shorten(value: object) -> object:
    """A value as it can stand in a message: JSON-ready and not longer than a line."""
    if isinstance(value, bool | int | float) or value is None:
        return value if value == value and value not in (float("inf"), float("-inf")) else str(value)
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else text[:117] + "…"


def response(path: str, problem: Problem) -> JSONResponse:
    """The problem as a response."""
    status, title = TYPES[problem.kind]
    document = ProblemDocument(
        type=f"/api/v1/problems/{problem.kind}",
        title=title,
        status=status,
        detail=problem.detail,
        instance=path,
        errors=list(problem.errors),
    )
    content = document.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, status, dict(problem.headers or {}), media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` for these error statuses, beside those that every route can give."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {s: {"description": TYPES[_BY_STATUS[s]][1], "content": content} for s in sorted({400, 401, 503, *statuses})}


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(EvomergeError, _evomerge)
    app.add_exception_handler(Exception, _unexpected)


def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return response(request.url.path, error)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "bad-request")
    detail, headers = f"{request.method} {request.url.path}: {error.detail}", dict(error.headers or {})
    if error.status_code == 405 and (allowed := _allowed(request)):
        detail, headers["Allow"] = f"{detail}; expected {allowed}", allowed
    return response(request.url.path, Problem(kind, detail, headers=headers))


def _allowed(request: Request) -> str:
    """The methods that an address takes: routes of one address are separate, each knows only its own."""
    tried = ("GET", "POST", "PUT", "PATCH", "DELETE")
    routes = request.app.routes
    matches = [m for m in tried if any(r.matches({**request.scope, "method": m})[0] == Match.FULL for r in routes)]
    return ", ".join(matches)


def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = []
    for one in error.errors():
        place, *path = one["loc"]
        shown = shorten(one.get("input"))
        if place == "body":
            errors.append(field_error(pointer(path), one.get("input"), one["msg"]))
        else:
            name = ".".join(str(p) for p in path)
            detail = f"{place} parameter {name}: got {shown!r}; expected {one['msg']}"
            errors.append(FieldError(parameter=name, detail=detail, value=shown, allowed=one["msg"]))
    return response(request.url.path, invalid(errors))


def _evomerge(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, InvalidInputError):
        one = FieldError(detail=str(error), value=shorten(error.value), allowed=error.allowed)
        return response(request.url.path, invalid([one]))
    if isinstance(error, StoreError):
        log.warning("store unavailable path=%s error=%s", request.url.path, error)
        return response(request.url.path, Problem("unavailable", str(error), headers={"Retry-After": "2"}))
    return response(request.url.path, Problem("conflict", str(error)))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("unexpected error path=%s", request.url.path, exc_info=error)
    return response(request.url.path, Problem("internal", f"{type(error).__name__} while serving {request.url.path}"))
