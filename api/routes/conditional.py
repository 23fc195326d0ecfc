"""Conditional answers, page links and forms: ETag with 304, `Link: …; rel="next"`, Accept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fastapi import Request, Response
from pydantic import BaseModel

from api.problems import Problem

Form = TypeVar("Form")


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


def accepted(accept: str, offered: Mapping[str, Form]) -> Form:
    """The offered form (media type → form) that an Accept header likes best; the earlier one on ties."""
    ranked = []
    for place, part in enumerate(accept.split(",")):
        media_type, *options = (piece.strip().lower() for piece in part.split(";"))
        quality = next((_quality(o[2:]) for o in options if o.startswith("q=")), 1.0)
        if media_type in offered and quality > 0:
            ranked.append((-quality, place, media_type))
    if not ranked:
        names = ", ".join(t for t in offered if "*" not in t)
        raise Problem("not-acceptable", f"Accept: got {accept[:120]!r}; expected one of {names}, or ?format=")
    return offered[min(ranked)[2]]


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
