"""What routes need, named once."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path, Request

from api.points import Projections
from api.problems import Problem
from api.settings import Settings
from api.stream import Feeds
from evomerge.storage.store import RunRow, Store
from workers.registry import Registry


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _store(request: Request) -> Store:
    return cast(Store, request.app.state.store)


def _feeds(request: Request) -> Feeds:
    return cast(Feeds, request.app.state.feeds)


def _projections(request: Request) -> Projections:
    return cast(Projections, request.app.state.projections)


SettingsDep = Annotated[Settings, Depends(_settings)]
StoreDep = Annotated[Store, Depends(_store)]
FeedsDep = Annotated[Feeds, Depends(_feeds)]
ProjectionsDep = Annotated[Projections, Depends(_projections)]


def _registry(settings: SettingsDep) -> Registry:
    """Read anew for every request, so that an operator's edit needs no restart; a missing file is empty."""
    return Registry.load(settings.registry_path) if settings.registry_path.exists() else Registry()


RegistryDep = Annotated[Registry, Depends(_registry)]
RunId = Annotated[str, Path(description="the run's id", max_length=64)]


def _run(run_id: RunId, store: StoreDep) -> RunRow:
    row = store.run(run_id)
    if row is None:
        raise Problem("not-found", f"run {run_id!r} does not exist; GET /api/v1/runs lists those that do")
    return row


RunDep = Annotated[RunRow, Depends(_run)]
