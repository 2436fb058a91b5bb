"""The common state of a group: the ranges that the rounds agree on, and whatever training holds alike."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.crypto.hashing import digest
from decentra.errors import LocalError
from decentra.machine.state import SharedState
from decentra.wire.codec import Malformed, pack, unpack
from decentra.wire.entry import ZERO

_LENGTH = struct.Struct("<I")
MAX_RANGES = 1 << 20
"""Bytes of names and ranges in an exported state: some twenty thousand tensors."""


class Terms(Protocol):
    """What the charter says of ranges."""

    def range_of(self, tensor: str) -> float: ...

    @property
    def range_bounds(self) -> tuple[float, float]: ...


class GroupState:
    """One peer's copy of the common state (``protocols.setting.CommonState``)."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._ranges: dict[str, float] = {}
        self.shared: SharedState | None = None
        self.names: tuple[str, ...] = ()

    def digest(self) -> bytes:
        return digest("common", self._head(), ZERO if self.shared is None else self.shared.digest())

    def ranges(self, count: int) -> tuple[float, ...]:
        if count != len(self.names):
            raise LocalError(f"the vector has {count} tensors, {len(self.names)} names were given")
        return tuple(self._range(name) for name in self.names)

    def moved(self, largest: Mapping[str, float]) -> None:
        """A result was certified: move each tensor's range towards what its mean needs."""
        low, high = self._terms.range_bounds
        for name, peak in largest.items():
            self._ranges[name] = derive.next_range(self._range(name), peak, low, high)

    def carry_on(self, before: GroupState) -> None:
        """Take over the ranges of an earlier epoch, within the bounds of this one."""
        low, high = self._terms.range_bounds
        self._ranges = {name: min(max(bound, low), high) for name, bound in before._ranges.items()}

    def export(self) -> NDArray[np.uint8]:
        head = self._head()
        shared: Sequence[NDArray[np.uint8]] = [] if self.shared is None else self.shared.export()
        parts = [np.frombuffer(_LENGTH.pack(len(head)) + head, np.uint8), *shared]
        return np.concatenate(parts)

    def adopt(self, data: NDArray[np.uint8], expected: bytes) -> None:
        """Take over exported bytes whose digest is ``expected``; nothing changes where it is another.

        Raises:
            ValueError: the bytes are no common state, or not the expected one.
        """
        head, rest = self._split(data)
        shared = hashlib.sha256(rest).digest() if self.shared is not None else ZERO
        if digest("common", head, shared) != expected or (self.shared is None and rest.nbytes):
            raise ValueError("the bytes do not hash to the state that the roster names")
        ranges = self._read(head)
        if self.shared is not None:
            try:
                self.shared.adopt(rest)
            except LocalError as error:
                raise ValueError(str(error)) from error
        self._ranges = ranges

    @property
    def limit(self) -> int:
        """The most bytes that another peer's export can have."""
        return _LENGTH.size + MAX_RANGES + (0 if self.shared is None else self.shared.nbytes)

    def _range(self, name: str) -> float:
        return self._ranges.get(name, self._terms.range_of(name))

    def _head(self) -> bytes:
        return pack(tuple((name, self._ranges[name].hex()) for name in sorted(self._ranges)))

    @staticmethod
    def _split(data: NDArray[np.uint8]) -> tuple[bytes, memoryview]:
        if data.nbytes < _LENGTH.size:
            raise ValueError("a common state has at least four bytes")
        (length,) = _LENGTH.unpack(data[: _LENGTH.size].tobytes())
        if length > MAX_RANGES or data.nbytes < _LENGTH.size + length:
            raise ValueError("a common state's ranges are cut short")
        end = _LENGTH.size + length
        return data[_LENGTH.size : end].tobytes(), np.ascontiguousarray(data[end:]).data

    def _read(self, head: bytes) -> dict[str, float]:
        try:
            pairs = unpack(head, MAX_RANGES)
            ranges = {str(name): _number(value) for name, value in pairs}
        except (Malformed, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"a common state's ranges can't be read: {error}") from error
        low, high = self._terms.range_bounds
        if any(not low <= bound <= high for bound in ranges.values()):
            raise ValueError("a common state's range lies outside the charter's bounds")
        return ranges


def _number(text: str) -> float:
    """The number that ``float.hex`` wrote. Raises ValueError, or OverflowError, for every other text."""
    number = float.fromhex(text)
    if number.hex() != text:
        raise ValueError(f"{text[:40]!r} is not how a number is written")
    return number
