"""What an attack on updates is, and what attacks are made of: moments, distances, and a search for a factor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.robust.catalogue import whole

Array = NDArray[Any]
Evaluate = Callable[[Array], Array]
"""What the rule makes of the honest updates and of these rows, shape (count, d), beside them: a vector of d."""

LADDER = 7
"""A factor is first tried at 7 powers of two, then twice between the best one and its neighbours: 11 evaluations."""

_CHUNK = 1 << 15
"""Columns taken at a time, in float64: with 64 rows 16 MiB, whatever d is."""


@dataclass(frozen=True)
class Attack(ABC):
    """What liars in one hand send, as a function of the honest updates; frozen, and the same for the same arguments.

    Attributes:
        name: as `attack` takes it.
        source: where it is from.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    def settle(self, honest: Array, count: int, evaluate: Evaluate | None = None) -> Self:
        """The attack with nothing left open, as these honest updates suggest; itself where nothing is.

        Args:
            honest: float32 or float64, shape (h, d), h ≥ 1, all finite; never written to.
            count: how many liars there are.
            evaluate: the rule at hand; without one an attack takes what its paper names.

        Raises:
            LocalError: the honest updates are none, not finite, or of another type; ``count`` is negative.
        """
        check(honest, count)
        return self

    def rows(
        self, honest: Array, count: int, evaluate: Evaluate | None = None, rng: np.random.Generator | None = None
    ) -> Array:
        """What the liars send: the honest updates' dtype, shape (count, d).

        Rows that are all alike are one row seen ``count`` times, so they take no memory, and can't be written to.

        Args:
            honest, count, evaluate: as for `settle`.
            rng: for attacks that draw something; without one they draw alike every time.

        Raises:
            LocalError: as `settle` does.
        """
        settled = self.settle(honest, count, evaluate)
        row = settled._row(honest, count, rng or np.random.default_rng(0))
        return np.broadcast_to(row.astype(honest.dtype, copy=False), (count, honest.shape[1]))

    @abstractmethod
    def _row(self, honest: Array, count: int, rng: np.random.Generator) -> Array:
        """The one row, of a settled attack on checked arguments."""


def check(honest: Array, count: int) -> None:
    if not isinstance(honest, np.ndarray):
        raise LocalError(
            f"an attack is made of honest updates as one array of shape (h, d), not {type(honest).__name__}; "
            "hand in one, as np.stack(updates)"
        )
    if honest.ndim != 2 or not len(honest) or honest.dtype not in (np.float32, np.float64):
        raise LocalError(
            f"an attack is made of honest updates, float32 or float64 of shape (h, d) with h ≥ 1, "
            f"not {honest.dtype} of shape {honest.shape}"
        )
    if whole("count", count) < 0:
        raise LocalError(f"there can't be {count} liars; give 0 or more")
    if not all(np.isfinite(block).all() for _, block in blocks(honest)):
        raise LocalError("an honest update has NaN or infinity in it; an attack is made of finite ones")


def blocks(honest: Array) -> Iterator[tuple[slice, Array]]:
    """The columns, some at a time, in float64."""
    for start in range(0, honest.shape[1], _CHUNK):
        columns = slice(start, start + _CHUNK)
        yield columns, honest[:, columns].astype(np.float64)


def mean_of(honest: Array) -> Array:
    """The mean of each coordinate, float64."""
    mean: Array = honest.mean(axis=0, dtype=np.float64)
    return mean


def moments(honest: Array) -> tuple[Array, Array]:
    """Mean and deviation √(Σ(x−μ)²/h) of each coordinate, float64."""
    mean, deviation = np.empty(honest.shape[1]), np.empty(honest.shape[1])
    for columns, block in blocks(honest):
        mean[columns], deviation[columns] = block.mean(axis=0), block.std(axis=0)
    return mean, deviation


def gram_of(honest: Array) -> Array:
    """⟨x_i − μ, x_j − μ⟩, shape (h, h), float64."""
    gram = np.zeros((len(honest), len(honest)))
    for _, block in blocks(honest):
        block -= block.mean(axis=0)
        gram += block @ block.T
    return gram


def hidden_factor(h: int, count: int) -> float:
    """z of Baruch et al. 2019: as many honest peers are farther out as make the liars a majority, or one at least."""
    further = max(1, (h + count) // 2 + 1 - count)
    share = (h - further) / h
    return NormalDist().inv_cdf(share) if share > 0.5 else 0.0


def searched(row: Callable[[float], Array], least: float, honest: Array, count: int, evaluate: Evaluate) -> float:
    """The factor whose row moves the rule farthest from the mean, of a ladder from ``least`` on; see `LADDER`."""
    found: dict[float, float] = {}

    def best_of(factors: Iterable[float]) -> float:
        found.update((factor, moved(row(factor), honest, count, evaluate)) for factor in factors)
        return max(found, key=lambda factor: found[factor])

    best = best_of(least * 2.0**k for k in range(LADDER))
    for step in (2.0**0.5, 2.0**0.25):
        best = best_of((best / step, best * step))
    return best


def moved(row: Array, honest: Array, count: int, evaluate: Evaluate) -> float:
    """How far from the honest mean these rows move the rule; NaN counts as nothing, since nobody would take it."""
    rows = np.broadcast_to(row.astype(honest.dtype, copy=False), (count, len(row)))
    made = np.asarray(evaluate(rows))
    if made.shape != honest.shape[1:] or made.dtype.kind != "f":
        raise LocalError(
            f"evaluate gives {made.dtype} of shape {made.shape}, not an update of shape {honest.shape[1:]}; hand in a "
            "function of rows such as lambda rows: aggregate([*honest, *rows], rule, f).value"
        )
    apart = made.astype(np.float64) - mean_of(honest)
    return float(np.nan_to_num(np.sqrt(np.dot(apart, apart)), nan=0.0, posinf=np.inf))
