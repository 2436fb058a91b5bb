"""The weighted sum: Σ w_i x_i on shares, opened slice by slice, and held against what holders tell of it.

A holder's share of the sum may be shown as it is: the polynomial through all shares follows from the sum, which is
published, and what any c holders know already, since a dealt polynomial has c + l degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.shares.checks import OPENED_LABEL, check_points, combinations
from decentra.crypto.shares.deal import slot_major
from decentra.crypto.shares.decoding import decode
from decentra.crypto.shares.field61 import COLUMNS, Elements, Matrix, from_signed, to_signed
from decentra.crypto.shares.gram import Gram
from decentra.crypto.shares.opening import open_vectors
from decentra.crypto.shares.quanta import check_radius
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.sketch import sketch_integers
from decentra.crypto.shares.streams import Row, Rows

MAX_TOTAL = 1 << 16
"""What weights sum to at most: then a sum's coordinates stay below 2^44."""
WIDE = 4 * COLUMNS

Bounds = Sequence[tuple[int, int]]
"""Where each slice begins and ends, in elements of a share; the slices lie one behind the other."""


def check_weights(weights: Sequence[int]) -> None:
    """Refuses weights that the bounds of a sum don't hold for.

    Raises:
        ValueError: one below 0, or a sum that is not in 1 … 2^16.
    """
    if any(weight < 0 for weight in weights) or not 1 <= sum(weights) <= MAX_TOTAL:
        raise ValueError(f"weights are integers of 0 or more with a sum in 1..{MAX_TOTAL}")


def combined(rows: Sequence[Row], weights: Sequence[int], length: int) -> Elements:
    """A holder's share of the weighted sum: (length,) uint64.

    Args:
        rows: a share of each vector, (length,) uint64 below p or the key of a stream, without the blind.
        weights: one a row.

    Extra memory: below 16 MiB beside the result.

    Raises:
        ValueError: weights or rows that are not so.
    """
    check_weights(weights)
    if len(weights) != len(rows):
        raise ValueError(f"there are {len(rows)} vectors and {len(weights)} weights; give one for each")
    some = [index for index, weight in enumerate(weights) if weight]
    out = np.empty((1, length), dtype=np.uint64)
    matrix = Matrix([[weights[index] for index in some]])
    for low, piece in Rows([rows[index] for index in some], length).pieces(WIDE):
        matrix.apply(piece, out=out[:, low : low + piece.shape[1]])
    return np.asarray(out[0])


@dataclass(frozen=True)
class OpenedSlice:
    """A slice of the sum.

    Attributes:
        values: int64, slot by slot of each element: (coordinates,).
        wrong: the points of holders that sent a false element.
    """

    values: NDArray[np.int64] = field(repr=False)
    wrong: tuple[int, ...]


def open_slice(
    words: Mapping[int, Elements], length: int, coordinates: int, sharing: Sharing, liars: int | None = None
) -> OpenedSlice:
    """What a slice's owner makes of the holders' shares of it.

    Args:
        words: point → (length,) uint64 below p.
        coordinates: how many of the slice's length · l there are; fewer in the vector's last slice.
        liars: how many words may be false, c by default.

    Raises:
        Undecided: too few holders, or more lies than can be corrected.
        ValueError: a word of another shape or dtype, a number not below p, or coordinates that the slice has not.
    """
    check_points(words, sharing)
    if not 0 <= coordinates <= length * sharing.slots or sharing.elements(coordinates) != length:
        raise ValueError(f"{coordinates} coordinates are not {length} elements of {sharing.slots} slots")
    most = sharing.c if liars is None else liars
    opened = open_vectors(words, length, sharing.degree, most, sharing.secret_points)
    return OpenedSlice(to_signed(slot_major(list(opened.values), coordinates)), opened.wrong)


def check_bounds(bounds: Bounds, length: int) -> None:
    """Refuses slices that are not the whole, each behind the one before.

    Raises:
        ValueError: they are not.
    """
    ends = [0, *(high for _, high in bounds)]
    if any(low != end or high < low for (low, high), end in zip(bounds, ends, strict=False)) or ends[-1] != length:
        raise ValueError(f"slices follow one another and cover all {length} elements; these don't")


def told(share: Elements, bounds: Bounds, beacon: bytes) -> tuple[int, ...]:
    """What a holder tells of its share of the sum: a combination for each slice, under a beacon drawn after all slices
    were published.

    Raises:
        ValueError: a share, bounds or a beacon that are not so.
    """
    check_bounds(bounds, share.size)
    return tuple(
        combinations([share[low:high]], high - low, beacon, OPENED_LABEL, start=low)[0] for low, high in bounds
    )


@dataclass(frozen=True)
class Judged:
    """What holders' combinations tell of published slices.

    Attributes:
        slices: the numbers of slices that are not what the shares give, ascending.
        wrong: the points of holders that told something false of some slice, ascending.
    """

    slices: tuple[int, ...]
    wrong: tuple[int, ...]


def judge_slices(
    tellings: Mapping[int, Sequence[int]],
    published: NDArray[np.int64],
    bounds: Bounds,
    sharing: Sharing,
    beacon: bytes,
    liars: int | None = None,
) -> Judged:
    """Holds published slices against what holders told; a false slice passes with probability 1/p.

    Args:
        tellings: point → an element for each slice.
        published: (d,) int64, the whole sum.
        bounds: in elements.

    Raises:
        Undecided: too few holders, or more lies than can be corrected.
        ValueError: arguments that don't fit together.
    """
    check_points(tellings, sharing)
    length = sharing.elements(published.size)
    check_bounds(bounds, length)
    if any(len(one) != len(bounds) for one in tellings.values()):
        raise ValueError(f"holders tell an element for each of {len(bounds)} slices")
    slots = slot_rows(published, sharing)
    most = sharing.c if liars is None else liars
    false: list[int] = []
    wrong: set[int] = set()
    for number, (low, high) in enumerate(bounds):
        found = decode({x: int(one[number]) for x, one in tellings.items()}, sharing.degree, most)
        wrong.update(found.wrong)
        pieces = [from_signed(row[low:high]) for row in slots]
        given = combinations(pieces, high - low, beacon, OPENED_LABEL, start=low)
        if given != tuple(found.at(place) for place in sharing.secret_points):
            false.append(number)
    return Judged(tuple(false), tuple(sorted(wrong)))


def slot_rows(vector: NDArray[np.int64], sharing: Sharing) -> NDArray[np.int64]:
    """A vector's coordinates, a row a slot, zeros behind its end: (l, ⌈d/l⌉).

    Raises:
        ValueError: another dtype or shape.
    """
    if vector.dtype != np.int64 or vector.ndim != 1:
        raise ValueError(f"a sum is one vector of int64, not {vector.dtype} of shape {vector.shape}")
    padded = np.zeros(sharing.elements(vector.size) * sharing.slots, dtype=np.int64)
    padded[: vector.size] = vector
    return np.ascontiguousarray(padded.reshape(-1, sharing.slots).T)


def beyond(total: NDArray[np.int64], weights: Sequence[int], radius: int) -> int | None:
    """The first coordinate beyond Σw · R, which vectors no longer than R can't give; None where there is none.

    Raises:
        ValueError: weights or R out of bounds.
    """
    check_weights(weights)
    most = sum(weights) * check_radius(radius)
    for low in range(0, total.size, WIDE):
        piece = total[low : low + WIDE]
        bad = (piece > most) | (piece < -most)
        if bad.any():
            return low + int(np.argmax(bad))
    return None


def fits_gram(
    total: NDArray[np.int64], weights: Sequence[int], gram: Gram, sharing: Sharing, beacon: bytes
) -> bool:
    """Whether the published sum is as long as the opened matrix says: ‖S Σ w_i x_i‖² = Σ w_i w_j G_ij, in integers.

    Mod p it always is. In integers it is so where nothing wrapped around, and no false vector of weight above 0 whose
    square did stays unseen, also where no other vector has anything in its buckets. Public, and nobody sends anything.

    Args:
        total: (d,) int64.
        weights: one a row of ``gram``.
        beacon: the sketch's.

    Raises:
        ValueError: arguments that don't fit together.
    """
    check_weights(weights)
    if len(weights) != len(gram):
        raise ValueError(f"there are {len(gram)} vectors and {len(weights)} weights; give one for each")
    sketched: list[NDArray[Any]] = [sketch_integers(row, beacon) for row in slot_rows(total, sharing)]
    squared = sum(int(value) ** 2 for row in sketched for value in row)
    expected = sum(
        one * other * entry
        for one, row in zip(weights, gram, strict=True)
        for other, entry in zip(weights, row, strict=True)
    )
    return squared == expected
