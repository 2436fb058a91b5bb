"""A virtual clock: callbacks in the order of their time, and of their making where times are equal."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """A callback that was scheduled and can be called off."""

    def cancel(self) -> None:
        """Never call it; a second cancel, or one after the call, does nothing."""
        ...


class Scheduler(Protocol):
    """What a transport needs of a clock; `EventHeap` has it, and a thin wrapper gives it to an asyncio loop."""

    def now(self) -> float:
        """Seconds from an arbitrary origin; never goes back."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        """Call back once, `delay` seconds from now."""
        ...


class _Event:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class EventHeap:
    """Time that passes only when the next event is taken, so that a run depends on its inputs alone.

    >>> heap, seen = EventHeap(), []
    >>> for name, delay in (("b", 2.0), ("a", 1.0), ("c", 2.0)):
    ...     _ = heap.call_later(delay, lambda name=name: seen.append((heap.now(), name)))
    >>> heap.run_until()
    True
    >>> seen
    [(1.0, 'a'), (2.0, 'b'), (2.0, 'c')]
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._made = 0
        self._heap: list[tuple[float, int, _Event]] = []

    def now(self) -> float:
        """Virtual seconds since the heap was made."""
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        """Call back once, `delay` virtual seconds from now; a negative delay counts as none."""
        return self.call_at(self._now + max(0.0, delay), callback)

    def call_at(self, time: float, callback: Callable[[], None]) -> Handle:
        """Call back once at a virtual time; one that is past counts as now. Equal times keep their order to the bit."""
        event, now = _Event(callback), self._now
        heapq.heappush(self._heap, (time if time > now else now, self._made, event))
        self._made += 1
        return event

    def step(self) -> bool:
        """Take the next event; False if there is none."""
        while self._heap:
            time, _, event = heapq.heappop(self._heap)
            if event.callback is None:
                continue
            self._now = time
            callback, event.callback = event.callback, None
            callback()
            return True
        return False

    def run_until(self, predicate: Callable[[], bool] | None = None, deadline: float | None = None) -> bool:
        """Take events until the predicate holds, and say whether it does.

        Without a predicate it runs until nothing is left to do, and says whether that came about. It stops, with time
        standing at `deadline` (virtual seconds since the heap was made), where the next event lies beyond it.
        """
        heap, last = self._heap, math.inf if deadline is None else deadline
        while predicate is None or not predicate():
            while heap and heap[0][2].callback is None:
                heapq.heappop(heap)
            if not heap:
                return predicate is None
            if heap[0][0] > last:
                self._now = max(self._now, last)
                return False
            self.step()
        return True
