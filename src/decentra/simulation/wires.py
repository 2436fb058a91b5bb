"""Wires that carry whole messages: what ``transfer.Link`` promises over a network with faults, at a tenth of its cost.

A link repeats what is lost and puts in order what overtook, so above it a fault is a delay, and only what a process had
in flight when it stopped is lost. These wires do just that: each entry arrives once and in its order on each directed
edge, whole and unframed; a dropped one is repeated after the link's own pauses; a cut edge holds everything until it
heals; a blob comes after its entry, maybe later, and does not hold up the entries behind it. Frames, pieces, credits
and acknowledgements are simulated by ``transport.simulated`` under the real link.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from decentra.errors import RemoteError
from decentra.transfer import Announcement, Arrived, Completed
from decentra.transfer import Event as LinkEvent
from decentra.transfer.link import NOWHERE, STALL_FIRST, STALL_MOST, Send
from decentra.transport.base import Buffer, Counters, Lane, Receive
from decentra.transport.simulated import Faults
from decentra.transport.virtual import EventHeap
from decentra.types import EpochName, PeerId

DELIVER, BLOB = b"entry", b"blob"
"""The headers under which a wire tells a driver that something is there."""


class Parcel(NamedTuple):
    """One entry on its way, and the blob beside it."""

    parts: tuple[bytes, ...]
    announcement: Announcement | None
    data: memoryview | None


Mouth = Callable[[PeerId, Parcel], bool]
"""Whether a peer really hands a parcel to that neighbour: a liar may keep silent towards some."""


@dataclass
class Edge:
    """One direction between two peers."""

    source: PeerId
    target: PeerId
    faults: Faults
    rng: random.Random
    cut: bool = False
    held: list[Parcel] = field(default_factory=list)
    last: float = 0.0
    life: int = 0
    """Counts the processes at both ends: what was on the way to or from an earlier one may be lost."""


class Wires:
    """All directed edges between simulated peers.

    Args:
        clock: whose time it is.
        seed: everything random follows from it; each edge draws from a generator of its own.
        faults: what a new edge does; copied for each edge.
    """

    def __init__(self, clock: EventHeap, seed: int, faults: Faults | None = None) -> None:
        self.clock, self._seed = clock, seed
        self._faults = faults or Faults()
        self._edges: dict[tuple[PeerId, PeerId], Edge] = {}
        self._ends: dict[PeerId, WireTransport] = {}

    def transport(self, me: PeerId, on_receive: Receive, mouth: Mouth | None = None) -> WireTransport:
        """A peer's end; one made again under the same name is that peer restarted."""
        made = WireTransport(self, me, on_receive, mouth)
        self._ends[me] = made
        for edge in self._edges.values():
            if edge.target == me and not edge.cut:
                self._release(edge)
        return made

    def faults(self, source: PeerId, target: PeerId) -> Faults:
        """The faults of a directed edge, to be changed in place."""
        return self.edge(source, target).faults

    def cut(self, source: PeerId, target: PeerId) -> None:
        """Break one direction: what is sent from now on waits until it heals."""
        self.edge(source, target).cut = True

    def heal(self, source: PeerId, target: PeerId) -> None:
        """Mend one direction, and let go what waited."""
        edge = self.edge(source, target)
        edge.cut = False
        self._release(edge)

    def edge(self, source: PeerId, target: PeerId) -> Edge:
        """The edge between two peers, one for all their processes."""
        edge = self._edges.get((source, target))
        if edge is None:
            name = sha256(b"decentra wire" + self._seed.to_bytes(16, "big", signed=True) + source + target).digest()
            edge = self._edges[source, target] = Edge(
                source, target, Faults(**vars(self._faults)), random.Random(name)
            )
        return edge

    def _release(self, edge: Edge) -> None:
        held, edge.held = edge.held, []
        for parcel in held:
            self.carry(edge, parcel)

    def carry(self, edge: Edge, parcel: Parcel) -> None:
        """Bring a parcel to the other end of an edge, as late as its faults make it."""
        end = self._ends.get(edge.target)
        if edge.cut or end is None:
            edge.held.append(parcel)
            return
        at = self.clock.now() + edge.faults.latency + self._delay(edge)
        if at < edge.last:
            at = edge.last
        edge.last = at
        self.clock.call_at(at, partial(self._bring, end, parcel, edge, edge.life))

    @staticmethod
    def _bring(end: WireTransport, parcel: Parcel, edge: Edge, life: int) -> None:
        if edge.life == life:
            end.arrive(edge.source, parcel)

    @staticmethod
    def _delay(edge: Edge) -> float:
        """What the faults cost a message: jitter, being overtaken, and being repeated after the link's pauses."""
        faults, rng = edge.faults, edge.rng
        late, pause = rng.random() * faults.jitter if faults.jitter else 0.0, STALL_FIRST
        if faults.drop:
            while rng.random() < faults.drop:
                late, pause = late + pause, min(2 * pause, STALL_MOST)
        if faults.reorder and rng.random() < faults.reorder:
            late += rng.random() * faults.hold
        return late

    def blob_delay(self, source: PeerId, target: PeerId) -> float:
        """How long after its entry a blob comes."""
        return self._delay(self.edge(source, target))

    def lives(self, source: PeerId, target: PeerId, life: int) -> bool:
        """Whether the process at an edge's source is the one that it was in that life of the edge."""
        return source in self._ends and self.edge(source, target).life == life

    def stop(self, me: PeerId, keeps: Callable[[PeerId], bool]) -> None:
        """A peer's process is gone: what was on the way to it is lost, and what it had sent, unless ``keeps`` says
        that it reached that neighbour's side; what is sent to it from now on waits for its next process."""
        self._ends.pop(me, None)
        for edge in self._edges.values():
            if edge.target == me or (edge.source == me and not keeps(edge.target)):
                edge.life += 1
                edge.last = 0.0
            if edge.source == me:
                edge.held.clear()


class WireTransport:
    """One peer's end of the wires (``transport.base.Transport``); its links use it, and send nothing through it."""

    def __init__(self, wires: Wires, me: PeerId, on_receive: Receive, mouth: Mouth | None) -> None:
        self.wires, self.me, self.on_receive, self.mouth = wires, me, on_receive, mouth
        self.counters = Counters()
        self.links: dict[PeerId, WireLink] = {}
        self.open = True

    def link(
        self, peer: PeerId, incarnation: int, send: Send, *, session: bytes, epoch: EpochName = NOWHERE
    ) -> WireLink:
        """The link to a neighbour (``driver.fittings.LinkMaker``)."""
        self.links[peer] = WireLink(self, peer, incarnation)
        return self.links[peer]

    def arrive(self, source: PeerId, parcel: Parcel) -> None:
        link = self.links.get(source)
        if self.open and link is not None:
            for part in parcel.parts:
                self.counters.bytes_received += len(part)
            link.inbox.append(parcel)
            self.on_receive(source, Lane.CONTROL, DELIVER, ())

    def told(self, source: PeerId) -> None:
        if self.open:
            self.on_receive(source, Lane.BULK, BLOB, ())

    def dial(self, peer: PeerId) -> None:
        """See `Transport.dial`; wires are always there."""

    def send(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[Buffer]) -> bool:
        """See `Transport.send`; a wire's links carry whole messages and never send frames."""
        return False

    def close_peer(self, peer: PeerId) -> None:
        """See `Transport.close_peer`."""

    def close(self) -> None:
        """See `Transport.close`."""
        self.open = False


class WireLink:
    """What stands between a peer and a neighbour on wires (``driver.fittings.Neighbour``)."""

    idle, wakeup = True, None

    def __init__(self, end: WireTransport, peer: PeerId, incarnation: int) -> None:
        self._end, self._peer = end, peer
        self._edge: Edge | None = None
        self._next = (incarnation & 0xFFFFFFFF) << 32
        self.inbox: deque[Parcel] = deque()
        self._offered: dict[int, tuple[memoryview, int]] = {}
        """What may be accepted, and the edge's life when it came."""
        self._arriving = 0
        """The transfer whose entry the driver is being handed."""
        self._accepted: dict[int, memoryview] = {}
        self._whole: deque[int] = deque()

    def announce(self, data: memoryview, digests: tuple[bytes, ...] | None = None) -> Announcement:
        self._next += 1
        return Announcement(self._next, data.nbytes, digests or ())

    def post(
        self,
        parts: Sequence[bytes],
        announcement: Announcement | None = None,
        data: memoryview | None = None,
        *,
        round_number: int = 0,
    ) -> None:
        end, parcel = self._end, Parcel(tuple(parts), announcement, data)
        if end.mouth is not None and not end.mouth(self._peer, parcel):
            return
        size = 0 if data is None else data.nbytes
        for part in parts:
            size += len(part)
        end.counters.bytes_sent += size
        edge = self._edge
        if edge is None:
            edge = self._edge = end.wires.edge(end.me, self._peer)
        end.wires.carry(edge, parcel)

    def whisper(self, data: bytes) -> None:
        """Wires carry whole messages only; no peer on them is handed a membership."""

    def tell(self, epoch: EpochName, round_number: int, outcome: bytes) -> None:
        """All peers on wires are in one epoch."""

    def hand(self, charter: bytes, addresses: bytes, epoch: int) -> None:
        """All peers on wires are in one epoch."""

    def accept(self, announcement: Announcement, limit: int, into: memoryview | None = None) -> bool:
        """Take the blob in when it comes. Raises RemoteError where it is larger than ``limit``."""
        transfer = announcement.transfer
        data, life = self._offered.pop(transfer, (None, 0))
        if data is None:
            return False
        if announcement.size > limit:
            raise RemoteError(self._peer, "SCHEMA", f"a blob of {announcement.size} bytes where {limit} are allowed")
        self._accepted[transfer] = data
        if transfer != self._arriving and self._end.wires.lives(self._peer, self._end.me, life):
            self._send_for(transfer)
        return True

    def gathered(self, transfer: int) -> memoryview | None:
        """See ``transfer.Link.gathered``; a wire brings a blob in its sender's memory."""
        return self._accepted.get(transfer)

    def reject(self, transfer: int) -> None:
        self._offered.pop(transfer, None)
        self._accepted.pop(transfer, None)

    def withdraw(self, transfer: int) -> None:
        """What is on its way arrives all the same."""

    def connected(self) -> None:
        """Wires are always there."""

    def disconnected(self) -> None:
        """Wires are always there."""

    def tick(self, now: float) -> None:
        """Nothing here waits for the time."""

    def receive(self, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> Iterable[LinkEvent]:
        """What has just come; a blob's bytes come with its entry or after it, once it was accepted."""
        if header == BLOB:
            transfer = self._whole.popleft()
            return (Completed(transfer, self._accepted.pop(transfer)),) if transfer in self._accepted else ()
        parcel = self.inbox.popleft()
        if parcel.announcement is None or parcel.data is None:
            return (Arrived(parcel.parts, None),)
        return self._offer(parcel.parts, parcel.announcement, parcel.data)

    def _offer(
        self, parts: tuple[bytes, ...], announcement: Announcement, data: memoryview
    ) -> Iterator[LinkEvent]:
        transfer = announcement.transfer
        self._offered[transfer] = data, self._end.wires.edge(self._peer, self._end.me).life
        self._arriving = transfer
        yield Arrived(parts, announcement)
        self._arriving = 0
        if transfer not in self._accepted:
            return
        delay = self._end.wires.blob_delay(self._peer, self._end.me)
        if delay:
            self._end.wires.clock.call_later(delay, lambda: self._come(transfer))
        else:
            yield Completed(transfer, self._accepted.pop(transfer))

    def _send_for(self, transfer: int) -> None:
        """A blob is accepted that stood on offer: it comes as late as any."""
        delay = self._end.wires.blob_delay(self._peer, self._end.me)
        self._end.wires.clock.call_later(delay, lambda: self._come(transfer))

    def _come(self, transfer: int) -> None:
        self._whole.append(transfer)
        self._end.told(self._peer)
