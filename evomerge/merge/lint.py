"""What may be wrong with the sources of a merge: found by looking at their weights, since such merges fail silently.

Merging assumes that all sources descend from the base by fine-tuning: small differences, the same order of units, the
same scales. Weights that were permuted, rescaled, reparametrised, quantised, or that come from another base, still
have the right names and shapes, and their merge still writes a model. Only the numbers tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from evomerge.errors import NonFiniteError
from evomerge.merge.inputs import Inputs
from evomerge.merge.licence import licence_of
from evomerge.models.architecture import Part
from evomerge.models.checkpoint import is_merged
from evomerge.models.family import BUFFER
from evomerge.models.source import AdapterSource, Source

FAR = 0.9
"""Cosine of a source's and the base's weights below which it can hardly be a fine-tune: fine-tuning moves weights by a
few percent (cosine above .99); independent models have a cosine near 0."""
ALIKE = 0.99
"""Cosine of two task vectors above which two sources are as good as one."""
MOVED_UNITS = 0.05
"""Share of units that resemble another unit of the base more than their own, above which units were reordered."""
LEVELS = 16
"""Distinct values in `GROUP` consecutive entries, at most, that speak of weights rounded to four bits: entries that
share a scale are 32 or more. Eight bits cannot be told from bfloat16 in this way."""
GROUP = 32
PROBES = 8
UNITS = 256
"""Rows of a matrix that are compared with all rows of the base's."""

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that speaks against a source.

    Attributes:
        level: `error` where a merge would be refused, `warning` where it would likely be worthless, `note` otherwise.
        source: its name; two names for a pair.
        kind: `non_finite`, `unchanged`, `other_base`, `permuted`, `scaled`, `reparametrised`, `quantised`, `alike`,
            `far`, `licence`.
        text: what was seen, for people.
    """

    level: Level
    source: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A source beside the base, over the tensors that were looked at.

    Attributes:
        change: ‖θk − θ0‖ / ‖θ0‖.
        cosine: of θk and θ0.
    """

    change: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen.

    Attributes:
        sources: source → how far it is from the base.
        cosines: pairs of sources → cosine of their task vectors.
        findings: in order of sources.
        layers: which layers were looked at.
    """

    sources: Mapping[str, Measured]
    cosines: Mapping[tuple[str, str], float]
    findings: tuple[Finding, ...]
    layers: tuple[int, ...]


def lint(inputs: Inputs, *, num_layers: int = 4) -> Report:
    """Look at the sources of an open recipe.

    Args:
        inputs: base and sources.
        num_layers: how many layers to read, spread evenly from the first to the last; tensors outside the layers are
            always read.
    """
    total = inputs.architecture.num_layers
    steps = max(1, min(num_layers, total) - 1)
    layers = tuple(sorted({round(i * (total - 1) / steps) for i in range(min(num_layers, total))}))
    names = [name for name, part in inputs.architecture.parts.items() if _is_read(inputs, name, part, layers)]
    seen = {name: _Seen(inputs, name, source, names) for name, source in inputs.sources.items()}
    findings = [finding for one in seen.values() for finding in one.findings()]
    whole = {name: one for name, one in seen.items() if not one.broken}
    cosines = {(a, b): _cosine_of_deltas(whole[a], whole[b]) for a, b in combinations(whole, 2)}
    findings += [
        Finding("warning", f"{a}, {b}", "alike", f"their task vectors are the same but for a cosine of {cosine:.4f}")
        for (a, b), cosine in cosines.items()
        if cosine > ALIKE
    ]
    return Report({name: one.measured for name, one in whole.items()}, cosines, tuple(findings), layers)


def _is_read(inputs: Inputs, name: str, part: Part, layers: tuple[int, ...]) -> bool:
    if part.role == BUFFER or name in inputs.architecture.tied or not is_merged(inputs.base.tensors[name]):
        return False
    return part.layer is None or part.layer in layers


class _Seen:
    """One source beside the base."""

    def __init__(self, inputs: Inputs, name: str, source: Source, names: list[str]) -> None:
        self.inputs, self.name, self.source = inputs, name, source
        self.names = [at for at in names if at in source.changed]
        self.measured, self.broken = Measured(0.0, 1.0), ""
        try:
            self.measured = self._measure(names)
        except NonFiniteError as error:
            self.broken = str(error)

    def pair(self, at: str) -> tuple[Tensor, Tensor]:
        """θk and θ0 as float32, matrices as (out × in)."""
        theirs, ours = self.source.weights(at).float(), self.inputs.base.read(at).float()
        turned = self.inputs.architecture.parts[at].role in self.inputs.architecture.transposed and ours.dim() == 2
        return (theirs.t(), ours.t()) if turned else (theirs, ours)

    def _measure(self, names: list[str]) -> Measured:
        aa = bb = ab = dd = 0.0
        for at in names:
            theirs, ours = self.pair(at) if at in self.source.changed else (self.inputs.base.read(at).float(),) * 2
            aa, bb, ab = aa + _dot(theirs, theirs), bb + _dot(ours, ours), ab + _dot(theirs, ours)
            dd += _dot(theirs - ours, theirs - ours)
        if bb == 0 or aa == 0:
            return Measured(0.0 if dd == 0 else float("inf"), 1.0 if dd == 0 else 0.0)
        return Measured((dd / bb) ** 0.5, ab / (aa * bb) ** 0.5)

    def findings(self) -> Iterator[Finding]:
        """All that speaks against it."""
        if self.broken:
            yield Finding("error", self.name, "non_finite", self.broken)
            return
        yield from self._licence()
        if self.measured.change == 0:
            yield self._warn("unchanged", "it equals the base in all tensors that were read")
            return
        if isinstance(self.source, AdapterSource):  # it was trained on weights in the base's order and scale
            if self.measured.change > 1:
                yield self._warn("far", f"its change is {self.measured.change:.1f} times the base's weights")
            return
        yield from self._quantised()
        yield from self._order_and_scale()

    def _licence(self) -> Iterator[Finding]:
        if warning := licence_of(self.source.path).warning:
            yield Finding("note", self.name, "licence", warning)

    def _order_and_scale(self) -> Iterator[Finding]:
        """The first of the explanations that fits, from the particular to the general."""
        if (moved := max(self._moved_units(), default=0.0)) > MOVED_UNITS:
            yield self._warn(
                "permuted", f"{moved:.0%} of its units stand elsewhere in the base; align it before merging"
            )
        elif reason := self._reparametrised():
            yield self._warn("reparametrised", reason)
        elif reason := self._scaled():
            yield self._warn("scaled", reason)
        elif self.measured.cosine < FAR:
            yield self._warn(
                "other_base",
                f"its weights have a cosine of {self.measured.cosine:.3f} with the base's; fine-tunes have over .99",
            )

    def _warn(self, kind: str, text: str) -> Finding:
        return Finding("warning", self.name, kind, text)

    def _matrices(self, *roles: str) -> Iterator[tuple[str, Tensor, Tensor]]:
        for at in self.names:
            if self.inputs.architecture.parts[at].role in roles and len(self.inputs.base.tensors[at].shape) == 2:
                yield (at, *self.pair(at))

    def _moved_units(self) -> Iterator[float]:
        """Per matrix that writes hidden units (rows) or reads the residual stream (columns of the embedding)."""
        for _, theirs, ours in self._matrices("mlp.up", "mlp.gate"):
            yield _moved(theirs, ours)
        for _, theirs, ours in self._matrices("embedding"):
            yield _moved(theirs[:4096].t(), ours[:4096].t())
        if width := self._head_width():
            for _, theirs, ours in self._matrices("attention.q", "attention.k", "attention.v"):
                yield _moved(theirs.reshape(-1, width * theirs.shape[1]), ours.reshape(-1, width * ours.shape[1]))

    def _head_width(self) -> int:
        config = self.inputs.base.config
        heads = config.get("num_attention_heads") or config.get("n_head") or 0
        width = config.get("hidden_size") or config.get("n_embd") or 0
        return int(config.get("head_dim") or (width // heads if heads else 0))

    def _reparametrised(self) -> str | None:
        """Q and K (or V and O) changed by an invertible matrix and its inverse: far apart, but the same product."""
        tensors = {(part.layer, part.role): at for at, part in self.inputs.architecture.parts.items()
                   if at in self.names and at.endswith("weight")}  # fmt: skip
        width = self._head_width()
        for layer in sorted({layer for layer, _ in tensors if layer is not None}):
            q, k, v, o = (tensors.get((layer, f"attention.{role}")) for role in "qkvo")
            for left, right, product, names in ((q, k, _scores, "Q and K"), (o, v, _values, "V and O")):
                if left is None or right is None or not width:
                    continue
                (l1, l0), (r1, r0) = self.pair(left), self.pair(right)
                apart = max(_relative(l1, l0), _relative(r1, r0))
                same = _relative(product(l1, r1, width), product(l0, r0, width))
                if apart > 0.2 and same < 0.2 * apart:
                    return (
                        f"{names} of layer {layer} are {apart:.0%} away from the base's, but their product is only "
                        f"{same:.1%} away: an invertible matrix between them was changed, as in models that were made "
                        "unmergeable"
                    )
        return None

    def _scaled(self) -> str | None:
        """Rows that point where the base's point, but are longer or shorter."""
        for at, theirs, ours in self._matrices(
            "mlp.up", "mlp.gate", "mlp.down", "attention.q", "attention.v", "embedding"
        ):
            for axis, what in ((1, "rows"), (0, "columns")):
                norms1, norms0 = theirs.norm(dim=axis), ours.norm(dim=axis)
                good = (norms0 > 0) & (norms1 > 0)
                cosine = ((theirs * ours).sum(dim=axis) / (norms1 * norms0))[good].median().clamp(-1, 1)
                stretch = (norms1[good] / norms0[good]).log().abs().median()
                # A change at random lengthens a row by about 1 − cos: what goes far beyond is a scale.
                if cosine > 0.98 and stretch > max(0.02, 3 * float((2 * (1 - cosine)).sqrt())):
                    off = float(stretch.exp() - 1)
                    return f"{what} of {at!r} point where the base's do but are {off:.0%} off in length"
        return None

    def _quantised(self) -> Iterator[Finding]:
        for at, theirs, _ in self._matrices("mlp.up", "mlp.down", "attention.q", "mlp.gate"):
            groups = theirs.reshape(-1)[: theirs.numel() // GROUP * GROUP].view(-1, GROUP)[:1024].sort(dim=1).values
            distinct = 1 + (groups.diff(dim=1) != 0).sum(dim=1).float()
            if len(groups) and distinct.median() <= LEVELS:
                yield self._warn(
                    "quantised",
                    f"{at!r} has {distinct.median():.0f} different values in {GROUP} entries: its weights were rounded "
                    "to a few bits, and the rounding would be merged as if it were learnt",
                )
                return


def _moved(theirs: Tensor, ours: Tensor) -> float:
    """Share of the source's units (rows) that resemble another of the base's units, and not their own."""
    if len(ours) < 2:
        return 0.0
    chosen = torch.linspace(0, len(ours) - 1, min(UNITS, len(ours))).long()
    a = torch.nn.functional.normalize(theirs[chosen].float(), dim=1)
    cosines = a @ torch.nn.functional.normalize(ours.float(), dim=1).t()
    best = cosines.max(dim=1)
    own = cosines[torch.arange(len(chosen)), chosen]
    return float(((best.indices != chosen) & (best.values > 0.7) & (own < 0.5 * best.values)).float().mean())


def _scores(q: Tensor, k: Tensor, width: int) -> Tensor:
    """Wqᵀ Wk x per query head for fixed probes x, with key heads shared as in grouped-query attention."""
    heads, shared = q.shape[0] // width, k.shape[0] // width
    probes = _probes(k.shape[1])
    keys = (k @ probes).view(shared, width, -1).repeat_interleave(heads // shared, dim=0)
    return torch.einsum("hwi,hwp->hip", q.view(heads, width, -1), keys)


def _values(o: Tensor, v: Tensor, width: int) -> Tensor:
    """Wo Wv x per query head for fixed probes x."""
    heads, shared = o.shape[1] // width, v.shape[0] // width
    values = (v @ _probes(v.shape[1])).view(shared, width, -1).repeat_interleave(heads // shared, dim=0)
    return torch.einsum("ohw,hwp->hop", o.reshape(o.shape[0], heads, width), values)


def _probes(size: int) -> Tensor:
    return torch.randn(size, PROBES, generator=torch.Generator().manual_seed(0))


def _relative(a: Tensor, b: Tensor) -> float:
    norm = float(b.norm())
    return float((a - b).norm()) / norm if norm else 0.0


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


def _cosine_of_deltas(a: _Seen, b: _Seen) -> float:
    aa = bb = ab = 0.0
    for at in sorted({*a.names, *b.names}):
        da, db = a.source.delta(at), b.source.delta(at)
        aa += _dot(da, da) if da is not None else 0.0
        bb += _dot(db, db) if db is not None else 0.0
        ab += _dot(da, db) if da is not None and db is not None else 0.0
    return ab / (aa * bb) ** 0.5 if aa and bb else 0.0
