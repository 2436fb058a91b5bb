"""How far a peer's work is, and how long the rest of it will take, by what was measured so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

TELL_SECONDS = 0.5
"""Seconds between two reports: the launcher draws four times a second."""

LEAST = 3
"""Laps that tell a pace: the first one of a kind is slower than the others."""


class Pace:
    """Counts laps of several kinds of work, and times them.

    A kind's pace is the mean over all its laps so far, with the waiting for peers between them: so the forecast holds
    for a machine that goes on as it is. There is none before ``LEAST`` laps of each kind that is left.

    Args:
        ahead: how many laps of each kind there are to do.
        report: called every now and then with the seconds spent, and those left if that can be told.
        clock: seconds.
    """

    def __init__(
        self,
        ahead: Mapping[str, int],
        report: Callable[[float, float | None], None] = lambda spent, left: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._ahead = dict(ahead)
        self._done = dict.fromkeys(ahead, 0)
        self._seconds = dict.fromkeys(ahead, 0.0)
        self._report, self._clock = report, clock
        self._reported = self._last = clock()

    def begin(self) -> None:
        """What was done since the last lap, such as loading, is of no kind."""
        self._last = self._clock()

    def laps(self, kind: str, work: Iterable[T]) -> Iterator[T]:
        """The same work, with a lap counted for each piece of it that was done."""
        self.begin()
        for piece in work:
            now = self._clock()
            self._done[kind] += 1
            self._seconds[kind] += now - self._last
            self._last = now
            if now - self._reported >= TELL_SECONDS or self.left == 0:
                self._reported = now
                self._report(sum(self._seconds.values()), self.left)
            yield piece

    @property
    def left(self) -> float | None:
        """Seconds until all is done; None where nothing tells yet."""
        total = 0.0
        for kind, ahead in self._ahead.items():
            left = max(0, ahead - self._done[kind])
            if left and self._done[kind] < LEAST:
                return None
            total += left * self._seconds[kind] / max(1, self._done[kind])
        return total


def tell(event: str, **facts: object) -> None:
    """Report to the launcher: a JSON line on stdout."""
    print(json.dumps({"event": event, **facts}), flush=True)
