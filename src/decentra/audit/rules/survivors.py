"""Who is in the sum: what shown holdings give, from ``specs/secagg`` alone and not from the machines' own function."""

from __future__ import annotations

from decentra.audit.record import Record, Round
from decentra.types import PeerId
from decentra.wire.codec import pack, unpack
from decentra.wire.reader import Malformed

FAIL = b"fail"
MOST_VALUE = 8192

Parts = tuple[tuple[PeerId, ...], tuple[PeerId, ...], tuple[bytes, ...]]


def read(value: bytes) -> Parts | None:
    """The members, the owners of the slices and the holdings' hashes of a value; None where it is no set."""
    try:
        fields = unpack(value, MOST_VALUE)
    except Malformed:
        return None
    if not isinstance(fields, tuple) or len(fields) != 3 or not all(isinstance(part, tuple) for part in fields):
        return None
    if not all(isinstance(item, bytes) and len(item) == 32 for part in fields for item in part):
        return None
    members, owners, holdings = fields
    return tuple(map(PeerId, members)), tuple(map(PeerId, owners)), holdings


def owners_of(value: bytes) -> tuple[PeerId, ...]:
    """Who sums the slices; nobody where the value is no set."""
    parts = read(value)
    return () if parts is None else parts[1]


def gives(round_: Round, roster: Record, proposal: Record) -> bool | None:
    """Whether the holdings that a proposal shows give its value; None where one of them is missing."""
    order, least = roster["members"], round_.ground.quorum(len(roster["members"]))
    held: dict[int, dict[PeerId, Record]] = {}
    senders: set[PeerId] = set()
    for one in round_.cited(proposal, "shown"):
        if one is None or one.body is None:
            return None
        if one.kind != f"{round_.ground.spec.name}.holding" or one["context"] != proposal["context"]:
            return False
        if not one["slice"] < len(order) or one.author not in dict(one["held"]):
            return False
        senders.add(one.author)
        if one.author not in order:
            continue  # it counts for nothing, and the machines let it pass
        held.setdefault(one["slice"], {}).setdefault(one.author, one)
    given = _survivors(order, least, held)
    if proposal["value"] != FAIL:
        return bool(given == proposal["value"])
    return given is None and len(senders) >= least


def _survivors(order: tuple[PeerId, ...], least: int, held: dict[int, dict[PeerId, Record]]) -> bytes | None:
    present = {peer for position, peer in enumerate(order) if peer in held.get(position, ())}
    if len(present) < least:
        return None
    chosen: list[Record] = []
    for position in range(len(order)):
        following = (*order[position:], *order[:position])
        owner = next((peer for peer in following if peer in present and peer in held.get(position, ())), None)
        if owner is None:
            return None
        chosen.append(held[position][owner])
    lists = [dict(one["held"]) for one in chosen]
    members = tuple(
        peer for peer in order if all(peer in each and each[peer] == lists[0].get(peer) for each in lists)
    )
    if len(members) < least:
        return None
    return pack((members, tuple(one.author for one in chosen), tuple(one.entry.body for one in chosen)))
