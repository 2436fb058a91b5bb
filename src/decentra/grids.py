"""The grid of group gossip as numbers: its groups' sizes, what they may weigh, and what the draw of them may give.

A charter is judged by them before anything is drawn; ``decentra.gossip.schedule`` goes on to who stands where
(``specs/group-gossip/README.md``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import comb, lcm

from decentra.errors import LocalError

LEAST_GROUP, MOST_GROUP = 3, 45
"""Sizes that one may aim at: a sum over fewer than 3 bares an update, and 45 · √2 peers still make one group."""

MOST_TOGETHER = 64
"""Peers of one group: above it all-pairs masks cost too much, and groups belong in a grid."""


@dataclass(frozen=True)
class Grid:
    """n peers on side^axes cells, so that along every axis the groups' sizes differ by at most one.

    Attributes:
        n: peers.
        side: cells along an axis.
        axes: rounds of a mixing.
    """

    n: int
    side: int
    axes: int

    @property
    def cells(self) -> int:
        return int(self.side**self.axes)

    @property
    def lines(self) -> int:
        """How many groups a round has."""
        return int(self.side ** (self.axes - 1))

    @property
    def sizes(self) -> tuple[int, int]:
        """The fewest and the most peers of any group, whatever the axis."""
        return self.n // self.lines, -(-self.n // self.lines)

    @property
    def unit(self) -> int:
        """What the weight 1 counts from the second round on: every cell's number of peers divides it."""
        few, more = divmod(self.n, self.cells)
        return lcm(few, few + 1) if more else few

    def together(self, place: int) -> int:
        """How many peers are in the cell of a place, itself included."""
        few, more = divmod(self.n, self.cells)
        return few + (place % self.cells < more)


def grid(n: int, group: int, c: int = 1) -> Grid:
    """The grid of n peers for groups of about ``group``.

    One group, if n ≤ ``group``. Else the fewest rounds whose groups are larger or smaller than ``group`` by at most a
    factor √2, and with so many rounds the side whose groups are nearest to it, the smaller of two.

    Args:
        n: peers.
        group: 3 to 45. From 5 on there is a grid for every n ≥ 3, with c = 1.
        c: how many of a group may collude; no group has fewer than c + 2 peers.

    Raises:
        LocalError: there is no such grid; says the next size for which there is.

    >>> grid(1000, 16), grid(1000, 16).sizes
    (Grid(n=1000, side=8, axes=3), (15, 16))
    """
    if not LEAST_GROUP <= group <= MOST_GROUP:
        raise LocalError(f"groups of {group} are out of {LEAST_GROUP}..{MOST_GROUP}; choose another size")
    if c < 1 or n < c + 2:
        raise LocalError(f"{n} peers can't be grouped against c = {c}: c is at least 1, and a group has c + 2 or more")
    found = _grid(n, group, c)
    if found is None:
        others = (size for size in range(group + 1, MOST_GROUP + 1) if _grid(n, size, c) is not None)
        mend = next((f"aim at groups of {size}" for size in others), "lower c")
        raise LocalError(f"{n} peers have no grid with groups of about {group} and none below {c + 2}; {mend}")
    return found


def _grid(n: int, group: int, c: int) -> Grid | None:
    if n <= group:
        return Grid(n, 1, 1)
    axes, fitting = 0, list[Grid]()
    while not fitting and 2**axes <= n:
        axes += 1
        fitting = [made for made in _sides(n, axes) if _fits(made, group, c)]
    return min(fitting, key=lambda one: abs(Fraction(n, one.lines) - group), default=None)


def _sides(n: int, axes: int) -> Iterator[Grid]:
    side = 1 if axes == 1 else 2
    while side**axes <= n and (axes > 1 or side == 1):
        yield Grid(n, side, axes)
        side += 1


def _fits(made: Grid, group: int, c: int) -> bool:
    fewest, most = made.sizes
    near = made.n**2 <= 2 * (group * made.lines) ** 2 and (group * made.lines) ** 2 <= 2 * made.n**2
    return near and fewest >= c + 2 and most <= MOST_TOGETHER


def heaviest(grid: Grid, axis: int, most: int = 1) -> int:
    """The ``max_weight`` of an axis: what the heaviest peer brings where nobody is lost.

    Args:
        most: the largest weight of a peer's own update, along the first axis.
    """
    if axis == 0:
        return most
    behind = min(grid.n, int(grid.side ** (axis - 1)) * grid.sizes[1])
    return most * behind * grid.unit // (grid.n // grid.cells)


# ── what the draw may give ───────────────────────────────────────────────────────────────────────────────────────────


def risk(n: int, size: int, liars: int, c: int) -> float:
    """The probability that a group drawn among n peers has more than c of the liars: hypergeometric, rounded once.

    Raises:
        LocalError: the group or the liars are more than the peers.

    >>> risk(4, 2, 2, 1)
    0.16666666666666666
    """
    return float(_risk(n, size, liars, c))


def _risk(n: int, size: int, liars: int, c: int) -> Fraction:
    if not (0 <= size <= n and 0 <= liars <= n):
        raise LocalError(f"{size} peers with {liars} liars can't be drawn from {n}; give 0 to {n} of each")
    over = sum(comb(liars, bad) * comb(n - liars, size - bad) for bad in range(c + 1, min(size, liars) + 1))
    return Fraction(over, comb(n, size))


def mixing_risk(grid: Grid, liars: int, c: int) -> float:
    """A bound on the probability that any group of a grid has more than c of the liars: the sum over its groups."""
    return float(min(Fraction(1), grid.axes * _any_risk(grid.n, grid.lines, liars, c)))


def buckets_risk(n: int, count: int, liars: int, c: int) -> float:
    """A bound on the probability that any of ``count`` buckets of n peers has more than c of the liars: their sum."""
    return float(min(Fraction(1), _any_risk(n, count, liars, c)))


def _any_risk(n: int, count: int, liars: int, c: int) -> Fraction:
    """The sum over ``count`` groups that n peers are dealt into, whose sizes differ by one at most."""
    fewest, larger = divmod(n, count)
    more = _risk(n, fewest + 1, liars, c) if larger else Fraction(0)
    return larger * more + (count - larger) * _risk(n, fewest, liars, c)
