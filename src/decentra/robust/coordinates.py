"""Coordinate rules: every coordinate of the aggregate depends on that coordinate of the updates alone.

A rule gives rows whose mean is its value, so that one mean serves floats, with their rounding, and integers, without
any. With the exception of sign majority these are some of the values, in ascending order wherever that is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.robust.network import sort_rows
from decentra.robust.rule import CoordinateRule, Invariant

_EVERY_COORDINATE = frozenset(
    {
        Invariant.PERMUTATION,
        Invariant.TRANSLATION,
        Invariant.SCALE,
        Invariant.NEGATION,
        Invariant.DIAGONAL,
        Invariant.AGREEMENT,
        Invariant.MAJORITY,
        Invariant.BOX,
    }
)


@dataclass(frozen=True)
class TrimmedMean(CoordinateRule):
    """The mean without the f lowest and the f highest values of each coordinate."""

    name = "trimmed_mean"
    source = "Yin et al. 2018"
    exact = True
    chooses = False
    invariants = _EVERY_COORDINATE

    def kappa(self, n: int, f: int) -> float:
        return f / (n - 2 * f)

    def select(self, block: NDArray[Any], f: int) -> Sequence[NDArray[Any]]:
        rows = list(block)
        sort_rows(rows, np.empty_like(rows[0]), f, len(rows) - 1 - f)
        return rows[f : len(rows) - f]


@dataclass(frozen=True)
class Median(CoordinateRule):
    """The median of each coordinate; of an even number, the mean of the middle two."""

    name = "median"
    source = "Yin et al. 2018"
    exact = True
    chooses = False
    invariants = _EVERY_COORDINATE

    def kappa(self, n: int, f: int) -> float:
        return (n - 1) / (n + 1 - 2 * f) if n % 2 else (n - 2) / (n + 2 - 2 * f)

    def select(self, block: NDArray[Any], f: int) -> Sequence[NDArray[Any]]:
        rows = list(block)
        first, last = (len(rows) - 1) // 2, len(rows) // 2
        sort_rows(rows, np.empty_like(rows[0]), first, last)
        return rows[first : last + 1]


@dataclass(frozen=True)
class MeaMed(CoordinateRule):
    """The mean of the n − f values nearest to the median of each coordinate."""

    name = "meamed"
    source = "Xie, Koyejo, Gupta 2018"
    exact = True
    invariants = _EVERY_COORDINATE - {Invariant.BOX}
    ordered = False

    def select(self, block: NDArray[Any], f: int) -> Sequence[NDArray[Any]]:
        return nearest_to_median(block, len(block) - f)


def nearest_to_median(block: NDArray[Any], kept: int) -> list[NDArray[Any]]:
    """Rows that hold, coordinate by coordinate, the ``kept`` values nearest to the median.

    In ascending order these stand side by side: the window moves up from the lowest, past place s as long as the value
    there is farther from the median than the next above the window. A tie keeps the lower.
    """
    rows, n = list(block), len(block)
    sort_rows(rows, np.empty_like(rows[0]), 0, n - 1)
    twice = rows[(n - 1) // 2] + rows[n // 2]
    above, moves = np.empty_like(twice), np.empty(twice.shape, np.bool_)
    for place in range(n - kept):
        np.add(rows[place], rows[place + kept], out=above)
        np.greater(twice, above, out=moves)
        np.copyto(rows[place % kept], rows[place + kept], where=moves)
    return rows[:kept]


@dataclass(frozen=True)
class SignMajority(CoordinateRule):
    """The sign that more updates have than have the other, coordinate by coordinate: −1, 0 or 1."""

    name = "sign_majority"
    source = "Bernstein et al. 2019"
    exact = True
    chooses = False
    invariants = frozenset({Invariant.PERMUTATION, Invariant.NEGATION})

    def select(self, block: NDArray[Any], f: int) -> Sequence[NDArray[Any]]:
        np.sign(block, out=block)
        return [np.sign(np.add.reduce(block, axis=0))]


def mean(picked: Sequence[NDArray[Any]], ordered: bool, out: NDArray[Any]) -> None:
    """The mean of floating-point rows, never outside of them.

    The lowest and the highest are added first, then the next two, so that negated rows give the negated mean to the
    bit. Rounding cannot carry it out of the rows: where all are equal it is what they are.

    Args:
        picked: rows of one length; they are not written to.
        ordered: whether they ascend, so that the first and the last bound the others.
        out: takes the mean.
    """
    count = len(picked)
    if count == 1:
        out[:] = picked[0]
        return
    pair = np.empty_like(out)
    np.add(picked[0], picked[-1], out=out)
    for place in range(1, count // 2):
        np.add(picked[place], picked[-1 - place], out=pair)
        np.add(out, pair, out=out)
    if count % 2:
        np.add(out, picked[count // 2], out=out)
    np.divide(out, count, out=out)
    lowest, highest = (picked[0], picked[-1]) if ordered else (np.minimum.reduce(picked), np.maximum.reduce(picked))
    np.minimum(np.maximum(out, lowest, out=out), highest, out=out)


def is_finite(block: NDArray[Any]) -> bool:
    """Whether every number in a block is finite, and so are the sums of its rows; quick, as a product with ones is."""
    with np.errstate(all="ignore"):
        return math.isfinite(float(np.add.reduce(block @ np.ones(block.shape[1], block.dtype))))
