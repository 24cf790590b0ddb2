"""The grid of patches that a row of a vision tower holds."""

from __future__ import annotations

from math import isqrt


def square(n: int) -> tuple[int, bool] | None:
    """The side of the square grid that n positions make, and whether a class token stands before it; None: no grid."""
    for extra in (0, 1):
        if isqrt(n - extra) ** 2 == n - extra:
            return isqrt(n - extra), bool(extra)
    return None
