"""One round at one peer: its machine, and everything else that must not outlive it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from decentra.driver.blobs import Workbench
from decentra.driver.fittings import Neighbour
from decentra.errors import DecentraError, RemoteError
from decentra.machine.effects import Effect
from decentra.machine.events import Event, Received
from decentra.transfer import Announcement
from decentra.transport.virtual import Handle, Scheduler
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified


class Machine(Protocol):
    """What the driver drives: one round's state machine."""

    round: RoundId

    @property
    def roster(self) -> tuple[PeerId, ...]: ...

    @property
    def awaited(self) -> tuple[PeerId, ...]:
        """Whom it waits for now."""
        ...

    def handle(self, event: Event) -> list[Effect]: ...

    def cancel(self, error: DecentraError) -> list[Effect]: ...

    def faulted(self, error: RemoteError) -> list[Effect]:
        """What one of the roster sent broke a clause before the machine saw it."""
        ...

    def slot(self, message: Message) -> str:
        """Under what a message is kept; a peer sends one of each in a round."""
        ...

    def room(self, message: Message) -> int:
        """The most bytes that the blob beside a message may have."""
        ...

    def wants(self, verified: Verified, root: bytes) -> bool:
        """Whether a blob with this root is the one that the message beside it signs, and was asked for if need be."""
        ...


@dataclass(frozen=True)
class Ended:
    """How a round ended at this peer: a result, or an error and whether the update had left."""

    result: object = None
    error: DecentraError | None = None
    spent: bool = False


class Running:
    """A round from its start until its caller hears how it ended.

    Args:
        machine: plays it.
        bench: what its jobs work on.
        done: called once, when the machine is done and no job reads or writes the caller's arrays any more.

    Attributes:
        jobs: how many jobs are on the pool.
        ended: how it ended, once the machine is done; until then the machine takes events.
    """

    def __init__(self, machine: Machine, bench: Workbench, done: Callable[[Ended], None]) -> None:
        self.machine, self.bench, self.done = machine, bench, done
        self.round = machine.round
        self.jobs = 0
        self.ended: Ended | None = None
        self._timers: dict[str, Handle] = {}
        self._taken: dict[tuple[PeerId, str], bytes] = {}
        """The message whose blob was let in, by sender and slot: one of each."""
        self._awaited: dict[tuple[PeerId, int], tuple[Verified, Announcement]] = {}

    def set_timer(self, clock: Scheduler, name: str, after: float, callback: Callable[[], None]) -> None:
        """Set a timer, in place of an earlier one of that name."""
        earlier = self._timers.get(name)
        if earlier is not None:
            earlier.cancel()
        self._timers[name] = clock.call_later(after, callback)

    def stop(self) -> None:
        """No timer runs out any more."""
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    def end(self) -> None:
        """Release every blob but the one that the result names, if it names one."""
        self.bench.clear(keep=None if self.ended is None else getattr(self.ended.result, "total", None))

    # ── blobs under way to this peer ─────────────────────────────────────────────────────────────────────────────────

    def expect(self, verified: Verified, link: Neighbour, announcement: Announcement, limit: int) -> bool:
        """Take the blob beside a message in, where the machine has use for it; the machine gets both together.

        Returns:
            Whether the machine is to see the message by itself: it knows what to hold of one whose blob does not come.

        Raises:
            RemoteError: the peer has announced another blob of that kind in this round, or one beyond ``limit`` bytes.
        """
        peer, slot = verified.sender, self.machine.slot(verified.message)
        taken = self._taken.get((peer, slot))
        if taken is None and self.machine.wants(verified, announcement.root):
            if link.accept(announcement, min(limit, self.machine.room(verified.message))):
                self._taken[peer, slot] = verified.body_hash
                self._awaited[peer, announcement.transfer] = (verified, announcement)
            return False
        link.reject(announcement.transfer)
        if taken is not None and taken != verified.body_hash:
            raise RemoteError(peer, "EQUIVOCATION", f"it announces a second {slot} in one round")
        return taken is None

    def completed(self, peer: PeerId, transfer: int, data: memoryview) -> Received | None:
        """A blob is whole: its message with it, if it was expected."""
        if (peer, transfer) not in self._awaited:
            return None
        verified, announced = self._awaited.pop((peer, transfer))
        return Received(verified, self.bench.adopt(np.frombuffer(data, np.uint8), announced.digests))

    def lost(self, peer: PeerId) -> None:
        """The blobs under way from a peer are lost with the link; they may be announced again."""
        for key in [key for key in self._awaited if key[0] == peer]:
            verified, _ = self._awaited.pop(key)
            self._taken.pop((peer, self.machine.slot(verified.message)), None)

    @property
    def under_way(self) -> dict[tuple[PeerId, int], int]:
        """Bytes of each blob that is on its way, by sender and transfer."""
        return {key: announced.size for key, (_, announced) in self._awaited.items()}
