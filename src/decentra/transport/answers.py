"""What comes back on a connection that this process opened: at most one short answer, and no memory for more.

libzmq takes a multipart message whole before it shows any of it, so whoever is reached at an address could fill the
memory of who dials. No frame may be longer than an answer, and the kernel tells how much came before one was shown.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from decentra.transport.guard import FRAME_OVERHEAD, IDLE_RATE, arrived
from decentra.transport.sockets import drain
from decentra.wire.door import ANSWER_LIMIT

ROOM = 2 * ANSWER_LIMIT
"""Bytes that may have come on a connection: an answer, and generously the handshake before it."""

PERIOD = 0.05
"""Seconds between looks: at 0.4 GB/s, 20 MB come within one."""

TOO_MUCH = "it sent more than any answer has"

LINE_EVENTS = zmq.Event.CONNECTED | zmq.Event.DISCONNECTED
"""What a `Line`'s monitor must tell, at least."""


def answer_options(socket: zmq.Socket[bytes]) -> None:
    """The options of a socket on which an answer may come, and nothing else."""
    socket.setsockopt(zmq.MAXMSGSIZE, ANSWER_LIMIT + FRAME_OVERHEAD)
    socket.setsockopt(zmq.RCVHWM, 1)


class Line:
    """The connection that a dialling socket has open, by what its monitor tells.

    Args:
        monitor: tells `LINE_EVENTS` and what else the owner wants to know.
        take: called with every event.
    """

    def __init__(self, monitor: zmq.Socket[bytes], take: Callable[[dict[str, Any]], None]) -> None:
        self._monitor, self._take = monitor, take
        self._open: tuple[int, float] | None = None

    def hear(self) -> bool:
        """Take what the monitor has to tell; True if there may be more."""
        return drain(self._monitor, self._told)

    def full(self) -> bool:
        """Look: whether more has come than an answer; only to be asked before any message was shown."""
        before = self._open
        if before is None or arrived(before[0]) - (monotonic() - before[1]) * IDLE_RATE <= ROOM:
            return False
        # Its descriptor may have been another's when we looked. libzmq tells of an end before it gives one back.
        while self.hear():
            pass
        return self._open is before

    def _told(self, message: list[bytes]) -> None:
        event: dict[str, Any] = dict(parse_monitor_message(message))
        if event["event"] == zmq.Event.CONNECTED:
            self._open = (int(event["value"]), monotonic())
        elif event["event"] == zmq.Event.DISCONNECTED:
            self._open = None
        self._take(event)
