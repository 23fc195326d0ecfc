"""How much 10,000 descendants of four 7B models take as coefficients: memory, time, bytes on disk.

Gram matrices are synthetic, the table of blocks has its real size: in every tensor each source is a common vector plus
a small one of its own, spread evenly over the entries, so that the inner products of any span are known.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge.archive.flat_order import Chromosome, FlatTensor, Units, chromosomes, flat_order
from evomerge.archive.lineage import SAME, FloatArray, Individual, cross, founder
from evomerge.archive.segments import segments_of
from evomerge.merge.vectors import BLOCK, BlockedVectors
from evomerge.models.architecture import architecture_of
from evomerge.models.checkpoint import TensorInfo
from evomerge.models.family import families
from evomerge.recipe.segments import Angle

HERE = Path(__file__).parent
LAYERS, HIDDEN, INNER, VOCABULARY = 32, 4096, 11008, 32000
"""Llama 2 7B."""
SOURCES = ("chat", "code", "math", "ja")
CHANGE = 0.03
"""‖θk − θ0‖ / ‖θ0‖, on average: what fine-tuning does."""


def shape_of(module: str) -> tuple[int, ...]:
    """Of a module's weight."""
    stem = module.rpartition(".")[2]
    shapes = {
        "embed_tokens": (VOCABULARY, HIDDEN), "lm_head": (VOCABULARY, HIDDEN), "gate_proj": (INNER, HIDDEN),
        "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER),
    }  # fmt: skip
    return (HIDDEN,) if "norm" in stem else shapes.get(stem, (HIDDEN, HIDDEN))


def model() -> tuple[FlatTensor, ...]:
    """The tensors of a 7B Llama in flat order."""
    tensors = {
        f"{module.format(layer=layer)}.weight": TensorInfo("", shape_of(module), torch.bfloat16, "")
        for module in families()["llama"].modules
        for layer in (range(LAYERS) if "{layer}" in module else [0])
    }
    config = {"model_type": "llama", "num_hidden_layers": LAYERS, "tie_word_embeddings": False}
    return flat_order(architecture_of(config, tensors), tensors)


class Spread:
    """`Entries` of sources whose inner products are spread evenly over each tensor."""

    def __init__(self, tensors: Sequence[FlatTensor], rng: np.random.Generator) -> None:
        self.each = {tensor.name: self._gram(rng) for tensor in tensors}

    def _gram(self, rng: np.random.Generator) -> FloatArray:
        """Per entry: vectors of 256 numbers, of one length but for `CHANGE`."""
        common = rng.normal(size=256)
        own = rng.normal(size=(len(SOURCES), 256)) * CHANGE * rng.lognormal(0, 0.5, (len(SOURCES), 1))
        vectors = 0.02 * (common + own) / 16
        return np.asarray(vectors @ vectors.T)

    def gram(self, tensor: str, begin: int, end: int) -> FloatArray:
        """Inner products of a span."""
        return self.each[tensor] * (end - begin)

    def read(self, tensor: str, begin: int, end: int) -> FloatArray:
        """There are no entries."""
        raise AssertionError("these sources have inner products and no entries")

    def table(self, tensor: FlatTensor) -> FloatArray:
        """Of all blocks."""
        edges = np.append(np.arange(0, tensor.size, BLOCK), tensor.size)
        return np.diff(edges)[:, None, None] * self.each[tensor.name]


@dataclass
class Row:
    """One setting's numbers; times are those of one core, what others did meanwhile left out; 1 MB = 10⁶ bytes."""

    angle: str
    granularity: str
    population: int
    individuals: int
    segments_median: float
    segments_max: int
    cross_median_ms: float
    cross_p99_ms: float
    seconds: float
    memory_mb: float
    npz_mb: float
    recipe_kb_median: float
    archive_npz_kb: float
    models_tb: float


def evolve(
    part: Chromosome,
    vectors: BlockedVectors,
    angle: Angle,
    granularity: Any,
    population: int,
    number: int,
    seed: int,
    same: float = SAME,
) -> tuple[list[Individual], list[Individual], list[float]]:
    """Random crossings: parents from an archive, the child in a random place of it. All children, archive, times."""
    rng, units = np.random.default_rng(seed), Units(part, granularity)
    everybody = [founder(k, len(SOURCES), 1) for k in range(len(SOURCES))]
    archive, times = list(everybody), list[float]()
    while len(everybody) < number:
        i, j = rng.choice(len(archive), 2, replace=False)
        split, mix = units.position(int(rng.integers(units.number))), float(rng.random())
        began = time.thread_time()
        child = cross(archive[i], archive[j], [split], mix, angle, vectors, same)
        times.append(1e3 * (time.thread_time() - began))
        everybody.append(child)
        if len(archive) < population:
            archive.append(child)
        else:
            archive[int(rng.integers(population))] = child
    return everybody, archive, times


def npz_bytes(individuals: Sequence[Individual]) -> int:
    """As arrays in a file."""
    buffer = BytesIO()
    strands = [strand for individual in individuals for strand in individual.strands]
    np.savez_compressed(
        buffer,
        lengths=np.array([len(strand.starts) for strand in strands]),
        starts=np.concatenate([strand.starts for strand in strands]),
        rows=np.concatenate([strand.rows for strand in strands]),
    )
    return buffer.tell()


def measure(
    part: Chromosome, angle: Angle, granularity: Any, population: int, number: int, seed: int, same: float
) -> Row:
    """One setting."""
    entries = Spread(part.tensors, np.random.default_rng(seed))
    vectors = BlockedVectors([part], {t.name: entries.table(t) for t in part.tensors}, entries)
    began = time.perf_counter()
    everybody, archive, times = evolve(part, vectors, angle, granularity, population, number, seed, same)
    seconds = time.perf_counter() - began
    segments = [individual.num_segments for individual in everybody]
    said = [
        segments_of(one, [part], [()], SOURCES, angle).model_dump_json() for one in everybody[:: max(1, number // 50)]
    ]
    return Row(
        angle=angle, granularity=granularity, population=population, individuals=number,
        segments_median=float(np.median(segments)), segments_max=max(segments),
        cross_median_ms=float(np.median(times)), cross_p99_ms=float(np.quantile(times, 0.99)), seconds=seconds,
        memory_mb=sum(one.num_bytes for one in everybody) / 1e6, npz_mb=npz_bytes(everybody) / 1e6,
        recipe_kb_median=float(np.median([len(text) for text in said])) / 1e3,
        archive_npz_kb=npz_bytes(archive) / 1e3, models_tb=2 * part.length * number / 1e12,
    )  # fmt: skip


def main() -> None:
    """All settings; results.json and a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", default=["exact/global/20", "exact/global/100", "exact/tensor/20",
                                                          "layer/global/20"])  # fmt: skip
    parser.add_argument("--same", type=float, default=SAME, help="neighbours that differ by less become one")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    wanted = parser.parse_args()
    (part,) = chromosomes(model(), [()])
    rows = []
    for setting in wanted.settings:
        granularity, angle, population = setting.split("/")
        rows.append(measure(part, angle, granularity, int(population), wanted.number, wanted.seed, wanted.same))
        print(json.dumps(asdict(rows[-1])), flush=True)
        write(wanted.out, part, rows)


def write(out: Path, part: Chromosome, rows: Sequence[Row]) -> None:
    """Of what is there so far."""
    blocks = sum(-(-tensor.size // BLOCK) for tensor in part.tensors)
    found = {
        "machine": platform.processor() or platform.machine(),
        "parameters": part.length,
        "tensors": len(part.tensors),
        "table_mb": blocks * 8 * len(SOURCES) ** 2 / 1e6,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "rows": [asdict(row) for row in rows],
    }
    out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
