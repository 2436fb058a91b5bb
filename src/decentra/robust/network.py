"""Sorting networks: n rows put in order coordinate by coordinate, by nothing but minimum and maximum of whole rows.

Batcher's odd-even mergesort (Batcher 1968; Knuth, TAOCP 3, 5.3.4, algorithm M), of which only the exchanges are kept
that the wanted places depend on. Whichever way rows come, the same values stand in the same places afterwards, and a
NaN anywhere in a column is in every place of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Exchange(NamedTuple):
    """Put the smaller of two rows at ``low``, the greater at ``high``, or one of both where the other is not wanted."""

    low: int
    high: int
    smaller: bool
    greater: bool


@cache
def network(n: int, first: int, last: int) -> tuple[Exchange, ...]:
    """What sorts n rows so far that places first to last, from 0, hold what they hold in ascending order.

    Places below ``first`` and above ``last`` hold anything afterwards.
    """
    wanted = set(range(first, last + 1))
    kept: list[Exchange] = []
    for low, high in reversed(_batcher(n)):
        smaller, greater = low in wanted, high in wanted
        if smaller or greater:
            kept.append(Exchange(low, high, smaller, greater))
            wanted |= {low, high}
    return tuple(reversed(kept))


def _batcher(n: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    merged = 1
    while merged < n:
        apart = merged
        while apart:
            for start in range(apart % merged, n - apart, 2 * apart):
                for low in range(start, min(start + apart, n - apart)):
                    if low // (2 * merged) == (low + apart) // (2 * merged):
                        pairs.append((low, low + apart))
            apart //= 2
        merged *= 2
    return pairs


def sort_rows(rows: list[NDArray[Any]], spare: NDArray[Any], first: int, last: int) -> NDArray[Any]:
    """Sort in place: ``rows`` is rearranged and written over.

    Args:
        rows: n rows of one length.
        spare: another such row, whose memory becomes one of theirs.
        first: the lowest place that is wanted.
        last: the highest.

    Returns:
        The row that is spare afterwards.
    """
    for low, high, smaller, greater in network(len(rows), first, last):
        one, other = rows[low], rows[high]
        if smaller and greater:
            np.minimum(one, other, out=spare)
            np.maximum(one, other, out=other)
            rows[low], spare = spare, one
        elif smaller:
            np.minimum(one, other, out=one)
        else:
            np.maximum(one, other, out=other)
    return spare
