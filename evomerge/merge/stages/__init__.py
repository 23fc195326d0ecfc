"""Stages of pipelines by name: `STAGES`. A module per kind; each lists its own in a tuple `STAGES`."""

from __future__ import annotations

from evomerge.merge.stage import Stage
from evomerge.merge.stages import elect, lora, post, random, rescale, sparsify, sums

STAGES: dict[str, Stage] = {
    stage.name: stage for module in (lora, sparsify, random, rescale, elect, sums, post) for stage in module.STAGES
}
