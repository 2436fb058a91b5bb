"""Who may connect: the ZAP handler (ZeroMQ RFC 27) that holds every handshake against the members' CURVE keys.

CURVE alone proves that the other side has some key; without this handler any key would do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq
from zmq.utils import z85

from decentra.transport.sockets import Pump, drain

DOMAIN = "decentra"
"""The name that requests carry; enforced, so a socket that was bound without it admits nobody."""

_KEY_BYTES = 32


def key_text(key: bytes) -> str:
    """A CURVE public key, 32 bytes, as the text that names it here."""
    return z85.encode(key).decode()


class Doorkeeper:
    """Answers each handshake of one context: 200 and the key's text as User-Id for those who may enter, else 400.

    Args:
        admits: tells of a CURVE public key (z85 text) whether it may enter; asked at every handshake.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: zmq.Context[zmq.Socket[bytes]], admits: Callable[[str], bool]
    ) -> None:
        self._admits = admits
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind("inproc://zeromq.zap.01")
        self._pump = Pump(loop, self._socket, lambda: drain(self._socket, self._answer))

    def close(self) -> None:
        """Answer no more; handshakes under way then fail."""
        self._pump.stop()
        self._socket.close()

    def _answer(self, request: list[bytes]) -> None:
        # RFC 27: version, request id, domain, address, routing id, mechanism, credentials.
        user = ""
        if len(request) == 7 and request[0] == b"1.0" and request[2] == DOMAIN.encode() and request[5] == b"CURVE":
            key = request[6]
            user = key_text(key) if len(key) == _KEY_BYTES else ""
        request_id = request[1] if len(request) > 1 else b""
        welcome = bool(user) and self._admits(user)
        status, text = (b"200", b"OK") if welcome else (b"400", b"not a member")
        self._socket.send_multipart([b"1.0", request_id, status, text, user.encode() if welcome else b"", b""])
