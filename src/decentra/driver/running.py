"""One round at one peer: its machine, and everything else that must not outlive it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def defers(self, verified: Verified, root: bytes, coming: Sequence[Verified]) -> bool:
        """Whether the offer of the blob beside a message is to stand for now, since it may be wanted later; ``coming``
        are the messages whose copies of it are under way from others."""
        ...

    def copied(self, verified: Verified) -> bytes:
        """A name for the blob beside a message where several peers may bring the very same one; else nothing. Only what
        has a name is deferred."""
        ...


@dataclass(frozen=True)
class Ended:
    """How a round ended at this peer: a result, or an error and whether the update had left."""

    result: object = None
    error: DecentraError | None = None
    spent: bool = False


@dataclass(frozen=True)
class Offer:
    """A blob that a peer has announced beside a message; ``name`` is what the machine calls its copies."""

    verified: Verified
    announcement: Announcement
    link: Neighbour
    limit: int
    name: bytes

    @property
    def root(self) -> bytes:
        return self.announcement.root


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
        self._awaited: dict[tuple[PeerId, int], Offer] = {}
        self._standing: dict[tuple[PeerId, str], Offer] = {}
        """Offers that are neither accepted nor rejected yet, by sender and slot."""
        self._reviews = False
        """Whether there was ever something to look at again."""

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
        if taken is None:
            limit = min(limit, self.machine.room(verified.message))
            offer = Offer(verified, announcement, link, limit, self.machine.copied(verified))
            self._reviews = self._reviews or bool(offer.name)
            if announcement.size <= limit and self._defers(offer):
                self._standing[peer, slot] = offer
                self._taken[peer, slot] = verified.body_hash
                return False
            if self.machine.wants(verified, offer.root):
                if self._accept(offer):
                    self._taken[peer, slot] = verified.body_hash
                return False
        link.reject(announcement.transfer)
        if taken is not None and taken != verified.body_hash:
            raise RemoteError(peer, "EQUIVOCATION", f"it announces a second {slot} in one round")
        return taken is None

    def review(self) -> list[Verified]:
        """Something has happened: look again at what is on offer, and at copies under way that may be needed no more.

        Returns:
            The messages whose blobs are not taken after all, for the machine to see by themselves.

        Raises:
            LocalError: no memory for a blob.
        """
        alone: list[Verified] = []
        if not self._reviews:
            return alone
        for place, offer in list(self._awaited.items()):
            if offer.name and not self.machine.wants(offer.verified, offer.root):
                del self._awaited[place]
                offer.link.reject(offer.announcement.transfer)
                alone.append(offer.verified)
        for key, offer in list(self._standing.items()):
            if self._defers(offer):
                continue
            del self._standing[key]
            if not self.machine.wants(offer.verified, offer.root):
                offer.link.reject(offer.announcement.transfer)
                alone.append(offer.verified)
            elif not self._accept(offer):
                del self._taken[key]
        return alone

    def _defers(self, offer: Offer) -> bool:
        coming = [copy.verified for copy in self._copies(offer)]
        return self.machine.defers(offer.verified, offer.root, coming)

    def _copies(self, offer: Offer) -> list[Offer]:
        """The copies of a blob that are on their way already."""
        alike = [one for one in self._awaited.values() if one.name == offer.name and one.root == offer.root]
        return [one for one in alike if offer.name and one.link.gathered(one.announcement.transfer) is not None]

    def _accept(self, offer: Offer) -> bool:
        """Let a blob in, into the memory of a copy of it that is under way; False where it is no longer on offer."""
        copies = self._copies(offer)
        into = copies[0].link.gathered(copies[0].announcement.transfer) if copies else None
        if not offer.link.accept(offer.announcement, offer.limit, into):
            return False
        self._awaited[offer.verified.sender, offer.announcement.transfer] = offer
        return True

    def completed(self, peer: PeerId, transfer: int, data: memoryview) -> Received | None:
        """A blob is whole: its message with it, if it was expected."""
        if (peer, transfer) not in self._awaited:
            return None
        offer = self._awaited.pop((peer, transfer))
        return Received(offer.verified, self.bench.adopt(np.frombuffer(data, np.uint8), offer.announcement.digests))

    def lost(self, peer: PeerId) -> None:
        """The blobs under way from a peer are lost with the link; they may be announced again."""
        for key in [key for key in self._awaited if key[0] == peer]:
            verified = self._awaited.pop(key).verified
            self._taken.pop((peer, self.machine.slot(verified.message)), None)
        for standing in [standing for standing in self._standing if standing[0] == peer]:
            del self._standing[standing], self._taken[standing]

    @property
    def under_way(self) -> int:
        """Bytes of memory that blobs on their way are gathered in."""
        named = {(offer.name, offer.root): offer.announcement.size for offer in self._awaited.values() if offer.name}
        unnamed = [offer.announcement.size for offer in self._awaited.values() if not offer.name]
        return sum(named.values()) + sum(unnamed)

    def reject_all(self) -> None:
        """Take nothing of what is under way or on offer."""
        for offer in (*self._awaited.values(), *self._standing.values()):
            offer.link.reject(offer.announcement.transfer)
