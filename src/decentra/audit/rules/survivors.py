"""Whose update counts: what shown holdings give, from ``specs/secagg`` and ``specs/mesh`` alone and not from the
machines' own functions."""

from __future__ import annotations

from collections import Counter, defaultdict

from decentra.audit.record import Record, Round
from decentra.types import PeerId
from decentra.wire.codec import pack, unpack
from decentra.wire.reader import Malformed

FAIL = b"fail"
MOST_VALUE = 8192
MESH = "mesh"
"""Its holdings are of whole updates."""

Parts = tuple[tuple[PeerId, ...], tuple[PeerId, ...], tuple[bytes, ...]]


def read(value: bytes) -> Parts | None:
    """The members, who proposes first, and hashes; None where it is no set. Who proposes first owns slices, in mesh
    its holding was shown; the hashes are those of the shown holdings, in mesh of the members' updates."""
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
    """Who proposes the outcome first: who sums slices, or showed a holding; nobody where the value is no set."""
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
        if not (one["slice"] or 0) < len(order) or one.author not in dict(one["held"]):
            return False
        senders.add(one.author)
        if one.author not in order:
            continue  # it counts for nothing, and the machines let it pass
        held.setdefault(one["slice"] or 0, {}).setdefault(one.author, one)
    if round_.ground.spec.name == MESH:
        given = _echoed(order, least, round_.ground.c, held.get(0, {}))
    else:
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


def _echoed(order: tuple[PeerId, ...], least: int, c: int, held: dict[PeerId, Record]) -> bytes | None:
    """Of whole updates: who is named by more than c holdings under one hash, and under no second one."""
    if len(held) < least:
        return None
    named: dict[PeerId, Counter[bytes]] = defaultdict(Counter)
    for one in held.values():
        for peer, hashed in one["held"]:
            named[peer][hashed] += 1
    often = {peer: [hashed for hashed, count in of.items() if count > c] for peer, of in named.items()}
    members = tuple(peer for peer in order if len(often.get(peer, ())) == 1)
    if len(members) < least:
        return None
    return pack((members, tuple(peer for peer in order if peer in held), tuple(often[peer][0] for peer in members)))
