"""`make demo`: the main job on real models, as a user would do it.

Prepares the base model, starts the service on its embedded defaults, submits a search over REST, follows it in the
terminal while the dashboard shows it live, downloads the winning recipe, builds the merged model from it with
`evomerge merge`, and prints what it scored beside every source and the plain average.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry import ZOO, write_registry

from api.client import Client, UnreachableError
from api.local import read_search
from api.progress import make_console
from api.remote import follow
from evomerge.recipe.text import load_recipe

sys.path.insert(0, str(ZOO))
from base import NAME, default_cache

console = make_console()


def main() -> int:
    """Run the demo; 0 when the search succeeded and the model was built."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends too
    home: Path = arguments.home.resolve()
    began = time.monotonic()
    # In a process of its own: the conversion needs a gigabyte that this one would keep.
    subprocess.run([sys.executable, str(ZOO / "base.py")], check=True)
    write_registry(home / "registry.yaml", default_cache() / NAME)
    with _service(home, arguments.port) as url, Client(url) as client:
        console.print(f"dashboard: {url}/")
        recipe = _search(client, arguments.spec, home)
        if recipe is None:
            return 1
        merged = _merge(recipe, home)
        _say_how_to_go_on(merged, home, time.monotonic() - began)
        if sys.stdin.isatty() and not arguments.exit:
            console.print("the dashboard stays up until Ctrl-C")
            _until_interrupted()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, help="what to search")
    parser.add_argument("--home", type=Path, default=Path("demo"), help="where everything is left")
    parser.add_argument("--port", type=int, default=0, help="of the service; 0 takes a free one")
    parser.add_argument("--exit", action="store_true", help="end the service at the end, also on a terminal")
    return parser.parse_args()


@contextmanager
def _service(home: Path, port: int) -> Iterator[str]:
    port = port or _free_port()
    log = home / "service.log"
    command = [sys.executable, "-m", "evomerge", "serve", "--data-dir", str(home / "data")]
    command += ["--registry", str(home / "registry.yaml"), "--port", str(port)]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with Client(url, timeout_s=2) as client:
                next(client.runs(), None)
                return
        except UnreachableError:
            time.sleep(0.2)
    sys.exit(f"the service did not start; its log is {log}")


def _search(client: Client, path: Path, home: Path) -> Path | None:
    """Submit, follow, and download the winner's recipe. The same search again gives the run that is there already."""
    spec, _ = read_search(path)
    body = spec.model_dump(mode="json", by_alias=True)
    key = hashlib.sha256(path.read_bytes()).hexdigest()
    run = client.submit(body, idempotency_key=key)
    if run["state"] == "succeeded":
        console.print(f"kept: run {run['id']}, made {run['created']}; another seed in {path} starts a new one")
    elif run["state"] != "queued":
        console.print(f"kept: run {run['id']}, {run['state']}; it goes on where it was")
        if run["state"] == "paused":
            client.command(run["id"], "resume")
    console.print(f"run: {client.url}/runs/{run['id']}")
    recipe = home / f"{path.stem}.recipe.yaml"
    state = follow(client, client.run(run["id"]), console, recipe)
    return recipe if state == "succeeded" else None


def _merge(recipe: Path, home: Path) -> Path:
    """Build the merged model, unless the one of this very recipe is there."""
    merged = home / "merged" / load_recipe(recipe).digest[:12]
    if merged.exists():
        console.print(f"kept: merged model {merged}")
        return merged
    merged.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "evomerge", "merge", str(recipe), str(merged)], check=True)
    return merged


def _say_how_to_go_on(merged: Path, home: Path, seconds: float) -> None:
    evomerge = os.path.relpath(Path(sys.executable).parent / "evomerge")
    model, data, registry = (os.path.relpath(p) for p in (merged, home / "data", home / "registry.yaml"))
    question = r"$'Japanese: 三十二 足す 二十九\nMath:'"
    console.print(f"\ndone in {seconds / 60:.1f} minutes", highlight=False)
    for title, command in (
        ("chat with it", f"{evomerge} chat {model}"),
        (
            "let it write a sum (it is better at choosing one)",
            f"{evomerge} chat {model} --plain --max-new-tokens 12 --prompt {question}",
        ),
        ("see the dashboard again", f"{evomerge} serve --data-dir {data} --registry {registry}"),
    ):
        console.print(f"{title}:\n  {command}", highlight=False, markup=False, soft_wrap=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_interrupted() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")


if __name__ == "__main__":
    sys.exit(main())
