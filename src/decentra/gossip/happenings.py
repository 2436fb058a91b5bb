"""What membership is given, what can happen to it, and what it asks for; `Start`, `Expired`, `SetTimer` and `Abort` are
those of every machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from decentra.gossip.messages import Datagram
from decentra.gossip.view import Status
from decentra.machine.effects import Abort, SetTimer
from decentra.machine.events import Expired, Start
from decentra.types import PeerId
from decentra.wire.entry import Checker


@dataclass(frozen=True)
class Setting:
    """Who this peer is, and its group.

    Attributes:
        me: this peer.
        boot: which of its starts this is, from 1; the journal counts them (MB-4).
        session: the session's name, 32 bytes; statements of another session do not count.
        members: everyone in the group, ascending, this peer included.
        c: how many of them may lie together.
        sign: this peer's signature on bytes.
        check: whether a signature is a member's on bytes.
    """

    me: PeerId
    boot: int
    session: bytes
    members: tuple[PeerId, ...]
    c: int
    sign: Callable[[bytes], bytes] = field(repr=False)
    check: Checker = field(repr=False)


@dataclass(frozen=True)
class Heard:
    """A datagram has come, from whom the link authenticated."""

    sender: PeerId
    message: Datagram


@dataclass(frozen=True)
class Leave:
    """This peer is about to end: it says so, and takes part no more."""


@dataclass(frozen=True)
class Say:
    """Send a datagram once; whether it arrives is nobody's business."""

    to: PeerId
    message: Datagram


@dataclass(frozen=True)
class Changed:
    """A member's status is another than before."""

    peer: PeerId
    status: Status


@dataclass(frozen=True)
class Standing:
    """How a member stands with this peer: since when, by the clock that ``handle`` is given, and who suspects it."""

    peer: PeerId
    status: Status
    incarnation: int
    since: float
    suspected_by: tuple[PeerId, ...]


Happening = Start | Heard | Expired | Leave
Doing = Say | SetTimer | Changed | Abort
