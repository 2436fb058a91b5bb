"""What a simulation may put in place of a driver's own parts; the network runtime puts nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from decentra.machine.effects import Effect
from decentra.machine.events import Event
from decentra.protocols.setting import Contribution, Setting
from decentra.transfer import Announcement, Link
from decentra.transfer import Event as LinkEvent
from decentra.transfer.link import Send
from decentra.transport.base import Lane
from decentra.types import EpochName, PeerId, RoundId
from decentra.wire.message import Registry

if TYPE_CHECKING:
    from decentra.driver.running import Machine

MachineMaker = Callable[[Setting, Contribution, RoundId], "Machine"]
"""Makes the machine of a round; a machine's class is one."""


class Neighbour(Protocol):
    """Everything in flight between this peer and one other; ``transfer.Link``, or the simulator's shorter one."""

    @property
    def idle(self) -> bool: ...

    @property
    def wakeup(self) -> float | None: ...

    def announce(self, data: memoryview, digests: tuple[bytes, ...] | None = None) -> Announcement: ...

    def post(
        self,
        parts: Sequence[bytes],
        announcement: Announcement | None = None,
        data: memoryview | None = None,
        *,
        round_number: int = 0,
    ) -> None: ...

    def whisper(self, data: bytes) -> None: ...

    def tell(self, epoch: EpochName, round_number: int, outcome: bytes) -> None: ...

    def hand(self, charter: bytes, addresses: bytes, epoch: int) -> None: ...

    def accept(self, announcement: Announcement, limit: int, into: memoryview | None = None) -> bool: ...

    def gathered(self, transfer: int) -> memoryview | None: ...

    def reject(self, transfer: int) -> None: ...

    def withdraw(self, transfer: int) -> None: ...

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def tick(self, now: float) -> None: ...

    def receive(self, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> Iterable[LinkEvent]: ...


class LinkMaker(Protocol):
    """Makes what stands between this peer and another: ``transfer.Link`` itself, unless simulated."""

    def __call__(
        self, peer: PeerId, incarnation: int, send: Send, *, session: bytes, epoch: EpochName
    ) -> Neighbour: ...


@dataclass(frozen=True)
class Fittings:
    """The parts of one peer.

    Attributes:
        link: makes the link to each neighbour.
        ticks: whether links need to be told the time.
        watch: shown every event before the machine takes it and every effect before it is carried out.
        registry: encodes and verifies messages in place of the protocol's own.
        machine: makes what plays a round in place of the protocol's own.
        cpu: the calling thread's CPU time in nanoseconds, for the peer's counters; None where nobody asks for it.
    """

    link: LinkMaker = Link
    ticks: bool = True
    watch: Callable[[Event | Effect], None] | None = None
    registry: Registry | None = None
    machine: MachineMaker | None = None
    cpu: Callable[[], int] | None = time.thread_time_ns


PLAIN = Fittings()
"""Nothing replaced."""
