"""Starting and stopping Ray so that it stays ours: its own processes, a secret token, no telemetry, our signals."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from evomerge.errors import InvalidInputError

log = logging.getLogger(__name__)

NAMESPACE = "evomerge"
# Results are a few kilobytes; Ray would set aside 30 % of the machine's memory.
_OBJECT_STORE_BYTES = 100 << 20


def start(count: int | None, address: str | None = None, namespace: str = NAMESPACE) -> bool:
    """Make sure that this process is connected to Ray; whether it was this call that did it.

    Without an address a new runtime is started on this machine, which ends with `stop` or with this process. A bare
    `ray.init` is never used: it would join whatever cluster a file or variable on this machine names.

    Args:
        count: workers that a new runtime must have room for; None is one a core.
        address: of an existing cluster, `HOST:PORT`; its token must be in RAY_AUTH_TOKEN or where Ray keeps it.

    Raises:
        InvalidInputError: the environment turns Ray's authentication off.
    """
    if ray.is_initialized():
        return False
    _set_environment(local=address is None)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "namespace": namespace}
    with _signals_kept():
        if address is not None:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(count or 0, num_cores()),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
    return True


def stop() -> None:
    """Disconnect; a runtime that `start` began ends with all its processes."""
    with _signals_kept():
        ray.shutdown()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _set_environment(local: bool) -> None:
    if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
        raise InvalidInputError(
            "RAY_AUTH_MODE", os.environ["RAY_AUTH_MODE"], "token: whoever reaches an open Ray port can run code here"
        )
    if local:
        # In the environment and not in a file: each runtime has its own, and the home directory may be read-only.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default, +15, starves workers on a shared machine
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; unset, it warns


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
