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
        self._ready: deque[float] = deque(maxlen=REMEMBERED)
        self._given: deque[float] = deque(maxlen=REMEMBERED)
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        self._ended: float | None = None

    def note(
        self,
        began: float,
        ended: float,
        ready: Iterable[float],
        *,
        supplied: float | None = None,
        given: Iterable[float] = (),
    ) -> None:
        """A round was completed.

        Args:
            began: when this peer began it.
            ended: when it had its result.
            ready: when it heard that each other member was ready, those who came too late for the roster as well.
            supplied: when its own local steps were done; where the round began after them, then.
            given: when it heard that each other member's update was on its way.
        """
        own = began if supplied is None else supplied
        if self._ended is not None:
            self._steps.append(own - self._ended)
        self._ended = ended
        for mine, others, spreads in ((began, ready, self._ready), (own, given, self._given)):
            times = sorted((mine, *others))
            if len(times) >= self._floor:
                spreads.append(times[-1] - times[self._floor - 1])

    @property
    def patience(self) -> float:
        """Seconds that members have once as many as the floor are ready.

        Three times what the slowest took of late, between half of what this peer's own local steps take and twice that:
        who trains at half its speed is waited for, who is gone holds nobody up for long, and neither does a liar.
        """
        return self._allows(self._ready)

    @property
    def lateness(self) -> float:
        """Seconds that updates have, by the same rule, once as many as the floor have come, in a round that begins
        ahead of them."""
        return self._allows(self._given)

    def _allows(self, spreads: deque[float]) -> float:
        if len(spreads) < KNOWN or not self._steps:
            return self._longest
        own = median(self._steps)
        each = max(LEAST, own / 2, min(TIMES * max(spreads), OWN * own))
        return min(self._longest, (1 + self._before) * each)
