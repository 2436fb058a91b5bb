"""Whose update counts, and which: what shown holdings give, as every peer of a roster computes it alike (ME-3).

A holding names the peers whose update its author has whole, each with the hash of what that peer signed. A peer is a
survivor under the one hash that more than c shown holdings name; two such hashes are two updates that it signed, and it
is none. Up to c liars bring no hash over c, so they put nobody in or out whom all honest peers hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from decentra.protocols.mesh.messages import Holding
from decentra.protocols.survivors import MOST_VALUE
from decentra.types import PeerId
from decentra.wire.codec import Malformed, pack, unpack
from decentra.wire.message import Verified


@dataclass(frozen=True)
class Agreed:
    """The certified set: whose update counts, whose holdings show it, and the hash of each update's message."""

    members: tuple[PeerId, ...]
    witnesses: tuple[PeerId, ...]
    hashes: tuple[bytes, ...]

    def pack(self) -> bytes:
        return pack((self.members, self.witnesses, self.hashes))

    @classmethod
    def unpack(cls, value: bytes) -> Agreed:
        """Read a value. Raises Malformed where it is none."""
        fields = unpack(value, MOST_VALUE)
        match fields:
            case (tuple(members), tuple(witnesses), tuple(hashes)) if len(members) == len(hashes):
                if all(type(item) is bytes and len(item) == 32 for item in (*members, *witnesses, *hashes)):
                    return cls(tuple(map(PeerId, members)), tuple(map(PeerId, witnesses)), hashes)
        raise Malformed("a value that is no set of survivors")

    @property
    def updates(self) -> dict[PeerId, bytes]:
        """Of each survivor the hash of its certified update."""
        return dict(zip(self.members, self.hashes, strict=True))


def read_holding(verified: Verified, context: bytes) -> dict[PeerId, bytes] | None:
    """What a holding under this context names; None where the entry is no such holding: who holds has its own."""
    message = verified.message
    if not isinstance(message, Holding) or message.context != context:
        return None
    held = dict(message.held)
    return held if verified.sender in held else None


def counted(holdings: Iterable[Mapping[PeerId, bytes]], c: int) -> dict[PeerId, tuple[bytes, ...]]:
    """Of each peer the hashes that more than c of these holdings name, in order."""
    named: dict[PeerId, Counter[bytes]] = {}
    for held in holdings:
        for peer, hashed in held.items():
            named.setdefault(peer, Counter())[hashed] += 1
    return {peer: tuple(sorted(one for one, count in of.items() if count > c)) for peer, of in named.items()}


def derive_agreed(
    roster: Sequence[PeerId], quorum: int, c: int, shown: Sequence[Verified], context: bytes
) -> Agreed | None:
    """What the shown holdings give; None where fewer than ``quorum`` peers show one, or fewer survive.

    Of each author in the roster its first holding counts.
    """
    held: dict[PeerId, dict[PeerId, bytes]] = {}
    for verified in shown:
        read = read_holding(verified, context)
        if read is not None and verified.sender in roster:
            held.setdefault(verified.sender, read)
    if len(held) < quorum:
        return None
    named = counted(held.values(), c)
    chosen = {peer: named[peer][0] for peer in roster if len(named.get(peer, ())) == 1}
    if len(chosen) < quorum:
        return None
    return Agreed(tuple(chosen), tuple(peer for peer in roster if peer in held), tuple(chosen.values()))
