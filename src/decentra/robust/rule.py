"""What a rule is: one of two interfaces, a step that may come before it, and what it says of itself.

Rules of the Gram matrix weigh whole updates by the geometry between them; coordinate rules look at one coordinate at a
time. A step before either replaces the updates by mixtures of them. What a rule promises is data: the property suite in
``decentra.robust.testing`` holds every rule, also a third party's, to just that.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

Gram = NDArray[Any]
"""Inner products, (n, n), float64, symmetric."""


class Invariant(enum.StrEnum):
    """What holds of an aggregate F for all updates; up to ties where a rule chooses between updates."""

    PERMUTATION = "the order in which updates come does not matter"
    TRANSLATION = "F(x + a) = F(x) + a"
    SCALE = "F(s · x) = s · F(x) for s > 0"
    NEGATION = "F(−x) = −F(x)"
    ORTHOGONAL = "F(Qx) = Q F(x) for orthogonal Q"
    DIAGONAL = "F(Dx) = D F(x) for diagonal D"
    AGREEMENT = "where all updates are equal, F is that update"
    MAJORITY = "where n − f updates are equal, F is that update"
    HULL = "F lies in the convex hull of the updates"
    BOX = "every coordinate of F lies between those of the honest updates, whichever n − f these are"
    NORM = "F is no longer than the longest honest update, whichever n − f these are"


class Rule(ABC):
    """What all rules say of themselves."""

    name: ClassVar[str]
    source: ClassVar[str]
    """Where it was published."""
    invariants: ClassVar[frozenset[Invariant]]
    fewest_says: ClassVar[str] = "n ≥ 2f + 1"
    reference: ClassVar[bool] = False
    """Whether it needs a point of reference, the last of the rows that it sees."""
    origin: ClassVar[bool] = False
    """Whether it needs inner products about zero. Others see them about a point that they must not depend on."""
    exact: ClassVar[bool] = False
    """Whether it gives the same bits on every machine: nothing but IEEE steps in a fixed order."""
    chooses: ClassVar[bool] = True
    """Whether it chooses between updates, or a radius of theirs: where some are tied, or all but tied, its invariants
    hold up to which it takes."""
    off_a_line: ClassVar[bool] = False
    """Whether its promises are of updates that do not all lie on one line, where several points may do."""
    radius: float | None = None
    """For rules that clip: how far, in units of the updates."""
    needs_radius: ClassVar[bool] = False
    """Whether it clips to a radius that its user has to name."""

    def clipping(self, radius: float) -> Self:
        """The same, clipping to this radius; itself where it needs none."""
        return self

    def fewest(self, f: int) -> int:
        """The fewest updates that it works on where f may be false."""
        return 2 * f + 1

    def limit(self, n: int, f: int) -> str | None:
        """Why so many are too many for it, a sentence; None where they are not."""
        return None

    def kappa(self, n: int, f: int) -> float | None:
        """κ of its proved bound ‖F − x̄_S‖² ≤ κ · (1/|S|) Σ_S ‖x_i − x̄_S‖² for every S of n − f updates; None where
        there is none of this form."""
        return None


class GramRule(Rule):
    """A rule that weighs whole updates: F = Σ w_i x_i."""

    blind: ClassVar[bool] = False
    """Whether its weights do not depend on the updates."""

    @abstractmethod
    def weights(self, gram: Gram, f: int) -> NDArray[Any]:
        """The weight of every row.

        Args:
            gram: (n, n); one row more, the last, for the reference of a rule that needs one.
            f: how many updates may be false.

        Returns:
            As many weights as rows, float64. They sum to 1, unless the rule sees inner products about zero.
        """


class CoordinateRule(Rule):
    """A rule that looks at each coordinate by itself."""

    ordered: ClassVar[bool] = True
    """Whether the rows that it selects ascend."""

    @abstractmethod
    def select(self, block: NDArray[Any], f: int) -> Sequence[NDArray[Any]]:
        """Rows whose mean is the aggregate.

        Args:
            block: (n, width), floating point or int64; it may be written over.
            f: how many updates may be false.
        """


class PreStep(Rule):
    """What replaces the updates by mixtures of them, before a rule."""

    @abstractmethod
    def mixtures(self, gram: Gram, f: int) -> NDArray[Any]:
        """What each new row is made of: (m, n), float64, applied from the left."""

    def removed(self, f: int) -> int:
        """How many rows fewer there are after it: above 0 where it selects updates, and mixes none."""
        return 0

    def kappa_with(self, n: int, f: int, kappa: float) -> float | None:
        """κ of this step and a rule of this κ together."""
        return None

    @abstractmethod
    def keeps(self, invariants: frozenset[Invariant], coordinates: bool) -> frozenset[Invariant]:
        """What holds of this step and a rule of these invariants together."""
