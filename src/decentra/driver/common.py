"""The common state of a group: the ranges that the rounds agree on, and whatever training holds alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.errors import LocalError
from decentra.machine.state import SharedState, cut
from decentra.protocols.setting import Part
from decentra.transfer.blob import DIGEST_BYTES, blob_root, piece_count
from decentra.wire.codec import Malformed, pack, unpack

MAX_RANGES = 1 << 20
"""Bytes of names and ranges in an index: some twenty thousand tensors."""


class Terms(Protocol):
    """What the charter says of ranges."""

    def range_of(self, tensor: str) -> float: ...

    @property
    def range_bounds(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Gathered:
    """A state on its way here: its ranges, and the bytes of it that have come."""

    state: bytes
    ranges: Mapping[str, float]
    parts: tuple[Part, ...]
    data: NDArray[np.uint8] = field(repr=False)
    there: set[int] = field(default_factory=set)
    """The numbers of the parts that have come."""


class GroupState:
    """One peer's copy of the common state (``protocols.setting.CommonState``).

    Its index is, in MessagePack: the tensors' names and ranges, the bytes that training holds, and the digests of their
    pieces, one behind another.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._ranges: dict[str, float] = {}
        self._gathered: Gathered | None = None
        """What came of another state; it outlives a round, so that the next one goes on where that ended."""
        self.shared: SharedState | None = None
        self.names: tuple[str, ...] = ()

    def begin(self, shared: SharedState | None, names: tuple[str, ...]) -> None:
        """A round begins, over tensors of these names, with what training holds alike."""
        self.shared, self.names = shared, names

    def digest(self) -> bytes:
        return derive.common_state(self._named(), self._size, self._pieces())

    def ranges(self, count: int) -> tuple[float, ...]:
        if count != len(self.names):
            raise LocalError(f"the vector has {count} tensors, {len(self.names)} names were given")
        return tuple(self._range(name) for name in self.names)

    def digest_with(self, shared: SharedState | None) -> bytes:
        """The digest of this state with what training holds alike now."""
        self.shared = shared
        return self.digest()

    def moved(self, largest: Mapping[str, float]) -> None:
        """A result was certified: move each tensor's range towards what its mean needs."""
        self._gathered = None
        low, high = self._terms.range_bounds
        for name, peak in largest.items():
            self._ranges[name] = derive.next_range(self._range(name), peak, low, high)

    def carry_on(self, before: GroupState) -> None:
        """Take over the ranges of an earlier epoch, within the bounds of this one."""
        low, high = self._terms.range_bounds
        self._ranges = {name: min(max(bound, low), high) for name, bound in before._ranges.items()}

    # ── for those who lack it ────────────────────────────────────────────────────────────────────────────────────────

    def export(self, number: int) -> NDArray[np.uint8] | None:
        if number == 0:
            return np.frombuffer(self._index(), np.uint8)
        bounds = derive.state_parts(self._size)
        if self.shared is None or number > len(bounds):
            return None
        return cut(self.shared.export(), *bounds[number - 1])

    def room(self, number: int) -> int:
        if number == 0:
            return MAX_RANGES + DIGEST_BYTES * piece_count(self._size)
        return max((stop - start for start, stop in derive.state_parts(self._size)[:1]), default=0)

    def _index(self) -> bytes:
        named = tuple((name, bound.hex()) for name, bound in self._named())
        return pack((named, self._size, b"".join(self._pieces())))

    # ── where this peer lacks it ─────────────────────────────────────────────────────────────────────────────────────

    def expect(self, index: NDArray[np.uint8], state: bytes) -> tuple[Part, ...] | None:
        try:
            ranges, size, digests = _read(index.tobytes())
        except (Malformed, TypeError, ValueError, OverflowError):
            return None
        if derive.common_state(sorted(ranges.items()), size, digests) != state:
            return None
        self._check(ranges, size)
        if self._gathered is None or self._gathered.state != state:
            self._gathered = Gathered(state, ranges, _parts(size, digests), np.empty(size, np.uint8))
        return tuple(part for part in self._gathered.parts if part.number not in self._gathered.there)

    def place(self, state: bytes, part: Part, data: NDArray[np.uint8]) -> None:
        gathered = self._gathered
        if gathered is not None and gathered.state == state:  # else a later roster named another one meanwhile
            gathered.data[part.start : part.stop] = data
            gathered.there.add(part.number)

    def adopt(self, state: bytes) -> None:
        gathered = self._gathered
        if gathered is None or gathered.state != state:
            raise LocalError("the common state that came was given up before it was whole; a defect of decentra")
        if self.shared is not None:
            try:
                self.shared.adopt(gathered.data.data)
            except LocalError as error:
                raise ValueError(str(error)) from error
        self._ranges, self._gathered = dict(gathered.ranges), None

    def _check(self, ranges: Mapping[str, float], size: int) -> None:
        low, high = self._terms.range_bounds
        if any(not low <= bound <= high for bound in ranges.values()):
            raise ValueError("a common state's range lies outside the charter's bounds")
        if size != self._size:
            raise ValueError(f"a common state of {size} bytes, where this peer's model has {self._size}")

    # ── what it consists of ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _size(self) -> int:
        return 0 if self.shared is None else self.shared.nbytes

    def _pieces(self) -> tuple[bytes, ...]:
        return () if self.shared is None else self.shared.pieces()

    def _range(self, name: str) -> float:
        return self._ranges.get(name, self._terms.range_of(name))

    def _named(self) -> list[tuple[str, float]]:
        return sorted(self._ranges.items())


class BorrowedState(GroupState):
    """The common state of a session that goes by the ranges of another one: theirs at the start of each round, and in
    that round those that its members agree on. Nothing of it goes back: who could have a small session take a state
    over would else decide for the large one. Training's state is not in it.
    """

    def __init__(self, terms: Terms, lender: GroupState) -> None:
        super().__init__(terms)
        self._lender = lender

    def begin(self, shared: SharedState | None, names: tuple[str, ...]) -> None:
        super().begin(None, names)
        self._ranges = dict(self._lender._ranges)

    def moved(self, largest: Mapping[str, float]) -> None:
        """The other session's results move the ranges, and not this one's."""


def _read(index: bytes) -> tuple[dict[str, float], int, tuple[bytes, ...]]:
    """The ranges, the size and the pieces' digests that an index lists. Raises a ValueError of some kind where it lists
    none."""
    named, size, joined = unpack(index, len(index))
    ranges = {str(name): _number(text) for name, text in named}
    if not isinstance(size, int) or not isinstance(joined, bytes):
        raise ValueError("an index lists a size and digests")
    if len(joined) != DIGEST_BYTES * -(-size // derive.PIECE):
        raise ValueError(f"{size} bytes with digests of {len(joined)}")
    return ranges, size, tuple(joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES))


def _number(text: str) -> float:
    """The number that ``float.hex`` wrote. Raises ValueError, or OverflowError, for every other text."""
    number = float.fromhex(text)
    if number.hex() != text:
        raise ValueError(f"{text[:40]!r} is not how a number is written")
    return number


def _parts(size: int, digests: tuple[bytes, ...]) -> tuple[Part, ...]:
    """The parts of a state, each with the root of the blob that brings it."""
    return tuple(
        Part(number, start, stop, blob_root(stop - start, digests[start // derive.PIECE : -(-stop // derive.PIECE)]))
        for number, (start, stop) in enumerate(derive.state_parts(size), start=1)
    )
