"""Uniform elements of the field out of a key, at any place of the stream.

Element i is the low 61 bits of the i-th little-endian 64-bit word of ``keystream(key)`` (``decentra.crypto.prg``).
Those are uniform in 0..2^61 − 1, one number too many: where they are p, which happens once in 2^61, the element is
drawn again from HKDF of the key under the place and the number of the try. So every element is exactly uniform, and
none depends on how many before it were drawn again: whoever owns a slice makes its part alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decentra.crypto.hashing import expand
from decentra.crypto.prg import KEY_BYTES, Keystream, buffer_for
from decentra.crypto.shares.field61 import ELEMENT_BYTES, PRIME, Elements, check_elements

AGAIN_LABEL = "decentra/shares/again"
PIECE = 16 * 1024
"""Elements made at a time: 128 KiB of keystream, the most that ``Keystream.fill`` gives."""

_MASK = np.uint64(PRIME)


class Stream:
    """Elements ``start``, ``start`` + 1, … of a key's stream, into buffers of the caller's.

    Raises:
        ValueError: the key has not 32 bytes, or the place is not in the stream.
    """

    def __init__(self, key: bytes, start: int = 0) -> None:
        self._key, self._place = key, start
        self._stream = Keystream(key, start * ELEMENT_BYTES)
        self._buffer = buffer_for(PIECE * ELEMENT_BYTES)
        self._words = self._buffer[: PIECE * ELEMENT_BYTES].view(np.dtype("<u8"))

    def fill(self, out: Elements) -> None:
        """The next elements, as many as the one-dimensional ``out`` has."""
        view = self._buffer.data
        for low in range(0, out.size, PIECE):
            piece = out[low : low + PIECE]
            self._stream.fill(view, piece.size * ELEMENT_BYTES)
            np.bitwise_and(self._words[: piece.size], _MASK, out=piece)
            if int(piece.max()) == PRIME:
                for index in np.flatnonzero(piece == _MASK):
                    piece[index] = _again(self._key, self._place + int(index))
            self._place += piece.size


def _again(key: bytes, place: int) -> int:
    tries = 0
    while True:
        value = int.from_bytes(expand(key, AGAIN_LABEL, place, tries, length=ELEMENT_BYTES), "little") & PRIME
        if value != PRIME:
            return value
        tries += 1


def uniform(key: bytes, count: int, start: int = 0) -> Elements:
    """Elements ``start`` to ``start`` + ``count`` − 1 of a key's stream."""
    out = np.empty(count, dtype=np.uint64)
    Stream(key, start).fill(out)
    return out


Row = Elements | bytes
"""A vector of shares: its elements, or the key of the stream that it is."""


class Rows:
    """Vectors of shares of one length, read piece by piece from the front; those that are streams are never made whole.

    Args:
        rows: each (m,) uint64 below p, or a key of 32 bytes.
        length: m.
        start: the place of the first element in the streams, where the arrays are a slice of vectors.

    Raises:
        ValueError: an array of another shape or dtype, with a number not below p, or a key of another length.
    """

    def __init__(self, rows: Sequence[Row], length: int, start: int = 0) -> None:
        self.length, self.start = length, start
        self.n = len(rows)
        for index, row in enumerate(rows):
            if isinstance(row, bytes):
                if len(row) != KEY_BYTES:
                    raise ValueError(f"row {index} is a key of {len(row)} bytes; keys have {KEY_BYTES}")
            else:
                check_elements(row, f"row {index}", (length,))
        self._rows = tuple(rows)

    def pieces(self, columns: int) -> RowPieces:
        """Goes over all of it in (n, ``columns``) pieces; the last is narrower, and each takes the place of the one
        before."""
        return RowPieces(self._rows, self.length, self.start, columns)


class RowPieces:
    """An iterator over (where it begins, piece)."""

    def __init__(self, rows: tuple[Row, ...], length: int, start: int, columns: int) -> None:
        self._rows, self._length, self._columns = rows, length, columns
        self._streams = {index: Stream(row, start) for index, row in enumerate(rows) if isinstance(row, bytes)}
        self._room = np.empty((len(rows), min(columns, max(1, length))), dtype=np.uint64)
        self._low = 0

    def __iter__(self) -> RowPieces:
        return self

    def __next__(self) -> tuple[int, Elements]:
        low = self._low
        if low >= self._length:
            raise StopIteration
        high = min(low + self._columns, self._length)
        piece = self._room[:, : high - low]
        for index, row in enumerate(self._rows):
            if isinstance(row, bytes):
                self._streams[index].fill(piece[index])
            else:
                piece[index] = row[low:high]
        self._low = high
        return low, piece
