"""Rules with a point of reference: a peer's own update or model, the last aggregate, zero.

Peers whose references differ come to different aggregates: these are for one peer's own use, or for a reference that
all have alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from decentra.robust.geometry import about, distances_to, ranked, squared_distances
from decentra.robust.rule import Gram, GramRule, Invariant, PreStep

_ABOUT_REFERENCE = frozenset(
    {
        Invariant.PERMUTATION,
        Invariant.TRANSLATION,
        Invariant.SCALE,
        Invariant.NEGATION,
        Invariant.ORTHOGONAL,
        Invariant.AGREEMENT,
        Invariant.HULL,
    }
)
"""What holds where the reference, and a radius, change with the updates."""


@dataclass(frozen=True)
class CenteredClipping(GramRule):
    """The reference, moved by the mean of the updates' ways from it, each clipped to the radius; in so many steps.

    One step moves it by the radius at most, and k changed updates move the result by 2kτ/n.
    """

    name = "centered_clipping"
    source = "Karimireddy, He, Jaggi 2021"
    exact = True
    chooses = False
    invariants = _ABOUT_REFERENCE
    reference: ClassVar[bool] = True
    needs_radius: ClassVar[bool] = True

    radius: float | None = None
    steps: int = 1

    def clipping(self, radius: float) -> Self:
        return replace(self, radius=radius)

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n, near = len(gram) - 1, about(gram, len(gram) - 1)
        weights = np.zeros(n + 1)
        weights[n] = 1.0
        for _ in range(self.steps):
            shares = clipped(distances_to(near, weights)[:n], self.radius or 0.0) / n
            weights *= 1.0 - math.fsum(shares)
            weights[:n] += shares
        return weights


def clipped(lengths: NDArray[Any], radius: float) -> NDArray[Any]:
    """What each vector is multiplied with so that none is longer than the radius."""
    factors = np.ones(len(lengths))
    long = lengths > radius
    factors[long] = radius / lengths[long]
    return factors


@dataclass(frozen=True)
class NearestNeighborAveraging(GramRule):
    """The mean of the reference and the n − f updates nearest to it."""

    name = "nna"
    source = "Farhadkhani et al. 2023; bound of Gaucher, Dieuleveut, Hendrikx 2025"
    exact = True
    invariants = _ABOUT_REFERENCE | {Invariant.MAJORITY}
    reference: ClassVar[bool] = True
    fewest_says = "n ≥ f + 1"

    def fewest(self, f: int) -> int:
        return f + 1

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n = len(gram) - 1
        chosen = ranked(squared_distances(gram)[n, :n])[: n - f]
        weights = np.zeros(n + 1)
        weights[[*chosen, n]] = 1.0 / (len(chosen) + 1)
        return weights


@dataclass(frozen=True)
class ClippedSum(GramRule):
    """CS+: the reference, moved by the mean of the updates' ways from it, clipped to the 2f-th longest."""

    name = "cs_plus"
    source = "Gaucher, Dieuleveut, Hendrikx 2025"
    exact = True
    invariants = _ABOUT_REFERENCE | {Invariant.MAJORITY}
    reference: ClassVar[bool] = True

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n = len(gram) - 1
        lengths = np.sqrt(squared_distances(gram)[n, :n])
        radius = float(np.sort(lengths)[n - 2 * f]) if f else math.inf
        weights = np.zeros(n + 1)
        weights[:n] = clipped(lengths, radius) / (n + 1)
        weights[n] = 1.0 - math.fsum(weights[:n])
        return weights


@dataclass(frozen=True)
class Balance(GramRule):
    """A mean of the reference and the mean of the updates within the radius of it; the reference, if none is.

    BALANCE's radius is γ · exp(−κ · t/T) · ‖reference‖ in round t of T: it is the caller's to work out.
    """

    name = "balance"
    source = "Fang et al. 2024"
    exact = True
    invariants = _ABOUT_REFERENCE
    reference: ClassVar[bool] = True
    fewest_says = "n ≥ 1"
    needs_radius: ClassVar[bool] = True

    radius: float | None = None
    own_share: float = 0.5

    def clipping(self, radius: float) -> Self:
        return replace(self, radius=radius)

    def fewest(self, f: int) -> int:
        return 1

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n = len(gram) - 1
        near = np.flatnonzero(np.sqrt(squared_distances(gram)[n, :n]) <= (self.radius or 0.0))
        weights = np.zeros(n + 1)
        weights[n] = self.own_share if len(near) else 1.0
        weights[near] = (1.0 - self.own_share) / max(1, len(near))
        return weights


@dataclass(frozen=True)
class FLTrust(GramRule):
    """The mean of the updates, each at the reference's length, weighted by its cosine to it where that is positive.

    Zero where no update has a positive one. ‖F‖ ≤ ‖reference‖, and F never points away from it.
    """

    name = "fltrust"
    source = "Cao et al. 2021"
    exact = True
    invariants = frozenset(
        {
            Invariant.PERMUTATION,
            Invariant.SCALE,
            Invariant.NEGATION,
            Invariant.ORTHOGONAL,
            Invariant.AGREEMENT,
        }
    )
    reference: ClassVar[bool] = True
    origin: ClassVar[bool] = True
    fewest_says = "n ≥ 1"

    def fewest(self, f: int) -> int:
        return 1

    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        n = len(gram) - 1
        lengths = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
        scores, weights = np.zeros(n), np.zeros(n + 1)
        known = (lengths[:n] > 0) & (lengths[n] > 0)
        scores[known] = np.clip(gram[n, :n][known] / (lengths[:n][known] * lengths[n]), 0.0, 1.0)
        total = math.fsum(scores)
        if total > 0:
            weights[:n][known] = scores[known] / total * (lengths[n] / lengths[:n][known])
        return weights


@dataclass(frozen=True)
class AdaptiveClipping(PreStep):
    """ARC: clips the ⌊2f(n − f)/n⌋ longest updates to the length of the next."""

    name = "arc"
    source = "Allouah et al. 2025 (adaptive robust clipping)"
    exact = True
    chooses = False
    invariants = frozenset()
    origin: ClassVar[bool] = True

    def mixtures(self, gram: Gram, f: int) -> NDArray[Any]:
        n = len(gram)
        lengths = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
        many = 2 * f * (n - f) // n
        radius = float(np.sort(lengths)[n - 1 - many]) if many < n else 0.0
        return np.diag(clipped(lengths, radius))

    def keeps(self, invariants: frozenset[Invariant], coordinates: bool) -> frozenset[Invariant]:
        kept = invariants - {Invariant.TRANSLATION, Invariant.DIAGONAL, Invariant.HULL, Invariant.BOX}
        if coordinates:
            kept -= {Invariant.ORTHOGONAL}
        return kept | ({Invariant.NORM} if Invariant.HULL in invariants else set())
