"""One message as one ZeroMQ frame: its lane, the sizes of header and parts, and then these.

CURVE authenticates each frame by itself, and forgives one that is missing: of a message in several frames, somebody on
the way could drop one, and what came after would be read as an honest peer's broken message, and blamed on it. In one
frame a message arrives whole, unaltered and at most once, or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from decentra.transport.base import Buffer
from decentra.wire.frame import FRAME_LIMIT, HEADER_LIMIT, MAX_PARTS, Lane

_LANES = {int(lane): lane for lane in Lane}
_START = struct.Struct(">BB")
_SIZE = 4


def overhead(count: int) -> int:
    """Bytes that a message of this many parts, the header included, takes beyond them."""
    return _START.size + _SIZE * count


def seal(lane: Lane, header: bytes, buffers: Sequence[Buffer], sizes: Sequence[int]) -> bytes:
    """The frame of a message whose sizes are checked (`decentra.transport.base.check_message`)."""
    start = _START.pack(lane, len(sizes)) + struct.pack(f">{len(sizes)}I", *sizes)
    return b"".join((start, header, *buffers))


def unseal(frame: memoryview) -> tuple[Lane, bytes, list[memoryview]]:
    """Lane, header and parts of a frame; the parts are views of it.

    Raises:
        ValueError: no release of decentra sends such a frame.
    """
    if frame.nbytes < _START.size:
        raise ValueError(f"it sent a message of {frame.nbytes} bytes")
    code, count = _START.unpack_from(frame)
    lane = _LANES.get(code)
    if lane is None or not 1 <= count <= MAX_PARTS or frame.nbytes < overhead(count):
        raise ValueError(f"it sent a message of {count} parts on lane {code}, which no release of decentra sends")
    sizes = struct.unpack_from(f">{count}I", frame, _START.size)
    at = overhead(count)
    if at + sum(sizes) != frame.nbytes or sizes[0] > HEADER_LIMIT or sum(sizes[1:]) > FRAME_LIMIT:
        raise ValueError("it sent a message whose parts have not the sizes that any release of decentra sends")
    parts = []
    for size in sizes:
        parts.append(frame[at : at + size])
        at += size
    return lane, bytes(parts[0]), parts[1:]
