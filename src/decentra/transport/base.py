"""The interface of a transport, and what every implementation promises.

1. The peer handed to `Receive` is the one that the transport authenticated, never one that a message names.
2. Within a lane, messages arrive in the order sent, except over a simulated edge that was told to reorder.
   A connection that breaks or is refused loses what was queued or in flight; a transport repeats nothing by itself.
   Somebody on the way can make it lose a message, whole, and can neither alter nor repeat one.
3. The lanes do not wait for each other.
4. `Transport.send` never blocks. Queues are bounded.
5. All calls are made, and all callbacks come, on one thread: the event loop's.
6. A way that breaks is tried again by itself, and soon after the network is whole: the pauses are short where nobody
   answers, and end early for a neighbour that is heard, and for all once the way to any of them opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from decentra.types import PeerId
from decentra.wire.frame import FRAME_LIMIT, HEADER_LIMIT, MAX_PARTS, Lane

__all__ = [
    "BULK_QUEUE",
    "CONTROL_QUEUE",
    "CUT",
    "DISMISSED",
    "REDIAL_FIRST",
    "REDIAL_LOST",
    "REDIAL_MOST",
    "REFUSED",
    "SEND_DEADLINE",
    "SILENT",
    "UNREACHABLE",
    "ZERO_COPY",
    "Buffer",
    "Counters",
    "Lane",
    "LinkChange",
    "Receive",
    "Transport",
    "check_message",
]

Buffer = bytes | bytearray | memoryview
"""What can be sent; a numpy array goes as ``memoryview(array).cast("B")``."""

Receive = Callable[[PeerId, Lane, bytes, Sequence[memoryview]], None]
"""``(authenticated peer, lane, header, parts)``; the views are the receiver's for as long as it holds them."""

LinkChange = Callable[[PeerId, bool, str], None]
"""``(peer, up, reason)``: this peer's way *to* the other opened or broke, or the reason for its being down changed."""

CONTROL_QUEUE = 1000
"""Messages waiting a neighbour on the control lane: entries are small, a thousand of them outlast any hiccup."""

BULK_QUEUE = 64
"""Messages waiting a neighbour on the bulk lane: twice the 32 pieces that a link keeps in flight."""

REDIAL_FIRST = 1.0
"""Seconds before the first new try after a refusal; doubled from there."""

REDIAL_MOST = 30.0
"""Seconds between tries at most after refusals, so that a peer that was just added to a charter need not wait long."""

REDIAL_LOST = 5.0
"""Seconds between tries at most where nobody answers: a try costs a packet, and after a partition a group must not miss
rounds because it waits to try."""

SEND_DEADLINE = 30.0
"""Seconds after which a message that still waits for a connection is dropped: without one it would wait for ever."""

ZERO_COPY = 64 * 1024
"""Parts of at least this many bytes may wait in the caller's memory; below it a copy costs less."""

UNREACHABLE = "nobody answers at its address: is it running, and is the address right?"
"""The reason given while a peer cannot be connected to."""

SILENT = "somebody takes the connection and says nothing: is that peer stopped, or is the port another program's?"
"""The reason given when a handshake is not answered in time."""

CUT = "the connection broke"
"""The reason given when a connection that was open ends; it is tried again."""

DISMISSED = "it holds a charter that this peer is no member of"
"""The reason given when the other side says so."""

REFUSED = "handshake refused: your key isn't in their charter or their key differs from yours"
"""The reason given when the other side ended the handshake: it may not say more to someone it does not know."""


@dataclass
class Counters:
    """What went through a transport; bytes are those of headers and parts, not of the carrier's own framing."""

    bytes_sent: int = 0
    bytes_received: int = 0
    largest_frame: int = 0

    def sent(self, sizes: Sequence[int]) -> None:
        """Count a message of these parts as sent."""
        self.bytes_sent += sum(sizes)
        self.largest_frame = max(self.largest_frame, *sizes)

    def received(self, sizes: Sequence[int]) -> None:
        """Count a message of these parts as received."""
        self.bytes_received += sum(sizes)
        self.largest_frame = max(self.largest_frame, *sizes)


class Transport(Protocol):
    """Carries messages between this peer and its neighbours; constructed with a `Receive` and a `LinkChange`."""

    @property
    def counters(self) -> Counters:
        """What this transport sent and received so far."""
        ...

    def dial(self, peer: PeerId) -> None:
        """Connect to a peer and keep trying, every 1 to 5 s (30 where it refuses), until `close_peer`.

        Dialling twice is the same as once.

        Raises:
            LocalError: the peer is not a member, or its address is not known.
        """
        ...

    def send(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[Buffer]) -> bool:
        """Queue a message, and say whether it was taken; never waits.

        False means that the lane's queue is full or that the peer was never dialled. The caller leaves parts of
        `ZERO_COPY` bytes and more unchanged until the other side has told that it has them.

        Raises:
            ValueError: more parts, or larger ones, than `decentra.wire.frame` allows.
        """
        ...

    def close_peer(self, peer: PeerId) -> None:
        """Drop the connections to a peer and take nothing more from it, until it is dialled again.

        No callback comes for it: it was this peer's own will. The other side sees its connection break.
        """
        ...

    def close(self) -> None:
        """Drop every connection and free the port; no callback comes afterwards."""
        ...


def check_message(header: bytes, buffers: Sequence[Buffer]) -> list[int]:
    """The byte sizes of header and parts, held against the limits of a frame.

    Raises:
        ValueError: a limit of `decentra.wire.frame` is broken; the caller is at fault.
    """
    sizes = [len(header)]
    sizes += [buffer.nbytes if isinstance(buffer, memoryview) else len(buffer) for buffer in buffers]
    if len(sizes) > MAX_PARTS or sizes[0] > HEADER_LIMIT or sum(sizes[1:]) > FRAME_LIMIT:
        limits = f"at most {MAX_PARTS} parts, of {FRAME_LIMIT} bytes together, and a header of {HEADER_LIMIT}"
        raise ValueError(f"a message has {limits}; got {sizes}")
    return sizes
