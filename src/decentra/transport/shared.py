"""One transport for several sessions of a peer: frames go by the session that their headers name.

Each session has a `Part`, which keeps a transport's promises as if it were the session's alone. A neighbour of two
sessions has one connection; who closes it for one of them breaks it for both, and it opens anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from decentra.errors import LocalError
from decentra.transport.base import CUT, Buffer, Counters, LinkChange, Receive, Transport, check_message
from decentra.types import PeerId
from decentra.wire.frame import Lane, greets, session_of

MOST_EARLY = 8
"""Greetings kept of a peer for sessions that this one has not opened yet: one for each axis of the largest grid."""


class SharedTransport:
    """Shares one transport, whose callbacks are ``on_receive`` and ``on_link`` of this object."""

    def __init__(self) -> None:
        self._transport: Transport | None = None
        self._parts: dict[bytes, Part] = {}
        self._up: dict[PeerId, str] = {}
        self._down: dict[PeerId, str] = {}
        self._early: dict[PeerId, dict[bytes, bytes]] = {}
        """Greetings that came before their session was opened here, by session: who sent one waits seconds to repeat
        it."""

    def carry(self, transport: Transport) -> None:
        """Take the transport that is to be shared, before anything is opened."""
        self._transport = transport

    def part(self, session: bytes, on_receive: Receive, on_link: LinkChange) -> Part:
        """Open a session's part.

        Raises:
            LocalError: the session has one already.
        """
        if session in self._parts:
            raise LocalError("a session was opened twice on one transport; a defect of decentra")
        made = self._parts[session] = Part(self, session, on_receive, on_link)
        return made

    def close(self) -> None:
        """Drop every connection, for all sessions."""
        self._parts.clear()
        if self._transport is not None:
            self._transport.close()

    # what the transport calls

    def on_receive(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
        """A message came; one of a session that is not open here is dropped, but for a greeting."""
        session = session_of(header) or b""
        part = self._parts.get(session)
        if part is not None:
            part.counters.received([len(header), *(buffer.nbytes for buffer in buffers)])
            part.on_receive(peer, lane, header, buffers)
        elif greets(header):
            early = self._early.setdefault(peer, {})
            early.pop(session, None)
            early[session] = header
            if len(early) > MOST_EARLY:
                del early[next(iter(early))]

    def on_link(self, peer: PeerId, up: bool, reason: str) -> None:
        """The way to a peer opened or broke, for every session that has it as a neighbour."""
        (self._up if up else self._down)[peer] = reason
        (self._down if up else self._up).pop(peer, None)
        if not up:
            self._early.pop(peer, None)
        for part in list(self._parts.values()):
            if peer in part.dialled:
                part.on_link(peer, up, reason)

    # what its parts call

    def dial(self, part: Part, peer: PeerId) -> None:
        self.need().dial(peer)
        if peer in self._up:
            part.on_link(peer, True, self._up[peer])
        elif peer in self._down:
            part.on_link(peer, False, self._down[peer])
        header = self._early.get(peer, {}).pop(part.session, None)
        if header is not None:
            part.on_receive(peer, Lane.CONTROL, header, ())

    def hang_up(self, part: Part, peer: PeerId) -> None:
        transport = self.need()
        self._up.pop(peer, None)
        transport.close_peer(peer)
        others = [other for other in self._parts.values() if other is not part and peer in other.dialled]
        for other in others:
            other.on_link(peer, False, CUT)
        if others:
            transport.dial(peer)

    def leave(self, part: Part) -> None:
        if self._parts.get(part.session) is part:
            del self._parts[part.session]

    def need(self) -> Transport:
        if self._transport is None:
            raise RuntimeError("nothing was given to be shared")
        return self._transport


class Part:
    """What one session has of a shared transport; see `decentra.transport.base.Transport` for its calls."""

    def __init__(self, shared: SharedTransport, session: bytes, on_receive: Receive, on_link: LinkChange) -> None:
        self._shared, self.session = shared, session
        self.on_receive, self.on_link = on_receive, on_link
        self.dialled: set[PeerId] = set()
        self.counters = Counters()
        """What this session alone sent and received."""

    def dial(self, peer: PeerId) -> None:
        """See `Transport.dial`."""
        if peer not in self.dialled:
            self.dialled.add(peer)
            self._shared.dial(self, peer)

    def send(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[Buffer]) -> bool:
        """See `Transport.send`."""
        if peer not in self.dialled or not self._shared.need().send(peer, lane, header, buffers):
            return False
        self.counters.sent(check_message(header, buffers))
        return True

    def close_peer(self, peer: PeerId) -> None:
        """See `Transport.close_peer`."""
        self.dialled.discard(peer)
        self._shared.hang_up(self, peer)

    def close(self) -> None:
        """See `Transport.close`: the session takes nothing more; what others share stays open."""
        self._shared.leave(self)
        self.dialled.clear()
