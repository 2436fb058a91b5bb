"""What goes through a worker's pipes: length, kind, payload, each kind with the only lengths that it may have.

A frame is 4 little-endian bytes of length, 1 of kind, and the payload: raw coefficients, slots or text, nothing that
could run. Neither side allocates before the length has passed: a worker has read what peers sent, so its answers are
held against the same table.
"""

from __future__ import annotations

import enum
import os
import select
import struct
import time
from collections.abc import Sequence

from decentra.crypto.he.bfv import PUBLIC_BYTES
from decentra.crypto.he.ciphertexts import Buffer
from decentra.crypto.he.parameters import PARAMETERS

HEADER = struct.Struct("<IB")
NUMBER = struct.Struct("<I")
MAX_TEXT = 1000
"""Bytes of a reason: one sentence."""


class Kind(enum.IntEnum):
    """Requests, and the answers to them."""

    LOAD = 1
    """A public key to encrypt under. Answer: DONE."""
    ENCRYPT = 2
    """The slots of one ciphertext, or of up to ``BLOCK``. Answer: CIPHERTEXT, as many."""
    ADD = 3
    """How many CIPHERTEXTs follow. Answer: their sum as CIPHERTEXT."""
    KEY = 4
    """Make a key. Answer: PUBLIC."""
    DECRYPT = 5
    """A ciphertext. Answer: OPENED."""
    DONE = 6
    CIPHERTEXT = 7
    PUBLIC = 8
    OPENED = 9
    """The noise budget, and the slots."""
    REFUSED = 10
    """Which of the ciphertexts (0 where there is one thing only) is malformed, and why: whoever sent it is at fault."""
    FAILED = 11
    """Why this machine can't: whoever asked is at fault."""


BLOCK = 8
"""Ciphertexts that are encrypted at one request: 1 MiB, which a pipe holds. Each request costs two switches between
processes, and caches that are cold after them."""


def _up_to(count: int, size: int) -> range:
    return range(size, count * size + 1, size)


SIZES: dict[Kind, range] = {
    Kind.LOAD: _up_to(1, PUBLIC_BYTES),
    Kind.ENCRYPT: _up_to(BLOCK, PARAMETERS.slot_bytes),
    Kind.ADD: _up_to(1, NUMBER.size),
    Kind.KEY: range(1),
    Kind.DECRYPT: _up_to(1, PARAMETERS.ciphertext_bytes),
    Kind.DONE: range(1),
    Kind.CIPHERTEXT: _up_to(BLOCK, PARAMETERS.ciphertext_bytes),
    Kind.PUBLIC: _up_to(1, PUBLIC_BYTES),
    Kind.OPENED: _up_to(1, NUMBER.size + PARAMETERS.slot_bytes),
    Kind.REFUSED: range(NUMBER.size, NUMBER.size + MAX_TEXT + 1),
    Kind.FAILED: range(MAX_TEXT + 1),
}
"""The lengths that each kind's payload may have."""


class Ended(Exception):
    """The other end of a pipe said something that is no frame, or did not get on within its time; or ``Closed``."""


class Closed(Ended):
    """The other end of a pipe is gone."""


def write(descriptor: int, kind: Kind, *payload: Buffer, deadline: float | None = None) -> None:
    """Writes one frame; the descriptor may block or not.

    Raises:
        Ended: nobody reads, or not in time.
    """
    parts = [memoryview(part).cast("B") for part in payload]
    left: list[memoryview] = [memoryview(HEADER.pack(sum(part.nbytes for part in parts), kind)), *parts]
    while left:
        try:
            done = os.writev(descriptor, left)
        except BlockingIOError:
            _wait(descriptor, select.POLLOUT, deadline)
            continue
        except OSError as gone:
            raise Closed("nobody reads from the pipe any more") from gone
        left = _behind(left, done)


def read(descriptor: int, *, deadline: float | None = None) -> tuple[Kind, bytearray] | None:
    """The next frame, None where the pipe ends before it begins.

    Raises:
        Ended: it ends within a frame, doesn't come in time, or is no frame by ``SIZES``.
    """
    header = bytearray(HEADER.size)
    if not _fill(descriptor, header, deadline):
        return None
    length, number = HEADER.unpack(header)
    if number not in Kind.__members__.values():
        raise Ended(f"there is no frame of kind {number}")
    kind = Kind(number)
    if length not in SIZES[kind]:
        raise Ended(f"no frame {kind.name} has {length} bytes")
    payload = bytearray(length)
    if length and not _fill(descriptor, payload, deadline):
        raise Closed("the pipe ended within a frame")
    return kind, payload


def _fill(descriptor: int, buffer: bytearray, deadline: float | None) -> bool:
    """Reads until the buffer is full; False where the pipe ends before the first byte."""
    view, at = memoryview(buffer), 0
    while at < view.nbytes:
        try:
            done = os.readv(descriptor, [view[at:]])
        except BlockingIOError:
            _wait(descriptor, select.POLLIN, deadline)
            continue
        except OSError as gone:
            raise Closed("the pipe can't be read any more") from gone
        if not done:
            if at:
                raise Closed("the pipe ended within a frame")
            return False
        at += done
    return True


def _behind(parts: Sequence[memoryview], done: int) -> list[memoryview]:
    """What is left of the parts behind the first ``done`` bytes."""
    left = []
    for part in parts:
        skipped = min(done, part.nbytes)
        done -= skipped
        if skipped < part.nbytes:
            left.append(part[skipped:])
    return left


def _wait(descriptor: int, event: int, deadline: float | None) -> None:
    """Until a descriptor that doesn't block is ready, or its other end gone."""
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000):
        raise Ended("it did not answer in time")
