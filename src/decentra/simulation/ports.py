"""Virtual ports: a journal in memory, pools that run jobs in place, a clock that runs wrong, seeded randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from decentra.driver.blobs import Workbench
from decentra.errors import DecentraError
from decentra.machine.effects import Job, Record
from decentra.transport.virtual import EventHeap, Handle
from decentra.types import RoundId
from decentra.wire.codec import Signed, pack, unpack
from decentra.wire.entry import parse
from decentra.wire.message import Verified


class MemoryJournal:
    """Keeps what a real journal would put on disk, each write in a commit of its own, and calls back at once.

    Args:
        image: what is on the disk; the journal begins with every commit of it that is whole.
    """

    def __init__(self, image: bytes = b"") -> None:
        self.entries: list[Signed] = []
        self.records: list[tuple[RoundId, Record]] = []
        self.acts: dict[tuple[int, str, str], bytes] = {}
        """The one-time acts by round, kind and topic."""
        self._writes: list[_Write] = []
        for write in _whole(image):
            self._keep(write)

    @property
    def last_round(self) -> int:
        """The last round that the peer signed anything in."""
        return max((parse(signed.entry).round for signed in self.entries), default=0)

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        self._keep((signed.entry, signed.body if log_body else b""))
        durable()

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        self._keep((round_id.epoch, round_id.number, record.kind, record.topic, record.value))
        durable()

    def heard(self, verified: Verified, log_body: bool) -> bool:
        """Whoever runs a simulation has everybody's own entries."""
        return True

    def torn(self, reached: float) -> MemoryJournal:
        """What a next process finds, if this one stopped when so much of its last commit was on the disk."""
        return MemoryJournal(self.image(reached))

    def image(self, reached: float = 1.0) -> bytes:
        """The disk, with so much of the last commit on it: 0 for nothing, 1 for all of it."""
        image, last = bytearray(), b""
        for write in self._writes:
            image += last
            last = _commit(bytes(image[-_CHECK:]), write)
        return bytes(image + last[: int(reached * len(last))])

    def _keep(self, write: _Write) -> None:
        self._writes.append(write)
        match write:
            case (entry, body):
                self.entries.append(Signed(entry, body))
            case (epoch, number, kind, topic, value):
                self.records.append((RoundId(epoch, number), Record(kind, topic, value)))
                self.acts.setdefault((number, kind, topic), value)


_Write = tuple[bytes, bytes] | tuple[int, int, str, str, bytes]
"""An entry and the body kept with it; or an act, by epoch, round, kind and topic, and its value."""

_LENGTH, _CHECK = 4, 16


def _commit(before: bytes, write: _Write) -> bytes:
    """A commit as a write-ahead log has it: its length, the write, and a checksum over all that and the one before."""
    payload = pack(write)
    head = len(payload).to_bytes(_LENGTH, "little")
    return head + payload + hashlib.blake2b(before + head + payload, digest_size=_CHECK).digest()


def _whole(image: bytes) -> Iterator[_Write]:
    """The writes of a log up to the first commit that is torn."""
    at, check = 0, b""
    while at < len(image):
        end = at + _LENGTH + int.from_bytes(image[at : at + _LENGTH], "little")
        payload = image[at + _LENGTH : end]
        check = hashlib.blake2b(check + image[at:end], digest_size=_CHECK).digest()
        if image[end : end + _CHECK] != check:
            return
        write: Any = unpack(payload, len(payload))
        yield write
        at = end + _CHECK


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
