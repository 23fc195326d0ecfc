"""Probes, version, and the dashboard's session."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.deps import SettingsDep, StoreDep
from api.guard import COOKIE, key_matches, session_token
from api.problems import Problem, documented
from api.schemas import Status, Version

router = APIRouter(tags=["service"])


class SessionRequest(BaseModel):
    """The API key, once; the browser then holds a cookie."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=500)


@router.get("/livez")
def livez() -> Status:
    """The process answers."""
    return Status(status="ok")


@router.get("/readyz", responses=documented())
def readyz(store: StoreDep) -> Status:
    """The database answers too."""
    store.runs(limit=1)
    return Status(status="ok")


@router.get("/api/v1/version", responses=documented())
def get_version() -> Version:
    """What runs here."""
    return Version(version=version("evomerge"))


@router.post("/api/v1/session", status_code=204, responses=documented(422))
def open_session(request: Request, settings: SettingsDep, body: Annotated[SessionRequest, Body()]) -> Response:
    """Give the key, get a cookie: an EventSource cannot send an Authorization header."""
    expected = settings.key_sha256
    response = Response(status_code=204)
    if expected is None:
        return response
    if not key_matches(body.key, expected):
        raise Problem("unauthorized", "the key is not the one that the operator gave out")
    secure = request.url.scheme == "https"
    token = session_token(expected).decode()
    response.set_cookie(COOKIE, token, path="/api", httponly=True, samesite="strict", secure=secure)
    return response


@router.delete("/api/v1/session", status_code=204, responses=documented())
def close_session() -> Response:
    """Forget the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/api")
    return response
