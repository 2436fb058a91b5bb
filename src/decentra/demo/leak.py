"""Looks for the peers' updates in everything that the other processes received.

An update that travels in the clear shows up byte for byte in what others receive; one that travels masked does not.
Each encoded update is cut into windows of 32 bytes, one every 32 bytes from its first element on, and each window is
sought at every byte offset of the others' captured traffic. So any 63 contiguous bytes of an update that leak, in
whatever frame and at whatever alignment, hold a whole window, and it is found if 8 of its bytes differ. (Windows with
fewer, such as the zeros of an embedding that was never used, turn up by chance and would prove nothing.)

The search hashes the 32 bytes at each offset, asks three bitmaps for the hash (Bloom 1970), then a sorted table, and
last compares the bytes: no false alarm, nothing missed, some 20 ns an offset for five million windows.

That nothing was found says that no update was sent as it is, and no more. That masked slices tell nothing about an
update is shown by the protocol's own tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.shares.field61 import from_signed
from decentra.errors import LocalError
from decentra.peer.witness import CAPTURE, UPDATES, read_capture, write_record

__all__ = [
    "CAPTURE",
    "DISTINCT",
    "UPDATES",
    "WINDOW",
    "Leak",
    "Sought",
    "check",
    "plant",
    "read_capture",
    "windows",
    "write_record",
]

Encoded: TypeAlias = NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]
"""An update as it leaves."""

WINDOW = 32
DISTINCT = 8
_MIX = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93))
"""Odd multipliers, one for each 8 bytes of a window; the sum's upper bits are the hash (Dietzfelbinger et al. 1997)."""
_CHUNK = 1 << 18  # offsets searched at a time: the arrays of one alignment, 256 KiB each, stay in a core's cache
_PLANT_IN = 1 << 20  # bytes of traffic that are copied to plant a window in
_PLANT_AT = 1001  # an odd offset, so that finding what was planted needs the search of every alignment


@dataclass(frozen=True)
class Leak:
    """What the check found.

    Attributes:
        windows: how many windows of all peers' updates were sought in the traffic of the others.
        found: how many of them at least one other process received.
        planted: at how many peers a window planted into a copy of their traffic was found. Fewer than the peers mean
            that the check is broken.
    """

    windows: int
    found: int
    planted: int


def windows(vector: Encoded) -> NDArray[np.uint8]:
    """Cuts an encoded update into the windows to seek.

    Args:
        vector: the update in the ring Z_2^16 or Z_2^32, or in elements of a field, of 64 bits; one dimension.

    Returns:
        uint8, shape (windows, 32): the little-endian bytes of each run of 16, 8 or 4 elements, one after the other,
        where at least 8 bytes differ.

    Raises:
        LocalError: not such a vector.
    """
    if vector.ndim != 1 or vector.dtype.kind != "u" or vector.dtype.itemsize not in (2, 4, 8):
        said = f"{vector.dtype} of {vector.ndim} axes"
        raise LocalError(f"an encoded update is a vector of uint16, uint32 or uint64, not {said}")
    data = vector.astype(vector.dtype.newbyteorder("<")).view(np.uint8)
    rows = data[: len(data) // WINDOW * WINDOW].reshape(-1, WINDOW)
    varied = _distinct(rows[:, : WINDOW // 2]) >= DISTINCT  # nearly all, at half the sorting
    rest = np.flatnonzero(~varied)
    varied[rest] = _distinct(rows[rest]) >= DISTINCT
    return rows[varied]


class Sought:
    """Windows, made ready to be found in any number of buffers.

    Args:
        rows: uint8, shape (windows, 32), as from ``windows``; equal rows are found together.
    """

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self._words = np.ascontiguousarray(rows).view("<u8").reshape(-1, len(_MIX))
        keys = _hash(*self._words.T)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        self._bitmaps = tuple(_Bitmap(keys, mix) for mix in (np.uint64(1), *_MIX[:2]))

    def __len__(self) -> int:
        return len(self._keys)

    def search(self, received: bytes | bytearray | memoryview) -> int:
        """The number of windows that occur in ``received``, at any byte offset."""
        return int(np.count_nonzero(self.find(received)))

    def find(self, received: bytes | bytearray | memoryview) -> NDArray[np.bool_]:
        """Which windows occur in ``received``, in the order of the rows given."""
        found = np.zeros(len(self), np.bool_)
        offsets = memoryview(received).nbytes - WINDOW + 1
        for chunk in range(0, offsets if len(self) else 0, _CHUNK):
            for first in range(chunk, min(chunk + 8, offsets)):  # each alignment of the chunk
                count = (min(chunk + _CHUNK, offsets) - first + 7) // 8 + 3
                self._match(np.frombuffer(received, "<u8", count, first), found)
        return found

    def _match(self, words: NDArray[np.uint64], found: NDArray[np.bool_]) -> None:
        """Marks the windows that begin at any word of ``words``, by their hash first and then by their bytes."""
        keys = _hash(words[:-3], words[1:-2], words[2:-1], words[3:])
        at = np.arange(len(keys))
        for bitmap in self._bitmaps:
            at = at[bitmap.may_hold(keys[at])]
        rank = np.searchsorted(self._keys, keys[at])
        while len(at):  # over the windows that share a hash: most often one, and none is left out
            within = rank < len(self)
            at, rank = at[within], rank[within]
            same = self._keys[rank] == keys[at]
            at, rank = at[same], rank[same]
            window = self._order[rank]
            equal = (self._words[window] == words[at[:, None] + np.arange(len(_MIX))]).all(axis=1)
            found[window[equal]] = True
            rank = rank + 1


class _Bitmap:
    """A set of hashes that may say yes to one that it doesn't hold, but never no to one that it holds."""

    def __init__(self, keys: NDArray[np.uint64], mix: np.uint64) -> None:
        self._mix = mix
        # At least eight bits a key, so that one other in eight passes; a cache holds no more than 2^26 bits.
        bits = min(max(len(keys).bit_length() + 3, 10), 26)
        self._shift = np.uint64(64 - bits)
        marks = np.zeros(1 << bits, np.bool_)
        marks[(keys * mix) >> self._shift] = True
        self._bits = np.packbits(marks, bitorder="little")

    def may_hold(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        place = (keys * self._mix) >> self._shift
        byte = self._bits.take((place >> np.uint64(3)).view(np.int64))
        return ((byte >> (place.astype(np.uint8) & np.uint8(7))) & np.uint8(1)).view(np.bool_)


def check(folders: Sequence[Path], *, shared: bool = False) -> Leak:
    """Seeks every peer's updates, of all rounds, in all that each other peer received.

    Args:
        folders: one a peer, with ``received.bin`` and an ``update-<round>.npy`` a round, as a ``Witness`` leaves them.
        shared: seek updates as elements of the field that they are shared in too.

    Raises:
        LocalError: a file is missing, broken or empty, so that finding nothing would mean nothing.
    """
    rows = np.empty((0, WINDOW), np.uint8)
    owner = np.empty(0, np.intp)
    for peer, folder in enumerate(folders):
        own = np.concatenate([windows(form) for update in _updates(folder) for form in _forms(update, shared)])
        if not len(own):
            raise LocalError(f"the updates in {folder} hold no window to seek; train for at least one round")
        rows = np.concatenate([rows, own])
        owner = np.concatenate([owner, np.full(len(own), peer)])
    sought = Sought(rows)
    found = np.zeros(len(sought), np.bool_)
    planted = 0
    for peer, folder in enumerate(folders):
        # Joined, so that a window that was cut between one frame and the next is found too.
        received = b"".join(read_capture(folder / CAPTURE))
        found |= sought.find(received) & (owner != peer)
        other = int(np.argmax(owner != peer))  # the first window that is another peer's
        planted += bool(sought.find(plant(received[:_PLANT_IN], rows[other], _PLANT_AT))[other])
    return Leak(len(sought), int(np.count_nonzero(found)), planted)


def plant(received: bytes, window: NDArray[np.uint8], at: int) -> bytes:
    """A copy of captured traffic with ``window`` written over the bytes from ``at`` on, for the check of the check.

    Raises:
        LocalError: the traffic is too short.
    """
    if len(received) < at + WINDOW:
        raise LocalError(f"{len(received)} bytes of traffic cannot hold a window at {at}; capture at least one round")
    return received[:at] + window.tobytes() + received[at + WINDOW :]


def _forms(update: Encoded, shared: bool) -> Iterator[Encoded]:
    """How an update might have been sent in the clear."""
    yield update
    if shared:
        yield from_signed(update.view(np.dtype(f"i{update.itemsize}")))


def _updates(folder: Path) -> Iterator[Encoded]:
    paths = sorted(folder.glob(UPDATES))
    if not paths:
        raise LocalError(f"there is no {UPDATES} in {folder}, so there is nothing to seek; run the demo again")
    for path in paths:
        try:
            yield np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise LocalError(f"the update {path} cannot be read ({error}); run the demo again") from error


def _distinct(rows: NDArray[np.uint8]) -> NDArray[np.intp]:
    """How many different bytes each row holds; rows have at least one."""
    ordered = np.sort(rows, axis=1)
    changes: NDArray[np.intp] = np.sum(ordered[:, 1:] != ordered[:, :-1], axis=1, dtype=np.intp)
    return changes + 1


def _hash(*words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes of four columns of words, modulo 2^64."""
    total = words[0] * _MIX[0]
    for column, mix in zip(words[1:], _MIX[1:], strict=True):
        total += column * mix
    return total
