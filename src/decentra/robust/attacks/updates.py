"""Attacks on updates, each a function of the honest ones of the same round."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from decentra.errors import LocalError
from decentra.robust.attacks.common import (
    Array,
    Attack,
    Evaluate,
    blocks,
    check,
    gram_of,
    hidden_factor,
    mean_of,
    moments,
    moved,
    searched,
)
from decentra.robust.catalogue import whole
from decentra.robust.geometry import squared_distances

# ── away from the mean, by a factor that is searched for ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Alie(Attack):
    """A little is enough: μ − zσ, within what honest updates spread by themselves, a coordinate at a time.

    Args:
        z: how many deviations. ``None`` has it searched for against the rule; without a rule it is the paper's, which
            leaves so many honest peers farther out that liars and they are a majority.
    """

    name: ClassVar[str] = "alie"
    source: ClassVar[str] = "Baruch et al. 2019; z searched for as in Shejwalkar and Houmansadr 2021"
    z: float | None = None

    def settle(self, honest: Array, count: int, evaluate: Evaluate | None = None) -> Self:
        check(honest, count)
        if self.z is not None:
            return self
        if evaluate is None:
            return replace(self, z=hidden_factor(len(honest), count))
        mean, deviation = moments(honest)
        return replace(self, z=searched(lambda z: mean - z * deviation, 0.25, honest, count, evaluate))

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        mean, deviation = moments(honest)
        return mean - (self.z or 0.0) * deviation


@dataclass(frozen=True)
class Ipm(Attack):
    """Inner product manipulation: −εμ, so that the aggregate may point against the honest mean.

    Args:
        epsilon: the factor. ``None`` has it searched for against the rule; without a rule it is 0.1, which hides best.
    """

    name: ClassVar[str] = "ipm"
    source: ClassVar[str] = "Xie et al. 2019; ε = 0.1 as in Karimireddy et al. 2022"
    epsilon: float | None = None

    def settle(self, honest: Array, count: int, evaluate: Evaluate | None = None) -> Self:
        check(honest, count)
        if self.epsilon is not None:
            return self
        if evaluate is None:
            return replace(self, epsilon=0.1)
        mean = mean_of(honest)
        return replace(self, epsilon=searched(lambda epsilon: -epsilon * mean, 0.1, honest, count, evaluate))

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        return -(self.epsilon or 0.0) * mean_of(honest)


@dataclass(frozen=True)
class SignFlip(Attack):
    """The honest mean with its sign flipped, made larger by ``scale``."""

    name: ClassVar[str] = "sign_flip"
    source: ClassVar[str] = "Li et al. 2019, RSA; on the mean as in Allouah et al. 2023"
    scale: float = 1.0

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        return -self.scale * mean_of(honest)


# ── as far as honest updates are from each other ─────────────────────────────────────────────────────────────────────

DIRECTIONS = ("deviation", "mean", "sign")
"""−σ, −μ/‖μ‖ and −sign μ."""


@dataclass(frozen=True)
class _Distant(Attack):
    """μ + γu with the greatest γ that a bound on distances allows, in a direction u away from the mean.

    Args:
        direction: ``deviation`` is −σ, ``mean`` −μ/‖μ‖ and ``sign`` −sign μ. ``None`` has the three tried against the
            rule; without a rule it is ``deviation``.
    """

    direction: str | None = None

    def __post_init__(self) -> None:
        if self.direction is not None and self.direction not in DIRECTIONS:
            raise LocalError(f"{self.name} knows no direction {self.direction!r}; choose {', '.join(DIRECTIONS)}")

    def settle(self, honest: Array, count: int, evaluate: Evaluate | None = None) -> Self:
        check(honest, count)
        if self.direction is not None:
            return self
        if evaluate is None:
            return replace(self, direction="deviation")
        tried = [replace(self, direction=direction) for direction in DIRECTIONS]
        return max(tried, key=lambda each: moved(each._outward(honest), honest, count, evaluate))

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        return self._outward(honest)

    def _outward(self, honest: Array) -> Array:
        mean, deviation = moments(honest)
        direction = -{"deviation": deviation, "mean": mean, "sign": np.sign(mean)}[self.direction or "deviation"]
        squared = float(np.dot(direction, direction))
        if squared == 0.0:
            return mean
        if self.direction == "mean":
            direction, squared = direction / np.sqrt(squared), 1.0
        along = np.zeros(len(honest))
        for columns, block in blocks(honest):
            along += (mean[columns] - block) @ direction[columns]
        gram = gram_of(honest)
        return mean + self._scale(squared_distances(gram), np.diagonal(gram), along, squared) * direction

    @abstractmethod
    def _scale(self, apart: Array, lengths: Array, along: Array, squared: float) -> float:
        """The greatest γ, from ‖x_i − x_j‖², ‖μ − x_i‖², ⟨μ − x_i, u⟩ and ‖u‖²; the papers find it by bisection.

        ‖μ + γu − x_i‖² = ‖μ − x_i‖² + 2γ⟨μ − x_i, u⟩ + γ²‖u‖², a quadratic in γ, so it can be had exactly.
        """


@dataclass(frozen=True)
class MinMax(_Distant):
    """As far out as honest updates are from each other: no distance to one exceeds the greatest between two."""

    name: ClassVar[str] = "min_max"
    source: ClassVar[str] = "Shejwalkar and Houmansadr 2021, agnostic of the rule"

    def _scale(self, apart: Array, lengths: Array, along: Array, squared: float) -> float:
        room = np.maximum(0.0, apart.max() - lengths)
        root = np.sqrt(along**2 + squared * room)
        # Where `along` is positive the difference would cancel, and the root is taken the other way round.
        scale = np.divide(room, root + along, out=(root - along) / squared, where=along > 0)
        return float(scale.min())


@dataclass(frozen=True)
class MinSum(_Distant):
    """As far out as the outermost honest update: the sum of squared distances does not exceed its."""

    name: ClassVar[str] = "min_sum"
    source: ClassVar[str] = "Shejwalkar and Houmansadr 2021, agnostic of the rule"

    def _scale(self, apart: Array, lengths: Array, along: Array, squared: float) -> float:
        # The terms in γ cancel, as Σ (μ − x_i) = 0.
        room = max(0.0, float(apart.sum(axis=1).max() - lengths.sum()))
        return float(np.sqrt(room / (len(lengths) * squared)))


# ── within the honest, beside them, and none of them ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Mimic(Attack):
    """Copies one honest peer, so that its data count for more than they should; no rule can tell it from honest.

    Args:
        target: whom, as a row of the honest updates. ``None`` takes who is farthest out along their direction of
            largest variance. The paper keeps whom it chose: settle once.
    """

    name: ClassVar[str] = "mimic"
    source: ClassVar[str] = "Karimireddy et al. 2022, on heterogeneous data"
    target: int | None = None

    def settle(self, honest: Array, count: int, evaluate: Evaluate | None = None) -> Self:
        check(honest, count)
        if self.target is None:
            # With X the centred updates and XXᵀv = λv, update i is √λ·v_i out along the direction of largest variance.
            return replace(self, target=int(np.argmax(np.abs(np.linalg.eigh(gram_of(honest))[1][:, -1]))))
        if not 0 <= whole("target", self.target) < len(honest):
            raise LocalError(f"mimic has no honest update {self.target} to copy; choose 0 to {len(honest) - 1}")
        return self

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        row: Array = honest[self.target or 0].copy()
        return row


@dataclass(frozen=True)
class _NotFinite(Attack):
    """The honest mean with a value in it that is no number.

    Args:
        part: of the coordinates, drawn, and one at least; 1 for all.
    """

    value: ClassVar[float]
    part: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.part <= 1.0:
            raise LocalError(f"{self.name} spoils a part of the coordinates in (0, 1], not {self.part!r}")

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        row, d = mean_of(honest), honest.shape[1]
        row[rng.choice(d, size=min(d, max(1, round(self.part * d))), replace=False)] = self.value
        return row


@dataclass(frozen=True)
class Nan(_NotFinite):
    """Rows with NaN, of which one poisons a mean, and a median that is not careful."""

    name: ClassVar[str] = "nan"
    source: ClassVar[str] = "found in ByzFL 0.0.11's median, Krum and geometric median"
    value: ClassVar[float] = np.nan


@dataclass(frozen=True)
class Inf(_NotFinite):
    """Rows with infinity, the largest of all distances."""

    name: ClassVar[str] = "inf"
    source: ClassVar[str] = "Blanchard et al. 2017, lemma 1: one vector moves a mean anywhere"
    value: ClassVar[float] = np.inf


@dataclass(frozen=True)
class Equivocation(Attack):
    """Tells two halves of the peers two different vectors, so that they part: μ + δ and μ − δ, with another's δ.

    `rows` is what the first half is told, `others` what the second is.

    Args:
        of: whose rows the first half is told.
    """

    name: ClassVar[str] = "equivocation"
    source: ClassVar[str] = "Lamport, Shostak and Pease 1982"
    of: Attack = Ipm()

    def __post_init__(self) -> None:
        if not isinstance(self.of, Attack):
            raise LocalError(f"equivocation tells two halves rows of an attack; hand in one, not {self.of!r}")

    def settle(self, honest: Array, count: int, evaluate: Evaluate | None = None) -> Self:
        return replace(self, of=self.of.settle(honest, count, evaluate))

    def others(
        self, honest: Array, count: int, evaluate: Evaluate | None = None, rng: np.random.Generator | None = None
    ) -> Array:
        """What the second half is told: the first half's rows, reflected at the honest mean; see `rows`."""
        rows = self.rows(honest, count, evaluate, rng)
        reflected = 2 * mean_of(honest) - rows[:1]
        return np.broadcast_to(reflected.astype(rows.dtype), rows.shape) if count else rows

    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        return self.of._row(honest, count, rng)
