"""NearSwap: where base and source are near, take the source; where they are far, move by a bound."""

from __future__ import annotations

from evomerge.merge.method import Method
from evomerge.merge.stage import compose
from evomerge.merge.stages.rescale import CLIP
from evomerge.merge.stages.sums import SUM

NEARSWAP: Method = compose(
    "nearswap",
    "NearSwap",
    "alchemonaut 2024, QuartetAnemoi-70B-t0.0001, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    (CLIP, SUM),  # its θ0 + min(t/|δ|, 1)·δ is δ brought into [−t, t]
    fixed={"normalize": False},
    num_sources=(1, 1),
)

METHODS = (NEARSWAP,)
