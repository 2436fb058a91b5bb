"""The four ports through which the driver touches the world: clock, transport, journal, pool.

The network runtime puts an event loop, ZeroMQ, SQLite and threads behind them; the simulator a heap of events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from decentra.driver.blobs import Workbench
from decentra.machine.effects import Job, Record
from decentra.transport.base import Transport
from decentra.transport.virtual import Scheduler
from decentra.types import RoundId
from decentra.wire.codec import Signed
from decentra.wire.message import Verified


class Journal(Protocol):
    """What must survive a crash. ``durable`` is called on the driver's thread once the write is on disk."""

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        """Keep an own entry; with its body where the spec logs bodies."""
        ...

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        """Keep a one-time act."""
        ...

    def heard(self, verified: Verified, log_body: bool) -> bool:
        """Keep another's entry for the transcript, as one's own. Nothing waits for it.

        Returns:
            Whether it is kept; not where its author says more in a round than anybody honest does.
        """
        ...


class Pool(Protocol):
    """Runs jobs, each by ``bench.run``. ``done`` is called on the driver's thread with the job's value, or the
    DecentraError or ValueError that it raised."""

    def submit(self, job: Job, bench: Workbench, done: Callable[[object], None]) -> None: ...


@dataclass(frozen=True)
class Ports:
    """The driver's view of the world."""

    clock: Scheduler
    transport: Transport
    journal: Journal
    pool: Pool
