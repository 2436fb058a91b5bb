"""What a caller's state must do for a group to hold it alike: the vocabulary that training and the driver share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decentra.derive import PIECE


class SharedState(Protocol):
    """State of the caller's that is equal at every peer before a round, or is made equal (training's parameters)."""

    def pieces(self) -> tuple[bytes, ...]:
        """``piece_digests`` of the exported bytes; remembered, where that is cheaper than to compute it again."""
        ...

    def export(self) -> list[NDArray[np.uint8]]:
        """Views of the state's bytes, valid while the state does not change: until ``average`` returns."""
        ...

    def adopt(self, data: memoryview) -> None:
        """Replace the state by another peer's exported bytes; raises LocalError where they are no such state."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that ``export`` gives and ``adopt`` takes."""
        ...


def piece_digests(arrays: Sequence[NDArray[np.uint8]]) -> tuple[bytes, ...]:
    """The SHA-256 of each piece of 256 KiB of these arrays, one behind another; none where they are empty.

    They are those that a transfer of the same bytes announces, so that who has the list knows what to take.
    """
    digests: list[bytes] = []
    piece, room = hashlib.sha256(), PIECE
    for array in arrays:
        view, start = array.data, 0
        while start < view.nbytes:
            taken = view[start : start + room]
            piece.update(taken)
            start, room = start + taken.nbytes, room - taken.nbytes
            if not room:
                digests.append(piece.digest())
                piece, room = hashlib.sha256(), PIECE
    if room < PIECE:
        digests.append(piece.digest())
    return tuple(digests)


def cut(arrays: Sequence[NDArray[np.uint8]], start: int, stop: int) -> NDArray[np.uint8]:
    """The bytes ``start`` to ``stop`` of these arrays, one behind another, as an array of their own."""
    part, at, filled = np.empty(stop - start, np.uint8), 0, 0
    for array in arrays:
        taken = array[max(0, start - at) : max(0, stop - at)]
        part[filled : filled + taken.size] = taken
        at, filled = at + array.size, filled + taken.size
    return part
