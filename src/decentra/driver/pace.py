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

OWN = 2.0
"""How many times this peer's own local steps it may be at most: nobody holds a round up for longer by coming late."""

LEAST = 2.0
"""Seconds that the slowest get at least."""


class Pace:
    """One peer's memory of its group's pace.

    Args:
        floor: the fewest members that a round starts with.
        longest: seconds that members have to be ready by the charter.
        before: rounds of other groups that members come from, one after the other: each may wait for its own slowest.
    """

    def __init__(self, floor: int, longest: float, before: int = 0) -> None:
        self._floor, self._longest, self._before = floor, longest, before
        self._spreads: deque[float] = deque(maxlen=REMEMBERED)
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        self._ended: float | None = None

    def note(self, began: float, ended: float, ready: Iterable[float]) -> None:
        """A round was completed.

        Args:
            began: when this peer began it.
            ended: when it had its result.
            ready: when it heard that each other member was ready, those who came too late for the roster as well.
        """
        if self._ended is not None:
            self._steps.append(began - self._ended)
        self._ended = ended
        times = sorted((began, *ready))
        if len(times) >= self._floor:
            self._spreads.append(times[-1] - times[self._floor - 1])

    @property
    def patience(self) -> float:
        """Seconds that members have once as many as the floor are ready.

        Three times what the slowest took of late, between half of what this peer's own local steps take and twice that:
        who trains at half its speed is waited for, who is gone holds nobody up for long, and neither does a liar.
        """
        if len(self._spreads) < KNOWN or not self._steps:
            return self._longest
        own = median(self._steps)
        each = max(LEAST, own / 2, min(TIMES * max(self._spreads), OWN * own))
        return min(self._longest, (1 + self._before) * each)
