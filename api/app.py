"""The HTTP service: routes, guard, problem documents and the dashboard's files in one FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from api import problems
from api.guard import Guard
from api.points import Projections
from api.problems import ProblemDocument
from api.routes import answers, candidates, catalog, elites, health, item_reports, live, preview, runs
from api.settings import Settings
from api.stream import Feeds
from evomerge.run.spec import RunSpec
from evomerge.storage.sql import open_store

STATIC = Path(__file__).parent / "static"
NOT_BUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>evomerge</title>
<h1>evomerge runs, its dashboard is not built</h1>
<p>In a checkout: <code>python -m api.ui_build</code>, then restart. REST is at <a href="/api/v1/runs">/api/v1/runs</a>,
described by <a href="/api/v1/openapi.json">/api/v1/openapi.json</a>.</p></html>
"""


def create_app(settings: Settings, *, static: Path = STATIC) -> FastAPI:
    """The service over the database that `settings` name. Stateless: it may be killed at any time."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        store = open_store(settings.url)
        app.state.store = store
        app.state.feeds = Feeds(store, settings.poll_s)
        app.state.projections = Projections(store)
        yield
        store.close()

    app = FastAPI(
        title="evomerge",
        version=version("evomerge"),
        description="Searches for model-merge recipes.",
        lifespan=lifespan,
        docs_url=None,  # the interactive pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.settings = settings
    problems.install(app)
    for module in (runs, candidates, answers, live, elites, preview, item_reports, catalog, health):
        app.include_router(module.router)
    app.add_middleware(Guard, settings=settings)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    _dashboard(app, static)
    return app


def from_environment() -> FastAPI:
    """For `uvicorn --factory api.app:from_environment`: settings from EVOMERGE_* variables."""
    return create_app(Settings())


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; open event streams end first."""
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


class _Dashboard(StaticFiles):
    """The dashboard's files; its addresses are those of one page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(404)
        try:
            return await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or "text/html" not in Headers(scope=scope).get("accept", ""):
                raise
            return await super().get_response("index.html", scope)


def _dashboard(app: FastAPI, static: Path) -> None:
    if (static / "index.html").is_file():
        # Last of all: a wrong method at a route of the API is that route's matter. `FastAPI.frontend` does the same
        # from 0.160 on; vLLM, which may share the environment, holds FastAPI below that.
        app.router.default = _Dashboard(directory=static, html=True)
        return

    @app.get("/", include_in_schema=False)
    def not_built(request: Request) -> HTMLResponse:
        return HTMLResponse(NOT_BUILT)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, and the models that are read or written by hand."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (RunSpec, ProblemDocument):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        app.openapi_schema = document
    return app.openapi_schema
