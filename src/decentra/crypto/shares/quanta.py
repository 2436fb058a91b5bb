"""What is dealt: vectors of signed integers, quanta, no longer than R.

With R < 2^28 every honest inner product of sketches, 8R² and half as much again for the sketch's error, stays below
2^60 in magnitude, so that the field tells it from its negative; and a sum of vectors weighted by at most 2^16 in all
stays below 2^44 a coordinate.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.shares.field61 import CHUNK

MAX_RADIUS = (1 << 28) - 1
_HALF_RING = (1 << 31) - 1
_HALF_BITS = 28
_HALF = np.int64((1 << _HALF_BITS) - 1)


def check_radius(radius: int) -> int:
    """The same R.

    Raises:
        ValueError: it is not in 1 … 2^28 − 1.
    """
    if not 1 <= radius <= MAX_RADIUS:
        raise ValueError(f"R lies in 1..2^28 - 1, so that 12 R² stays below 2^60; it is not {radius}")
    return radius


def encoded_for(n: int, d: int) -> int:
    """m: an update of d coordinates is encoded as for a sum of m ≥ n vectors in a ring of 32 bits.

    So a coordinate is within ±q_max, q_max = ⌊(2^31 − 1) / m⌋; m is the least for which q_max · ⌈√d⌉ ≤ R = 2^28 − 1,
    and so no update is longer than R.
    """
    root = math.isqrt(max(1, d) - 1) + 1
    return max(n, _HALF_RING // (MAX_RADIUS // root + 1) + 1)


def squared_norm(quanta: NDArray[np.int64]) -> int:
    """‖x‖₂², exactly; coordinates within ±(2^31 − 1).

    Raises:
        ValueError: another dtype or shape, or a coordinate beyond that.
    """
    if quanta.dtype != np.int64 or quanta.ndim != 1:
        raise ValueError(f"quanta are one vector of int64, not {quanta.dtype} of shape {quanta.shape}")
    total = 0
    for low in range(0, quanta.size, CHUNK):
        piece = quanta[low : low + CHUNK]
        if max(int(piece.max()), -int(piece.min())) >= 1 << 31:
            raise ValueError("a quantum lies beyond 2^31; clip the vector first")
        squares = piece * piece  # below 2^62: its halves are summed, for which 2^13 of them leave room
        total += (int((squares >> _HALF_BITS).sum()) << _HALF_BITS) + int((squares & _HALF).sum())
    return total


def check_norm(quanta: NDArray[np.int64], radius: int) -> None:
    """Refuses a vector longer than R.

    Raises:
        ValueError: ‖x‖₂ > R, or as ``squared_norm``; R out of bounds.
    """
    squared = squared_norm(quanta)
    if squared > check_radius(radius) ** 2:
        raise ValueError(f"the vector is {math.isqrt(squared)} quanta long, more than R = {radius}; clip it first")


def clip(quanta: NDArray[Any], radius: int) -> NDArray[np.int64]:
    """The vector, or where it is longer than R the same shortened to R, every coordinate rounded towards zero.

    Raises:
        ValueError: as ``check_norm``, but for the length.
    """
    squared = squared_norm(quanta)
    if squared <= check_radius(radius) ** 2:
        return quanta.copy()
    factor = radius / math.sqrt(squared)
    while True:
        shorter = np.empty_like(quanta)
        for low in range(0, quanta.size, CHUNK):
            shorter[low : low + CHUNK] = np.trunc(quanta[low : low + CHUNK] * factor)
        if squared_norm(shorter) <= radius**2:
            return shorter
        factor = math.nextafter(factor, 0.0)  # the factor itself was rounded up: at most a few times
