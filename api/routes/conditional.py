"""Conditional answers and page links: ETag with 304, `Link: …; rel="next"`."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import BaseModel


def unchanged(request: Request, tag: str) -> Response | None:
    """A 304 when the client already has what `tag` names."""
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers={"ETag": tag}) if tag.removeprefix("W/") in known or "*" in known else None


def tagged(request: Request, tag: str, body: BaseModel) -> Response:
    """The body under its ETag, or a 304."""
    return unchanged(request, tag) or Response(
        body.model_dump_json(), media_type="application/json", headers={"ETag": tag}
    )


def link_next(request: Request, response: Response, cursor: str | None) -> None:
    """Say where the next page is (RFC 8288)."""
    if cursor is not None:
        url = request.url.include_query_params(cursor=cursor)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
