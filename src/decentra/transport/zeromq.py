"""ZeroMQ over TCP: one bound ROUTER that receives, and to each neighbour two DEALERs that send, all under CURVE.

Who asks on its own connection is answered there: members for the time, others at the door.

The sender of a message is the key that the handshake proved and `decentra.transport.zap` admitted, read from the
frame's User-Id; ROUTER's own ids are ignored. What an option guards against stands where it is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from decentra.errors import LocalError
from decentra.transport import time_query
from decentra.transport.answers import PERIOD as ANSWERS_PERIOD
from decentra.transport.base import SILENT, UNREACHABLE, Buffer, Counters, LinkChange, Receive, check_message
from decentra.transport.dialler import Dialler, Route, common_options
from decentra.transport.envelope import unseal
from decentra.transport.guard import PERIOD, Guard, close_copies
from decentra.transport.sockets import Pump, drain, readable
from decentra.transport.zap import DOMAIN, Doorkeeper
from decentra.types import PeerId
from decentra.wire.door import QUESTION_LIMIT, QUESTION_MARK
from decentra.wire.frame import Lane

RECEIVE_HIGH_WATER = 16
"""Messages that libzmq holds a connection before it stops reading from it: 4 MiB of pieces."""

BACKLOG = 1024
"""Connections that may wait to be accepted: a whole group knocks at once when a peer restarts."""

BATCH = 8
"""Messages taken before timers and other sockets have their turn: at most about 4 ms of pieces."""

FILES_WANTED = 4096
"""File descriptors that 1,500 silent strangers and a group leave room in."""

_QUESTION = bytes((QUESTION_MARK,))

_log = logging.getLogger("decentra")


class Reception(Protocol):
    """Who answers at a peer's door; keys are z85 text."""

    def admits(self, key: str) -> bool:
        """Whether a key that is no member's may ask something; asked at every handshake, so it must be quick."""
        ...

    def asked(self, key: str, message: bytes) -> bytes | None:
        """The answer to a message of such a key, or of a member that asks as one; empty for none, and None cuts its
        connection."""
        ...

    def answered(self, peer: PeerId, message: bytes) -> bool:
        """A member's answer to this peer, which is none for it; False where it is none."""
        ...


class _Neighbour:
    """Both lanes to one peer: up when both are."""

    def __init__(self, transport: ZeroMQTransport, peer: PeerId, route: Route) -> None:
        self._transport = transport
        self._peer = peer
        self._told = (False, "")
        self.lanes: dict[Lane, Dialler] = {}
        for lane in Lane:
            self.lanes[lane] = transport._dialler(lane, peer, route, self._changed)

    def hurry(self) -> None:
        for dialler in self.lanes.values():
            dialler.hurry()

    def look(self) -> None:
        for dialler in self.lanes.values():
            dialler.look()

    def close(self) -> None:
        for dialler in self.lanes.values():
            dialler.close()

    def _changed(self, up: bool, reason: str) -> None:
        whole = all(dialler.up for dialler in self.lanes.values())
        if up and not whole:
            return
        if not up and reason not in (UNREACHABLE, SILENT):
            # Both lanes lose what they hold, or one would deliver to a new connection what the other has lost.
            for dialler in self.lanes.values():
                dialler.drop()
        if (whole, reason) != self._told:
            self._told = (whole, reason)
            self._transport._on_link(self._peer, whole, reason)
            if whole:
                self._transport._hurry()


class ZeroMQTransport:
    """The transport between machines; see `decentra.transport.base.Transport` for its calls.

    Args:
        loop: the event loop on whose thread everything here is called.
        me: this peer.
        curve_secret: its CURVE secret key, 32 bytes.
        members: every member's CURVE public key, 32 bytes; this peer's own may be among them.
        bind: where to listen, such as ``tcp://0.0.0.0:7001``; port 0 lets the system choose, see `endpoint`.
        addresses: where each member can be reached; more can be told with `learn`.
        on_receive: called with each message.
        on_link: called when the way to a peer opens or breaks.
        reception: answers who is no member; None where nobody is let in.

    Raises:
        LocalError: a key is malformed or not the charter's, libsodium is missing, or the port cannot be bound.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        me: PeerId,
        curve_secret: bytes,
        members: Mapping[PeerId, bytes],
        bind: str,
        addresses: Mapping[PeerId, str],
        on_receive: Receive,
        on_link: LinkChange,
        reception: Reception | None = None,
    ) -> None:
        require_libsodium()
        raise_file_limit()
        self._loop, self._me, self._secret = loop, me, _key(curve_secret, "your CURVE secret key")
        self._public = z85.decode(zmq.curve_public(z85.encode(self._secret)))
        self._addresses = dict(addresses)
        self._on_receive, self._on_link, self._reception = on_receive, on_link, reception
        self._members: dict[PeerId, bytes] = {}
        self._by_key: dict[str, PeerId] = {}
        self._neighbours: dict[PeerId, _Neighbour] = {}
        self._closed_to: set[PeerId] = set()
        self._open = True
        self.counters = Counters()
        self._enrol(members)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._watch: asyncio.TimerHandle | None = None
        self._answers_watch: asyncio.TimerHandle | None = None
        with contextlib.ExitStack() as undo:  # a port that stayed taken would keep this peer from trying again
            undo.callback(self._context.destroy, 0)
            self._context.set(zmq.MAX_SOCKETS, FILES_WANTED)
            self._zap = Doorkeeper(loop, self._context, self._admits)
            undo.callback(self._zap.close)
            self._router = self._context.socket(zmq.ROUTER)
            self._listen(bind)
            self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
            """Where it listens, with the real port."""
            self._port = int(self.endpoint.rpartition(":")[2])
            self._guard = Guard(self._port)
            watching = Pump(loop, self._monitor, lambda: drain(self._monitor, self._accepted))
            undo.callback(watching.stop)
            self._pumps = [watching, Pump(loop, self._router, self._receive_some)]
            undo.pop_all()

    # what the owner calls

    def learn(self, peer: PeerId, address: str) -> None:
        """Take a member's address, such as ``tcp://peer.example:7001``; it counts from the next `dial` on."""
        self._addresses[peer] = address

    def allow(self, members: Mapping[PeerId, bytes]) -> None:
        """Replace the list of members; who left or changed keys is cut at once, both ways.

        Raises:
            LocalError: a key is malformed, or this peer's own is not the listed one.
        """
        before = dict(self._members)
        self._enrol(members)
        for peer, key in before.items():
            if self._members.get(peer) != key:
                self._hang_up(peer)

    def revoke(self, peer: PeerId) -> None:
        """Take one peer off the list of members: its open sessions are cut at once, and no other's."""
        self.allow({member: key for member, key in self._members.items() if member != peer})

    def dial(self, peer: PeerId) -> None:
        """See `Transport.dial`."""
        if peer not in self._members or peer == self._me:
            raise LocalError(f"peer {peer} is not another member of your charter: add it there before you dial it")
        address = self._addresses.get(peer)
        if address is None:
            raise LocalError(f"no address is known for peer {peer}: put one into decentra.toml")
        self._closed_to.discard(peer)
        if self._open and peer not in self._neighbours:
            route = Route(address, self._members[peer], self._public, self._secret)
            try:
                self._neighbours[peer] = _Neighbour(self, peer, route)
            except zmq.ZMQError as error:
                raise LocalError(f"{address} is no address for peer {peer} ({error}): write tcp://HOST:PORT") from None
            if self._answers_watch is None:
                self._answers_watch = self._loop.call_later(ANSWERS_PERIOD, self._look_at_answers)

    def send(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[Buffer]) -> bool:
        """See `Transport.send`."""
        sizes = check_message(header, buffers)
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            return False
        return neighbour.lanes[lane].offer(header, buffers, sizes)

    def close_peer(self, peer: PeerId) -> None:
        """See `Transport.close_peer`."""
        self._closed_to.add(peer)
        self._hang_up(peer)

    def close(self) -> None:
        """See `Transport.close`."""
        if not self._open:
            return
        self._open = False
        for watch in (self._watch, self._answers_watch):
            if watch is not None:
                watch.cancel()
        for neighbour in self._neighbours.values():
            neighbour.close()
        self._neighbours.clear()
        for pump in self._pumps:
            pump.stop()
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close(0)
        self._zap.close()
        self._context.term()

    def forked(self) -> None:
        """In a forked child: keep nothing of the port, which the peer must have for itself when it starts again."""
        close_copies(self._port)

    # membership

    def _enrol(self, members: Mapping[PeerId, bytes]) -> None:
        keys = {peer: _key(key, f"the charter's CURVE key of peer {peer}") for peer, key in members.items()}
        if keys.get(self._me, self._public) != self._public:
            raise LocalError("your CURVE key is not the one your charter lists for you: use the identity listed there")
        by_key = {z85.encode(key).decode(): peer for peer, key in keys.items() if peer != self._me}
        if len(by_key) != len(keys.keys() - {self._me}):
            raise LocalError("two members of your charter have one CURVE key: one of them must draw a new one")
        self._members, self._by_key = keys, by_key

    def _admits(self, key: str) -> bool:
        peer = self._by_key.get(key)
        if peer is None:
            return self._reception is not None and self._reception.admits(key)
        return peer not in self._closed_to

    def _hang_up(self, peer: PeerId) -> None:
        neighbour = self._neighbours.pop(peer, None)
        if neighbour is not None:
            neighbour.close()
        self._guard.cut_peer(peer)

    def _hurry(self) -> None:
        """A way opened. Where others are broken, it may have been this peer's network, which is whole again."""
        for neighbour in self._neighbours.values():
            neighbour.hurry()

    def _dialler(self, lane: Lane, peer: PeerId, route: Route, changed: Callable[[bool, str], None]) -> Dialler:
        def answered(message: bytes) -> bool:
            return self._reception is not None and self._reception.answered(peer, message)

        return Dialler(self._loop, self._context, lane, route, self.counters, changed, answered)

    # receiving

    def _listen(self, bind: str) -> None:
        router = self._router
        common_options(router)
        router.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER)
        router.setsockopt(zmq.SNDHWM, 1)  # it sends answers to who asks, one by one
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.ROUTER_HANDOVER, 0)  # with 1, a second key may take over another's connection
        router.setsockopt(zmq.BACKLOG, BACKLOG)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        router.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._monitor = router.get_monitor_socket(zmq.Event.ACCEPTED | zmq.Event.CLOSED | zmq.Event.DISCONNECTED)
        try:
            router.bind(bind)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                mend = "stop the process that has it, or choose another `bind` in decentra.toml"
                raise LocalError(f"the port of {bind} is occupied: {mend}") from None
            raise LocalError(f"cannot listen at {bind} ({error}): write tcp://ADDRESS:PORT of this machine") from None

    def _receive_some(self) -> bool:
        for _ in range(BATCH):
            # Looking at EVENTS before each message lets libzmq see that another connection has something too; by itself
            # it looks every hundred parts, and a ping then waits behind 33 pieces.
            if not self._open or not readable(self._router):
                return False
            try:
                frame = self._router.recv(zmq.NOBLOCK, copy=False)  # ROUTER's own id for the connection
            except zmq.Again:
                return True
            connection = frame.bytes
            first: zmq.Frame | None = None
            count = 0
            while frame.more:
                frame = self._router.recv(copy=False)  # the rest of a message is always there
                first = first or frame
                count += 1
            if first is not None:
                self._take(connection, first, count)
        return True

    def _take(self, connection: bytes, frame: zmq.Frame, count: int) -> None:
        drain(self._monitor, self._accepted)  # that its connection was accepted was told before this message came
        fd = int(frame.get(zmq.SRCFD))
        key = str(frame.get("User-Id"))
        peer = self._by_key.get(key)
        if peer is None or peer in self._closed_to or (count == 1 and bytes(frame.buffer[:1]) == _QUESTION):
            self._receive_guest(connection, key, frame, count)
            return
        neighbour = self._neighbours.get(peer)
        if neighbour is not None:
            neighbour.hurry()
        self._guard.read(fd, peer, len(frame), self._loop.time())
        if count == 1 and not len(frame):
            return  # a greeting: it says whose the connection is
        if count > 1:
            self._expel(peer, f"it sent a message of {count} frames, and decentra's have one")
            return
        if (nonce := time_query.asked(frame.buffer)) is not None:
            self._guard.said(peer, Lane.CONTROL, len(frame))
            with contextlib.suppress(zmq.ZMQError):  # who asks and does not listen gets no answer
                self._router.send_multipart([connection, time_query.answer(nonce, time.time())], zmq.NOBLOCK)
            return
        try:
            lane, header, parts = unseal(frame.buffer)
        except ValueError as error:
            self._expel(peer, str(error))
            return
        self._guard.said(peer, lane, len(frame))
        self.counters.received([len(header), *(part.nbytes for part in parts)])
        self._on_receive(peer, lane, header, parts)

    def _receive_guest(self, connection: bytes, key: str, frame: zmq.Frame, count: int) -> None:
        """Answer who is no member on its own connection, or cut it; it counts as a stranger's all the same."""
        fd, known = int(frame.get(zmq.SRCFD)), self._admits(key)
        self._guard.asked(fd, len(frame), self._loop.time())
        if known and count == 1 and not len(frame):
            return  # a greeting
        answer = None
        if known and count == 1 and len(frame) <= QUESTION_LIMIT and self._reception is not None:
            answer = self._reception.asked(key, frame.bytes)
        if answer is None:
            self._guard.cut(fd)  # also who was a member when it connected
            return
        with contextlib.suppress(zmq.ZMQError):  # it is gone, or does not read
            if answer:
                self._router.send_multipart([connection, answer], zmq.NOBLOCK)

    def _expel(self, peer: PeerId, reason: str) -> None:
        """Cut a member that broke the transport's own limits; its owner may dial it again."""
        _log.warning("peer %s was cut: %s", peer, reason)
        self.close_peer(peer)
        self._on_link(peer, False, reason)

    # what connections cost

    def _accepted(self, message: Sequence[bytes]) -> None:
        event = parse_monitor_message(list(message))
        if event["event"] == zmq.Event.ACCEPTED:
            self._guard.opened(int(event["value"]), self._loop.time())
            if self._watch is None:
                self._watch = self._loop.call_later(PERIOD, self._look)
            if self._guard.crowded():
                self._judge(early=True)
        else:
            self._guard.closed(int(event["value"]))

    def _look(self) -> None:
        self._watch = self._loop.call_later(PERIOD, self._look) if len(self._guard) else None
        self._judge()
        for peer in self._guard.flooding(self._loop.time()):
            self._expel(peer, "it sent many more messages than a round has")

    def _look_at_answers(self) -> None:
        for neighbour in list(self._neighbours.values()):
            neighbour.look()
        again = self._loop.call_later(ANSWERS_PERIOD, self._look_at_answers) if self._neighbours else None
        self._answers_watch = again

    def _judge(self, early: bool = False) -> None:
        strangers, costly = self._guard.over(self._loop.time(), early)
        for fd in strangers:
            self._guard.cut(fd)
        for peer in costly:
            self._expel(peer, "it filled this peer's memory with messages that never end")


def require_libsodium() -> None:
    """Hold the libzmq in use against what decentra needs of it.

    Raises:
        LocalError: no CURVE, or CURVE without libsodium, whose stand-in is slow and was dropped upstream.
    """
    mend = "install pyzmq's own wheel from PyPI"
    if not zmq.has("curve"):
        raise LocalError(f"this libzmq ({zmq.zmq_version()}) has no CURVE, so nothing can be encrypted: {mend}")
    maps = Path("/proc/self/maps")
    if sys.platform == "linux" and maps.exists() and "libsodium" not in maps.read_text():
        raise LocalError(f"this libzmq ({zmq.zmq_version()}) does CURVE without libsodium: {mend}")


def raise_file_limit() -> None:
    """Allow this process `FILES_WANTED` file descriptors, or say that the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES_WANTED:
        reach = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
        resource.setrlimit(resource.RLIMIT_NOFILE, (reach, hard))
        if reach < FILES_WANTED:
            _log.warning("only %d files may be open, so strangers can lock you out: ulimit -n %d", reach, FILES_WANTED)


def _key(key: bytes, whose: str) -> bytes:
    if len(key) != 32:
        raise LocalError(f"{whose} has {len(key)} bytes instead of 32: take it from `decentra keys`")
    return bytes(key)
