"""Another tokenizer for a model: `evomerge transplant`.

Tokens that model and donor have in common keep the model's rows of embedding and head; rows for the donor's other
tokens are made. Nothing else of the model changes, and nothing of the donor but its tokenizer and, for some methods,
its embedding is read: the two may have different widths, depths and families.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ArchitectureError, InvalidInputError
from evomerge.merge.device import device_named
from evomerge.merge.engine import one_thread_a_kernel
from evomerge.merge.execute import usable_cores
from evomerge.merge.sidecar import SPECIAL
from evomerge.merge.structure.approximate import WEIGHTINGS, Combination, interpolation, matching_pursuit
from evomerge.merge.structure.directory import write_directory
from evomerge.merge.structure.token_keys import prefixes, tokens_of
from evomerge.models.architecture import Architecture
from evomerge.models.checkpoint import Checkpoint, open_checkpoint
from evomerge.models.content import content_hash
from evomerge.models.finite import check_finite
from evomerge.models.layout import Entry
from evomerge.models.source import VOCABULARY, architecture_of_checkpoint
from evomerge.models.weights import read_json, some
from evomerge.seeds import generator

log = logging.getLogger(__name__)
METHODS = ("omp", "interpolation", "subword", "mean", "zero", "normal")
BY_DONOR = ("omp", "interpolation")
"""Methods that read the donor's embedding and head."""
SUBWORDS = ("mean", "sum", "ends")
BATCH = 128
"""Tokens that a thread writes at a time: their bases and products take some 200 MB in a large model."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How rows for new tokens are made.

    Attributes:
        method: `omp`: what the donor's row is in few of its rows of common tokens (orthogonal matching pursuit), said
            in the model's rows of them. `interpolation`: the same by the nearest ones. `subword`: of the rows of the
            pieces that the model's own tokenizer splits the text into. `mean`: the mean of all rows. `zero`. `normal`:
            draws with the rows' mean and covariance.
        k: omp, interpolation: common tokens in a combination.
        weights: interpolation: `distance`, `barycentric` or `least_squares`.
        cosine: interpolation: the nearest by angle.
        subword: `mean` or `sum` of the pieces, or `ends`: the last in the embedding, the first in the head.
        prefix: a token that is new, but begins with one that is not, takes that one's row: `none`, `embedding`, `head`
            or `both`.
        scale: new rows are multiplied by it.
        noise: standard deviation of normal noise on new rows.
        seed: of `normal` and `noise`.

    Raises:
        InvalidInputError: one of them has another value.

    Source: Goddard and Fernandes Neto 2025, Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit,
    arXiv:2506.06607, and mergekit's tokensurgeon; `normal`: Hewitt 2021, Initializing New Word Embeddings for
    Pretrained Language Models.
    """

    method: str = "omp"
    k: int = 64
    weights: str = "distance"
    cosine: bool = False
    subword: str = "mean"
    prefix: str = "none"
    scale: float = 1.0
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", METHODS), ("weights", tuple(WEIGHTINGS)), ("subword", SUBWORDS),
            ("prefix", ("none", "embedding", "head", "both")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise InvalidInputError(name, getattr(self, name), ", ".join(allowed))
        if self.k < 1:
            raise InvalidInputError("k", self.k, "1 or more")
        for name in ("scale", "noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInputError(name, getattr(self, name), "a finite number of 0 or more")


@dataclass(frozen=True, slots=True)
class Assigned:
    """Where the rows of the donor's tokens come from in one table.

    Attributes:
        kept: donor's row → model's row, of tokens that both know.
        begun: the same, of new tokens that begin with one that the model knows.
        new: the donor's tokens that are made, in the order of their rows.
    """

    kept: dict[int, int]
    begun: dict[int, int]
    new: tuple[str, ...]


def transplant(
    model: Path, donor: Path, out: Path, settings: Settings, *, device: str = "cpu", threads: int | None = None
) -> Path:
    """Give a model another model's tokenizer.

    Args:
        model: a checkpoint's directory.
        donor: a directory with a tokenizer; with a checkpoint, for methods that read its rows.
        out: the directory to make: a checkpoint with the model's dtypes, and `structure.json`, which says how many rows
            are kept and made, and how closely the donor's rows were met.
        settings: how.
        device: where the arithmetic is done.
        threads: batches of tokens at a time; by default one a core that this process may use.

    Returns:
        `out`.

    Raises:
        InvalidInputError: `out` is in use; a directory without tokenizer; fewer common tokens than `k`, or a narrower
            donor.
        CheckpointError, ArchitectureError, NonFiniteError: a model cannot be read, or the result not written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError("out", str(out), "a directory that does not exist yet or is empty")
    with one_thread_a_kernel(), open_checkpoint(model) as checkpoint:
        architecture = architecture_of_checkpoint(checkpoint)
        where = device_named(device)
        cores = 1 if where.type != "cpu" else threads or usable_cores()
        surgeon = _Surgeon(checkpoint, architecture, donor, settings, where, cores)
        tables = {name: surgeon.table(name) for name in surgeon.names}
        report = {
            "settings": {"what": "transplant", **asdict(settings)},
            "donor": {"location": str(donor.resolve()), "sha256": surgeon.donor_hash},
            "tables": surgeon.report,
        }

        def weights() -> Iterator[tuple[str, Tensor]]:
            for name in checkpoint.tensors:
                if name not in architecture.tied:
                    yield name, tables[name] if name in tables else checkpoint.read(name)

        entries = [
            Entry(name, info.dtype, tuple(tables[name].shape) if name in tables else info.shape)
            for name, info in checkpoint.tensors.items()
            if name not in architecture.tied
        ]
        config = {**checkpoint.config, "vocab_size": surgeon.num_rows, **surgeon.special}
        return write_directory(out, model, entries, weights, config, report, donor=donor)


class _Surgeon:
    """One operation."""

    def __init__(
        self,
        model: Checkpoint,
        architecture: Architecture,
        donor: Path,
        settings: Settings,
        device: torch.device,
        threads: int,
    ) -> None:
        self._model, self._architecture, self._settings = model, architecture, settings
        self._device, self._threads = device, threads
        self._ours, self._theirs = tokens_of(model.path), tokens_of(donor)
        self._donor = _donor_tables(donor) if settings.method in BY_DONOR else {}
        self.donor_hash = content_hash(donor) if settings.method in BY_DONOR else None
        self.special = _special(donor)
        self.num_rows = max(len(self._theirs.ids), max(self._theirs.ids.values(), default=-1) + 1)
        self.names = [name for name, part in architecture.parts.items()
                      if part.role in VOCABULARY and name not in architecture.tied]  # fmt: skip
        self.report: dict[str, Any] = {}

    def table(self, name: str) -> Tensor:
        """One table of the model for the donor's tokens, as it is stored."""
        stored = self._model.read(name)
        check_finite(stored, name, f"the model ({self._model.path})")
        role = self._architecture.parts[name].role
        assigned = self._assigned(role, len(stored))
        result = torch.zeros(self.num_rows, *stored.shape[1:])
        for places in (assigned.kept, assigned.begun):
            if places:
                result[list(places)] = stored[list(places.values())].float()
        said: dict[str, Any] = {"kept": len(assigned.kept), "by_prefix": len(assigned.begun), "made": len(assigned.new)}
        if assigned.new and stored.ndim == 2:  # a head's bias is 0 for new tokens
            rows, error = self._made(name, role, stored, assigned)
            result[[self._theirs.ids[token] for token in assigned.new]] = self._disturbed(name, rows)
            said |= {} if error is None else {"relative_error_in_donor": error}
        self.report[name] = said
        result = result.to(stored.dtype)
        check_finite(result, name, "the model with another tokenizer")
        return result

    def _assigned(self, role: str, num_rows: int) -> Assigned:
        ours, theirs = self._ours, self._theirs
        allowed = self._settings.prefix in (role, "both")
        kept, begun, new = {}, {}, []
        for token, row in theirs.ids.items():
            known = ours.rows.get(theirs.keys[token], num_rows)
            first = next((p for p in prefixes(theirs.keys[token]) if ours.rows.get(p, num_rows) < num_rows), None)
            if known < num_rows:
                kept[row] = known
            elif allowed and first is not None:
                begun[row] = ours.rows[first]
            else:
                new.append(token)
        return Assigned(kept, begun, tuple(new))

    def _made(self, name: str, role: str, stored: Tensor, assigned: Assigned) -> tuple[Tensor, float | None]:
        """Rows of new tokens, and how far combinations are from the donor's own rows, relative to their length."""
        settings, number, table = self._settings, len(assigned.new), stored.float()
        if settings.method in BY_DONOR:
            return self._combined(role, table, assigned)
        if settings.method == "subword":
            return torch.stack([self._of_pieces(token, table, role) for token in assigned.new]), None
        if settings.method == "normal":
            return _drawn(table, number, settings.seed, name), None
        mean = table.double().mean(dim=0).float()
        return (mean if settings.method == "mean" else torch.zeros_like(mean)).expand(number, -1), None

    def _combined(self, role: str, table: Tensor, assigned: Assigned) -> tuple[Tensor, float]:
        theirs = self._donor.get(role, self._donor["embedding"])
        kept = {row: known for row, known in assigned.kept.items() if row < len(theirs)}
        self._check(theirs, len(kept))
        common = theirs[list(kept)].float().to(self._device)
        ours = table[list(kept.values())].to(self._device)
        made, off, length = torch.zeros(len(assigned.new), table.shape[1]), 0.0, 0.0
        numbered = [(n, row) for n, token in enumerate(assigned.new) if (row := self._theirs.ids[token]) < len(theirs)]
        if len(numbered) < len(assigned.new):
            lacking = [token for token in assigned.new if self._theirs.ids[token] >= len(theirs)]
            log.warning("the donor's %s has no rows for %s: theirs are 0", role, some(lacking))

        def write(batch: Sequence[tuple[int, int]]) -> tuple[list[int], Tensor, float, float]:
            places, rows = zip(*batch, strict=True)
            targets = theirs[list(rows)].float().to(self._device)
            found = self._combination(targets, common)
            away = float((found.of(common) - targets).norm(dim=1).sum())
            return list(places), found.of(ours).cpu(), away, float(targets.norm(dim=1).sum())

        batches = [numbered[first : first + BATCH] for first in range(0, len(numbered), BATCH)]
        with ThreadPoolExecutor(self._threads, "transplant", partial(torch.set_num_threads, 1)) as pool:
            for places, rows, away, long in pool.map(write, batches):
                made[places] = rows
                off, length = off + away, length + long
        return made, off / length if length else 0.0

    def _combination(self, targets: Tensor, common: Tensor) -> Combination:
        settings = self._settings
        if settings.method == "omp":
            return matching_pursuit(targets, common, settings.k)
        return interpolation(targets, common, settings.k, weights=settings.weights, cosine=settings.cosine)

    def _check(self, theirs: Tensor, common: int) -> None:
        width = theirs.shape[1]
        most = min(common, width) if self._settings.method == "omp" else common
        if self._settings.k > most:
            allowed = f"at most {most}: {common} tokens are common, the donor's rows have {width} entries"
            raise InvalidInputError("k", self._settings.k, allowed)

    def _of_pieces(self, token: str, table: Tensor, role: str) -> Tensor:
        """Of the rows of the pieces that the model's tokenizer splits a token's text into; 0 without pieces."""
        ids = self._ours.tokenizer(self._theirs.text(token), add_special_tokens=False)["input_ids"]
        rows = table[[i for i in ids if i < len(table)]]
        if not len(rows):
            return torch.zeros(table.shape[1])
        if self._settings.subword == "ends":
            return rows[0] if role == "head" else rows[-1]
        return rows.sum(dim=0) if self._settings.subword == "sum" else rows.mean(dim=0)

    def _disturbed(self, name: str, rows: Tensor) -> Tensor:
        settings = self._settings
        if settings.noise:
            rng = generator(settings.seed, "transplant", "noise", name)
            rows = rows + settings.noise * torch.from_numpy(rng.standard_normal(tuple(rows.shape))).float()
        return rows * settings.scale


def _donor_tables(donor: Path) -> dict[str, Tensor]:
    """The donor's embedding, and its head where that is another tensor; rows of each are tokens'."""
    with open_checkpoint(donor) as checkpoint:
        architecture = architecture_of_checkpoint(checkpoint)
        found = {}
        for name, part in architecture.parts.items():
            if part.role in VOCABULARY and name not in architecture.tied and len(checkpoint.tensors[name].shape) == 2:
                found[part.role] = checkpoint.read(name)
                check_finite(found[part.role], name, f"the donor ({donor})")
    if "embedding" not in found:
        raise ArchitectureError(f"the donor ({donor}) has no embedding")
    return found


def _special(donor: Path) -> dict[str, Any]:
    """Which tokens begin, end and pad a text, as the donor's config says; nothing where there is none."""
    path = donor / "config.json"
    config = read_json(path) if path.exists() else {}
    return {key: config[key] for key in SPECIAL if key in config}


def _drawn(table: Tensor, number: int, seed: int, name: str) -> Tensor:
    """Normal numbers with the mean and covariance of a table's rows."""
    rng = generator(seed, "transplant", "normal", name)
    mean = table.double().mean(dim=0)
    centred = (table.double() - mean) / len(table) ** 0.5
    # Σ = CᵀC: standard normal numbers times C have it, whatever its rank.
    draws = torch.from_numpy(rng.standard_normal((number, len(table))))
    found: Tensor = (mean + draws @ centred).float()
    return found
