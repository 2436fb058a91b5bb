"""What time it is at a neighbour: a question that its transport answers on the same connection, to members only.

No deadline depends on it; invites expire by it, and people lay logs side by side.
"""

from __future__ import annotations

import struct

_QUESTION = b"decentra: what time is it?"
NONCE_BYTES = 16
_TIME = struct.Struct(">d")


def question(nonce: bytes) -> bytes:
    """A frame that asks, with 16 bytes that the answer must repeat."""
    return _QUESTION + nonce


def asked(frame: memoryview) -> bytes | None:
    """The nonce, where a frame asks for the time."""
    if len(frame) != len(_QUESTION) + NONCE_BYTES or frame[: len(_QUESTION)] != _QUESTION:
        return None
    return bytes(frame[len(_QUESTION) :])


def answer(nonce: bytes, now: float) -> bytes:
    """A frame that answers with seconds since 1970."""
    return nonce + _TIME.pack(now)


def told(frame: bytes, nonce: bytes) -> float | None:
    """Seconds since 1970, where a frame answers that question."""
    if len(frame) != NONCE_BYTES + _TIME.size or frame[:NONCE_BYTES] != nonce:
        return None
    return float(_TIME.unpack_from(frame, NONCE_BYTES)[0])
