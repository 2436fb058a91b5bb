"""What a peer keeps of a round's secrets for its self-audit, where its configuration says so, as files.

Of a round there are, in a folder that only its owner reads: for each view the randomness of its own deal and the deals
that it opened, and its encoded vector before any mask was on it. Whoever reads them reads its update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed, pack, unpack

DEAL, DEALS, VECTOR = "deal", "deals", "vector"
"""The parts of a round's secrets: the seeds of an own deal and the deals that were opened, for each view; the encoded
vector in the ring's words, little-endian, with the weight behind it."""

MOST = 1 << 34
"""Bytes of the largest file: a vector of more parameters than a charter allows."""

NUMBER = 8
"""Digits of a round's number in a name, so that names sort by round."""


@dataclass(frozen=True)
class DealSeeds:
    """What an own deal was made of.

    Attributes:
        me: whose it is.
        roster: whom it was for, in order; ``quorum`` shares give a secret back.
        sealing_keys: what the shares were sealed to, in the roster's order.
        drawn: the randomness in the order in which it was drawn.
    """

    session: bytes
    round_id: RoundId
    view: int
    me: PeerId
    roster: tuple[PeerId, ...]
    quorum: int
    sealing_keys: tuple[bytes, ...]
    drawn: bytes = field(repr=False)

    def pack(self) -> bytes:
        place = (self.session, self.round_id.epoch, self.round_id.number, self.view)
        return pack((*place, self.me, self.roster, self.quorum, self.sealing_keys, self.drawn))

    @classmethod
    def unpack(cls, raw: bytes) -> DealSeeds:
        """Raises Malformed where it is none."""
        match unpack(raw, MOST):
            case (bytes(), int(), int(), int(), bytes(), tuple(), int(), tuple(), bytes()) as read:
                session, epoch, number, view, me, roster, quorum, keys, drawn = read
                if all(isinstance(one, bytes) and len(one) == 32 for one in (me, *roster, *keys)):
                    members = tuple(map(PeerId, roster))
                    return cls(session, RoundId(epoch, number), view, PeerId(me), members, quorum, keys, drawn)
        raise Malformed("the seeds of no deal")


def pack_deals(deals: Mapping[PeerId, bytes]) -> bytes:
    """The bodies of deals by dealer."""
    return pack(tuple(sorted(deals.items())))


def unpack_deals(raw: bytes) -> Mapping[PeerId, bytes]:
    """Raises Malformed where these are none."""
    read, found = unpack(raw, MOST), dict[PeerId, bytes]()
    for one in read if isinstance(read, tuple) else (read,):
        match one:
            case (bytes(dealer), bytes(body)) if len(dealer) == 32:
                found[PeerId(dealer)] = body
            case _:
                raise Malformed("the deals of nobody")
    return found


class Kept:
    """The parts of one round's secrets, in a folder. Reading gives None for what is not there, or is none."""

    def __init__(self, folder: Path, session: bytes, number: int) -> None:
        self._folder, self._stem = folder, f"{session.hex()[:16]}-{number:0{NUMBER}d}"

    def path(self, part: str, view: int | None = None) -> Path:
        """Where a part is."""
        return self._folder / "-".join((self._stem, part, *(() if view is None else (str(view),))))

    def views(self) -> Iterator[int]:
        """The views in which this peer dealt, ascending."""
        names = (one.name.rpartition("-")[2] for one in self._folder.glob(f"{self._stem}-{DEAL}-*"))
        return iter(sorted(int(name) for name in names if name.isdecimal() and name.isascii()))

    def seeds(self, view: int) -> DealSeeds | None:
        raw = self._read(self.path(DEAL, view))
        try:
            return None if raw is None else DealSeeds.unpack(raw)
        except Malformed:
            return None

    def deals(self, view: int) -> Mapping[PeerId, bytes] | None:
        raw = self._read(self.path(DEALS, view))
        try:
            return None if raw is None else unpack_deals(raw)
        except Malformed:
            return None

    def vector(self) -> bytes | None:
        return self._read(self.path(VECTOR))

    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            return path.read_bytes() if path.stat().st_size <= MOST else None
        except OSError:
            return None


def round_of(path: Path) -> tuple[str, int] | None:
    """The session, as names have it, and the round that a file is of; None for another file."""
    match path.name.split("-"):
        case [session, number, _, *_] if number.isdecimal() and number.isascii():
            return session, int(number)
    return None
