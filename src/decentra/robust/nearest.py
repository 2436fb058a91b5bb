"""Rules that trust who has many near: Krum and its kin, nearest-neighbour mixing, and what Bulyan selects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.robust.coordinates import nearest_to_median
from decentra.robust.geometry import equal_weights, ranked, squared_distances
from decentra.robust.rule import CoordinateRule, Gram, GramRule, Invariant, PreStep

CHOOSES = frozenset(
    {
        Invariant.PERMUTATION,
        Invariant.TRANSLATION,
        Invariant.SCALE,
        Invariant.NEGATION,
        Invariant.ORTHOGONAL,
        Invariant.AGREEMENT,
        Invariant.MAJORITY,
        Invariant.HULL,
    }
)
"""What holds of every rule that chooses updates by the distances between them, and takes their mean."""


def krum_scores(squared: Gram, f: int) -> NDArray[Any]:
    """For each row the sum of its n − f − 1 smallest squared distances to others; exactly rounded."""
    n = len(squared)
    near = np.sort(np.where(np.eye(n, dtype=np.bool_), np.inf, squared), axis=1)[:, : max(0, n - f - 1)]
    return np.array([_sum(row) for row in near])


def _sum(values: NDArray[Any]) -> float:
    return math.fsum(values) if np.isfinite(values).all() else math.inf


@dataclass(frozen=True)
class Krum(GramRule):
    """The update whose n − f − 1 nearest others are nearest, by the sum of squared distances."""

    name = "krum"
    source = "Blanchard et al. 2017; n − f − 1 others as in Farhadkhani et al. 2022"
    exact = True
    invariants = CHOOSES

    def kappa(self, n: int, f: int) -> float:
        return 6 * (1 + f / (n - 2 * f))

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        return equal_weights(ranked(krum_scores(squared_distances(gram), f))[:1], len(gram))


@dataclass(frozen=True)
class MultiKrum(GramRule):
    """The mean of the n − f updates of the best Krum scores."""

    name = "multi_krum"
    source = "Blanchard et al. 2017, with m = n − f"
    exact = True
    invariants = CHOOSES

    def kappa(self, n: int, f: int) -> float:
        return 6 * (1 + f / (n - 2 * f))

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        return equal_weights(ranked(krum_scores(squared_distances(gram), f))[: len(gram) - f], len(gram))


@dataclass(frozen=True)
class NearestNeighborMixing(PreStep):
    """Replaces each update by the mean of the n − f nearest to it, itself among them."""

    name = "nnm"
    source = "Allouah et al. 2023"
    exact = True
    invariants = frozenset()

    def mixtures(self, gram: Gram, f: int) -> NDArray[Any]:
        squared = squared_distances(gram)
        return np.stack([equal_weights(ranked(row)[: len(gram) - f], len(gram)) for row in squared])

    def kappa_with(self, n: int, f: int, kappa: float) -> float:
        return 8 * f / (n - f) * (kappa + 1)

    def keeps(self, invariants: frozenset[Invariant], coordinates: bool) -> frozenset[Invariant]:
        lost = {Invariant.DIAGONAL, Invariant.BOX}
        if coordinates:
            lost |= {Invariant.HULL, Invariant.NORM}
        return invariants - lost


@dataclass(frozen=True)
class BulyanSelection(PreStep):
    """Keeps n − 2f updates: again and again the best by Krum among those that are left."""

    name = "bulyan_selection"
    source = "El Mhamdi et al. 2018"
    exact = True
    invariants = frozenset()

    def mixtures(self, gram: Gram, f: int) -> NDArray[Any]:
        squared, left = squared_distances(gram), list(range(len(gram)))
        chosen: list[int] = []
        while len(chosen) < len(gram) - self.removed(f):
            best = ranked(krum_scores(squared[np.ix_(left, left)], f))[0]
            chosen.append(left.pop(best))
        mixtures = np.zeros((len(chosen), len(gram)))
        mixtures[np.arange(len(chosen)), sorted(chosen)] = 1.0
        return mixtures

    def removed(self, f: int) -> int:
        return 2 * f

    def keeps(self, invariants: frozenset[Invariant], coordinates: bool) -> frozenset[Invariant]:
        return invariants - {Invariant.DIAGONAL, Invariant.BOX}


@dataclass(frozen=True)
class NearMedian(CoordinateRule):
    """Bulyan's second stage: of θ values the mean of the θ − 2f nearest to their median."""

    name = "near_median"
    source = "El Mhamdi et al. 2018"
    exact = True
    invariants = CHOOSES - {Invariant.ORTHOGONAL, Invariant.HULL}
    ordered = False
    fewest_says = "n ≥ 4f + 3"

    def fewest(self, f: int) -> int:
        return 2 * f + 3

    def select(self, block: NDArray[Any], f: int) -> Sequence[NDArray[Any]]:
        return nearest_to_median(block, len(block) - 2 * f)
