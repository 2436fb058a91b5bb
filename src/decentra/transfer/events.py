"""What a link tells its owner."""

from __future__ import annotations

from dataclasses import dataclass

from decentra.transfer.blob import Announcement
from decentra.types import EpochName


@dataclass(frozen=True)
class Arrived:
    """The other end's next entry; where it announces a blob, `Link.accept` or `Link.reject` must follow."""

    parts: tuple[bytes, ...]
    announcement: Announcement | None


@dataclass(frozen=True)
class Completed:
    """A blob is whole; `data` (flat bytes) is the receiver's own from here on."""

    transfer: int
    data: memoryview


@dataclass(frozen=True)
class Delivered:
    """The other end has the whole blob: the memory it was sent from may be reused."""

    transfer: int


@dataclass(frozen=True)
class Rejected:
    """The other end will not take a blob, or forgot it in a restart: the memory it was sent from may be reused."""

    transfer: int


@dataclass(frozen=True)
class Corrupt:
    """A piece did not match its announced digest; it was dropped, and will be asked for again."""

    transfer: int
    offset: int


@dataclass(frozen=True)
class Restarted:
    """The other end is a new process: what the earlier one had taken is gone there, its unfinished blobs are gone here.

    Entries that it had not acknowledged are sent to the new one.
    """


@dataclass(frozen=True)
class Whispered:
    """A datagram of the other end's: it may come late, twice or never, and nobody but the link vouches for it."""

    data: bytes


@dataclass(frozen=True)
class Elsewhere:
    """The other end speaks for another session than this one: of which epoch, by its own word."""

    epoch: EpochName


@dataclass(frozen=True)
class Holds:
    """The latest charter that the other end holds, and the outcome that was certified last in its session."""

    epoch: EpochName
    session: bytes
    round: int
    outcome: bytes


@dataclass(frozen=True)
class Handed:
    """A charter that the other end hands over, and where it knows members to be; nobody has checked either."""

    charter: bytes
    addresses: bytes


Event = (
    Arrived
    | Completed
    | Delivered
    | Rejected
    | Corrupt
    | Restarted
    | Whispered
    | Elsewhere
    | Holds
    | Handed
)
