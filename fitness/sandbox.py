"""Runs Python that a model wrote, with an item's tests, where it can do little harm: see docs/adr/0023-code-sandbox.md.

Each program is a process of its own that first gives up what it can (`fitness/sandboxed.py`) and then runs the code. It
needs Linux on x86-64 with Landlock and seccomp; nothing runs where one of them is missing.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import selectors
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from evomerge.errors import EvomergeError, InvalidInputError
from fitness.answer_metrics import Answer
from fitness.extract import extract
from fitness.items import Item

SETTING = "EVOMERGE_ALLOW_CODE"
"""What an operator sets to `true` so that code may run."""

LAUNCHER = Path(__file__).with_name("sandboxed.py")

WATCH_S = 0.1
"""How often a program's folder is looked at."""

MOST_SAID = 4096
"""Bytes of a program's report that are read; what it prints goes nowhere."""

Verdict = Literal["passed", "failed", "time", "disk", "died"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_s: seconds of processor time, a whole number.
        wall_s: seconds until it is killed.
        memory_bytes: address space, the interpreter's 30 MB included.
        file_bytes: of one file in its own folder.
        folder_bytes: of its own folder in all, looked at every `WATCH_S`.
        open_files: file descriptors.
    """

    cpu_s: int = 5
    wall_s: float = 10.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 20
    folder_bytes: int = 16 << 20
    open_files: int = 64


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program.

    Attributes:
        verdict: `passed`; `failed` by an exception of the code or of a test; `time`; `disk`; `died` without a word, by
            `os._exit` or a signal.
        message: the exception's name and text, the limit, or the signal.
    """

    verdict: Verdict
    message: str = ""


class SandboxError(EvomergeError):
    """This machine did not let a process give up what it must."""


class Sandbox:
    """Runs programs one after the other.

    Args:
        limits: of each program.

    Raises:
        InvalidInputError: this machine cannot isolate code.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        missing = unsupported()
        if missing:
            raise InvalidInputError("code_passes", missing, "Linux on x86-64 with Landlock (5.13 or later) and seccomp")
        self.limits = limits

    def run(self, code: str, tests: str) -> Outcome:
        """Run code, then tests in the same module; `passed` only if both came to their end."""
        return _run(code, tests, self.limits)


class CodePasses:
    """The metric `code_passes`: 1 where what the item's extractor takes of the answer passes the item's tests.

    After the extractor `continuation` the item's context comes before the answer, which goes on from it.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def __call__(self, items: Sequence[Item], answers: Sequence[Answer]) -> list[float]:
        """One value an item."""
        return [float(self._passes(item, answer.text)) for item, answer in zip(items, answers, strict=True)]

    def _passes(self, item: Item, text: str) -> bool:
        assert item.answering is not None, "items without tests were refused"
        name = item.answering.extract
        before = item.context if name.endswith("continuation") else ""
        return self._sandbox.run(before + extract(name, text), item.answering.tests).verdict == "passed"


@cache
def unsupported() -> str:
    """Why code cannot be isolated on this machine; empty where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"{sys.platform} on {platform.machine()}"
    try:
        outcome = _run("", "", LIMITS)
    except SandboxError as error:
        return f"a kernel that refuses: {error}"
    return "" if outcome.verdict == "passed" else f"a trial that ended with {outcome.verdict}: {outcome.message}"


def _run(code: str, tests: str, limits: Limits) -> Outcome:
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="evomerge-code-", ignore_cleanup_errors=True) as folder:
        program = {
            "code": code, "tests": tests, "word": word, "folder": folder, "limits": asdict(limits),
            "readable": _readable(), "parent": os.getpid(),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-B", str(LAUNCHER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder,
            env={"PYTHONHASHSEED": "0"}, start_new_session=True,
        )  # fmt: skip
        try:
            said, over = _listen(process, json.dumps(program).encode(), Path(folder), limits)
        finally:
            _kill(process)
    return Outcome(over, "over its limit") if over else _outcome(said, word, process.returncode)


def _listen(
    process: subprocess.Popen[bytes], program: bytes, folder: Path, limits: Limits
) -> tuple[bytes, Literal["time", "disk"] | None]:
    """What the process says until it ends, and which limit it went over."""
    assert process.stdin is not None, "it was asked for"
    assert process.stdout is not None, "it was asked for"
    end, said = time.monotonic() + limits.wall_s, b""
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(program)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < end and len(said) < MOST_SAID:
            if selector.select(WATCH_S):
                piece = os.read(process.stdout.fileno(), MOST_SAID)
                said += piece
                if not piece:
                    return said, _rest(process, end)
            elif _size(folder) > limits.folder_bytes:
                return said, "disk"
    return said, None if len(said) >= MOST_SAID else "time"


def _rest(process: subprocess.Popen[bytes], end: float) -> Literal["time"] | None:
    """Wait for the end of a process that will say no more."""
    try:
        process.wait(max(WATCH_S, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "time"
    return None


def _size(folder: Path) -> int:
    """Bytes below a folder; names count, too, so that a million empty files are not nothing."""
    total = 0
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(OSError):
                total += 4096 + os.lstat(Path(path) / name).st_size
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process with its group, which nothing in it can leave."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _outcome(said: bytes, word: str, code: int) -> Outcome:
    try:
        report = json.loads(said)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return Outcome("time", "over its limit of processor time")
        return Outcome("died", signal.Signals(-code).name if code < 0 else f"exit status {code}")
    if "setup" in report:
        raise SandboxError(str(report["setup"]))
    return Outcome("passed") if report.get("word") == word else Outcome("failed", str(report.get("error", "")))


@cache
def _readable() -> tuple[str, ...]:
    """What Python needs of the machine: its library, shared objects, time zones."""
    wanted = [sysconfig.get_path("stdlib"), f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    wanted += ["/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom", "/dev/zero"]
    return tuple(sorted({str(Path(path).resolve()) for path in wanted if Path(path).exists()}))
