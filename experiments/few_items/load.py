"""Reads the response matrices beside this file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fitness.matrix import ResponseMatrix, make_matrix

DATA = Path(__file__).parent / "data" / "benchpred_mit.npz"


def names() -> tuple[str, ...]:
    """Of the data sets in the file."""
    with np.load(DATA, allow_pickle=False) as found:
        return tuple(key.removesuffix("__shape") for key in found.files if key.endswith("__shape"))


def load(name: str) -> ResponseMatrix:
    """One data set: models by items, right (1) or wrong (0). Items are named by their places."""
    with np.load(DATA, allow_pickle=False) as found:
        num_models, num_items = found[f"{name}__shape"].tolist()
        bits = np.unpackbits(found[f"{name}__bits"])[: num_models * num_items]
        models = found[f"{name}__models"].tolist()
    twice = {model for model in models if models.count(model) > 1}
    subjects = [f"{model}#{i}" if model in twice else model for i, model in enumerate(models)]
    items = [f"{name}-{i:04d}" for i in range(num_items)]
    return make_matrix(bits.reshape(num_models, num_items).astype(np.float64), subjects, items)
