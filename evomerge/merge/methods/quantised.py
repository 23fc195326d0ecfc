"""Merges of task vectors of which only signs are left."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.post import SCALE
from evomerge.merge.stages.quantise import BINARY, TERNARY
from evomerge.merge.stages.sums import SUM, WEIGH

COMPEFT = compose(
    "compeft",
    "ComPEFT (ternary task vectors)",
    "Yadav et al. 2023, ComPEFT: Compression for Communicating Parameter Efficient Updates via Sparsification and "
    "Quantization, arXiv:2311.13171",
    (TERNARY, WEIGH, SUM, SCALE),
)
ONEBIT = compose(
    "onebit",
    "1bit-Merging, static part",
    "Liu et al. 2025, 1bit-Merging: Dynamic Quantized Merging for Large Language Models, arXiv:2502.10743 (without its "
    "router); scale as in Liu et al. 2024, BitDelta, arXiv:2402.10193",
    (BINARY, WEIGH, SUM, SCALE),
)

METHODS = (COMPEFT, ONEBIT)
