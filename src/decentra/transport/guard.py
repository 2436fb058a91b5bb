"""What each accepted connection has put into this process's memory, and cutting the one that puts too much.

libzmq reads a multipart message whole before it shows any of it, and counts it as one however many parts come: a
member that never sends the last part fills the memory unseen. The kernel knows how many bytes it gave to libzmq on a
connection, and we know how many came out; the difference is what a sender costs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from decentra.types import PeerId

UNREAD_LIMIT = 48 * 1024 * 1024
"""Bytes a connection may have unread: 16 messages queued in libzmq (at most 1 MiB each from an honest peer) and the
kernel's receive buffer (6 MiB) stay well below; a member costs less than 64 MiB but for what one period brings."""

PERIOD = 0.25
"""Seconds between looks: one system call a connection, 0.2 % of a core for 63 neighbours."""

FRAME_OVERHEAD = 96
"""Bytes a part takes beyond itself, generously: ZMTP flags and length, the CURVE box, its share of the routing."""

IDLE_RATE = 256
"""Bytes a second that a connection takes with nothing to say, generously: heartbeats every second, both ways."""

_BYTES_RECEIVED = struct.Struct("=Q")
_BYTES_RECEIVED_AT = 128
"""Offset of tcpi_bytes_received in Linux's struct tcp_info (include/uapi/linux/tcp.h), there since Linux 4.1."""


@dataclass
class _Connection:
    since: float
    peer: PeerId | None = None
    read: int = 0


class Guard:
    """The accepted connections by file descriptor."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: dict[int, _Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def opened(self, fd: int, now: float) -> None:
        """A connection was accepted."""
        self._connections[fd] = _Connection(now)

    def closed(self, fd: int) -> None:
        """A connection ended."""
        self._connections.pop(fd, None)

    def read(self, fd: int, peer: PeerId, size: int, parts: int, now: float) -> None:
        """A message of this peer came out of a connection."""
        connection = self._connections.setdefault(fd, _Connection(now))
        connection.peer = peer
        connection.read += size + parts * FRAME_OVERHEAD

    def cut_peer(self, peer: PeerId) -> None:
        """End the connections on which this peer has sent something."""
        for fd, connection in list(self._connections.items()):
            if connection.peer == peer:
                self.cut(fd)

    def cut(self, fd: int) -> None:
        """End a connection: libzmq sees the other side go, and frees what it held for it."""
        self._connections.pop(fd, None)
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as view:
            # The descriptor is libzmq's and may be another's by now: only what came to our port is cut.
            if view.getsockname()[1] == self._port:
                view.shutdown(socket.SHUT_RDWR)

    def over(self, now: float) -> list[tuple[int, PeerId | None]]:
        """The connections that have more than `UNREAD_LIMIT` bytes unread, with whose they are where that is known."""
        return [(fd, c.peer) for fd, c in self._connections.items() if _arrived(fd) - _explained(c, now) > UNREAD_LIMIT]


def _explained(connection: _Connection, now: float) -> int:
    return connection.read + int((now - connection.since) * IDLE_RATE)


def _arrived(fd: int) -> int:
    """Bytes that the kernel received on a connection; 0 where this system does not tell, or it is gone."""
    if not hasattr(socket, "TCP_INFO"):
        return 0
    view: socket.socket | None = None
    try:
        view = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fd)
        info = view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_AT + 8)
    except OSError:
        return 0
    finally:
        if view is not None:
            view.detach()
    if len(info) < _BYTES_RECEIVED_AT + 8:
        return 0
    return int(_BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)[0])
