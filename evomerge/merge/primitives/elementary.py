"""exp and log in float64 of additions, multiplications and divisions alone: the same bits on every machine, compiled or
not, to about one unit in the last place.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LOWEST = -700.0
"""Below it exp counts as exp(LOWEST): 2^n would be no normal number."""
ROUND = 1.5 * 2.0**52
"""Added and subtracted again it leaves the nearest whole number."""
LOG2E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
"""ln 2 in two parts; n times the first is exact."""
EXP_TERMS = tuple(1.0 / math.factorial(k) for k in range(12, -1, -1))
"""Taylor's, the highest first: for |r| ≤ ln 2 / 2 what is left out is below 2^-52."""
LOG_TERMS = tuple(1.0 / (2 * k + 1) for k in range(10, -1, -1))
"""Of atanh(s)/s in s², likewise: |s| ≤ 0.172."""
ROOT_HALF = 0x3FE6A09E667F3BCD
"""The bits of √½: mantissas are taken between it and √2."""
ONE, MANTISSA = 0x3FF0000000000000, 52


def exp(x: Floats) -> Floats:
    """e^x for x of at most 700.

    >>> exp(np.array([0.0, -1.0])).tolist() == [1.0, math.exp(-1.0)]
    True
    """
    x = np.maximum(x, LOWEST)
    number = x * LOG2E + ROUND - ROUND
    rest = (x - number * LN2_HIGH) - number * LN2_LOW
    result = np.full_like(x, EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        result *= rest
        result += term
    return result * ((number.astype(np.int64) << MANTISSA) + ONE).view(np.float64)


def log(x: Floats) -> Floats:
    """ln x for normal x > 0.

    >>> log(np.array([1.0, 2.0])).tolist() == [0.0, math.log(2.0)]
    True
    """
    bits = x.view(np.int64)
    power = (bits - ROOT_HALF) >> MANTISSA
    mantissa = (bits - (power << MANTISSA)).view(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    result = np.full_like(x, LOG_TERMS[0])
    for term in LOG_TERMS[1:]:
        result *= square
        result += term
    number = power.astype(np.float64)
    return number * LN2_HIGH + (result * (2.0 * s) + number * LN2_LOW)
