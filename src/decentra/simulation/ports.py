"""Virtual ports: a journal in memory, a pool that runs jobs in place, and seeded randomness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from decentra.errors import DecentraError
from decentra.machine.effects import Job, Record, Tools
from decentra.types import RoundId
from decentra.wire.codec import Signed


class MemoryJournal:
    """Keeps what a real journal would put on disk, and calls back at once."""

    def __init__(self) -> None:
        self.entries: list[Signed] = []
        self.records: list[tuple[RoundId, Record]] = []

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        self.entries.append(signed if log_body else Signed(signed.entry, b""))
        durable()

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        self.records.append((round_id, record))
        durable()


class InlinePool:
    """Runs each job in place, in the driver's thread."""

    def submit(self, job: Job, tools: Tools, done: Callable[[object], None]) -> None:
        value: object
        try:
            value = job.run(tools)
        except (DecentraError, ValueError) as error:
            value = error
        done(value)


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
