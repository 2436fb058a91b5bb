"""ZeroMQ sockets on an asyncio loop, without a poller of their own: each has a descriptor that tells of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq


class Pump:
    """Calls `work` whenever a socket may have something to do, on the loop's thread.

    A ZeroMQ descriptor signals changes, not states, and only the next look at EVENTS rearms it. So `work` goes on until
    the socket has nothing more, or returns True to be called again after others had their turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: zmq.Socket[bytes], work: Callable[[], bool]) -> None:
        self._loop = loop
        self._work = work
        self._again: asyncio.Handle | None = None
        self._fd: int | None = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._run)
        self.kick()

    def kick(self) -> None:
        """Look at the socket soon: setting an option or connecting may have swallowed a signal."""
        if self._again is None and self._fd is not None:
            self._again = self._loop.call_soon(self._run)

    def stop(self) -> None:
        """Call no more; to be done before the socket is closed, since its descriptor may then become another's."""
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            self._fd = None
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _run(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._fd is None:
            return
        more = True
        try:
            more = self._work()
        finally:
            # Also where a callback raised: the loop reports that, and the socket must not fall silent.
            if more:
                self.kick()


def drain(socket: zmq.Socket[bytes], take: Callable[[list[bytes]], None], most: int = 64) -> bool:
    """Give up to `most` waiting messages of a socket to `take`; True if there may be more."""
    for _ in range(most):
        if socket.closed:
            return False
        try:
            message = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return readable(socket)
        take(message)
    return True


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits; looking also rearms the descriptor."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
