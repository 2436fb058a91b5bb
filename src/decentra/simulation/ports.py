"""Virtual ports: a journal in memory, pools that run jobs in place, a clock that runs wrong, seeded randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from decentra.driver.blobs import Workbench
from decentra.errors import DecentraError
from decentra.machine.effects import Job, Record
from decentra.transport.virtual import EventHeap, Handle
from decentra.types import RoundId
from decentra.wire.codec import Signed
from decentra.wire.entry import parse


class MemoryJournal:
    """Keeps what a real journal would put on disk, and calls back at once. It outlives the process that wrote it."""

    def __init__(self) -> None:
        self.entries: list[Signed] = []
        self.records: list[tuple[RoundId, Record]] = []
        self.acts: dict[tuple[int, str, str], bytes] = {}
        """The one-time acts by round, kind and topic."""

    @property
    def last_round(self) -> int:
        """The last round that the peer signed anything in."""
        return max((parse(signed.entry).round for signed in self.entries), default=0)

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        self.entries.append(signed if log_body else Signed(signed.entry, b""))
        durable()

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        self.records.append((round_id, record))
        self.acts.setdefault((round_id.number, record.kind, record.topic), record.value)
        durable()


class InlinePool:
    """Runs each job in place, in the driver's thread."""

    def submit(self, job: Job, bench: Workbench, done: Callable[[object], None]) -> None:
        done(_value(job, bench))


class SlowPool:
    """Runs jobs one after another, each taking some virtual time.

    Args:
        clock: whose time it is.
        takes: gives the seconds that the next job takes.
    """

    def __init__(self, clock: SkewedClock, takes: Callable[[], float]) -> None:
        self._clock, self._takes, self._free = clock, takes, 0.0

    def submit(self, job: Job, bench: Workbench, done: Callable[[object], None]) -> None:
        now = self._clock.now()
        self._free = max(self._free, now) + self._takes()
        self._clock.call_later(self._free - now, lambda: done(_value(job, bench)))


def _value(job: Job, bench: Workbench) -> object:
    try:
        return bench.run(job)
    except (DecentraError, ValueError) as error:
        return error


class SkewedClock:
    """A peer's own clock: it shows ``rate`` seconds for each that passes, and stops with the peer's process."""

    def __init__(self, heap: EventHeap, rate: float = 1.0) -> None:
        self._heap, self._rate = heap, rate
        self.stopped = False

    def now(self) -> float:
        return self._heap.now() * self._rate

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        return self._heap.call_later(delay / self._rate, lambda: None if self.stopped else callback())


class SeededRandom:
    """A deterministic stream of bytes: SHA-256 in counter mode over a seed and a name. For simulations only."""

    def __init__(self, seed: int, name: bytes) -> None:
        self._key = hashlib.sha256(b"decentra/simulation" + seed.to_bytes(16, "little") + name).digest()
        self._count = 0

    def __call__(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            out += hashlib.sha256(self._key + self._count.to_bytes(8, "little")).digest()
            self._count += 1
        return bytes(out[:count])
