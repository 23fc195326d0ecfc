"""Rescalers: what makes up for the entries that a sparsifier dropped."""

from __future__ import annotations


def inverse(density: float) -> float:
    """1/p: keeps the expectation of every entry; 0 when nothing is kept.

    Source: Yu et al. 2024, DARE, arXiv:2311.03099, eq. 2 (with p the drop rate, 1/(1 − p)).
    """
    return 1.0 / density if density > 0 else 0.0


def match_l1(before: float, after: float) -> float:
    """‖δ‖₁ before over after: keeps the L1 norm of the tensor; 1 when nothing is left to scale."""
    return before / after if after > 0 else 1.0
