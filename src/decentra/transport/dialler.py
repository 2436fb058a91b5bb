"""One lane to one neighbour: the DEALER that sends on it, its queue, and the monitor that tells how it fares."""

from __future__ import annotations

import asyncio
import errno
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from decentra.transport.answers import LINE_EVENTS, TOO_MUCH, Line, answer_options
from decentra.transport.base import (
    BULK_QUEUE,
    CONTROL_QUEUE,
    CUT,
    DISMISSED,
    REDIAL_FIRST,
    REDIAL_LOST,
    REDIAL_MOST,
    REFUSED,
    SEND_DEADLINE,
    SILENT,
    UNREACHABLE,
    ZERO_COPY,
    Buffer,
    Counters,
)
from decentra.transport.envelope import seal
from decentra.transport.sockets import Pump, readable
from decentra.wire.frame import MAX_MESSAGE_SIZE, Lane

HIGH_WATER = {Lane.CONTROL: 1000, Lane.BULK: 16}
"""Messages inside libzmq a lane: small entries may pile up, of pieces no more than keep the line busy (4 MiB)."""

QUEUES = {Lane.CONTROL: CONTROL_QUEUE, Lane.BULK: BULK_QUEUE}

HEARTBEAT_MS = 1000
HEARTBEAT_TIMEOUT_MS = 3000
"""A stopped or unplugged peer is noticed after this; by default never. libzmq's own thread beats, so training that
holds the interpreter does not make a peer look dead."""

HANDSHAKE_MS = 2000
"""For a whole handshake; at the default of 30 s, 1,500 silent sockets keep honest peers out."""

RECONNECT_MS = 100
RECONNECT_MOST_MS = int(1000 * REDIAL_LOST)
"""libzmq's own tries where nobody listens: from 0.1 s, doubling."""

CONNECT_MS = 4000
"""For a connection where nothing comes back: the kernel asks again after 1 and 3 s, and then ever more rarely, up to
minutes, through which a network that is whole again would go unnoticed."""

HURRY_AFTER = 3.0
"""Seconds that a connection under way is left alone before a neighbour's own message starts it anew: a handshake's time
and one more."""

REFUSALS = (
    zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)
"""What a monitor tells where a handshake came to nothing; `refusal` says why."""

_WATCHED = LINE_EVENTS | zmq.Event.CLOSED | zmq.Event.HANDSHAKE_SUCCEEDED | REFUSALS


class Route(NamedTuple):
    """Where a neighbour is and which keys the handshake takes: raw CURVE keys, 32 bytes each."""

    endpoint: str
    server_key: bytes
    public: bytes
    secret: bytes


class _Queued(NamedTuple):
    deadline: float
    header: bytes
    buffers: Sequence[Buffer]
    sizes: list[int]


def common_options(socket: zmq.Socket[bytes]) -> None:
    """The options that both ends share."""
    socket.setsockopt(zmq.LINGER, 0)  # what matters is acknowledged end to end before a peer closes
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_SIZE)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.IPV6, 1)


def show_keys(socket: zmq.Socket[bytes], route: Route) -> None:
    """Shake hands by a route's keys."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, route.server_key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, route.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, route.secret)


def refusal(cause: int) -> str:
    """The reason for an event of `REFUSALS`: libzmq gives EAGAIN where the time for the handshake ran out."""
    return SILENT if cause == errno.EAGAIN else REFUSED


class Dialler:
    """Keeps one lane to one neighbour open, and sends what is queued on it in order.

    libzmq reconnects by itself where a connection breaks, but a refused DEALER would stay silent for ever, and one with
    a wrong key would knock ten times a second: both are closed here and dialled again after 1, 2, 4, … 30 s, or
    at most 5 s where nobody answers the handshake.

    Args:
        changed: called with (up, reason) on every turn.
        answered: takes what the neighbour says on this connection, and tells whether it may: only who is no member for
            it any more is answered so.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]],
        lane: Lane,
        route: Route,
        counters: Counters,
        changed: Callable[[bool, str], None],
        answered: Callable[[bytes], bool],
    ) -> None:
        self._loop, self._context, self._lane, self._route = loop, context, lane, route
        self._counters, self._changed, self._answered = counters, changed, answered
        self._queue: deque[_Queued] = deque()
        self._next: bytes | None = None  # the first of the queue as a frame, where libzmq had no room for it
        self._pause = REDIAL_FIRST
        self._redial: asyncio.TimerHandle | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._line: Line | None = None
        self._pumps: list[Pump] = []
        self._opened_at = 0.0
        self.up = False
        self._open()

    def offer(self, header: bytes, buffers: Sequence[Buffer], sizes: list[int]) -> bool:
        """Queue a message and send what can be sent; False if the queue is full."""
        if len(self._queue) >= QUEUES[self._lane]:
            return False
        self._queue.append(_Queued(self._loop.time() + SEND_DEADLINE, header, buffers, sizes))
        if self.up:
            self._flush()
        return True

    def hurry(self) -> None:
        """The neighbour is alive, or the network is: try now instead of at the end of the pause."""
        least = HURRY_AFTER if self._redial is None else REDIAL_FIRST
        if not self.up and self._loop.time() - self._opened_at >= least:
            self._shut()
            self._open()

    def look(self) -> None:
        """Cut the connection where more came on it than the neighbour may have to say; to be called again and again."""
        line = self._line
        if line is not None and line.full() and line is self._line:
            self._fail(TOO_MUCH)

    def drop(self) -> None:
        """Forget what is queued."""
        self._queue.clear()
        self._next = None

    def close(self) -> None:
        """Drop the connection and what is queued; no callback comes afterwards."""
        self.drop()
        self._shut()

    def _open(self) -> None:
        self._redial = None
        self._opened_at = self._loop.time()
        socket = self._context.socket(zmq.DEALER)
        common_options(socket)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.PROBE_ROUTER, 1)  # an empty message on every new connection tells the other whose it is
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER[self._lane])
        answer_options(socket)
        # Jitter, or every peer of a group would knock at a restarted one at the same instant.
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS + random.randrange(RECONNECT_MS))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MOST_MS)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        show_keys(socket, self._route)
        socket.copy_threshold = ZERO_COPY
        monitor = socket.get_monitor_socket(_WATCHED)
        line = Line(monitor, self._event)
        self._socket, self._monitor, self._line = socket, monitor, line
        try:
            socket.connect(self._route.endpoint)
        except zmq.ZMQError:
            self._shut()
            raise
        self._pumps = [
            Pump(self._loop, monitor, line.hear),
            Pump(self._loop, socket, self._work),
        ]

    def _shut(self) -> None:
        self.up = False
        if self._redial is not None:
            self._redial.cancel()
            self._redial = None
        for pump in self._pumps:
            pump.stop()
        self._pumps = []
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()  # before closing: a monitor that outlives its socket hangs the context
            self._monitor.close(0)
            self._socket.close(0)
        self._socket = self._monitor = self._line = None

    def _event(self, told: dict[str, Any]) -> None:
        event, value = told["event"], told["value"]
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.up = True
            self._pause = REDIAL_FIRST
            self._changed(True, "connected")
            self._flush()
        elif event & REFUSALS:
            self._fail(refusal(value))
        elif event == zmq.Event.DISCONNECTED and self.up:
            self.up = False
            self._changed(False, CUT)
        elif event == zmq.Event.CLOSED and not self.up:
            self._changed(False, UNREACHABLE)

    def _fail(self, reason: str) -> None:
        self._shut()
        self._redial = self._loop.call_later(self._pause * random.uniform(1.0, 1.25), self._open)
        self._pause = min(2 * self._pause, REDIAL_LOST if reason == SILENT else REDIAL_MOST)
        self._changed(False, reason)

    def _work(self) -> bool:
        if self._socket is None:
            return False
        if readable(self._socket):
            if self._answered(self._socket.recv(zmq.NOBLOCK)):
                self._pause = REDIAL_MOST
                self._fail(DISMISSED)
            else:
                self._fail("it sent on a connection that only this peer may send on")
            return False
        self._flush()
        return False

    def _flush(self) -> None:
        socket = self._socket
        while self._queue and socket is not None:
            message = self._queue[0]
            if self._loop.time() <= message.deadline:
                frame = self._next or seal(self._lane, message.header, message.buffers, message.sizes)
                try:
                    socket.send(frame, zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    self._next = frame
                    return  # the descriptor tells when there is room
                self._counters.sent(message.sizes)
            self._queue.popleft()
            self._next = None
