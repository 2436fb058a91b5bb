"""The schedule of group gossip alone, over arrays: up to 100,000 peers and more, with losses, and what theory says.

A peer's estimate is at any time a mean of distinct peers' values, Σ_j a_j x_j with Σ_j a_j = 1: what meets along an
axis was never together before. Peers are drawn to places by a beacon, so against the mean of all n values its error is
that of a sample, E[e²] = S² (Σ_j a_j² − 1/n) with S² = Σ_j (x_j − mean)² / (n − 1); the model carries Σ_j a_j² along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.gossip import schedule
from decentra.gossip.schedule import Grid

Values = NDArray[np.float64]

_NOTHING = 1e-12
"""What rounding may leave of a difference of two equal quotients, as a part of them."""


@dataclass(frozen=True)
class Mixed:
    """Where a mixing stands after a round; everything by place.

    Attributes:
        axis: the round's axis.
        holds: who has an aggregate; the others weigh nothing for the rest of the mixing.
        values: the estimates, n × coordinates; what stands at a place that holds nothing means nothing.
        held: what each estimate weighs, in units (``schedule.held``).
        squares: Σ_j a_j² of each estimate.
        failed: groups that had fewer peers than a round starts with.
    """

    axis: int
    holds: NDArray[np.bool_]
    values: Values
    held: NDArray[np.int64]
    squares: Values
    failed: int


def mix(
    grid: Grid, values: Values, lost: Sequence[NDArray[np.bool_]] = (), *, c: int = 1, floor: bool = True
) -> Iterator[Mixed]:
    """One mixing, round by round.

    Args:
        grid: who meets whom.
        values: n × coordinates, by place.
        lost: for each axis the places whose peers are gone before they contribute to it; they never come back.
        c: a group starts with two thirds of its peers, and with no fewer than the quorum for c.
        floor: False for a group of any size to succeed: what theory speaks of.
    """
    holds, estimates, squares = np.ones(grid.n, np.bool_), values, np.ones(grid.n)
    held, weights = np.ones(grid.n, np.int64), np.ones(grid.n, np.int64)
    cells, together = np.arange(grid.n) % grid.cells, _together(grid)
    for axis in range(grid.axes):
        if axis:
            most = schedule.heaviest(grid, axis)
            weights = np.minimum(np.maximum(1, held // together), most)
        if axis < len(lost):
            holds = holds & ~lost[axis]
        index = schedule.lines(grid, axis)
        sizes = np.bincount(index, minlength=grid.lines)
        came = np.bincount(index[holds], minlength=grid.lines)
        sound = came >= (_floors(sizes, c) if floor else 1)
        mine = np.where(holds, weights, 0)
        total = _sums(index, mine, grid.lines)
        scale = np.divide(1.0, total, out=np.zeros(grid.lines), where=total > 0)
        means = [_sums(index, mine * column, grid.lines) * scale for column in estimates.T]
        square = _squares(grid, axis, index, cells, mine, squares) * scale**2
        holds = holds & sound[index]
        held = total.astype(np.int64)[index] * (grid.unit if axis == 0 else 1)
        estimates, squares = np.stack([mean[index] for mean in means], axis=1), square[index]
        yield Mixed(axis, holds, estimates, held, squares, int(np.count_nonzero(~sound)))


def _together(grid: Grid) -> NDArray[np.int64]:
    few, more = divmod(grid.n, grid.cells)
    together: NDArray[np.int64] = few + (np.arange(grid.n) % grid.cells < more).astype(np.int64)
    return together


def _floors(sizes: NDArray[np.int64], c: int) -> NDArray[np.int64]:
    """The fewest peers that a round of each group starts with, as ``Charter.roster_floor`` has it."""
    return np.array([max(-(-2 * size // 3), derive.quorum(size, c)) for size in sizes.tolist()])


def _squares(
    grid: Grid, axis: int, index: NDArray[np.int64], cells: NDArray[np.int64], mine: NDArray[np.int64], squares: Values
) -> Values:
    """Σ_j a_j² of every line, before it is divided by the square of its total weight.

    Along the first axis each peer brings a value of its own; after that the peers of a cell bring one and the same.
    """
    if axis == 0:
        return _sums(index, mine.astype(np.float64) ** 2, grid.lines)
    mass = _sums(cells, mine, grid.cells)
    of_cell, line_of_cell = np.zeros(grid.cells), np.zeros(grid.cells, np.int64)
    of_cell[cells[mine > 0]] = squares[mine > 0]
    line_of_cell[cells] = index
    return _sums(line_of_cell, mass**2 * of_cell, grid.lines)


def _sums(index: NDArray[np.int64], terms: NDArray[Any], count: int) -> Values:
    """The sums of the terms of one index each."""
    sums: Values = np.bincount(index, terms, minlength=count).astype(np.float64)
    return sums


def error(state: Mixed, truth: Values) -> float:
    """The root of the mean squared error, over who holds an estimate and over the coordinates."""
    differences = state.values[state.holds] - truth
    return float(np.sqrt(np.mean(differences**2)))


def expected(grid: Grid, alive: Sequence[float], whole: Sequence[float] = ()) -> tuple[float, ...]:
    """What theory says of the error after each round: E[e²] / S², R_r − 1/n.

    Let A_r be the part of the peers that contribute along axis r, in groups that do not fail, and s and o the mean
    sizes of a group and of a cell. Of the s peers along the first axis 1 + (s − 1) A_0 contribute, one being the peer
    itself: R_0 is its inverse. Along a later axis a cell of which a part f contributes brings f of its weight, so that

        R_r = R_{r−1} · E[Σ f²] / E[Σ f]²,

    over the side cells of a line. A group that failed took all peers of a cell out together, and a peer that stopped
    itself alone: with B_r the part of the cells that no failed group took out and a = A_r / B_r, the other cells have
    E[f] = A_r, E[f²] = B_r (a² + a (1 − a) / o), and the peer's own cell is there, with the peer in it.

    With nobody lost every factor is 1 / side, which with one peer a cell is Moshpit's rate of 1 / group, and
    R_{k−1} = 1/n: the mean is exact rather than ever nearer. With losses and one peer a cell the error of a sample is
    left, S² / n · (1 / Π A_r − 1); less where cells hold more. What Jensen's inequality adds is left out.

    Args:
        alive: A_r for each axis.
        whole: B_r for each axis; 1 where no group failed.
    """
    size, own = grid.n / grid.lines, grid.cells / grid.n
    out, rate = list[float](), 1.0
    for axis, there in enumerate(alive):
        if axis == 0:
            rate = 1.0 / (1.0 + (size - 1.0) * there)
        else:
            kept = whole[axis] if axis < len(whole) else 1.0
            each = there / kept if kept else 0.0
            mean, spread = own + (1.0 - own) * each, own * (1.0 - own) * each * (1.0 - each)
            squares = mean**2 + spread + (grid.side - 1) * kept * (each**2 + own * each * (1.0 - each))
            rate *= squares / (mean + (grid.side - 1) * there) ** 2
        left = rate - 1.0 / grid.n
        out.append(left if left > _NOTHING / grid.n else 0.0)
    return tuple(out)
