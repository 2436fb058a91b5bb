"""One blob on its way: its announcement, the sender's side of its transfer, and the receiver's.

A blob is cut into pieces of 256 KiB. The announcement lists the digest of every piece; a signed body cites its root.
The receiver allocates once, after its owner accepted the announcement, and keeps a piece only if its digest is right.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from decentra import memory
from decentra.wire.frame import BITMAP_PIECES, ENTRY_LIMIT, PIECE_BYTES

ROOT_LABEL = b"decentra blob root v1"
DIGEST_BYTES = 32

CREDIT_EVERY = 8
"""Pieces between acknowledgements: a quarter of the window, so the sender never runs dry while one is on its way."""

_HEAD = struct.Struct(">QQ")


def as_bytes(data: memoryview) -> memoryview:
    """The same memory as a flat view of bytes; `memoryview.cast` itself refuses empty arrays."""
    return data.cast("B") if data.nbytes else memoryview(b"")


def piece_digests(data: memoryview) -> tuple[bytes, ...]:
    """The SHA-256 of each piece of a blob, in order; one, of nothing, for an empty blob.

    About 0.8 CPU-s a GB. hashlib lets go of the interpreter lock meanwhile, so this belongs on a pool thread.

    Args:
        data: C-contiguous, any format.
    """
    view = as_bytes(data)
    starts = range(0, max(1, view.nbytes), PIECE_BYTES)
    return tuple(hashlib.sha256(view[start : start + PIECE_BYTES]).digest() for start in starts)


def piece_count(size: int) -> int:
    """How many pieces a blob of `size` bytes has; an empty one has one, so that it too is delivered."""
    return max(1, -(-size // PIECE_BYTES))


def blob_root(size: int, digests: tuple[bytes, ...]) -> bytes:
    """What a signed body cites for a blob: SHA-256 under a label over its size and its pieces' digests."""
    return hashlib.sha256(ROOT_LABEL + size.to_bytes(8, "big") + b"".join(digests)).digest()


@dataclass(frozen=True)
class Announcement:
    """What a sender says about a blob before it sends it.

    Attributes:
        transfer: the sender's number for this transfer; not part of the root, so a blob for many peers has one root.
        size: bytes.
        digests: SHA-256 of each piece of `PIECE_BYTES`, in order.
    """

    transfer: int
    size: int
    digests: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.transfer < 1 << 64 or not 0 <= self.size < 1 << 64:
            raise ValueError(f"transfer {self.transfer} or size {self.size} is no 64-bit number")
        count = piece_count(self.size)
        if len(self.digests) != count:
            raise ValueError(f"a blob of {self.size} bytes has {count} pieces, not {len(self.digests)}")
        if any(len(digest) != DIGEST_BYTES for digest in self.digests):
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes")

    @cached_property
    def root(self) -> bytes:
        """What a signed body cites, 32 bytes."""
        return blob_root(self.size, self.digests)

    @property
    def packed_size(self) -> int:
        """Bytes of `pack`."""
        return _HEAD.size + DIGEST_BYTES * len(self.digests)

    def pack(self) -> bytes:
        """The announcement's bytes, one part of an ENTRY_BLOB frame."""
        return _HEAD.pack(self.transfer, self.size) + b"".join(self.digests)

    @classmethod
    def parse(cls, part: memoryview) -> Announcement:
        """Read `pack`'s bytes.

        Raises:
            ValueError: the length does not follow from the size; found before the digests are read.
        """
        if not _HEAD.size <= part.nbytes <= ENTRY_LIMIT:
            raise ValueError(f"an announcement of {part.nbytes} bytes")
        transfer, size = _HEAD.unpack_from(part)
        count = piece_count(size)
        if part.nbytes != _HEAD.size + DIGEST_BYTES * count:
            raise ValueError(f"a blob of {size} bytes has {count} pieces, its announcement {part.nbytes} bytes")
        starts = range(_HEAD.size, part.nbytes, DIGEST_BYTES)
        return cls(transfer, size, tuple(bytes(part[start : start + DIGEST_BYTES]) for start in starts))


class Outgoing:
    """The sender's side: which pieces are not sent, in flight or arrived; the data itself is only ever sliced."""

    def __init__(self, announcement: Announcement, data: memoryview, since: float, pause: float) -> None:
        self.announcement = announcement
        self.data = data
        self.granted = False
        """Whether the receiver accepted; until then no piece is sent."""
        self.asked = False
        """Whether a STATE is awaited; one that was not asked for is ignored, or it would buy resends for nothing."""
        self.lost = False
        """Whether the connection broke, so that whatever was in flight has to be sent again."""
        self.since = since
        """When the receiver last told something new, or was last asked; seconds."""
        self.pause = pause
        """How long after `since` the receiver is asked where it stands; seconds."""
        self.in_flight: set[int] = set()
        self._base = 0
        self._next = 0
        self._again: list[int] = []
        self._arrived: set[int] = set()

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self.announcement.digests)

    @property
    def done(self) -> bool:
        """Whether the receiver has everything."""
        return self._base == self.pieces

    def take(self) -> tuple[int, memoryview] | None:
        """The offset and data of the next piece to send, which then counts as in flight; None if none may go."""
        if not self.granted:
            return None
        if self._again:
            index = self._again.pop()
        elif self._next < min(self.pieces, self._base + BITMAP_PIECES):
            index = self._next
            self._next += 1
        else:
            return None
        self.in_flight.add(index)
        start = index * PIECE_BYTES
        return start, self.data[start : start + PIECE_BYTES]

    def put_back(self, start: int) -> None:
        """The piece at this offset could not be queued after all."""
        index = start // PIECE_BYTES
        self.in_flight.discard(index)
        self._again.append(index)

    def credit(self, base: int, bitmap: int) -> bool:
        """Take an acknowledgement; True where it told something new.

        Raises:
            ValueError: it acknowledges what was never sent.
        """
        if base > self._next or bitmap >> max(0, self._next - base):
            raise ValueError("it acknowledges pieces that were never sent to it")
        news = not self.granted
        self.granted = True
        marked = {base + i for i in range(bitmap.bit_length()) if bitmap >> i & 1}
        fresh = {index for index in marked if index >= self._base} - self._arrived
        if base > self._base or fresh:
            news = True
            self._base = max(base, self._base)
            self._arrived = {index for index in self._arrived | fresh if index >= self._base}
            self.in_flight = {i for i in self.in_flight if i >= self._base and i not in self._arrived}
            self._again = [i for i in self._again if i >= self._base and i not in self._arrived]
        return news

    def rewind(self, everything: bool) -> None:
        """Send again what has not arrived: everything in flight, or only what later pieces have overtaken."""
        stop = self._next if everything else max(self._arrived, default=self._base)
        missing = set(range(self._base, stop)) - self._arrived
        self.in_flight -= missing
        self._again = sorted(missing | set(self._again), reverse=True)


class Incoming:
    """The receiver's side: one buffer, and which pieces of it are filled. Allocated when the owner has accepted.

    Two that have one root may fill one buffer, ``into``: a piece is written only if its digest is the one that the root
    covers, so the second writes what is there, or will be.
    """

    def __init__(self, announcement: Announcement, into: memoryview | None = None) -> None:
        self.announcement = announcement
        self.corrupt = 0
        self.uncredited = 0
        self._buffer: memoryview = memory.zeros(announcement.size, np.uint8).data if into is None else into
        self._base = 0
        self._beyond: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether every piece is there."""
        return self._base == len(self.announcement.digests)

    @property
    def data(self) -> memoryview:
        """The buffer, whole once `done`; that of a blob from two senders may be whole before."""
        return self._buffer

    def state(self) -> tuple[int, int]:
        """Pieces there without a gap, and the bitmap of those beyond."""
        bitmap = 0
        for index in self._beyond:
            bitmap |= 1 << (index - self._base)
        return self._base, bitmap

    def take(self, start: int, piece: memoryview) -> bool | None:
        """Keep a piece; None if it was there already, False if its digest is wrong.

        Raises:
            ValueError: it lies outside the blob, outside the window, or is cut short.
        """
        index = start // PIECE_BYTES
        size = self.announcement.size
        if index >= len(self.announcement.digests) or piece.nbytes != min(PIECE_BYTES, size - start):
            raise ValueError(f"a piece of {piece.nbytes} bytes at {start} of a blob of {size}")
        if index < self._base or index in self._beyond:
            return None
        if index >= self._base + BITMAP_PIECES:
            raise ValueError(f"piece {index} was sent beyond the window, which starts at {self._base}")
        if hashlib.sha256(piece).digest() != self.announcement.digests[index]:
            return False
        self._buffer[start : start + piece.nbytes] = piece
        self._beyond.add(index)
        while self._base in self._beyond:
            self._beyond.remove(self._base)
            self._base += 1
        self.uncredited += 1
        return True
