"""Masks: AES-256-CTR keystreams read as little-endian words, added to a vector while it is in the cache.

keystream(key) is AES-256-CTR over zeros, its counter block a 128-bit big-endian number from zero (NIST SP 800-38A,
6.5). Word i is bytes [i·s, (i+1)·s) of it, s = 2 or 4: streams of both widths are the same bytes, read differently. The
counter can be set, so the owner of a slice generates its part alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
CHUNK = 32 * 1024
"""Elements worked on at a time: at 4 bytes, vector, keystream and zeros (384 KiB) stay in a second-level cache."""

_BLOCK = 16
_SLACK = _BLOCK - 1
"""``update_into`` asks for a buffer one block short of a byte longer than its input, for ciphers that pad."""

_ZEROS = memoryview(bytes(CHUNK * 4))


class Mask(NamedTuple):
    """A mask to add (sign 1) or subtract (sign −1): ``key`` is 32 bytes and serves one vector ever."""

    key: bytes
    sign: int


class Keystream:
    """AES-256-CTR over zeros from byte ``offset`` on, into buffers of the caller's.

    Raises:
        ValueError: the key has not 32 bytes, or the offset is not in the stream.
    """

    __slots__ = ("_context",)

    def __init__(self, key: bytes, offset: int = 0) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a mask's key has {KEY_BYTES} bytes, this has {len(key)}")
        block, skipped = divmod(offset, _BLOCK)
        if not 0 <= block < 2**128:
            raise ValueError(f"a keystream has no byte {offset}")
        self._context = Cipher(algorithms.AES256(key), modes.CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
        self._context.update(bytes(skipped))

    def fill(self, buffer: memoryview, size: int) -> None:
        """The next ``size`` bytes (at most 128 KiB), into a buffer that is at least 15 bytes longer."""
        self._context.update_into(_ZEROS[:size], buffer)


def buffer_for(size: int) -> NDArray[np.uint8]:
    """A buffer that ``Keystream.fill`` can write ``size`` bytes into."""
    return np.empty(size + _SLACK, dtype=np.uint8)


def apply_masks(vector: NDArray[Any], masks: Sequence[Mask], offset: int = 0) -> None:
    """Adds all masks to ``vector`` in place, mod 2^w by wrap-around.

    Args:
        vector: one-dimensional, contiguous, uint16 or uint32.
        masks: keys and signs; equal keys of opposite signs cancel.
        offset: index of ``vector[0]`` in the keystreams, in elements, ≥ 0.

    Extra memory: 256 KiB, and the interpreter lock is never held over more.

    Raises:
        ValueError: another shape or dtype, a read-only vector, a key or sign or offset that cannot be.
    """
    if vector.dtype not in (np.uint16, np.uint32) or not vector.dtype.isnative:
        raise ValueError(f"masks go on uint16 or uint32, not on {vector.dtype}")
    if vector.ndim != 1 or not vector.flags.c_contiguous or not vector.flags.writeable:
        raise ValueError("masks go on a contiguous, writeable vector of one dimension")
    if offset < 0:
        raise ValueError(f"the offset counts elements from 0, it is not {offset}")
    for mask in masks:
        if mask.sign not in (1, -1):
            raise ValueError(f"a mask's sign is 1 or -1, not {mask.sign}")
    width = vector.dtype.itemsize
    streams = [(Keystream(mask.key, offset * width), np.add if mask.sign == 1 else np.subtract) for mask in masks]
    buffer = buffer_for(CHUNK * width)
    view = buffer.data
    words = buffer[: CHUNK * width].view(np.dtype(f"<u{width}"))
    for start in range(0, vector.size, CHUNK):
        chunk = vector[start : start + CHUNK]
        for stream, operation in streams:
            stream.fill(view, chunk.nbytes)
            operation(chunk, words[: chunk.size], out=chunk)
