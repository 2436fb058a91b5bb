"""Rules that look for a centre of all updates: the geometric median, and CAF's filtered mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.robust.geometry import about, distances_to, ordered_matmul, squared_distances
from decentra.robust.nearest import CHOOSES
from decentra.robust.rule import Gram, GramRule

MOST_STEPS = 2_000
CONVERGED = 1e-12
"""The change of every weight, as a share of it, at which the median is found: far updates count for little each, but by
their distance for as much as others."""


@dataclass(frozen=True)
class GeometricMedian(GramRule):
    """The point whose distances to all updates have the least sum, to convergence.

    If it is one of the updates, that is known beforehand (Kuhn 1973): only the update of least total distance can be
    it, and it is if the unit vectors to all others do not pull harder than it weighs. Else Weiszfeld's steps lead
    there, taken off an update where they would stick (Vardi and Zhang 2000). Weights over the updates stand for
    points, so a step costs n² operations, whatever d is.
    """

    name = "geometric_median"
    source = "Pillutla, Kakade, Harchaoui 2022 (RFA), run to convergence"
    exact = True
    invariants = CHOOSES
    off_a_line = True

    def kappa(self, n: int, f: int) -> float:
        return 4 * ((n - f) / (n - 2 * f)) ** 2

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n, squared = len(gram), squared_distances(gram)
        distances = np.sqrt(squared)
        medoid = int(np.argmin([math.fsum(row) for row in distances]))
        weights = np.zeros(n)
        if _pull(gram, squared, medoid) <= float((squared[medoid] == 0).sum()):
            weights[medoid] = 1.0
            return weights
        weights[medoid] = 1.0
        near = about(gram, medoid)
        np.fill_diagonal(near, squared[medoid])  # summed in another order it may come out below 0
        for _ in range(MOST_STEPS):
            following = _step(near, squared, weights)
            settled = bool((np.abs(following - weights) <= CONVERGED * following).all())
            weights = following
            if settled:
                break
        return weights


def _pull(gram: Gram, squared: Gram, index: int) -> float:
    """How hard the unit vectors from one row to all that differ from it pull: the length of their sum."""
    away = squared[index] > 0
    if not away.any():
        return 0.0
    units = np.zeros(len(gram))
    units[away] = 1.0 / np.sqrt(squared[index][away])
    return math.sqrt(max(0.0, float(math.fsum(units * ordered_matmul(about(gram, index), units)))))


def _step(gram: Gram, squared: Gram, weights: NDArray[Any]) -> NDArray[Any]:
    """Weiszfeld's step from the point Σ w_i x_i, in weights."""
    to_rows = distances_to(gram, weights)
    near = (to_rows <= 1e-15 * np.sqrt(np.diagonal(gram))) | (to_rows == 0)
    if near.all():
        return weights
    inverse = np.zeros(len(weights))
    inverse[~near] = 1.0 / to_rows[~near]
    following = inverse / math.fsum(inverse)
    if near.any():
        at = int(np.flatnonzero(near)[0])
        pull = _pull(gram, squared, at)
        stays = min(1.0, float(near.sum()) / pull) if pull else 1.0
        following = (1 - stays) * following + stays * weights
    return following / math.fsum(following)


@dataclass(frozen=True)
class CovarianceFilter(GramRule):
    """CAF: updates lose weight by how far they lie along the direction of largest variance, until 2f of weight is gone;
    of all means on the way the one of the smallest variance along its own such direction."""

    name = "caf"
    source = "Allouah et al. 2025 (covariance-bound agnostic filter)"
    invariants = CHOOSES

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n = len(gram)
        counts, best, chosen = np.ones(n), math.inf, np.full(n, 1.0 / n)
        while (total := float(counts.sum())) > n - 2 * f and total > 1e-9:
            share = counts / total
            mean = gram @ share
            inner = gram - mean[:, None] - mean[None, :] + share @ mean
            roots = np.sqrt(share)
            values, vectors = np.linalg.eigh(roots[:, None] * inner * roots[None, :])
            largest, vector = float(values[-1]), vectors[:, -1]
            if largest < best:
                best, chosen = largest, share
            along = (inner @ (roots * vector)) ** 2
            worst = float(along[counts > 0].max())
            if largest <= 1e-12 * float(np.abs(gram).max()) or not worst > 0:
                break
            counts = np.where(counts > 0, counts * (1 - np.minimum(along / worst, 1.0)), 0.0)
        return chosen
