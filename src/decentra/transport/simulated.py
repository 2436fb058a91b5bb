"""A network inside one process: deterministic under a seed, with faults on every directed edge.

Each directed edge draws from its own generator, seeded with the network's seed and the two names, so adding a peer or
a message elsewhere does not change what happens on this edge. Nothing depends on the order of hash tables.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from decentra.errors import LocalError
from decentra.transport.base import (
    BULK_QUEUE,
    CONTROL_QUEUE,
    CUT,
    REDIAL_FIRST,
    REDIAL_LOST,
    REDIAL_MOST,
    REFUSED,
    SEND_DEADLINE,
    UNREACHABLE,
    ZERO_COPY,
    Buffer,
    Counters,
    LinkChange,
    Receive,
    check_message,
)
from decentra.transport.virtual import Handle, Scheduler
from decentra.types import PeerId
from decentra.wire.frame import Lane

_QUEUES = {Lane.CONTROL: CONTROL_QUEUE, Lane.BULK: BULK_QUEUE}


@dataclass
class Faults:
    """What one directed edge does to the messages that cross it; chances are per message, times in seconds.

    Attributes:
        latency: the time every message takes.
        jitter: up to this much is added, drawn evenly; order within a lane is kept.
        drop: the chance that a message vanishes.
        duplicate: the chance that a message arrives twice.
        reorder: the chance that a message is held back by up to `hold`, so that later ones overtake it.
        hold: see `reorder`.
    """

    latency: float = 0.001
    jitter: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    hold: float = 0.1


class _Message(NamedTuple):
    lane: Lane
    header: bytes
    parts: list[Buffer]
    sizes: list[int]
    deadline: float


@dataclass
class _Way:
    """One peer's way to another: the directed edge and what is on it."""

    faults: Faults
    rng: random.Random
    cut: bool = False
    dialled: bool = False
    up: bool = False
    life: int = 0
    """Counts the connections; what was sent on an earlier one never arrives."""
    pause: float = REDIAL_FIRST
    redial: Handle | None = None
    tried: float = 0.0
    reason: str = ""
    waiting: list[_Message] = field(default_factory=list)
    flying: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    last: dict[Lane, float] = field(default_factory=lambda: dict.fromkeys(Lane, 0.0))


class Network:
    """The wires between simulated peers.

    Args:
        clock: whose time it is; an `EventHeap` in simulations and tests.
        seed: everything random follows from it.
        faults: what a new edge does; copied for each edge.
    """

    def __init__(self, clock: Scheduler, seed: int, faults: Faults | None = None) -> None:
        self.clock = clock
        self._seed = seed
        self._faults = faults or Faults()
        self._ways: dict[tuple[PeerId, PeerId], _Way] = {}
        self._transports: dict[PeerId, SimulatedTransport] = {}

    def transport(
        self, me: PeerId, on_receive: Receive, on_link: LinkChange, members: Collection[PeerId] | None = None
    ) -> SimulatedTransport:
        """A peer's transport; one made again under the same name is that peer restarted.

        Args:
            members: whom this peer knows; None for everyone.
        """
        if me in self._transports:
            self._transports[me].close()
        made = SimulatedTransport(self, me, on_receive, on_link, members)
        self._transports[me] = made
        return made

    def faults(self, source: PeerId, target: PeerId) -> Faults:
        """The faults of a directed edge, to be changed in place."""
        return self._way(source, target).faults

    def cut(self, source: PeerId, target: PeerId) -> None:
        """Break one direction: the source is told, and what is in flight is lost."""
        way = self._way(source, target)
        way.cut = True
        self._down(source, target, CUT)

    def heal(self, source: PeerId, target: PeerId) -> None:
        """Mend one direction; the source's next try succeeds, which may come early (`Transport`, 6)."""
        self._way(source, target).cut = False

    def break_once(self, source: PeerId, target: PeerId) -> None:
        """Break one direction and let the source's next try succeed."""
        self._down(source, target, CUT)

    def _way(self, source: PeerId, target: PeerId) -> _Way:
        way = self._ways.get((source, target))
        if way is None:
            material = self._seed.to_bytes(16, "big", signed=True) + source + target
            rng = random.Random(hashlib.sha256(b"decentra simulated edge" + material).digest())
            way = self._ways[source, target] = _Way(Faults(**vars(self._faults)), rng)
        return way

    # dialling

    def _dial(self, source: PeerId, target: PeerId) -> None:
        way = self._way(source, target)
        if not way.dialled:
            way.dialled, way.pause, way.reason = True, REDIAL_FIRST, ""
            self._retry(source, target, way, 2 * way.faults.latency)

    def _retry(self, source: PeerId, target: PeerId, way: _Way, delay: float) -> None:
        if way.redial is not None:
            way.redial.cancel()
        way.redial = self.clock.call_later(delay, lambda: self._connect(source, target))

    def _connect(self, source: PeerId, target: PeerId) -> None:
        way = self._way(source, target)
        way.redial, way.tried = None, self.clock.now()
        reason = self._obstacle(source, target, way)
        if reason:
            if reason == REFUSED:
                way.waiting.clear()
            self._retry(source, target, way, way.pause * way.rng.uniform(1.0, 1.25))
            way.pause = min(2 * way.pause, REDIAL_MOST if reason == REFUSED else REDIAL_LOST)
            self._tell(source, target, way, False, reason)
            return
        way.pause = REDIAL_FIRST
        waiting, way.waiting = way.waiting, []
        self._tell(source, target, way, True, "connected")
        for message in waiting:
            if self.clock.now() <= message.deadline:
                self._carry(source, target, way, message)
        self._hurry(target, source)  # which hears the greeting
        for one, other in self._ways:
            if one == source:
                self._hurry(source, other)

    def _hurry(self, source: PeerId, target: PeerId) -> None:
        """Try now instead of at the end of the pause."""
        way = self._ways.get((source, target))
        if way is None or way.redial is None or self.clock.now() - way.tried < REDIAL_FIRST:
            return
        way.tried = self.clock.now()
        self._retry(source, target, way, 2 * way.faults.latency)

    def _obstacle(self, source: PeerId, target: PeerId, way: _Way) -> str:
        if way.cut or target not in self._transports:
            return UNREACHABLE
        return "" if self._transports[target]._admits(source) else REFUSED

    def _tell(self, source: PeerId, target: PeerId, way: _Way, up: bool, reason: str) -> None:
        if (up, reason) != (way.up, way.reason):
            way.up, way.reason = up, reason
            self._transports[source]._on_link(target, up, reason)

    def _down(self, source: PeerId, target: PeerId, reason: str) -> None:
        way = self._way(source, target)
        if way.up:
            self._lose(way)
            self._retry(source, target, way, way.pause * way.rng.uniform(1.0, 1.25))
            self._tell(source, target, way, False, reason)

    def _lose(self, way: _Way) -> None:
        way.life += 1
        way.waiting.clear()
        way.flying = dict.fromkeys(Lane, 0)
        way.last = dict.fromkeys(Lane, 0.0)

    def _hang_up(self, source: PeerId, target: PeerId) -> None:
        """The source's own will: no callback, no new try; the target's way back is refused from now on."""
        way = self._way(source, target)
        way.dialled = way.up = False
        if way.redial is not None:
            way.redial.cancel()
            way.redial = None
        self._lose(way)

    def _gone(self, me: PeerId) -> None:
        """A peer closed: its own ways end, those to it break."""
        del self._transports[me]
        for source, target in list(self._ways):
            if source == me:
                self._hang_up(source, target)
            elif target == me:
                self._down(source, target, CUT)

    # messages

    def _send(self, source: PeerId, target: PeerId, lane: Lane, header: bytes, buffers: Sequence[Buffer]) -> bool:
        sizes = check_message(header, buffers)
        way = self._ways.get((source, target))
        if way is None or not way.dialled:
            return False
        if way.flying[lane] + sum(1 for message in way.waiting if message.lane is lane) >= _QUEUES[lane]:
            return False
        parts: list[Buffer] = [
            buffer if size >= ZERO_COPY else bytes(buffer) for buffer, size in zip(buffers, sizes[1:], strict=True)
        ]
        message = _Message(lane, header, parts, sizes, self.clock.now() + SEND_DEADLINE)
        if way.up:
            self._carry(source, target, way, message)
        else:
            way.waiting.append(message)
        return True

    def _carry(self, source: PeerId, target: PeerId, way: _Way, message: _Message) -> None:
        lane, sizes = message.lane, message.sizes
        self._transports[source].counters.sent(sizes)
        faults, rng, now = way.faults, way.rng, self.clock.now()
        if rng.random() < faults.drop:
            return
        copies = 2 if rng.random() < faults.duplicate else 1
        for _ in range(copies):
            arrival = now + faults.latency + rng.random() * faults.jitter
            if rng.random() < faults.reorder:
                arrival += rng.random() * faults.hold
            else:
                arrival = way.last[lane] = max(arrival, way.last[lane])
            way.flying[lane] += 1
            self.clock.call_later(arrival - now, self._arrival(source, target, way, message))

    def _arrival(self, source: PeerId, target: PeerId, way: _Way, message: _Message) -> Callable[[], None]:
        lane, header, parts, sizes, _ = message
        life = way.life

        def arrive() -> None:
            if way.life == life:
                way.flying[lane] -= 1
                self._hurry(target, source)
                receiver = self._transports[target]
                receiver.counters.received(sizes)
                receiver._on_receive(source, lane, header, [memoryview(part).toreadonly() for part in parts])

        return arrive


class SimulatedTransport:
    """One peer's end of a `Network`; made by `Network.transport`."""

    def __init__(
        self,
        network: Network,
        me: PeerId,
        on_receive: Receive,
        on_link: LinkChange,
        members: Collection[PeerId] | None,
    ) -> None:
        self._network = network
        self._me = me
        self._on_receive = on_receive
        self._on_link = on_link
        self._members = None if members is None else frozenset(members)
        self._closed_to: set[PeerId] = set()
        self._open = True
        self.counters = Counters()

    def dial(self, peer: PeerId) -> None:
        """See `Transport.dial`."""
        if self._members is not None and peer not in self._members:
            raise LocalError(f"peer {peer} is not in your charter: add it there before you connect to it")
        self._closed_to.discard(peer)
        if self._open:
            self._network._dial(self._me, peer)

    def send(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[Buffer]) -> bool:
        """See `Transport.send`."""
        return self._open and self._network._send(self._me, peer, lane, header, buffers)

    def close_peer(self, peer: PeerId) -> None:
        """See `Transport.close_peer`."""
        self._closed_to.add(peer)
        if self._open:
            self._network._hang_up(self._me, peer)
            self._network._down(peer, self._me, CUT)

    def close(self) -> None:
        """See `Transport.close`."""
        if self._open:
            self._open = False
            self._network._gone(self._me)

    def _admits(self, peer: PeerId) -> bool:
        return peer not in self._closed_to and (self._members is None or peer in self._members)
