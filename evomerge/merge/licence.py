"""Under which licence a model's directory says it comes. Read for warnings and model cards; no legal advice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import InvalidInputError
from evomerge.recipe.document import parse_yaml

_NO_DERIVATIVES = ("-nd", "no-derivatives", "noderivatives", "noderivs")
_NON_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "research-only")
_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md", "USE_POLICY.md")
_KNOWN_TEXTS = {
    "apache license": "apache-2.0",
    "mit license": "mit",
    "gnu affero general public license": "agpl-3.0",
    "gnu lesser general public license": "lgpl-3.0",
    "gnu general public license": "gpl-3.0",
    "attribution-noncommercial-noderivatives 4.0": "cc-by-nc-nd-4.0",
    "attribution-noderivatives 4.0": "cc-by-nd-4.0",
    "attribution-noncommercial-sharealike 4.0": "cc-by-nc-sa-4.0",
    "attribution-noncommercial 4.0": "cc-by-nc-4.0",
    "attribution-sharealike 4.0": "cc-by-sa-4.0",
    "attribution 4.0": "cc-by-4.0",
    "llama 3": "llama3",
    "llama 2": "llama2",
    "gemma terms": "gemma",
}
"""How licences' texts begin → the hub's names for them; the more particular first."""


@dataclass(frozen=True, slots=True)
class Licence:
    """What a directory says.

    Attributes:
        name: the licence's identifier in lower case, as model hubs spell it; None where nothing is said.
        where: the file that says it.
    """

    name: str | None
    where: Path | None

    @property
    def forbids_derivatives(self) -> bool:
        """Whether its name says that no derived works may be shared."""
        return self.name is not None and any(mark in self.name for mark in _NO_DERIVATIVES)

    @property
    def non_commercial(self) -> bool:
        """Whether its name says that use is limited to non-commercial purposes."""
        return self.name is not None and any(mark in self.name for mark in _NON_COMMERCIAL)

    @property
    def warning(self) -> str | None:
        """What a person who merges the model should know; None where nothing speaks against it."""
        if self.name is None:
            return "no licence is stated: without one, nobody may share works derived from it"
        if self.forbids_derivatives:
            return f"its licence ({self.name}) forbids derived works, and a merged model is one"
        if self.non_commercial:
            return f"its licence ({self.name}) allows non-commercial use only"
        return None


def licence_of(path: Path) -> Licence:
    """The licence of a model's directory: the head of its model card, else a licence file.

    Args:
        path: a checkpoint's or an adapter's directory.
    """
    card = path / "README.md"
    if name := _in_card(card):
        return Licence(name, card)
    for file in (path / name for name in _FILES):
        if name := _in_text(file):
            return Licence(name, file)
    return Licence(None, None)


def _in_card(card: Path) -> str | None:
    head = front_matter(card)
    found = head.get("license")
    if isinstance(found, list):
        found = " and ".join(str(entry) for entry in found)
    if found in ("other", None):
        found = head.get("license_name") or found
    return str(found).strip().lower() if found else None


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML between `---` lines at the head of a model card; empty where there is none or it cannot be read."""
    try:
        text = card.read_text(encoding="utf-8")
        if not text.startswith("---\n"):
            return {}
        data = parse_yaml(text[4 : text.index("\n---", 3) + 1], str(card)).data
    except (OSError, ValueError, InvalidInputError):  # no card, not UTF-8, no end of the head, not YAML
        return {}
    return data if isinstance(data, dict) else {}


def _in_text(file: Path) -> str | None:
    try:
        head = " ".join(file.read_text(encoding="utf-8", errors="replace")[:2000].lower().split())
    except OSError:
        return None
    return next((name for beginning, name in _KNOWN_TEXTS.items() if beginning in head), f"see {file.name.lower()}")
