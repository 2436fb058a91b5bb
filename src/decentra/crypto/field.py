"""The prime field of 2^255 − 19, in which secrets are drawn and shared, and its canonical bytes."""

from __future__ import annotations

from collections.abc import Callable

from decentra.errors import LocalError

PRIME = 2**255 - 19
ELEMENT_BYTES = 32

RandomBytes = Callable[[int], bytes]
"""A source of secret randomness: gives as many uniform bytes as asked; ``os.urandom`` is one."""

_TRIES = 8
"""A draw is rejected with probability 19 / 2^255: eight rejections in a row mean a broken source, not bad luck."""


def element(value: bytes) -> int:
    """Reads 32 canonical little-endian bytes.

    Raises:
        ValueError: the length is not 32, or the number is not below 2^255 − 19.
    """
    if len(value) != ELEMENT_BYTES:
        raise ValueError(f"a field element has {ELEMENT_BYTES} bytes, this has {len(value)}")
    number = int.from_bytes(value, "little")
    if number >= PRIME:
        raise ValueError("a field element is below 2^255 - 19, this is not canonical")
    return number


def element_bytes(number: int) -> bytes:
    """The 32 canonical little-endian bytes of ``number`` mod 2^255 − 19."""
    return (number % PRIME).to_bytes(ELEMENT_BYTES, "little")


def draw(random: RandomBytes, size: int) -> bytes:
    """``size`` bytes from ``random``, refused if it gave another number of them.

    Raises:
        LocalError: the source is broken.
    """
    value = random(size)
    if len(value) != size:
        raise LocalError(f"the random source gave {len(value)} bytes for {size}; give one that works like os.urandom")
    return value


def draw_secret(random: RandomBytes) -> bytes:
    """A uniform secret below 2^255 − 19 as 32 canonical bytes, by rejection from 255 random bits.

    Raises:
        LocalError: the source is broken (wrong length, or stuck above the prime).
    """
    for _ in range(_TRIES):
        value = bytearray(draw(random, ELEMENT_BYTES))
        value[-1] &= 0x7F
        if int.from_bytes(value, "little") < PRIME:
            return bytes(value)
    raise LocalError("the random source repeats itself; give one that works like os.urandom")
