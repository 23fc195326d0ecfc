"""Items of two simulated tests by mirt 1.2.0 (PyPI, MIT), unregularised EM: see ../README.md."""

from __future__ import annotations

import json
from pathlib import Path

import mirt
import numpy as np


def simulate(subjects: int, items: int, seed: int) -> np.ndarray:
    """The same as in tests/fitness/irt/test_two_parameter.py."""
    random = np.random.Generator(np.random.Philox(seed))
    theta, a = random.standard_normal(subjects), np.exp(random.normal(0.0, 0.4, items))
    beta = random.normal(0.0, 1.0, items)
    return (random.random((subjects, items)) < 1 / (1 + np.exp(beta - np.outer(theta, a)))).astype(int)


found = {}
for name, (subjects, items, seed) in {"many": (4000, 20, 1), "fewer": (1000, 40, 2)}.items():
    fit = mirt.fit_mirt(
        simulate(subjects, items, seed), model="2PL", n_quadpts=61, tol=1e-7, compute_standard_errors=False
    )
    a = np.asarray(fit.model.parameters["discrimination"]).ravel()
    b = np.asarray(fit.model.parameters["difficulty"]).ravel()
    found[name] = {"a": np.round(a, 5).tolist(), "beta": np.round(a * b, 5).tolist()}
(Path(__file__).parent / "mirt.json").write_text(json.dumps(found) + "\n")
