"""Randomness that follows from a seed: whom to probe next, whom to ask, and numbers that nobody can guess."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256

from decentra.errors import LocalError
from decentra.types import PeerId

SEED_BYTES = 32
_NUMBERS = struct.Struct(">4Q")


class Draws:
    """A stream of SHA-256(seed, count); equal seeds draw alike on every machine.

    Raises:
        LocalError: the seed has not 32 bytes.
    """

    __slots__ = ("_count", "_drawn", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise LocalError(f"membership is seeded with {SEED_BYTES} bytes, this has {len(seed)}; draw fresh ones")
        self._seed, self._count = seed, 0
        self._drawn: list[int] = []

    def number(self) -> int:
        """A number below 2⁶³."""
        if not self._drawn:
            self._count += 1
            self._drawn = list(_NUMBERS.unpack(sha256(self._seed + self._count.to_bytes(8, "big")).digest()))
        return self._drawn.pop() >> 1

    def part(self) -> float:
        """A number in [0, 1)."""
        return (self.number() >> 10) / (1 << 53)

    def shuffled(self, values: Sequence[PeerId]) -> Iterator[PeerId]:
        """The values in random order (Fisher and Yates), drawn as far as they are asked for; the bias is below 2⁻⁵⁰."""
        left = list(values)
        while left:
            place = self.number() % len(left)
            left[place], left[-1] = left[-1], left[place]
            yield left.pop()
