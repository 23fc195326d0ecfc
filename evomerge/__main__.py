"""The one way in: checks that the sibling packages are ours, then hands over to the command line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SIBLINGS = ("search_spaces", "fitness", "workers", "api")


def check_siblings() -> None:
    """End with a clear message when another installed package hides one of ours."""
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve() if spec and spec.origin else None
        if where is None or not where.is_relative_to(home):
            sys.exit(
                f"evomerge: the package {name!r} is {where or 'missing'}, but evomerge's own lies in {home}. "
                "Another installed package has the same name: give evomerge an environment of its own."
            )


def main() -> None:
    """Entry point of the `evomerge` command and of `python -m evomerge`."""
    check_siblings()
    from api.cli import main as run

    run()


if __name__ == "__main__":
    main()
