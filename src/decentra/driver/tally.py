"""What a peer's rounds cost it: messages, and the CPU of its small phases apart from that of its bulk work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from threading import Lock
from typing import Concatenate, ParamSpec, Protocol, TypeVar

ELSEWHERE, SMALL, BULK = range(3)
"""What a thread works on: nothing of the driver's; messages, from the frame to the machine and from its effects to the
frame, and what is computed for them; vectors. Small phases can run beside local steps, bulk work takes their time."""

P = ParamSpec("P")


@dataclass(frozen=True)
class Counts:
    """What was counted since a peer's start; the difference of two is what came between.

    Attributes:
        signed: messages that it signed.
        verified: messages of others that it verified.
        small: CPU seconds for messages: reading, verifying, the machine, signing, encoding; dealing and opening shares.
        bulk: CPU seconds for vectors: jobs that touch a blob (encoding, masks, sums, digests), pieces sent or taken in.
        kept: CPU seconds of the journal's thread: what is made durable before it is sent, and transcripts.
    """

    signed: int = 0
    verified: int = 0
    small: float = 0.0
    bulk: float = 0.0
    kept: float = 0.0

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(
            self.signed - earlier.signed,
            self.verified - earlier.verified,
            self.small - earlier.small,
            self.bulk - earlier.bulk,
            self.kept - earlier.kept,
        )

    @property
    def share(self) -> float:
        """What part of the CPU the small phases took, 0 to 1; 0 where nothing was counted."""
        return self.small / (self.small + self.bulk) if self.small > 0 else 0.0


class Tally:
    """Counts. All but ``job`` and ``read`` is for the driver's thread.

    Args:
        cpu: the calling thread's CPU time in nanoseconds; None to count messages alone.
    """

    def __init__(self, cpu: Callable[[], int] | None = time.thread_time_ns) -> None:
        self.signed = self.verified = 0
        self._cpu = cpu
        self._spent = [0, 0, 0]
        self._on, self._since = ELSEWHERE, 0
        self._jobs = [0, 0, 0]
        self._lock = Lock()

    def turn(self, to: int) -> int:
        """The driver's thread turns to other work; gives what it was at, to turn back to."""
        before = self._on
        if to != before and self._cpu is not None:
            now = self._cpu()
            self._spent[before] += now - self._since
            self._on, self._since = to, now
        return before

    @contextmanager
    def at(self, work: int) -> Iterator[None]:
        """What happens within is that work."""
        before = self.turn(work)
        try:
            yield
        finally:
            self.turn(before)

    def now(self) -> int:
        """The calling thread's CPU time, for ``job``."""
        return 0 if self._cpu is None else self._cpu()

    def job(self, began: int, work: int) -> None:
        """The calling thread, any thread, has done a job of that work since ``began``."""
        spent = self.now() - began
        with self._lock:
            self._jobs[work] += spent

    def read(self) -> Counts:
        """What was counted so far, but for what is at work right now. Safe in any thread."""
        small, bulk = (self._spent[work] + self._jobs[work] for work in (SMALL, BULK))
        return Counts(self.signed, self.verified, small / 1e9, bulk / 1e9)


class Counting(Protocol):
    """What has a tally."""

    @property
    def tally(self) -> Tally: ...


C = TypeVar("C", bound=Counting)


def counted(method: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """For what the world calls: its CPU is counted as that of the small phases."""

    @wraps(method)
    def counting(self: C, /, *args: P.args, **kwargs: P.kwargs) -> None:
        before = self.tally.turn(SMALL)
        try:
            method(self, *args, **kwargs)
        finally:
            if before != SMALL:
                self.tally.turn(before)

    return counting
