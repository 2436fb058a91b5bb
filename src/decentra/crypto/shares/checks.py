"""Random linear checks: one element of each holder's shows that a whole vector lies on polynomials of low degree.

The coefficients come from a beacon that nobody knew when the shares were dealt, and are the same for every dealer.
Each holder tells Σ r_k s_k plus its share of the blind. The blind is a polynomial of the same kind, uniform otherwise,
so what is opened is uniform of its kind too, and tells nothing.

What is sound: if the shares that honest holders have of a deal do not all lie on polynomials of degree D, then their
combinations do with probability 1/p at most, as r is uniform and the deal was fixed before. So a deal is good when
*all* honest holders agree on one polynomial. That c lies can be corrected is not enough: c liars choose, after the
beacon, any c + 1 of 2c + 1 honest holders and make c others look wrong, whatever was dealt. Who looks wrong is
therefore a suspect, who shows its share under the dealer's signature: either that share gives what it told, and the
dealer is out, or it lied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decentra.crypto.hashing import expand
from decentra.crypto.prg import KEY_BYTES
from decentra.crypto.shares.decoding import Decoded, Undecided, correctable, decode
from decentra.crypto.shares.field61 import DOT_TERMS, Dots, check_elements, signed
from decentra.crypto.shares.sharing import BLINDS, Sharing
from decentra.crypto.shares.streams import Row, Rows, Stream

DEGREE_LABEL = "decentra/shares/degree"
ZERO_LABEL = "decentra/shares/zero-check"
OPENED_LABEL = "decentra/shares/opened"
PIECE = 4 * DOT_TERMS
"""Columns read at a time."""


def beacon_key(beacon: bytes, label: str) -> bytes:
    """The key of the coefficients that a beacon gives for one use.

    Raises:
        ValueError: the beacon has not 32 bytes.
    """
    if len(beacon) != KEY_BYTES:
        raise ValueError(f"a beacon has {KEY_BYTES} bytes, this has {len(beacon)}")
    return expand(beacon, label)


def combinations(
    rows: Sequence[Row], length: int, beacon: bytes, label: str, *, start: int = 0, blinded: bool = False
) -> tuple[int, ...]:
    """Σ_k r_(start + k) · row_k for each row, mod p.

    Args:
        rows: each (length,) uint64 below p, or the key of a stream; slices of vectors that begin at ``start``.
        length: elements of a row.
        beacon: 32 bytes.
        label: one of this file's.
        blinded: the last element of each row is its blind, whose coefficient is 1.

    The combinations of slices add up to that of the whole. Extra memory: below 16 MiB.

    Raises:
        ValueError: rows that are not so, or a beacon of another length.
    """
    read = Rows(rows, length, start)
    stream, coefficients = Stream(beacon_key(beacon, label), start), np.empty(PIECE, dtype=np.uint64)
    dots = Dots(read.n)
    for low, piece in read.pieces(PIECE):
        some = coefficients[: piece.shape[1]]
        stream.fill(some)
        if blinded and low + some.size == length:
            some[-1] = 1
        dots.take(piece, some)
    return dots.values()


def degree_values(rows: Sequence[Row], length: int, beacon: bytes) -> tuple[int, ...]:
    """What a holder tells of the shares that it was dealt, blinds last: an element for each dealer.

    Raises:
        ValueError: as ``combinations``, or there is no room for a blind.
    """
    if length < BLINDS:
        raise ValueError("a dealt share has at least its blind")
    return combinations(rows, length, beacon, DEGREE_LABEL, blinded=True)


@dataclass(frozen=True)
class Verdict:
    """What holders' values tell of one deal.

    Attributes:
        dealer_wrong: the deal is bad for sure: whatever c liars said, honest holders disagree, or the value is not 0.
        suspects: points that tell something else than all others; each shows its share, or is the liar.
    """

    dealer_wrong: bool
    suspects: tuple[int, ...]


def judge_degree(values: Mapping[int, int], sharing: Sharing, liars: int | None = None) -> Verdict:
    """Whether a deal is of degree c + l − 1.

    Args:
        values: point → what that holder told.
        liars: how many of these holders may lie, c by default; fewer where others are known to be corrupt.

    Raises:
        Undecided: holders are missing, and without them it can't be told whether they or the dealer are wrong.
        ValueError: a value that is not in the field, or a point that is no peer's.
    """
    found = _decoded(values, sharing, sharing.degree, liars)
    return Verdict(True, ()) if found is None else Verdict(False, found.wrong)


def judge_zero(values: Mapping[int, int], sharing: Sharing, liars: int | None = None) -> Verdict:
    """Whether what hides products is of degree 2(c + l − 1), and its slots sum to 0.

    Raises:
        Undecided: as ``judge_degree``; below n = 4c + 2l − 1 at any value that doesn't fit, since dealer or holder
            may have lied. Then the dealer's zero-sharing is shown whole, and left out: the others hide products as
            well.
        ValueError: as ``judge_degree``.
    """
    found = _decoded(values, sharing, sharing.product_degree, liars)
    if found is None:
        return Verdict(True, ())
    return Verdict(bool(slot_sum(found, sharing)), found.wrong)


def slot_sum(found: Decoded, sharing: Sharing) -> int:
    """The sum of a polynomial's slots, signed."""
    return signed(sum(found.at(place) for place in sharing.secret_points))


def _decoded(values: Mapping[int, int], sharing: Sharing, degree: int, liars: int | None) -> Decoded | None:
    """The polynomial, None where there is none although no more than ``liars`` lie."""
    check_points(values, sharing)
    most = sharing.c if liars is None else liars
    try:
        return decode(values, degree, most)
    except Undecided:
        if correctable(len(values), degree, most) < most:
            raise
        return None


def check_points(values: Mapping[int, object], sharing: Sharing) -> None:
    """Refuses points that are no peer's.

    Raises:
        ValueError: there is one.
    """
    for x in values:
        if not 1 <= x <= sharing.n:
            raise ValueError(f"point {x} is no peer's: they lie in 1..{sharing.n}")


def without_blind(row: Row) -> Row:
    """A dealt share without its blind; the key of a stream stays what it is, and is read less far."""
    return row if isinstance(row, bytes) else check_elements(row, "a share")[:-BLINDS]
