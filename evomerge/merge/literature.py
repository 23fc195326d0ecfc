"""The papers behind the methods: what was read, what of it works here, and how to cite it.

`literature.json` holds one entry a paper. The page `docs/methods.md` is made from it and from the registry of methods
(`scripts/methods_table.py`), `evomerge cite` and model cards print its BibTeX.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from evomerge.merge.methods import METHODS
from evomerge.merge.stages import STAGES
from evomerge.recipe.schema import Merge, Recipe

PATHS = "akiba2024evolutionary"
"""The paper of paths through layers."""
Status = Literal["working", "partly", "open"]


@dataclass(frozen=True, slots=True)
class Paper:
    """One paper of the field.

    Attributes:
        key: of its BibTeX entry.
        title, year: as published first.
        authors: full names in their order, as BibTeX reads them: surnames of several words before a comma, names that
            are no person's in braces; `others` last where only some are known.
        place: `arXiv:…`, `doi:…` or an address.
        kind: what it offers: `data-free`, `calibration`, `search`, `dynamic`, `alignment`, `adapter`, `structure`,
            `finding`.
        status: whether what can be built of it works here.
        methods: names of the methods (or of stages) that are this paper's.
        note: what is missing or why it is open; for working ones what is particular.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    place: str
    kind: str
    status: Status
    methods: tuple[str, ...]
    note: str = ""

    @property
    def bibtex(self) -> str:
        """Its entry, ready for a bibliography."""
        scheme, _, number = self.place.partition(":")
        if scheme == "arXiv":
            where = [("eprint", number), ("archivePrefix", "arXiv"), ("url", f"https://arxiv.org/abs/{number}")]
        elif scheme == "doi":
            where = [("doi", number)]
        else:
            where = [("url", self.place)]
        fields = [("title", f"{{{self.title}}}"), ("author", " and ".join(self.authors)), ("year", str(self.year))]
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in [*fields, *where])
        return f"@misc{{{self.key},\n{lines}\n}}"

    @property
    def link(self) -> str:
        """Where it can be read."""
        return link_to(self.place)

    @property
    def short(self) -> str:
        """Authors and year, as a text cites it."""
        first, *others = (_surname(author) for author in self.authors)
        names = f"{first} and {others[0]}" if len(others) == 1 and others[0] != "others" else first
        return f"{names}{' et al.' * (names == first and bool(others))} {self.year}"


def _surname(author: str) -> str:
    if author.startswith("{"):
        return author.strip("{}")
    return author.partition(",")[0] if "," in author else author.split()[-1]


def link_to(place: str) -> str:
    """The address of a `Paper.place`."""
    scheme, _, number = place.partition(":")
    hosts = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return hosts[scheme] + number if scheme in hosts else place


@cache
def papers() -> tuple[Paper, ...]:
    """All of them, in the order of the file."""
    data: list[dict[str, Any]] = json.loads(files(__package__).joinpath("literature.json").read_text("utf-8"))
    return tuple(
        Paper(**{**entry, "authors": tuple(entry["authors"]), "methods": tuple(entry["methods"])}) for entry in data
    )


def cited(merges: Iterable[Merge]) -> tuple[Paper, ...]:
    """The papers of the methods (or stages) that recipes use, each once; those that a method's own text names, too."""
    names: list[str] = []
    texts: list[str] = []
    for merge in merges:
        names += merge.pipeline or (merge.method,)
        texts += [METHODS[merge.method].paper] if merge.method in METHODS else []
    numbers = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", " ".join(texts)))
    assert all(name in METHODS or name in STAGES for name in names), "checked when the recipe was planned"
    return tuple(
        paper for paper in papers() if set(paper.methods) & set(names) or paper.place.removeprefix("arXiv:") in numbers
    )


def cited_by(recipes: Iterable[Recipe]) -> tuple[Paper, ...]:
    """The papers behind recipes, each once: of their methods where these count, and of paths."""
    asked = list(recipes)
    found = set(cited(recipe.merge for recipe in asked if recipe.path is None or recipe.path.uses_merged))
    paths = any(recipe.path is not None for recipe in asked)
    return tuple(paper for paper in papers() if paper in found or (paths and paper.key == PATHS))
