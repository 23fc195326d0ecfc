"""A program of its own, run by `fitness.sandbox`: gives up what it can, then runs the code that it is handed.

It imports nothing but the standard library. What arrives on its standard input is one JSON object: `code`, `tests`,
`word`, `folder`, `limits`, `readable`, `parent`. What it says, on what was its standard output, is one too: `word` when
code and tests came to their end, or `error`, or `setup` where the machine did not let it give something up.

Numbers of system calls are those of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl); Landlock as in
include/uapi/linux/landlock.h, seccomp as in include/uapi/linux/seccomp.h, of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import resource
import signal
import stat
import struct
import sys
import types
from collections.abc import Iterable
from typing import Any

X86_64 = 0xC000003E
X32 = 0x40000000

FORBIDDEN = {
    "sockets": (41, 42, 43, 49, 50, 288),
    "asynchronous calls that no filter sees": (425, 426, 427),
    "processes and programs": (57, 58, 59, 322),
    "leaving the group that is killed": (109, 112),
    "other processes": (101, 129, 200, 256, 279, 297, 310, 311, 312, 424, 434, 438, 440, 448),
    "priorities, of others too": (141, 142, 144, 203, 251, 314),
    "namespaces, mounts, roots": (155, 161, 165, 166, 272, 308, 428, 429, 430, 431, 432, 433, 442),
    "modes, owners, times and attributes, which Landlock leaves alone": (
        76, 90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452, 463, 466,
    ),
    "memory that its limit does not count, and that outlives it": (
        29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 240, 241, 319, 447,
    ),
    "the kernel": (
        103, 135, 153, 154, 159, 163, 164, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 227, 246, 248, 249, 250,
        298, 300, 301, 303, 304, 305, 313, 320, 321, 323, 443,
    ),
}  # fmt: skip
"""System calls that fail with EPERM."""

CLONE, CLONE3, KILL, TGKILL, PRLIMIT, SOCKETPAIR = 56, 435, 62, 234, 302, 53
CLONE_THREAD = 0x10000

READ = 1 << 2 | 1 << 3
WRITE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13 | 1 << 14
ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
"""Rights over files that Landlock knows: since its ABI 2 moving, 3 truncating, 5 device controls."""


def main() -> None:
    program = json.loads(sys.stdin.buffer.read())
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        give_up(program)
    except OSError as error:
        say(report, setup=str(error))
        return
    os.environ["TMPDIR"] = program["folder"]
    random.seed(0)
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    try:
        for part in ("code", "tests"):
            exec(compile(program[part], f"{part}.py", "exec"), module.__dict__)
    except BaseException as error:
        say(report, error=describe(error))
    else:
        say(report, word=program["word"])
    os._exit(0)


def describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:
        return type(error).__name__


def say(report: int, **what: str) -> None:
    os.write(report, json.dumps(what).encode())


def give_up(program: dict[str, Any]) -> None:
    """Raises:
    OSError: something could not be given up.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    limits = program["limits"]
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
    ):
        resource.setrlimit(kind, (most, most))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that is too large is an OSError
    call(libc.prctl, 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: die with the worker,
    if os.getppid() != program["parent"]:  # also where it died before
        raise ProcessLookupError("the worker is gone")
    call(libc.prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    keep_files(libc, program["folder"], program["readable"])
    call(libc.syscall, 126, struct.pack("Ii", 0x20080522, 0), bytes(24))  # capset: no capability is left
    keep_calls(libc)


def call(function: Any, *arguments: object) -> int:
    result = int(function(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def keep_files(libc: Any, folder: str, readable: Iterable[str]) -> None:
    """Landlock: read and write below `folder`, read below `readable`, nothing else."""
    abi = call(libc.syscall, 444, None, 0, 1)
    handled = ALL_BY_ABI.get(abi, (1 << 16) - 1)
    rules = call(libc.syscall, 444, struct.pack("Q", handled), 8, 0)
    allow(libc, rules, folder, (READ | WRITE) & handled)
    allow(libc, rules, os.devnull, (READ | 1 << 1) & handled)
    for path in readable:
        allow(libc, rules, path, READ & handled)
    call(libc.syscall, 446, rules, 0)
    os.close(rules)


def allow(libc: Any, rules: int, path: str, rights: int) -> None:
    at = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(at).st_mode):
        rights &= 1 << 1 | 1 << 2 | 1 << 14
    call(libc.syscall, 445, rules, 1, struct.pack("=Qi", rights, at), 0)
    os.close(at)


def keep_calls(libc: Any) -> None:
    """seccomp: all but `FORBIDDEN` calls, threads but no processes, signals and limits for oneself only."""
    filters = b"".join(program_of(os.getpid()))
    held = ctypes.create_string_buffer(filters, len(filters))
    program = struct.pack("HxxxxxxQ", len(filters) // 8, ctypes.addressof(held))
    call(libc.prctl, 22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def program_of(pid: int) -> list[bytes]:
    """Instructions of the classic BPF: (code, offset if true, offset if not, operand)."""

    def step(code: int, operand: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, operand)

    load, equal, at_least, has, mask, give = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    good, bad = step(give, 0x7FFF0000), step(give, 0x00050000 | errno.EPERM)
    kill, unknown = step(give, 0x80000000), step(give, 0x00050000 | errno.ENOSYS)

    def argument(number: int) -> bytes:
        return step(load, 16 + 8 * number)  # its lower half

    found = [step(load, 4), step(equal, X86_64, 1), kill, step(load, 0), step(at_least, X32, 0, 1), kill]
    for number in sorted(number for group in FORBIDDEN.values() for number in group):
        found += [step(equal, number, 0, 1), bad]
    found += [step(equal, CLONE3, 0, 1), unknown]  # its flags are in memory: the C library then uses clone
    found += [step(equal, CLONE, 0, 4), argument(0), step(has, CLONE_THREAD, 0, 1), good, bad]
    for number in (KILL, TGKILL):
        found += [step(equal, number, 0, 4), argument(0), step(equal, pid, 0, 1), good, bad]
    found += [step(equal, PRLIMIT, 0, 5), argument(0), step(equal, 0, 1), step(equal, pid, 0, 1), good, bad]
    # A connected pair of Unix streams, as event loops have; datagrams could be sent to other programs.
    found += [
        step(equal, SOCKETPAIR, 0, 7), argument(0), step(equal, 1, 0, 4),
        argument(1), step(mask, 0xFF), step(equal, 1, 0, 1), good, bad,
    ]  # fmt: skip
    return [*found, good]


if __name__ == "__main__":
    main()
