"""A stage that fits a merge to its sources on synthetic inputs, without data."""

from __future__ import annotations

from dataclasses import replace

from evomerge.merge.calibration.kinds import ALL, ANCHORED
from evomerge.merge.method import Parameter
from evomerge.merge.stage import Stage, State
from evomerge.merge.stages import learned


def _scaled(state: State) -> State:
    """α ⊙ the merged task vector, where there are scales."""
    scale = state.block.statistics.get(ALL, {}).get(ANCHORED)
    if scale is None:
        return state
    begin, size = state.block.offset, state.sum.numel()
    if scale.numel() != size:  # some rows of a tensor, whose scales are there as a whole
        scale = scale.reshape(-1)[begin : begin + size]
    return state.with_merged(state.sum * scale.reshape(state.sum.shape))


ANCHOR = Stage(
    "anchor",
    "post",
    "scale every entry of the merged task vector of a layer's MLP so that its outputs match the sources' own on "
    "synthetic inputs (functional dual anchors); other tensors stay",
    _scaled,
    (
        Parameter("anchors", 8192.0, low=256.0, high=8192.0, scale="log", legal=(1.0, 1e6), whole=True,
                  text="synthetic inputs of each layer and source"),
        Parameter("initial", "weights", choices=("weights", "gaussian"),
                  text="what they begin from: rows of the source's own matrices, or small random numbers"),
        Parameter("spread", 0.01, low=1e-3, high=1.0, scale="log", legal=(1e-6, 1e3),
                  text="standard deviation of the random numbers"),
        replace(learned.steps(200.0), text="steps of finding the inputs"),
        replace(learned.rate(1e-2), text="learning rate of the inputs"),
        Parameter("match", "cosine", choices=("cosine", "squares", "absolute"),
                  text="what is made small between outputs: negative cosine, squared or absolute difference"),
        Parameter("epochs", 50.0, low=5.0, high=100.0, scale="log", legal=(0.0, 1e6), whole=True,
                  text="passes over all inputs while scales are learned; 0: the merge as it was"),
        Parameter("batch", 8192.0, low=256.0, high=8192.0, scale="log", legal=(1.0, 1e6), whole=True,
                  text="inputs that a step of the scales looks at"),
        Parameter("adaptation_rate", 1e-2, low=1e-3, high=0.1, scale="log", legal=(0.0, 1e3),
                  text="learning rate of the scales"),
    ),
    requires=frozenset({ANCHORED}),
    stochastic=True,
    cost="training",
)  # fmt: skip

STAGES = (ANCHOR,)
