"""Starting and stopping Ray so that it stays ours: its own processes, a secret token, no telemetry, our signals."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evomerge.errors import EvomergeError, InvalidInputError

# Ray reads these when it is imported. Imported before us, it turns authentication on by itself for a new runtime.
if "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default, +15, starves workers on a shared machine
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; unset, it warns

import ray  # after its environment
from ray._private.node import Node

log = logging.getLogger(__name__)

NAMESPACE = "evomerge"
# Results are a few kilobytes; Ray would set aside 30 % of the machine's memory.
_OBJECT_STORE_BYTES = 100 << 20
_ATTEMPTS = 3


def start(count: int | None, address: str | None = None, namespace: str = NAMESPACE) -> bool:
    """Make sure that this process is connected to Ray; whether it was this call that did it.

    Without an address a new runtime is started on this machine, which ends with `stop` or with this process. A bare
    `ray.init` is never used: it would join whatever cluster a file or variable on this machine names.

    Args:
        count: workers that a new runtime must have room for; None is one a core.
        address: of an existing cluster, `HOST:PORT`; its token must be in RAY_AUTH_TOKEN or where Ray keeps it.

    Raises:
        InvalidInputError: the environment turns Ray's authentication off.
        EvomergeError: the processes did not come up.
    """
    if ray.is_initialized():
        return False
    _require_authentication()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "namespace": namespace}
    with _signals_kept():
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            # In the environment and not in a file: each runtime has its own, and the home may be read-only.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            _start_here(max(count or 0, num_cores()), quiet)
    return True


def _start_here(num_cpus: int, quiet: dict[str, Any]) -> None:
    """Ray gives its processes 30 seconds to come up, which a busy machine may exceed."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        except Exception as error:  # Ray has no narrower class for this
            _end_half_started(error)
            if attempt == _ATTEMPTS:
                raise EvomergeError(f"Ray did not start on this machine in {_ATTEMPTS} attempts: {error}") from error
            log.warning("Ray did not start, trying again: %s", error)
        else:
            return


def _end_half_started(error: Exception) -> None:
    """End the processes that a failed `ray.init` began and keeps no handle of but in its own stack."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)


def stop() -> None:
    """Disconnect; a runtime that `start` began ends with all its processes."""
    with _signals_kept():
        ray.shutdown()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _require_authentication() -> None:
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise InvalidInputError("RAY_AUTH_MODE", mode, "token: whoever reaches an open Ray port can run code here")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray replaces SIGTERM's handler by one that ends the process at once; the controller's must stay."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:
                signal.signal(number, handler)


def capacity(resource: str) -> int:
    """How many of a resource, `CPU` or `GPU`, Ray has in all."""
    return int(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]
