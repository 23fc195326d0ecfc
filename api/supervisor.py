"""`evomerge serve`: the API and the controller, each a process of its own, started again when one dies."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

GRACE_S = 15.0
"""How long a child may take to end after SIGTERM: the controller closes its workers meanwhile."""
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_S = 60.0
"""A child that ran this long starts its backoff afresh."""
GIVE_UP = 8
"""Deaths in a row after which serving makes no sense any more."""

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class _Child:
    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float = field(default=0.0)


class Supervisor:
    """Keeps the named commands running until SIGTERM or SIGINT."""

    def __init__(self, commands: dict[str, Sequence[str]]) -> None:
        self._children = [_Child(name, list(command)) for name, command in commands.items()]
        self._stopping = False

    def run(self) -> int:
        """Until told to stop; the exit code is 1 when a child can't be kept alive."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._stop)
        code = 0
        while not self._stopping:
            for child in self._children:
                if not self._tend(child):
                    code, self._stopping = 1, True
            time.sleep(0.2)
        self._end_all()
        return code

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _tend(self, child: _Child) -> bool:
        now = time.monotonic()
        if child.process is None:
            if now >= child.due:
                child.process, child.started = _spawn(child.command), now
            return True
        code = child.process.poll()
        if code is None:
            return True
        child.deaths = 1 if now - child.started > HEALTHY_S else child.deaths + 1
        child.process = None
        child.due = now + BACKOFF_S[min(child.deaths, len(BACKOFF_S)) - 1]
        log.warning("%s ended with code %s; starting it again (death %d)", child.name, code, child.deaths)
        if child.deaths < GIVE_UP:
            return True
        log.error("%s died %d times in a row; giving up", child.name, child.deaths)
        return False

    def _end_all(self) -> None:
        alive = [c.process for c in self._children if c.process is not None and c.process.poll() is None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + GRACE_S
        for process in alive:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # Not a session of its own group member: Ctrl-C reaches the supervisor alone, which then ends the children in order.
    return subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent)


def _die_with_parent() -> None:
    """On Linux, SIGTERM when the supervisor is gone, kill −9 included; elsewhere children outlive it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def python(*arguments: str) -> list[str]:
    """The command line of a subcommand of ours in this interpreter."""
    return [sys.executable, "-m", "evomerge", *arguments]


def supervise(environment: dict[str, str], commands: dict[str, Sequence[str]]) -> int:
    """Run `commands` with `environment` added."""
    os.environ.update(environment)
    return Supervisor(commands).run()
