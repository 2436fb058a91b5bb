"""CountSketch of shares (Charikar, Chen, Farach-Colton 2002): 8 rows of 512 buckets, public, from a beacon.

In row r element j is added to, or subtracted from, bucket h_r(j). The map is linear with coefficients −1, 0 and 1, so
sketches of shares are shares of the sketch, and who deals a vector can't sketch another.

For vectors x and y the sum over all buckets of the products of their sketches has the mean 8⟨x, y⟩, since signs of
different elements are independent; its standard deviation is at most 8 · √(2/4096) · ‖x‖‖y‖, 2.2 % (ibid.; signs and
buckets are independent altogether here, more than the four-wise that it takes). It holds for whoever chose x and y
before the beacon was out.

With l slots an element is sketched as it is: h and the sign depend on j alone, and slot s of the sketch is the sketch
of the coordinates j · l + s. ⟨x, y⟩ is the sum over slots, so the sum over slots of the products has the mean 8⟨x, y⟩
too. Slots share their collisions, but for elements X_j, Y_k of l numbers Σ (X_j · Y_k)² ≤ Σ ‖X_j‖²‖Y_k‖² = ‖x‖²‖y‖²,
so the bound on the deviation is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.hashing import expand
from decentra.crypto.prg import KEY_BYTES, Keystream, buffer_for
from decentra.crypto.shares.field61 import PRIME, Elements, add, multiply, reduce, subtract
from decentra.crypto.shares.streams import Row, Rows

SKETCH_LABEL = "decentra/shares/sketch"
ROWS = 8
BUCKETS = 512
SIZE = ROWS * BUCKETS
PIECE = 16 * 1024
"""Columns at a time: their bucket numbers in all rows are 1 MiB."""

GROUP = 16
"""Vectors sketched together: counts of 64 would take 16 MiB; their buckets are worked out anew for each group."""

_WORD_BYTES = 2
_SIGNED_BUCKETS = 2 * BUCKETS
"""The word's bit above the bucket is its sign: what is subtracted is counted apart, and taken off in the end."""
_LOW_BITS = 31
_LOW = np.uint64((1 << _LOW_BITS) - 1)
_EXACT_PIECES = 1 << (53 - _LOW_BITS - 14)
"""So many pieces of 2^14 numbers below 2^31 add up to 2^53: then float64 sums are taken over into integers."""


class _Buckets:
    """The signed bucket of element start, start + 1, … in every row."""

    def __init__(self, beacon: bytes, start: int) -> None:
        if len(beacon) != KEY_BYTES:
            raise ValueError(f"a beacon has {KEY_BYTES} bytes, this has {len(beacon)}")
        keys = [expand(beacon, SKETCH_LABEL, row) for row in range(ROWS)]
        self._streams = [Keystream(key, start * _WORD_BYTES) for key in keys]
        self._buffer = buffer_for(PIECE * _WORD_BYTES)
        self._words = self._buffer[: PIECE * _WORD_BYTES].view(np.dtype("<u2"))
        self._places = np.empty((ROWS, PIECE), dtype=np.intp)

    def next(self, count: int) -> NDArray[np.intp]:
        """(8, count): numbers below 1024, those from 512 on for what is subtracted from the bucket 512 below."""
        places = self._places[:, :count]
        for stream, row in zip(self._streams, places, strict=True):
            stream.fill(self._buffer.data, count * _WORD_BYTES)
            np.bitwise_and(self._words[:count], _SIGNED_BUCKETS - 1, out=row, casting="unsafe")
        return places


def sketch(rows: Sequence[Row], length: int, beacon: bytes, start: int = 0) -> Elements:
    """The sketches of vectors of shares.

    Args:
        rows: each (length,) uint64 below p, or the key of a stream: without the blind.
        length: elements of a row.
        beacon: 32 bytes.
        start: which element of the vectors the first is: sketches of slices add up to that of the whole.

    Returns:
        (n, 4096) uint64 below p, row by row of the sketch.

    Extra memory: below 16 MiB beside the result.

    Raises:
        ValueError: rows that are not so, or a beacon of another length.
    """
    out = np.empty((len(rows), SIZE), dtype=np.uint64)
    for first in range(0, max(1, len(rows)), GROUP):
        some = Rows(rows[first : first + GROUP], length, start)
        out[first : first + GROUP] = _sketched(some, _Buckets(beacon, start))
    return out


def _sketched(read: Rows, buckets: _Buckets) -> Elements:
    """The sketches of a few vectors."""
    total = np.zeros((2, read.n, ROWS, _SIGNED_BUCKETS), dtype=np.uint64)
    sums = np.zeros(total.shape)
    half = np.empty(PIECE, dtype=np.uint64)
    low, high = np.empty(PIECE), np.empty(PIECE)
    for index, (_, piece) in enumerate(read.pieces(PIECE)):
        count = piece.shape[1]
        places = buckets.next(count)
        for i in range(read.n):
            low[:count] = np.bitwise_and(piece[i], _LOW, out=half[:count]).view(np.int64)
            high[:count] = np.right_shift(piece[i], np.uint64(_LOW_BITS), out=half[:count]).view(np.int64)
            for row in range(ROWS):
                sums[0, i, row] += np.bincount(places[row], low[:count], _SIGNED_BUCKETS)
                sums[1, i, row] += np.bincount(places[row], high[:count], _SIGNED_BUCKETS)
        if (index + 1) % _EXACT_PIECES == 0:
            _carry(sums, total)
    _carry(sums, total)
    counted = add(total[0], multiply(total[1], 1 << _LOW_BITS))
    return subtract(counted[..., :BUCKETS], counted[..., BUCKETS:]).reshape(read.n, SIZE)


def _carry(sums: NDArray[np.float64], total: Elements) -> None:
    """Takes exact float64 sums below 2^53 over into elements, and begins anew."""
    np.add(total, sums.astype(np.int64).view(np.uint64), out=total)
    reduce(total, out=total)
    sums[...] = 0.0


def sketch_integers(values: NDArray[np.int64], beacon: bytes) -> NDArray[Any]:
    """The same map on integers, which do not wrap: (4096,) of Python integers.

    Args:
        values: (m,) int64; of a packed vector the coordinates of one slot.

    Raises:
        ValueError: another dtype or shape, or a beacon of another length.
    """
    if values.dtype != np.int64 or values.ndim != 1:
        raise ValueError(f"integers to sketch are one vector of int64, not {values.dtype} of shape {values.shape}")
    buckets = _Buckets(beacon, 0)
    total = np.zeros((ROWS, _SIGNED_BUCKETS), dtype=object)
    for low in range(0, values.size, PIECE):
        piece = values[low : low + PIECE]
        places = buckets.next(piece.size)
        halves = ((piece >> _LOW_BITS).astype(np.float64), (piece & np.int64(_LOW)).astype(np.float64))
        for row in range(ROWS):
            above, below = (np.bincount(places[row], half, _SIGNED_BUCKETS).astype(np.int64) for half in halves)
            total[row] += above.astype(object) * (1 << _LOW_BITS) + below.astype(object)
    return np.asarray(total[:, :BUCKETS] - total[:, BUCKETS:]).reshape(-1)


def as_elements(integers: NDArray[Any]) -> Elements:
    """Python integers mod p."""
    return np.array([int(value) % PRIME for value in integers], dtype=np.uint64)
