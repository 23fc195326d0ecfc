"""A service in a process of its own, and a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from evomerge.storage.sql import SqlStore, open_store

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
START_S = 60


class Service:
    """The API over a data directory; can be killed and started again at the same address."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        env = os.environ | {"EVOMERGE_DATA_DIR": str(self.data_dir), "EVOMERGE_PORT": str(self.port)}
        code = "from api.app import serve; from api.settings import Settings; serve(Settings())"
        self.process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env)
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, "the service ended at its start"
            assert time.monotonic() < deadline, "the service does not answer"
            time.sleep(0.05)  # another process has no event to wait for

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/livez", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> float:
        """Ask it to end; the seconds that it took."""
        assert self.process is not None
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        return time.monotonic() - begin


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all tests: each has runs of its own, and who ends the service starts it again."""
    service = Service(tmp_path_factory.mktemp("service"))
    service.start()
    yield service
    if service.process is not None and service.process.poll() is None:
        service.terminate()


@pytest.fixture
def store(service: Service) -> Iterator[SqlStore]:
    """The service's database, as the controller's process opens it."""
    store = open_store(f"sqlite:///{service.data_dir}/evomerge.sqlite3")
    yield store
    store.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.fail("no Chromium on this machine: `apt-get install chromium`, or deselect with -m 'not browser'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """A page of the service; what the browser complains about fails the test."""
    if not (ROOT / "api" / "static" / "index.html").is_file():
        pytest.fail("the dashboard is not built: python -m api.ui_build")
    context = browser.new_context(base_url=service.url, accept_downloads=True, viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[Any] = []
    page.on("pageerror", lambda error: complaints.append(error))
    page.on("console", lambda message: complaints.append(message.text) if _is_complaint(message) else None)
    yield page
    context.close()
    assert complaints == []


def _is_complaint(message: Any) -> bool:
    """Script errors and refused content; not the browser's own line about a request that the page handles."""
    return message.type in ("error", "warning") and "Failed to load resource" not in message.text
