"""Which of many vectors count, and under which hash: what shown holdings give, as every peer of a roster computes it
alike (mesh step 4, bucketed step 4).

A holding names vectors, each with the hash of the message that it goes by. A vector counts under the one hash that more
than c shown holdings name; under two such hashes it does not. Up to c liars bring no hash over c, so they put no vector
in or out that all honest peers name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from decentra.protocols.survivors import MOST_VALUE
from decentra.types import PeerId
from decentra.wire.codec import Malformed, pack, unpack

Named = Mapping[PeerId, bytes]
"""What a holding names: by a vector's author, or another peer that stands for it, the hash of its message."""


@dataclass(frozen=True)
class Agreed:
    """The certified set: whose vectors count, whose holdings show it, and the hash of each one's message."""

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
        """Of each survivor the hash of its certified vector's message."""
        return dict(zip(self.members, self.hashes, strict=True))


def counted(holdings: Iterable[Named], c: int) -> dict[PeerId, tuple[bytes, ...]]:
    """Of each vector the hashes that more than c of these holdings name, in order."""
    named: dict[PeerId, Counter[bytes]] = {}
    for held in holdings:
        for peer, hashed in held.items():
            named.setdefault(peer, Counter())[hashed] += 1
    return {peer: tuple(sorted(one for one, count in of.items() if count > c)) for peer, of in named.items()}


def derive_agreed(
    vectors: Sequence[PeerId], roster: Sequence[PeerId], quorum: int, least: int, c: int, held: Mapping[PeerId, Named]
) -> Agreed | None:
    """What shown holdings give; None where fewer than ``quorum`` peers show one, or fewer than ``least`` vectors count.

    Args:
        vectors: the peers that vectors go by, in the order in which a value names them.
        held: of each peer of the roster that shows one its holding.
    """
    if len(held) < quorum:
        return None
    named = counted(held.values(), c)
    chosen = {peer: named[peer][0] for peer in vectors if len(named.get(peer, ())) == 1}
    if len(chosen) < least:
        return None
    return Agreed(tuple(chosen), tuple(peer for peer in roster if peer in held), tuple(chosen.values()))
