"""Code that misbehaves, for real: what a program cannot do, and that nothing of it stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evomerge.errors import InvalidInputError
from fitness.answer_metrics import Answer
from fitness.items import Answering, Item
from fitness.requirements import check_allowed
from fitness.sandbox import LAUNCHER, CodePasses, Limits, Sandbox, unsupported

pytestmark = pytest.mark.skipif(bool(unsupported()), reason="needs Linux on x86-64 with Landlock and seccomp")


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(Limits(cpu_s=2, wall_s=30.0))


def test_code_that_passes_its_tests(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def add(a, b):\n    return a + b", "assert add(1, 2) == 3")

    assert outcome.verdict == "passed"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def add(a, b):\n    return a - b", "AssertionError"),
        ("def add(a, b:", "SyntaxError"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("def add(a, b):\n    return add(a, b)", "RecursionError"),
        ("class E(BaseException):\n    def __str__(self):\n        raise ValueError\nraise E", "E"),
    ],
)
def test_code_that_fails_says_how(sandbox: Sandbox, code: str, message: str) -> None:
    outcome = sandbox.run(code, "assert add(1, 2) == 3")

    assert outcome.verdict == "failed"
    assert outcome.message.startswith(message)


@pytest.mark.parametrize(
    "code", ["import os\nos._exit(0)", "import ctypes\nctypes.string_at(0)", "import os\nos.abort()"]
)
def test_a_program_that_ends_without_a_word_has_not_passed(sandbox: Sandbox, code: str) -> None:
    assert sandbox.run(code, "").verdict == "died"


def test_a_report_cannot_be_made_up(sandbox: Sandbox) -> None:
    forged = """
import os
for number in range(3, 20):
    try:
        os.write(number, b'{"word": 1}')
    except OSError:
        pass
os._exit(0)
"""

    assert sandbox.run(forged, "").verdict == "failed"


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import os\nos.closerange(0, 30)\nwhile True: pass",
     "while True: print('x' * 100_000)"],
)  # fmt: skip
def test_endless_loops_end(code: str) -> None:
    assert Sandbox(Limits(cpu_s=1, wall_s=30.0)).run(code, "").verdict in ("time", "failed")


def test_waiting_ends() -> None:
    began = time.monotonic()
    outcome = Sandbox(Limits(wall_s=0.7)).run("import time\ntime.sleep(60)", "")

    assert outcome.verdict == "time"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("code", ["bytearray(1 << 30)", "x = []\nwhile True:\n    x.append(' ' * 1_000_000)"])
def test_memory_is_limited(code: str) -> None:
    outcome = Sandbox(Limits(cpu_s=60, wall_s=120.0)).run(code, "")  # a busy machine is slow to give memory away

    assert (outcome.verdict, outcome.message[:11]) == ("failed", "MemoryError")


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.execv('/bin/true', ['true'])",
        "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()",
        "import os\nos.setsid()",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.killpg(0, 9)",
        "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))",
        "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import socket\nsocket.socket()",
        "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "import os\nos.memfd_create('x')",
        "import os\nos.chmod('.', 0o777)",
        "import os\nos.truncate('/etc/hosts', 0)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    ],
)
def test_no_processes_signals_and_sockets(sandbox: Sandbox, code: str) -> None:
    outcome = sandbox.run(code, "")

    assert outcome.verdict == "failed"
    assert "ermi" in outcome.message or "not allowed" in outcome.message  # "Permission", "permitted"


def test_a_fork_bomb_leaves_nothing(sandbox: Sandbox) -> None:
    bomb = "import os\nfor _ in range(200):\n    try:\n        os.fork()\n    except OSError:\n        pass\n"

    assert sandbox.run(bomb, "").verdict == "passed"
    assert _launched() == []


def test_threads_and_event_loops_work(sandbox: Sandbox) -> None:
    threads = "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n"
    loops = "import asyncio\nassert asyncio.run(asyncio.sleep(0, 7)) == 7\n"

    assert sandbox.run(threads + loops, "").verdict == "passed"


def test_thousands_of_threads_end_at_the_memory(sandbox: Sandbox) -> None:
    code = "import threading, time\nfor _ in range(9999):\n    threading.Thread(target=time.sleep, args=(9,)).start()"

    assert "can't start new thread" in sandbox.run(code, "").message


def test_the_network_is_away_even_for_a_port_that_listens(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = sandbox.run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))", "")

    assert "PermissionError" in outcome.message


def test_files_outside_can_neither_be_written_nor_read(sandbox: Sandbox, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("a secret")
    for code in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(there)!r}, 'w')",
        f"open({str(there)!r}).read()",
        f"import os\nos.unlink({str(there)!r})",
        f"import os\nopen('a', 'w').close()\nos.rename('a', {str(tmp_path / 'new')!r})",
        f"import os\nos.symlink({str(there)!r}, 'a')\nopen('a').read()",
        "import os\nos.listdir('/')",
        "open('/etc/passwd').read()",
    ):
        assert "PermissionError" in sandbox.run(code, "").message, code

    assert there.read_text() == "a secret"
    assert list(tmp_path.iterdir()) == [there]


def test_the_environment_and_the_parents_are_hidden(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_API_KEY", "a secret of sixteen letters")
    own = sandbox.run("import os\nassert 'EVOMERGE_API_KEY' not in os.environ", "")
    parent = sandbox.run("import os\nopen(f'/proc/{os.getppid()}/environ').read()", "")

    assert own.verdict == "passed"
    assert "PermissionError" in parent.message


def test_its_own_folder_can_be_used_and_is_gone_afterwards(sandbox: Sandbox, tmp_path: Path) -> None:
    code = (
        "import os, tempfile\nopen('a', 'w').write('x')\nassert open('a').read() == 'x'\nassert os.listdir() == ['a']\n"
    )
    code += "raise ValueError(os.getcwd() + '|' + tempfile.gettempdir())"
    outcome = sandbox.run(code, "")

    own, temporary = outcome.message.removeprefix("ValueError: ").split("|")
    assert own == temporary
    assert not Path(own).exists()


def test_the_disk_is_limited(sandbox: Sandbox) -> None:
    large = sandbox.run("f = open('a', 'wb')\nf.write(bytes(2 << 20))\nf.flush()", "")
    many = sandbox.run("i = 0\nwhile True:\n    open(str(i), 'wb').write(bytes(1 << 20))\n    i += 1", "")

    assert "File too large" in large.message
    assert many.verdict == "disk"


def test_standard_input_is_empty_and_output_goes_nowhere(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = sandbox.run(
        "import sys\nassert sys.stdin.read() == ''\nprint('here')\nprint('there', file=sys.stderr)", ""
    )

    assert outcome.verdict == "passed"
    assert capfd.readouterr() == ("", "")


def test_the_same_program_has_the_same_order_and_random_numbers(sandbox: Sandbox) -> None:
    code = "import random\nraise ValueError(str([*{'a', 'b', 'c', 'd'}]) + str(random.random()))"

    assert sandbox.run(code, "") == sandbox.run(code, "")


def test_nothing_stays_where_the_worker_is_killed(tmp_path: Path) -> None:
    """The program dies with the process that started it."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\nfrom fitness.sandbox import Limits, Sandbox\n"
        "sandbox = Sandbox()\nprint('ready', flush=True)\n"
        "Sandbox(Limits(cpu_s=60, wall_s=60.0)).run('while True: pass', '')\n"
    )
    worker = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    with worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        children: list[int] = []
        end = time.monotonic() + 60
        while not children and time.monotonic() < end:
            children = _children(worker.pid)
        worker.kill()
    while any(map(_runs, children)) and time.monotonic() < end:
        os.sched_yield()

    assert children
    assert not any(map(_runs, children))


def test_code_passes_takes_what_the_extractor_takes_or_goes_on_from_the_context(sandbox: Sandbox) -> None:
    tests = "assert twice(2) == 4"
    fenced = Item("f", "Write twice.", answering=Answering("code", tests=tests))
    begun = Item("b", "def twice(x):\n", answering=Answering("continuation", tests=tests))
    answers = [Answer("```python\ndef twice(x): return 2 * x\n```", 9, True), Answer("    return 2 * x", 5, True)]

    assert CodePasses(sandbox)([fenced, begun], answers) == [1.0, 1.0]
    assert CodePasses(sandbox)([begun, fenced], answers) == [0.0, 0.0]


def test_code_runs_only_where_an_operator_allows_it() -> None:
    with pytest.raises(InvalidInputError, match="EVOMERGE_ALLOW_CODE=true"):
        check_allowed([("objectives.0.metric", "code_passes")], allow_code=False, judges=())
    check_allowed([("objectives.0.metric", "code_passes")], allow_code=True, judges=())


def _children(parent: int) -> list[int]:
    """Processes that this one started."""
    return [number for number in _processes() if _state(number)[1] == str(parent)]


def _launched() -> list[int]:
    """Processes that run a sandbox's program; a fork of one has its command line, whoever is its parent now."""
    return [number for number in _processes() if LAUNCHER.name in _command(number)]


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command(process: int) -> str:
    """Empty when it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def _runs(process: int) -> bool:
    """Whether it is there and not only a name that nobody has asked after."""
    return _state(process)[0] not in ("", "Z", "X")


def _state(process: int) -> tuple[str, str]:
    """State and parent of a process; empty when it is gone."""
    try:
        state, parent, *_ = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "", ""
    return state, parent
