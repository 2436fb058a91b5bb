"""Reliable, ordered entries over a lane that may lose, repeat and reorder: numbers, a window, acknowledgements."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from decentra.transfer.blob import Announcement

WINDOW_ENTRIES = 64
"""Entries in flight at most: what the receiver may have to hold back while one in front of them is missing."""

WINDOW_BYTES = 4 * 1024 * 1024
"""Bytes in flight at most, so a member has the receiver hold back no more than this; one entry always goes."""


class Posted(NamedTuple):
    """An entry that waits to be acknowledged."""

    parts: tuple[bytes, ...]
    announcement: Announcement | None
    round: int
    posted_at: float
    size: int


class Arrival(NamedTuple):
    """An entry as it arrived."""

    parts: tuple[bytes, ...]
    announcement: Announcement | None
    size: int


class Outbox:
    """The sender's side: entries from their posting to their acknowledgement."""

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._queue: deque[Posted] = deque()
        self._bytes = 0
        self._first = 1
        self._unsent = 1
        self._highest = 1

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> bool:
        """Whether an entry was sent and is not acknowledged."""
        return self._unsent > self._first

    @property
    def oldest(self) -> float:
        """When the entry in front was posted; there must be one."""
        return self._queue[0].posted_at

    def full(self, size: int) -> bool:
        """Whether an entry of `size` bytes has no room."""
        crowded = len(self._queue) >= self._most_entries or self._bytes + size > self._most_bytes
        return crowded and bool(self._queue)

    def post(self, entry: Posted) -> None:
        """Queue an entry; the caller has seen to it that there is room."""
        self._queue.append(entry)
        self._bytes += entry.size

    def due(self) -> Iterator[tuple[int, Posted]]:
        """The entries that may be sent now, numbered; asking for the next one means that this one was sent."""
        flying = sum(self._queue[i].size for i in range(self._unsent - self._first))
        while self._unsent < self._first + len(self._queue):
            entry = self._queue[self._unsent - self._first]
            count = self._unsent - self._first
            if count >= WINDOW_ENTRIES or (count and flying + entry.size > WINDOW_BYTES):
                return
            yield self._unsent, entry
            flying += entry.size
            self._unsent += 1
            self._highest = max(self._highest, self._unsent)

    def acknowledge(self, upto: int) -> bool:
        """Forget the entries numbered below `upto`; True if there were any.

        Raises:
            ValueError: it acknowledges an entry that was never sent.
        """
        if upto > self._highest:
            raise ValueError(f"it acknowledges entries up to {upto}, sent were those below {self._highest}")
        news = upto > self._first
        while self._first < upto:
            self._bytes -= self._queue.popleft().size
            self._first += 1
        self._unsent = max(self._unsent, self._first)
        return news

    def rewind(self) -> None:
        """Whatever is not acknowledged is to be sent again."""
        self._unsent = self._first

    def restart(self) -> list[Posted]:
        """Number what waits from 1 again, for a receiver that has forgotten everything; gives what waits."""
        self._first = self._unsent = self._highest = 1
        return list(self._queue)


class Inbox:
    """The receiver's side: which entry comes next, and those that came too early."""

    def __init__(self) -> None:
        self.awaited = 1
        self._early: dict[int, Arrival] = {}
        self._bytes = 0

    def wants(self, number: int, size: int) -> bool:
        """Whether an entry is new and there is room to hold it; asked before its parts are copied.

        Raises:
            ValueError: it lies beyond the window, where no honest sender sends.
        """
        if number >= self.awaited + WINDOW_ENTRIES:
            raise ValueError(f"entry {number} was sent beyond the window, which starts at {self.awaited}")
        if number < self.awaited or number in self._early:
            return False
        return number == self.awaited or self._bytes + size <= WINDOW_BYTES

    def take(self, number: int, arrival: Arrival) -> list[Arrival]:
        """Take an entry that is wanted; gives those that are now in order."""
        self._early[number] = arrival
        self._bytes += arrival.size
        ready: list[Arrival] = []
        while self.awaited in self._early:
            ready.append(self._early.pop(self.awaited))
            self._bytes -= ready[-1].size
            self.awaited += 1
        return ready


def total(parts: Sequence[bytes]) -> int:
    """Bytes in all parts."""
    return sum(len(part) for part in parts)
