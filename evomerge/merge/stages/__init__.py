"""Stages of pipelines by name: `STAGES`. A module per kind; each lists its own in a tuple `STAGES`."""

from __future__ import annotations

from evomerge.merge.stage import Stage
from evomerge.merge.stages import (
    anchored,
    columns,
    compete,
    consensus,
    elect,
    energy,
    exclusive,
    gaps,
    informed_masks,
    interference,
    learned,
    lora,
    norms,
    pick,
    post,
    quantise,
    random,
    rescale,
    schedule,
    sparsify,
    spectral,
    spectral_sums,
    sums,
    weigh,
)

STAGES: dict[str, Stage] = {
    stage.name: stage
    for module in (
        lora,
        sparsify,
        random,
        rescale,
        elect,
        sums,
        post,
        columns,
        compete,
        consensus,
        energy,
        exclusive,
        gaps,
        norms,
        pick,
        quantise,
        schedule,
        weigh,
        informed_masks,
        spectral,
        spectral_sums,
        interference,
        learned,
        anchored,
    )
    for stage in module.STAGES
}
