"""Runs without a server: the same store, the same controller, in this process."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from api.progress import RunView
from api.settings import Settings
from evomerge.errors import InvalidInputError
from evomerge.recipe.document import read_document
from evomerge.recipe.text import validate
from evomerge.run.spec import RunSpec
from evomerge.storage.sql import open_store
from evomerge.storage.store import TERMINAL, RunRow, Store
from workers.controller import Controller
from workers.drive import ControllerSettings
from workers.pools import make_pool
from workers.registry import Registry

log = logging.getLogger(__name__)

POLL_S = 0.2


def read_search(path: Path) -> tuple[RunSpec, Registry | None]:
    """A search from a file, and the aliases that it brings along under `registry:`, if it does.

    Raises:
        InvalidInputError: with file, line and key.
    """
    document = read_document(path)
    registry = None
    if isinstance(document.data, dict) and "registry" in document.data:
        own = document.data.pop("registry")
        if not isinstance(own, dict) or set(own) - {"models", "eval_sets", "training"}:
            raise InvalidInputError(f"{path} registry", own, "a mapping with the keys models, eval_sets and training")
        registry = Registry.of(
            own.get("models") or {}, own.get("eval_sets") or {}, path.resolve().parent,
            training=own.get("training") or {},
        )  # fmt: skip
    return validate(RunSpec, document.data, document.where, document.lines), registry


def open_local(settings: Settings) -> Store:
    """The data directory's store, made when missing.

    Raises:
        InvalidInputError: there can be no such directory.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError("data_dir", str(settings.data_dir), f"a directory ({error.strerror})") from error
    return open_store(settings.url)


def controller_of(settings: Settings, store: Store, registry: Registry | None = None) -> Controller:
    """A controller over the operator's registry, or the one given."""
    known = registry if registry is not None else load_registry(settings)
    how = ControllerSettings(cache=settings.data_dir.resolve() / "cache", allow_code=settings.allow_code)
    return Controller(store, known, make_pool, how)


def load_registry(settings: Settings) -> Registry:
    """The operator's aliases; none when there is no such file and nobody named one."""
    if settings.registry is None and not settings.registry_path.exists():
        return Registry()
    return Registry.load(settings.registry_path)


def serve_controller(settings: Settings) -> None:
    """The controller's process: until SIGTERM or SIGINT."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    store = open_local(settings)
    controller_of(settings, store).serve(stop)
    store.close()


def drive(settings: Settings, store: Store, run_id: str, registry: Registry | None, view: RunView) -> str:
    """Carry one run on in this process and show it, until it ends, pauses, or Ctrl-C; returns its state.

    Raises:
        InvalidInputError: the run is over, or another controller holds it.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    controller = controller_of(settings, store, registry)
    after = _row(store, run_id).last_seq
    deadline = time.monotonic() + 2 * controller.settings.lease_s
    while (lease := store.acquire(controller.owner, controller.settings.lease_s, run_id)) is None:
        if time.monotonic() > deadline or _row(store, run_id).state in TERMINAL:
            raise InvalidInputError("run", run_id, "a run that is not over and that no other controller holds")
        time.sleep(POLL_S)
    worker = threading.Thread(target=controller.drive, args=(lease, stop), name="controller")
    worker.start()
    try:
        view.follow(watch(store, run_id, after, worker.is_alive))
    except KeyboardInterrupt:
        log.warning("stopping; to go on: evomerge resume %s", run_id)
    finally:
        stop.set()
        worker.join()
    return _row(store, run_id).state


def watch(store: Store, run_id: str, after: int, alive: Callable[[], bool]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A run's events as they are stored, until it is over or nobody works on it."""
    while True:
        working = alive()
        events = store.events(run_id, after=after)
        for event in events:
            yield event.type, event.data
        if events:
            after = events[-1].seq
        elif not working or _row(store, run_id).state in TERMINAL:
            return
        else:
            time.sleep(POLL_S)


def _row(store: Store, run_id: str) -> RunRow:
    row = store.run(run_id)
    if row is None:
        raise InvalidInputError("run", run_id, "a run of this data directory")
    return row
