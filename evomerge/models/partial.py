"""A model directory in the making: hidden beside its target, locked, and taken up again after a kill.

`.NAME.partial` beside the target holds `model` (which takes the target's name when it is whole), `scratch` (what is
needed on the way) and `journal.jsonl`: what is being made, and the SHA-256 of every file that is finished.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.errors import CheckpointError

log = logging.getLogger(__name__)
JOURNAL = "journal.jsonl"


class Partial:
    """What `partial` gives.

    Attributes:
        model: the directory that becomes the target.
        scratch: a directory for whatever is needed on the way; what a killed merge left there is still there.
        finished: name of a file in `model` → its SHA-256; verified.
    """

    def __init__(self, out: Path, directory: Path, key: str) -> None:
        self.out, self._directory = out, directory
        self.model, self.scratch = directory / "model", directory / "scratch"
        self.finished: dict[str, str] = {}
        self._take_up(key)

    def record(self, file: str) -> None:
        """Remember that a file in `model`, forced to the disk already, is finished."""
        self._append({"file": file, "sha256": _sha256(self.model / file)})

    def publish(self) -> None:
        """Give `model` the target's name; all of its files are forced to the disk first."""
        for path in self.model.iterdir():
            sync(path)
        sync(self.model)
        self.model.rename(self.out)
        sync(self.out.parent)

    def _take_up(self, key: str) -> None:
        """Keep what an earlier merge of the same key has finished; drop everything else."""
        lines = self._lines()
        if lines and lines[0] == {"key": key}:
            for line in lines[1:]:
                file, digest = str(line.get("file")), line.get("sha256")
                if (self.model / file).is_file() and _sha256(self.model / file) == digest:
                    self.finished[file] = str(digest)
                else:
                    log.warning("%s: %s is not what the journal says; it is made again", self.out, file)
        elif lines:
            log.warning("%s: an unfinished merge of something else lay here; it is dropped", self.out)
            shutil.rmtree(self.scratch, ignore_errors=True)
        self.model.mkdir(exist_ok=True)
        self.scratch.mkdir(exist_ok=True)
        for path in self.model.iterdir():
            if path.name not in self.finished:
                path.unlink()
        if self.finished:
            log.info("%s: %d finished file(s) are kept", self.out, len(self.finished))
        self._rewrite(key)

    def _lines(self) -> list[dict[str, object]]:
        """The journal as far as it is readable: a kill may have torn the last line."""
        found = []
        try:
            for text in (self._directory / JOURNAL).read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                if not isinstance(line, dict):
                    break
                found.append(line)
        except (OSError, ValueError):
            pass
        return found

    def _rewrite(self, key: str) -> None:
        fresh = self._directory / f"{JOURNAL}.new"
        rows = [{"key": key}, *({"file": file, "sha256": digest} for file, digest in self.finished.items())]
        fresh.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sync(fresh)
        fresh.replace(self._directory / JOURNAL)
        sync(self._directory)

    def _append(self, row: dict[str, str]) -> None:
        with (self._directory / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(row) + "\n")
            journal.flush()
            os.fsync(journal.fileno())


@contextmanager
def partial(out: Path, key: str) -> Iterator[Partial]:
    """The directory in which `out` is made; gone when the block ends well or with an error.

    Only a kill (or Ctrl-C) leaves it, for a later call with the same key.

    Args:
        out: the target; it may exist if it is an empty directory.
        key: what is made: files that another key has finished are not kept.

    Raises:
        CheckpointError: `out` is in use or cannot be written, or another process is making it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists already; expected a new or an empty directory")
    directory = out.parent / f".{out.name}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(directory, out)
    except OSError as error:
        raise cannot_write(out, error) from error
    try:
        yield _opened(out, directory, key)
    except Exception:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    else:
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)


def _opened(out: Path, directory: Path, key: str) -> Partial:
    try:
        return Partial(out, directory, key)
    except OSError as error:
        raise cannot_write(out, error) from error


def _locked(directory: Path, out: Path) -> int:
    """A handle of the directory that holds its lock; the lock goes with the process, however that ends."""
    while True:
        directory.mkdir(exist_ok=True)
        try:
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # whoever held it has just finished
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise CheckpointError(f"{out}: another merge is writing it; wait for it, or stop it first") from None
        if _is_at(handle, directory):
            return handle
        os.close(handle)


def _is_at(handle: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), directory.stat())
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Force a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(out: Path, error: OSError) -> CheckpointError:
    """The error that a person reads."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(f"{out}: the disk is full; nothing was left there")
    return CheckpointError(f"{out}: cannot be written: {error.strerror or error}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
