"""`evomerge serve` as users start it: supervisor, API and controller in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from api.client import Client, UnreachableError
from evomerge.errors import EvomergeError

START_S = 120.0


class Served:
    """A service over a data directory.

    Attributes:
        data: its data directory.
        url: its address.
    """

    def __init__(self, data: Path, registry: Path) -> None:
        self.data, self.registry = data, registry
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.data.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "evomerge", "serve", "--data-dir", str(self.data)]
        command += ["--registry", str(self.registry), "--port", str(self.port)]
        with (self.data / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Until REST answers."""
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while True:
            try:
                with Client(self.url, timeout_s=2) as client:
                    next(client.runs(), None)
                return
            except (UnreachableError, EvomergeError):
                assert self.process.poll() is None, (self.data / "log").read_text()
                assert time.monotonic() < deadline, (self.data / "log").read_text()
                time.sleep(0.1)  # another process has no event to wait for

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self, what: str) -> None:
        """kill −9 of `api`, `controller` or a Ray `worker`."""
        os.kill(self.pid_of(what), signal.SIGKILL)

    def pid_of(self, what: str) -> int:
        """The process that is `api`, `controller` or a Ray `worker`, the first of several."""
        assert self.process is not None
        return next(pid for pid, command in _tree(self.process.pid) if _is(what, command))

    def pids(self) -> list[int]:
        """The supervisor and everything below it."""
        assert self.process is not None
        return [self.process.pid, *(pid for pid, _ in _tree(self.process.pid))]


def _is(what: str, command: str) -> bool:
    if what == "worker":
        return command.startswith("ray::_Actor")
    return command.endswith(f" {what}") and "-m evomerge" in command


def _tree(root: int) -> list[tuple[int, str]]:
    """Every descendant of a process: id and command line."""
    parents: dict[int, list[int]] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue  # it ended meanwhile
            parents.setdefault(int(stat[1]), []).append(int(folder.name))
            commands[int(folder.name)] = command
    found, left = [], [root]
    while left:
        for pid in parents.get(left.pop(), []):
            found.append((pid, commands[pid]))
            left.append(pid)
    return found
