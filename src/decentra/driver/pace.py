"""What rounds took lately, and how long the next one waits for the slowest because of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

REMEMBERED = 8
"""Rounds that are looked back on."""

KNOWN = 3
"""Rounds after which a pace is known; before that everybody gets the charter's whole deadline."""

TIMES = 3.0
"""How many times the longest wait of late the next one may be."""

LEAST = 2.0
"""Seconds that the slowest get at least."""


class Pace:
    """One peer's memory of its group's pace.

    Args:
        floor: the fewest members that a round starts with.
        longest: seconds that members have to be ready by the charter.
    """

    def __init__(self, floor: int, longest: float) -> None:
        self._floor, self._longest = floor, longest
        self._spreads: deque[float] = deque(maxlen=REMEMBERED)
        self._intervals: deque[float] = deque(maxlen=REMEMBERED)
        self._began: float | None = None

    def note(self, began: float, ready: Iterable[float]) -> None:
        """A round was completed.

        Args:
            began: when this peer began it.
            ready: when it heard that each other member was ready, those who came too late for the roster as well.
        """
        if self._began is not None:
            self._intervals.append(began - self._began)
        self._began = began
        times = sorted((began, *ready))
        if len(times) >= self._floor:
            self._spreads.append(times[-1] - times[self._floor - 1])

    @property
    def patience(self) -> float:
        """Seconds that members have once as many as the floor are ready.

        Three times what the slowest took of late, and at least half of what a round with its local steps takes: a peer
        that trains at half the others' speed is waited for, one that is gone holds nobody up for long.
        """
        if len(self._spreads) < KNOWN or not self._intervals:
            return self._longest
        return min(self._longest, max(LEAST, TIMES * max(self._spreads), median(self._intervals) / 2))
