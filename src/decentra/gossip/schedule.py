"""The schedule of group gossip: which peers average together in which round, and with what weight.

Pure functions of public data (``specs/group-gossip/README.md``): the charter's hash, a beacon drawn after membership
was fixed, the peers. A mixing is one pass over the k axes of a grid (Moshpit, Ryabinin et al. 2021), a round for each.
The grid holds for an epoch, and nobody's view of who is up enters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.hashing import digest, digest_after, encode_parts
from decentra.grids import LEAST_GROUP, MOST_GROUP, Grid, grid, heaviest, mixing_risk, risk
from decentra.types import PeerId

__all__ = [
    "LEAST_GROUP",
    "MOST_GROUP",
    "TRIES",
    "Grid",
    "bucket_name",
    "combining_name",
    "coordinates",
    "drawers_name",
    "drawn",
    "fingerprint",
    "first_round",
    "grid",
    "group_name",
    "groups",
    "heaviest",
    "held",
    "lines",
    "mixing_of",
    "mixing_risk",
    "places",
    "risk",
    "weight",
]

TRIES = 3
"""Rounds that a group's session has for one axis: where nothing left, or all came back, it tries again."""

# ── who is where ─────────────────────────────────────────────────────────────────────────────────────────────────────


def places(charter: bytes, beacon: bytes, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
    """The peers in the order of their places in an epoch: nobody who chose an id before the beacon chose its place."""
    prefix = encode_parts("place", charter, beacon)
    return tuple(sorted(peers, key=lambda peer: digest_after(prefix, peer)))


def coordinates(grid: Grid) -> NDArray[np.int64]:
    """The cell of every place: n × axes, each in 0..side−1.

    Place p is in cell z = p mod side^axes. Its first axes − 1 coordinates are the digits of z mod side^(axes−1), and
    the sum of all is ⌊z / side^(axes−1)⌋ modulo side. So each line holds one cell of each sum, and the cells with one
    peer more, which are those of the lowest z, are spread over the lines of every axis alike.
    """
    total, rest = np.divmod(np.arange(grid.n) % grid.cells, grid.lines)
    out = np.empty((grid.n, grid.axes), dtype=np.int64)
    for axis in range(grid.axes - 1):
        rest, out[:, axis] = np.divmod(rest, grid.side)
    out[:, -1] = (total - out[:, :-1].sum(axis=1)) % grid.side
    return out


def lines(grid: Grid, axis: int) -> NDArray[np.int64]:
    """The group of every place along an axis, 0..lines−1: the other coordinates as digits, the lowest axis first."""
    digits = grid.side ** np.arange(grid.axes - 1, dtype=np.int64)
    others: NDArray[np.int64] = np.delete(coordinates(grid), axis, axis=1)
    return others @ digits


def groups(grid: Grid, axis: int) -> tuple[tuple[int, ...], ...]:
    """The places of every group along an axis, ascending."""
    index = lines(grid, axis)
    order = np.argsort(index, kind="stable")
    ends = np.cumsum(np.bincount(index, minlength=grid.lines))[:-1]
    return tuple(tuple(part.tolist()) for part in np.split(order, ends))


def group_name(charter: bytes, beacon: bytes, axis: int, members: Sequence[PeerId]) -> str:
    """The name of a group's own charter: 64 hexadecimal digits that bind where the group comes from."""
    return digest("group", charter, beacon, axis, len(members), *sorted(members)).hex()


def bucket_name(charter: bytes, beacon: bytes, members: Sequence[PeerId]) -> str:
    """The name of a bucket's own charter: 64 hexadecimal digits that bind where the bucket comes from."""
    return digest("bucket-group", charter, beacon, len(members), *sorted(members)).hex()


def combining_name(charter: bytes, beacon: bytes) -> str:
    """The name of the charter under which the means of all buckets are combined: 64 hexadecimal digits."""
    return digest("combining", charter, beacon).hex()


def drawers_name(charter: bytes) -> str:
    """The name of the charter under which the beacon is drawn: 64 hexadecimal digits that bind the large one."""
    return digest("drawers", charter).hex()


def drawn(charter: bytes, beacon: bytes) -> bytes:
    """What a drawer signs, once, for the beacon that its round gave: 32 bytes."""
    return digest("drawn", charter, beacon)


def first_round(mixing: int) -> int:
    """The first round number of a mixing, counted from 0, in every session of it; it has `TRIES` of them."""
    return TRIES * mixing + 1


def mixing_of(number: int) -> int:
    """The mixing that a round number belongs to, whatever the axis: so peers that missed some catch up in a session."""
    return (number - 1) // TRIES


def fingerprint(model: bytes, mixing: int) -> bytes:
    """The fingerprint that readiness names in a mixing: who is in another one is in no roster with this one's peers."""
    return digest("mixing", model, mixing)


# ── what an aggregate weighs ─────────────────────────────────────────────────────────────────────────────────────────


def held(grid: Grid, axis: int, total: int) -> int:
    """What the result of a round along an axis weighs, in units, from its certified total weight."""
    return total * grid.unit if axis == 0 else total


def weight(grid: Grid, axis: int, place: int, held: int, most: int = 1) -> int:
    """The weight that a peer brings along a later axis: its cell's aggregate, divided among the cell's peers.

    Exact where nobody was lost. Else it is rounded down, and cut to what the charter of that axis allows: whoever
    overstated a weight before can't have honest peers refused now.
    """
    return min(max(1, held // grid.together(place)), heaviest(grid, axis, most))
