"""`evomerge merge` in the terminal: the plan of a dry run, a bar while it goes, sizes and places as people write."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from evomerge.errors import InvalidInputError

if TYPE_CHECKING:
    from evomerge.merge.engine import Progress as Told
    from evomerge.merge.outlook import Outlook
    from evomerge.recipe.schema import Recipe

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
         "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def size(text: str) -> int:
    """Bytes.

    Raises:
        InvalidInputError: no size.

    >>> size("2GiB"), size("500 MB"), size("1.5kB")
    (2147483648, 500000000, 1500)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in UNITS or float(found[1]) == 0:
        raise InvalidInputError("--memory", text, "a size such as 2GiB, 500MB or a number of bytes")
    return int(float(found[1]) * UNITS[found[2].lower()])


def relocated(recipe: Recipe, places: list[str]) -> Recipe:
    """The recipe with other locations for some of its models.

    Args:
        places: `NAME=PLACE` each, a source's name or `base`.

    Raises:
        InvalidInputError: a place without a name of the recipe.
    """
    base, sources = recipe.base, dict(recipe.sources)
    for place in places:
        name, _, where = place.partition("=")
        if not where or (name != "base" and name not in sources):
            raise InvalidInputError("--model", place, f"NAME=PLACE with a name of {['base', *sources]}")
        ref = base if name == "base" else sources[name]
        moved = ref.model_copy(update={"location": os.path.abspath(where), "revision": None})  # noqa: PTH100  # keeps links
        if name == "base":
            base = moved
        else:
            sources[name] = moved
    return recipe.model_copy(update={"base": base, "sources": sources})


@contextmanager
def bar(console: Console) -> Iterator[Told]:
    """A bar of bytes written with speed and time left; nothing where there is no terminal."""
    columns = (TextColumn("merging"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task("merging", total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def table_of(outlook: Outlook) -> Table:
    """What a merge would do."""
    table = Table("what", "how much", show_header=False)
    rows = {
        "method": outlook.method,
        "tensors merged": str(outlook.tensors_merged),
        "tensors copied": str(outlook.tensors_copied),
        "read": decimal(outlook.bytes_read),
        "written": f"{decimal(outlook.bytes_written)} in {outlook.shards} file(s)",
        "peak memory": f"{decimal(outlook.memory)} of tensors, beside the interpreter and its libraries",
        "disk needed": decimal(outlook.disk_needed),
        "disk free": f"{decimal(outlook.disk_free)} ({'enough' if outlook.fits else 'not enough'})",
    }
    if outlook.built_first:
        rows["built first"] = ", ".join(outlook.built_first)
    for what, much in rows.items():
        table.add_row(what, much)
    return table
