"""The messages of ``specs/rendezvous``, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from decentra.types import PeerId
from decentra.wire.message import Message, Verified


@dataclass(frozen=True)
class Ready(Message):
    """I am ready for this round, with this model, this last certified outcome and this common state."""

    kind: ClassVar[str] = "rendezvous.ready"
    fingerprint: bytes
    layout: bytes
    last: bytes
    state: bytes
    seal: bytes


@dataclass(frozen=True)
class Later(Message):
    """I am ready, and still in my local steps: wait for my update as you would have waited for my readiness."""

    kind: ClassVar[str] = "rendezvous.later"


@dataclass(frozen=True)
class Absent(Message):
    """I asked these peers and have not received their readiness."""

    kind: ClassVar[str] = "rendezvous.absent"
    view: int
    peers: tuple[PeerId, ...]


@dataclass(frozen=True)
class Roster(Message):
    """These members start the round; ``citations`` show why the others don't."""

    kind: ClassVar[str] = "rendezvous.roster"
    view: int
    members: tuple[PeerId, ...]
    fingerprint: bytes
    layout: bytes
    last: bytes
    state: bytes
    citations: tuple[Verified, ...]


@dataclass(frozen=True)
class Want(Message):
    """Send me this part of the common state that the roster names; part 0 is its index."""

    kind: ClassVar[str] = "rendezvous.want"
    view: int
    state: bytes
    part: int


@dataclass(frozen=True)
class State(Message):
    """A part of the common state, as the blob beside this message."""

    kind: ClassVar[str] = "rendezvous.state"
    view: int
    state: bytes
    part: int
    root: bytes


@dataclass(frozen=True)
class AbortRound(Message):
    """I end this round: the clause that was broken, whom I blame, and why."""

    kind: ClassVar[str] = "rendezvous.abort"
    clause: str
    blamed: tuple[PeerId, ...]
    reason: str


@dataclass(frozen=True)
class Leave(Message):
    """I leave the group: don't wait for me."""

    kind: ClassVar[str] = "rendezvous.leave"


MESSAGES = (Ready, Later, Absent, Roster, Want, State, AbortRound, Leave)
