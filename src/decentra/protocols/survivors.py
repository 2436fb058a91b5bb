"""Who is in the sum: what shown holdings give, as every peer of a roster computes it alike (secagg step 4).

A holding names, for one slice, the peers whose part its author has whole, each with the hash of the list of slices that
this peer signed. The survivors are those whom the owners of *every* slice hold, under equal hashes, and at least t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decentra.types import PeerId
from decentra.wire.codec import Malformed, pack, unpack
from decentra.wire.message import Verified

FAIL = b"fail"
"""The value that says: the shown holdings give no survivors. It frees every update of the round."""

MOST_VALUE = 8192


@dataclass(frozen=True)
class Survivors:
    """The certified set: who is in the sum, who sums each slice, and the holdings that show it."""

    members: tuple[PeerId, ...]
    owners: tuple[PeerId, ...]
    holdings: tuple[bytes, ...]

    def pack(self) -> bytes:
        return pack((self.members, self.owners, self.holdings))

    @classmethod
    def unpack(cls, value: bytes) -> Survivors:
        """Read a value. Raises Malformed where it is none."""
        fields = unpack(value, MOST_VALUE)
        match fields:
            case (tuple(members), tuple(owners), tuple(holdings)):
                everything = (*members, *owners, *holdings)
                if all(type(item) is bytes and len(item) == 32 for item in everything):
                    read = cls(tuple(map(PeerId, members)), tuple(map(PeerId, owners)), holdings)
                    if read.pack() == value:
                        return read
        raise Malformed("a value that is no set of survivors")


def read_holding(verified: Verified, kind: str, context: bytes, n: int) -> tuple[int, dict[PeerId, bytes]] | None:
    """The slice and the peers of a holding under this context; None where the entry is no such holding: who holds a
    slice has its own part of it at least."""
    message = verified.message
    position, held = getattr(message, "slice", n), dict(getattr(message, "held", ()))
    if message.kind != kind or getattr(message, "context", b"") != context or not position < n:
        return None
    return (position, held) if verified.sender in held else None


def derive_survivors(
    roster: Sequence[PeerId], quorum: int, shown: Sequence[Verified], kind: str, context: bytes
) -> Survivors | None:
    """What the shown holdings give; None where that is no set of survivors.

    At least ``quorum`` peers must show a holding of their own slice, so that no few peers can make themselves the
    owners of all. Of these, a slice belongs to its own peer, or else to the next in the roster that shows a holding of
    it. The survivors are those whom every owner holds under equal hashes, and again at least ``quorum``.
    """
    held: dict[int, dict[PeerId, tuple[Verified, Mapping[PeerId, bytes]]]] = {}
    for verified in shown:
        read = read_holding(verified, kind, context, len(roster))
        if read is not None and verified.sender in roster:
            held.setdefault(read[0], {}).setdefault(verified.sender, (verified, read[1]))
    present = {peer for position, peer in enumerate(roster) if peer in held.get(position, ())}
    if len(present) < quorum:
        return None
    chosen: list[tuple[Verified, Mapping[PeerId, bytes]]] = []
    for position in range(len(roster)):
        following = (*roster[position:], *roster[:position])
        owner = next((peer for peer in following if peer in present and peer in held.get(position, ())), None)
        if owner is None:
            return None
        chosen.append(held[position][owner])
    first = chosen[0][1]
    members = tuple(
        peer for peer in roster if all(peer in lists and lists[peer] == first[peer] for _, lists in chosen)
    )
    if len(members) < quorum:
        return None
    return Survivors(
        members, tuple(one.sender for one, _ in chosen), tuple(one.body_hash for one, _ in chosen)
    )
