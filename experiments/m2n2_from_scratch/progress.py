"""A search that may be stopped at any time and carried further: its curve as JSON, what it goes on from as a pickle.

The pickle stays out of the repository (~/.cache/evomerge/studies); without it a search begins again, with the same
numbers.
"""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

CACHE = Path.home() / ".cache" / "evomerge" / "studies"


class Progress:
    """One run's curve and state.

    Args:
        result: the JSON file of the curve; the pickle is named after its folder's parent and itself.
    """

    def __init__(self, result: Path) -> None:
        self._result = result
        self._pickle = CACHE / result.parent.parent.name / f"{result.stem}.pickle"
        self._began, self._spent = time.process_time(), 0.0
        self.rows: list[dict[str, float]] = []
        self.state: Any = None
        if self._pickle.exists():
            self.rows, self.state, self._spent = pickle.loads(self._pickle.read_bytes())

    @property
    def done(self) -> int:
        """Evaluations that the state, or else the curve that is there, has."""
        rows = self.rows
        if not rows and self._result.exists():
            rows = json.loads(self._result.read_text())["curve"]
        return int(rows[-1]["evaluations"]) if rows else 0

    def save(self, row: dict[str, float], state: Any) -> None:
        """Add a row, and keep what the search goes on from."""
        self.rows.append(row)
        spent = self._spent + time.process_time() - self._began
        self._pickle.parent.mkdir(parents=True, exist_ok=True)
        _replace(self._pickle, pickle.dumps((self.rows, state, spent)))
        if int(row["evaluations"]) < self._longest():
            return  # a longer curve of the same run stands there
        name, _, seed = self._result.stem.rpartition("_")
        found = {"variant": name, "seed": int(seed), "cpu_s": round(spent, 1), "curve": self.rows}
        _replace(self._result, (json.dumps(found) + "\n").encode())
        print(name, seed, {key: round(value, 2) for key, value in row.items()}, flush=True)

    def _longest(self) -> int:
        if not self._result.exists():
            return 0
        return int(json.loads(self._result.read_text())["curve"][-1]["evaluations"])


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
