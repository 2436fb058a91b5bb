"""The frame header: what routes a message between two peers, before anything in it is trusted.

Every message on either lane is one header of fixed size and at most seven parts. The header only routes: who sent it is
what the transport authenticated, and what it carries is judged by signatures and digests further up. `parse` checks
the header against the sizes of the parts that arrived with it, so nothing is allocated on a stranger's word.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from decentra.types import EpochName

VERSION = 1
"""The layout below; peers of another version are refused by name rather than misread."""

PIECE_BYTES = 256 * 1024
"""A blob's piece: large enough that per-message cost vanishes, small enough that a lane never holds a ping for long."""

FRAME_LIMIT = 1024 * 1024
"""No single part is larger: the transport's hard cap (MAXMSGSIZE) is this and room for its own overhead."""

MAX_MESSAGE_SIZE = FRAME_LIMIT + 64 * 1024
"""What a transport may let in as one part, its own framing and encryption included."""

MAX_PARTS = 8
"""Parts of one message, the header included; the size cap counts a part, so their number needs a cap of its own."""

ENTRY_LIMIT = 1024 * 1024
"""All parts of one control message together: entries are small, vectors travel as blobs."""

DATAGRAM_LIMIT = 16 * 1024
"""A datagram: what is said once and may be lost, such as who is up."""

CHARTER_LIMIT = 64 * 1024
"""A charter's text that travels: 64 members need 40 KiB; a hostile one of this size takes a quarter of a second to be
refused, once."""

ADDRESSES_LIMIT = 16 * 1024
"""Where members are, beside a charter: 64 lines of some 100 bytes."""

EPOCH_NAME_BYTES = 8
"""Of the charter's hash, in a greeting: enough to name it, not to trust it."""

HEADER_LIMIT = 1024
"""The header's own cap for transports, which carry headers without reading them."""

BITMAP_PIECES = 64
"""How many pieces beyond the first missing one a credit can tell of: one word, twice the pieces in flight."""

_HEADER = struct.Struct(">BBHQQ32sQQQQQ")
HEADER_BYTES = _HEADER.size
_SESSION_AT = struct.calcsize(">BBHQQ")


class Lane(IntEnum):
    """The two connections to a neighbour, apart so that a ping never waits behind a vector."""

    CONTROL = 0
    BULK = 1


class FrameKind(IntEnum):
    """What a frame is for; `LAYOUTS` says on which lane each travels and what it may carry."""

    HELLO = 1
    WELCOME = 2
    ENTRY = 3
    ENTRY_BLOB = 4
    ACK = 5
    ASK = 6
    CREDIT = 7
    STATE = 8
    REJECT = 9
    PIECE = 10
    DATAGRAM = 11
    HOLDS = 12
    CHARTER = 13


class Layout(NamedTuple):
    """The shape that a kind must have: its lane, the fewest and most parts, and the most bytes in all parts."""

    lane: Lane
    least: int
    most: int
    limit: int


LAYOUTS: dict[FrameKind, Layout] = {
    FrameKind.HELLO: Layout(Lane.CONTROL, 0, 0, 0),
    FrameKind.WELCOME: Layout(Lane.CONTROL, 0, 0, 0),
    FrameKind.ENTRY: Layout(Lane.CONTROL, 1, MAX_PARTS - 1, ENTRY_LIMIT),
    FrameKind.ENTRY_BLOB: Layout(Lane.CONTROL, 2, MAX_PARTS - 1, ENTRY_LIMIT),
    FrameKind.ACK: Layout(Lane.CONTROL, 0, 0, 0),
    FrameKind.ASK: Layout(Lane.CONTROL, 0, 0, 0),
    FrameKind.CREDIT: Layout(Lane.CONTROL, 0, 0, 0),
    FrameKind.STATE: Layout(Lane.CONTROL, 0, 0, 0),
    FrameKind.REJECT: Layout(Lane.CONTROL, 0, 0, 0),
    FrameKind.DATAGRAM: Layout(Lane.CONTROL, 1, 1, DATAGRAM_LIMIT),
    FrameKind.HOLDS: Layout(Lane.CONTROL, 1, 1, 64),
    FrameKind.CHARTER: Layout(Lane.CONTROL, 2, 2, CHARTER_LIMIT + ADDRESSES_LIMIT),
    FrameKind.PIECE: Layout(Lane.BULK, 1, 1, PIECE_BYTES),
}

SESSIONLESS = frozenset({FrameKind.HOLDS, FrameKind.CHARTER})
"""Kinds that peers of different epochs understand: what one epoch tells another."""

_KINDS = {int(kind): kind for kind in FrameKind}


class Frame(NamedTuple):
    """A header, parsed.

    Attributes:
        kind: what the frame is for.
        parts: how many parts follow the header.
        source: the sender's incarnation, drawn at its start.
        target: the receiver's incarnation as the sender knows it, 0 before they met.
        session: 32 bytes that both ends must share; frames of another session are refused, by name since HELLO and
            WELCOME carry the epoch's: its number in ``offset``, the charter's first eight bytes in ``bitmap``.
        round: the aggregation that an entry belongs to, 0 for none; for queues and logs, never trusted. In HOLDS the
            round of the sender's last certified outcome.
        number: the link sequence number of an entry, the next one awaited in HELLO, WELCOME and ACK, the epoch of the
            latest charter that the sender holds in HOLDS, or that it hands over in CHARTER, else the transfer.
        offset: a piece's first byte in its blob; in CREDIT and STATE the number of pieces that arrived without a gap.
        bitmap: in CREDIT and STATE, bit i tells whether piece ``offset + i`` arrived.
        size: bytes of all parts together.
    """

    kind: FrameKind
    parts: int
    source: int
    target: int
    session: bytes
    round: int
    number: int
    offset: int
    bitmap: int
    size: int

    @property
    def epoch(self) -> EpochName:
        """The epoch that a HELLO or WELCOME speaks for."""
        return EpochName(self.offset, self.bitmap.to_bytes(EPOCH_NAME_BYTES, "big"))

    def pack(self) -> bytes:
        """The header's bytes, `HEADER_BYTES` long.

        Raises:
            ValueError: a field does not fit its width.
        """
        if len(self.session) != 32:
            raise ValueError(f"a frame's session has 32 bytes, this has {len(self.session)}")
        try:
            return _HEADER.pack(VERSION, *self)
        except struct.error as error:
            raise ValueError(f"a field does not fit the frame header: {error}") from None


def session_of(header: bytes | memoryview) -> bytes | None:
    """The session that a header names, before anything else of it is read; None where it is no header."""
    return bytes(header[_SESSION_AT : _SESSION_AT + 32]) if len(header) == HEADER_BYTES else None


def greets(header: bytes | memoryview) -> bool:
    """Whether a header says that it opens a link."""
    return len(header) == HEADER_BYTES and header[1] == FrameKind.HELLO


def parse(lane: Lane, header: bytes | memoryview, sizes: Sequence[int]) -> Frame:
    """Read a header and hold it against the parts that came with it, before anything is allocated.

    Args:
        lane: the lane it came on.
        header: the header as received.
        sizes: the byte length of each part that followed.

    Raises:
        ValueError: wrong length, version, kind, lane, number of parts or sizes.
    """
    if len(header) != HEADER_BYTES:
        raise ValueError(f"a frame header has {HEADER_BYTES} bytes, this has {len(header)}")
    version, code, parts, source, target, session, round_, number, offset, bitmap, size = _HEADER.unpack(header)
    if version != VERSION:
        raise ValueError(f"it speaks frame version {version}, this peer speaks {VERSION}: install the same release")
    kind = _KINDS.get(code)
    if kind is None:
        raise ValueError(f"frame kind {code} is unknown in version {VERSION}")
    layout = LAYOUTS[kind]
    if lane is not layout.lane:
        raise ValueError(f"a {kind.name} frame came on the {lane.name.lower()} lane")
    if parts != len(sizes) or not layout.least <= parts <= layout.most:
        raise ValueError(f"a {kind.name} frame announced {parts} parts and came with {len(sizes)}")
    if size != sum(sizes) or size > layout.limit:
        raise ValueError(f"a {kind.name} frame announced {size} bytes (limit {layout.limit}) and carried {sum(sizes)}")
    if source == 0:
        raise ValueError("a frame without the sender's incarnation")
    if kind is FrameKind.PIECE and offset % PIECE_BYTES:
        raise ValueError(f"a piece starts at byte {offset}, which is no multiple of {PIECE_BYTES}")
    return Frame(kind, parts, source, target, session, round_, number, offset, bitmap, size)
