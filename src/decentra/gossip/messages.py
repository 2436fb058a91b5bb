"""The datagrams of ``specs/membership``, field by field, and their bytes.

A datagram is one byte, the message's place in the spec, and the message's canonical body. It is bounded before it is
read, and whatever is wrong with it is its sender's fault, whom the link authenticated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from decentra import spec
from decentra.errors import RemoteError
from decentra.gossip.limits import DATAGRAM_BYTES, SYNC_BYTES
from decentra.gossip.statements import STATEMENT_BYTES
from decentra.types import PeerId
from decentra.wire.codec import Malformed
from decentra.wire.message import Message, Registry


@dataclass(frozen=True)
class Ping(Message):
    """Are you up? ``asker`` wants to know: the sender, or one that the sender probes for."""

    kind: ClassVar[str] = "membership.ping"
    number: int
    asker: PeerId
    statements: tuple[bytes, ...]


@dataclass(frozen=True)
class PingReq(Message):
    """Probe the subject for me; I get no answer from it."""

    kind: ClassVar[str] = "membership.ping_req"
    number: int
    subject: PeerId
    statements: tuple[bytes, ...]


@dataclass(frozen=True)
class Ack(Message):
    """The subject is up. The proof is its signature for the asker (MB-7), empty where the two speak directly."""

    kind: ClassVar[str] = "membership.ack"
    number: int
    asker: PeerId
    subject: PeerId
    proof: bytes
    statements: tuple[bytes, ...]


@dataclass(frozen=True)
class Nack(Message):
    """I probed the subject for you and got no answer in time; so I am up, and your ways to me are sound."""

    kind: ClassVar[str] = "membership.nack"
    number: int
    subject: PeerId
    statements: tuple[bytes, ...]


@dataclass(frozen=True)
class Sync(Message):
    """What I know of everyone, and what of it you lack: 0 opens, 1 answers, 2 closes a comparison of two views.

    ``heads`` are what each member, in ascending order, said last of itself: twice the incarnation, and one more where
    it left; 0 for nothing. ``suspected`` are members under suspicion in that incarnation, with a bit for each author,
    the first member's the lowest of the first byte. Both are empty in a closing.
    """

    kind: ClassVar[str] = "membership.sync"
    step: int
    heads: tuple[int, ...]
    suspected: tuple[tuple[PeerId, bytes], ...]
    statements: tuple[bytes, ...]


MESSAGES = (Ping, PingReq, Ack, Nack, Sync)
Datagram = Ping | PingReq | Ack | Nack | Sync

_CODES = {kind: code for code, kind in enumerate((Ping.kind, PingReq.kind, Ack.kind, Nack.kind, Sync.kind))}


@cache
def _registry() -> Registry:
    return Registry(spec.load("membership").messages, MESSAGES)


def pack(message: Datagram) -> bytes:
    """A message's bytes, as they travel. Raises Malformed where a receiver would; a defect of this peer."""
    return bytes((_CODES[message.kind],)) + _registry().encode(message)


def read(raw: bytes, sender: PeerId) -> Datagram:
    """The message that a datagram holds.

    Raises:
        RemoteError: the sender's fault: under MB-8 where it is too long, under SCHEMA where it can't be read.
    """
    code = raw[0] if raw else len(MESSAGES)
    if code >= len(MESSAGES):
        raise RemoteError(sender, "SCHEMA", "a datagram is of no kind that the spec has; install the same release")
    cls: Any = MESSAGES[code]
    limit = SYNC_BYTES if cls is Sync else DATAGRAM_BYTES
    if len(raw) > limit:
        raise RemoteError(sender, "MB-8", f"a datagram has {len(raw)} bytes where its kind has {limit} at most")
    try:
        message: Datagram = cls(*_registry().codec.decode(cls.kind, raw[1:]))
    except Malformed as error:
        raise RemoteError(sender, "SCHEMA", str(error)) from error
    return message


def size(message: Datagram) -> int:
    """How many bytes ``pack`` gives, without packing: a simulation counts them by the million."""
    match message:
        case Ping(number, _, statements):
            fixed = 2 + _natural(number) + 34
        case PingReq(number, _, statements) | Nack(number, _, statements):
            fixed = 2 + _natural(number) + 34
        case Ack(number, _, _, proof, statements):
            fixed = 2 + _natural(number) + 2 * 34 + 2 + len(proof)
        case Sync(_, heads, suspected, statements):
            fixed = 3 + _array(len(heads)) + sum(map(_natural, heads))
            fixed += _array(len(suspected)) + sum(1 + 34 + 2 + len(bits) for _, bits in suspected)
    return fixed + _array(len(statements)) + len(statements) * (2 + STATEMENT_BYTES)


def _natural(value: int) -> int:
    return 1 if value < 128 else 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5 if value < 1 << 32 else 9


def _array(count: int) -> int:
    return 1 if count < 16 else 3
