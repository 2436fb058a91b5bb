"""What each accepted connection has put into this process's memory, and cutting the one that puts too much.

libzmq reads a multipart message whole before it shows any of it, and counts it as one however many parts come: a
member that never sends the last part fills the memory unseen. The kernel knows how many bytes it gave to libzmq on a
connection, and we know how many came out; the difference is what a sender costs.

Whose a connection is shows with its first message: an honest neighbour greets at once (`zmq.PROBE_ROUTER`). Who has not
greeted is nobody, gets little room, and not for long; what a member may cost counts over all its connections.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from decentra.types import PeerId
from decentra.wire.frame import PIECE_BYTES, Lane

UNREAD_LIMIT = 32 * 1024 * 1024
"""Bytes a member may have unread: 16 messages queued in libzmq (at most 1 MiB each from an honest peer) and the
kernel's receive buffer (6 MiB) stay below; with what one period brings, at 0.3 GB/s, it costs less than 64 MiB."""

TOTAL_LIMIT = 256 * 1024 * 1024
"""Bytes that all connections may have unread before those who have most are cut."""

ORDINARY = 16 * 1024 * 1024
"""Bytes unread for which nobody is cut, however many others have as much: pieces in flight (8 MiB), and as much again
in the kernel's receive buffer and among the entries."""

STRANGER_LIMIT = 64 * 1024
"""Bytes that who has not greeted may have unread for longer than it takes to come to reading its greeting."""

STRANGERS_LIMIT = 16 * 1024 * 1024
"""Bytes that all who have not greeted may have unread before those with more than `STRANGER_LIMIT` are cut at once: a
stranger can announce a frame as large as a member's, and libzmq then takes it in."""

GREETS_AT_ONCE, GREETS = 5, 100
"""Looks after which who has not greeted is cut: with more than `STRANGER_LIMIT` unread, and in any case. Looks and not
seconds, so that a loop that was held up has read what waited for it."""

MOST_CONNECTIONS = 4
"""Connections of one member: two lanes, and the two before them, which may take seconds to be seen to be dead."""

PERIOD = 0.1
"""Seconds between looks: one system call a connection, 0.5 % of a core for 63 neighbours."""

FLOOD = 2000
"""Messages a second on a lane, besides whole pieces of a vector, that no honest member sends for long: at 0.5 GB/s it
sends 250 credits, and its entries, and what acknowledges them, are some forty a round."""

FLOOD_BYTES = {Lane.CONTROL: 32 * 1024 * 1024, Lane.BULK: 8 * 1024 * 1024 * 1024}
"""Bytes a second likewise: of entries a link has 4 MiB in flight at most, and few rounds have as much. Pieces are a
vector's, which may come as fast as the line carries them."""

FLOOD_TIME = 0.75
"""Seconds over which that is counted, so that a member that floods is cut within 2 s."""

CROWD = 64
"""New connections after which the next look is due at once, and not when its time has come."""

FRAME_OVERHEAD = 96
"""Bytes a frame takes beyond itself, generously: ZMTP flags and length, the CURVE box."""

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
    looks: int = 0


class Guard:
    """The accepted connections by file descriptor."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: dict[int, _Connection] = {}
        self._messages: Counter[tuple[PeerId, Lane]] = Counter()
        self._bytes: Counter[tuple[PeerId, Lane]] = Counter()
        self._counted_since = 0.0
        self._new = 0

    def __len__(self) -> int:
        return len(self._connections)

    def opened(self, fd: int, now: float) -> None:
        """A connection was accepted."""
        self._connections[fd] = _Connection(now)
        self._new += 1

    def closed(self, fd: int) -> None:
        """A connection ended."""
        self._connections.pop(fd, None)

    def read(self, fd: int, peer: PeerId, size: int, now: float) -> None:
        """A message of this peer came out of a connection. With one connection too many its oldest is cut."""
        connection = self._connections.setdefault(fd, _Connection(now))
        connection.read += size + FRAME_OVERHEAD
        if connection.peer != peer:
            connection.peer = peer
            own = [one for one, other in self._connections.items() if other.peer == peer]
            if len(own) > MOST_CONNECTIONS:
                self.cut(min(own, key=lambda one: self._connections[one].since))

    def asked(self, fd: int, size: int, now: float) -> None:
        """A message came out of a connection of who is no member: it stays a stranger's."""
        self._connections.setdefault(fd, _Connection(now)).read += size + FRAME_OVERHEAD

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

    def said(self, peer: PeerId, lane: Lane, size: int) -> None:
        """A message of this peer is handed to its owner."""
        self._messages[peer, lane] += 1
        self._bytes[peer, lane] += size

    def flooding(self, now: float) -> list[PeerId]:
        """Look: the members that keep sending more messages than any has use for."""
        seconds = now - self._counted_since
        if seconds < FLOOD_TIME:
            return []
        pieces = {key: size // PIECE_BYTES for key, size in self._bytes.items()}
        found = {key[0] for key, count in self._messages.items() if count - pieces[key] > FLOOD * seconds}
        found |= {peer for (peer, lane), size in self._bytes.items() if size > FLOOD_BYTES[lane] * seconds}
        self._messages.clear()
        self._bytes.clear()
        self._counted_since = now
        return sorted(found)

    def crowded(self) -> bool:
        """Whether so many have connected since the last look that the next is due."""
        return self._new >= CROWD

    def over(self, now: float, early: bool = False) -> tuple[list[int], list[PeerId]]:
        """Look: the connections of nobody, and the members, that take more of this process's memory than they may.

        A look that is ``early`` costs nobody any of its time to greet.
        """
        self._new = 0
        unread = {fd: max(0, arrived(fd) - _explained(one, now)) for fd, one in self._connections.items()}
        excess = sum(unread.values()) - TOTAL_LIMIT
        crowd = sum(unread[fd] for fd, one in self._connections.items() if one.peer is None) > STRANGERS_LIMIT
        strangers: list[int] = []
        members: dict[PeerId, int] = {}
        for fd, connection in self._connections.items():
            if connection.peer is not None:
                members[connection.peer] = members.get(connection.peer, 0) + unread[fd]
                continue
            connection.looks += not early
            much = unread[fd] > STRANGER_LIMIT and (connection.looks > GREETS_AT_ONCE or crowd or excess > 0)
            if much or unread[fd] > UNREAD_LIMIT or connection.looks > GREETS:
                strangers.append(fd)
                excess -= unread[fd]
        costly: list[PeerId] = []
        for peer, size in sorted(members.items(), key=lambda member: member[1], reverse=True):
            if size > UNREAD_LIMIT or (excess > 0 and size > ORDINARY):
                costly.append(peer)
                excess -= size
        return strangers, costly


def _explained(connection: _Connection, now: float) -> int:
    return connection.read + int((now - connection.since) * IDLE_RATE)


def arrived(fd: int) -> int:
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


def close_copies(port: int) -> None:
    """In a forked child: close the copies of what listens on a port of ours, and of the connections to it."""
    for name in [path.name for path in Path("/proc/self/fd").glob("*")]:
        fd = int(name)
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode) and _port(fd) == port:
                os.close(fd)


def _port(fd: int) -> int | None:
    with socket.socket(fileno=os.dup(fd)) as view:
        name = view.getsockname()
    return int(name[1]) if isinstance(name, tuple) and view.family in (socket.AF_INET, socket.AF_INET6) else None
