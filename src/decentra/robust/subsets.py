"""Rules that look for the best subset of n − f updates: by its diameter (MDA) or by its variance (SMEA)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust.geometry import equal_weights, squared_distances
from decentra.robust.nearest import CHOOSES
from decentra.robust.rule import Gram, GramRule

MOST_SUBSETS = 50_000
"""Subsets whose largest eigenvalue SMEA computes: some seconds."""
MOST_COVERS = 2_000
"""Subsets of one diameter among which MDA decides by total distance, the first that are found: liars each far from one
honest peer alone make 2^f of them."""


@dataclass(frozen=True)
class MinimumDiameter(GramRule):
    """The mean of n − f updates of least diameter; of several such sets that of the least total distance.

    Exactly, and not by trying every subset: for a diameter, the updates to leave out are a vertex cover of the pairs
    that lie farther apart, f of them at most, found by branching on one such pair at a time.
    """

    name = "mda"
    source = "El Mhamdi et al. 2021 (minimum diameter averaging), from Rousseeuw 1985"
    exact = True
    invariants = CHOOSES

    def kappa(self, n: int, f: int) -> float:
        return 8 * f * f / (n - f)

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n, squared = len(gram), squared_distances(gram)
        lengths = np.unique(squared)
        low, high = 0, len(lengths) - 1
        while low < high:  # the least diameter that leaves out f at most
            middle = (low + high) // 2
            low, high = (low, middle) if _covered(squared > lengths[middle], f) else (middle + 1, high)
        distances = np.sqrt(squared)
        best: tuple[float, tuple[int, ...]] | None = None
        covers = _covers(squared > lengths[low], f)
        sets = (left_out for cover in covers for left_out in _filled(cover, n, f))
        for left_out in islice(sets, MOST_COVERS):
            kept = [index for index in range(n) if index not in left_out]
            inside = distances[np.ix_(kept, kept)]
            found = (math.fsum(inside.ravel()), tuple(kept))
            best = found if best is None else min(best, found)
        if best is None:
            raise LocalError("mda: no set of least diameter; a defect of decentra")
        return equal_weights(list(best[1]), n)


def _covered(far: NDArray[Any], most: int) -> bool:
    return next(_covers(far, most), None) is not None


def _covers(far: NDArray[Any], most: int, left_out: frozenset[int] = frozenset()) -> Iterator[frozenset[int]]:
    """Sets of at most ``most`` rows that have one of every pair that is far."""
    counts = far.sum(axis=1)
    if not counts.any():
        yield left_out
        return
    room = most - len(left_out)
    if room <= 0 or int(counts.sum()) // 2 > room * int(counts.max()):
        return
    busiest = int(np.argmax(counts))  # it is left out, or else all that are far from it
    for gone in ([busiest], [int(one) for one in np.flatnonzero(far[busiest])]):
        if len(gone) <= room:
            rest = far.copy()
            rest[gone, :] = rest[:, gone] = False
            yield from _covers(rest, most, left_out | frozenset(gone))


def _filled(cover: frozenset[int], n: int, f: int) -> Iterator[frozenset[int]]:
    """The ways to leave out f rows of which some are known."""
    others = [index for index in range(n) if index not in cover]
    for more in combinations(others, f - len(cover)):
        yield cover | frozenset(more)


@dataclass(frozen=True)
class SmallestMaximumEigenvalue(GramRule):
    """The mean of the n − f updates whose covariance has the smallest largest eigenvalue; tries every subset."""

    name = "smea"
    source = "Allouah et al. 2023b (smallest maximum eigenvalue averaging)"
    invariants = CHOOSES

    def kappa(self, n: int, f: int) -> float:
        return 4 * f / (n - f) * (1 + f / (n - 2 * f)) ** 2

    def limit(self, n: int, f: int) -> str | None:
        subsets = math.comb(n, f)
        if subsets <= MOST_SUBSETS:
            return None
        return f"smea tries all {subsets:,} subsets of {n - f} of {n} updates, and stops at {MOST_SUBSETS:,}"

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n, size = len(gram), len(gram) - f
        best, chosen = math.inf, tuple(range(size))
        subsets = combinations(range(n), size)
        while several := list(islice(subsets, 2048)):
            index = np.array(several)
            inside = gram[index[:, :, None], index[:, None, :]]
            inside = inside - inside.mean(axis=1, keepdims=True)
            inside = inside - inside.mean(axis=2, keepdims=True)
            largest = np.linalg.eigvalsh(inside)[:, -1]
            first = int(np.argmin(largest))
            if largest[first] < best:
                best, chosen = float(largest[first]), several[first]
        return equal_weights(list(chosen), n)
