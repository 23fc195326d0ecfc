"""PCB-Merging: entries compete within their source and between sources."""

from __future__ import annotations

from evomerge.merge.stage import compose
from evomerge.merge.stages.compete import COMPETE
from evomerge.merge.stages.post import SCALE

PCB = compose(
    "pcb",
    "PCB-Merging",
    "Du et al. 2024, Parameter Competition Balancing for Model Merging, arXiv:2410.02396",
    (COMPETE, SCALE),
)

METHODS = (PCB,)
