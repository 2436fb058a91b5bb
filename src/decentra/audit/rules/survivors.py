"""What counts in a round: what shown holdings give, from the specs alone and not from the machines' own functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from decentra.audit.record import Record, Round
from decentra.audit.rules import shares
from decentra.types import PeerId
from decentra.wire.codec import pack, unpack
from decentra.wire.reader import Malformed

FAIL = b"fail"
MOST_VALUE = 8192
MESH, BUCKETED, SHAMIR_GRAM = "mesh", "bucketed", "shamir-gram"
"""Their holdings name whole vectors, of members, and of buckets, which go by their first member; and deals."""

Parts = tuple[tuple[PeerId, ...], tuple[PeerId, ...], tuple[bytes, ...]]


def read(value: bytes) -> Parts | None:
    """The members, who proposes first, and hashes; None where it is no set. Who proposes first owns slices, in mesh
    and bucketed its holding was shown, in shamir-gram it holds what all members dealt; the hashes are those of the
    shown holdings, in mesh of the members' updates, in shamir-gram of their deals. In bucketed the members are buckets,
    and the hashes are of what is stated of their means."""
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


def counted(round_: Round, parts: Parts) -> tuple[PeerId, ...]:
    """Whose updates a set of survivors is of; in bucketed those that the certified means are stated of, as far as that
    is here."""
    if round_.ground.spec.name != BUCKETED:
        return parts[0]
    means = (one for one in round_.of(f"{BUCKETED}.mean") if one.entry.body in parts[2])
    return tuple(sorted({peer for one in means for peer in one["members"]}))


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
        if not _is_holding(round_, order, one):
            return False
        senders.add(one.author)
        if one.author not in order:
            continue  # it counts for nothing, and the machines let it pass
        held.setdefault(one["slice"] or 0, {}).setdefault(one.author, one)
    given = _given(round_, order, least, held)
    if proposal["value"] != FAIL:
        return bool(given == proposal["value"])
    return given is None and len(senders) >= least


def _is_holding(round_: Round, order: tuple[PeerId, ...], one: Record) -> bool:
    if round_.ground.spec.name == BUCKETED:
        return is_of_buckets(round_, one)
    if round_.ground.spec.name == SHAMIR_GRAM:
        return {one.author} <= set(dict(one["held"])) <= set(order)
    return (one["slice"] or 0) < len(order) and one.author in dict(one["held"])


def is_of_buckets(round_: Round, holding: Record) -> bool:
    """Whether a holding names buckets of the epoch, and as whole none but those that it says are stated."""
    return set(holding["whole"]) <= set(dict(holding["stated"])) <= set(round_.ground.buckets)


def _given(
    round_: Round, order: tuple[PeerId, ...], least: int, held: dict[int, dict[PeerId, Record]]
) -> bytes | None:
    name, shown, c = round_.ground.spec.name, held.get(0, {}), round_.ground.c
    if name == MESH:
        return _echoed(order, order, least, least, c, {peer: one["held"] for peer, one in shown.items()})
    if name == BUCKETED:
        stated = {peer: one["stated"] for peer, one in shown.items()}
        return _echoed(tuple(round_.ground.buckets), order, least, 2 * c + 1, c, stated)
    if name == SHAMIR_GRAM:
        numbers = shares.Numbers.of(order, c, round_.ground.charter.protocol.rule)
        deals = {peer: dict(one["held"]) for peer, one in shown.items()}
        return None if numbers is None else shares.held_by_all(numbers, deals)
    return _survivors(order, least, held)


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


def _echoed(
    vectors: Sequence[PeerId],
    order: Sequence[PeerId],
    shown: int,
    least: int,
    c: int,
    held: Mapping[PeerId, Iterable[tuple[PeerId, bytes]]],
) -> bytes | None:
    """Of whole vectors: which are named by more than c holdings under one hash, and under no second one.

    Args:
        vectors: whom they go by, in the order of the value.
        order: the roster.
        shown, least: how many holdings have to be shown, and how many vectors have to count.
        held: of each author what its holding names.
    """
    if len(held) < shown:
        return None
    named: dict[PeerId, Counter[bytes]] = defaultdict(Counter)
    for pairs in held.values():
        for peer, hashed in pairs:
            named[peer][hashed] += 1
    often = {peer: [hashed for hashed, count in of.items() if count > c] for peer, of in named.items()}
    members = tuple(peer for peer in vectors if len(often.get(peer, ())) == 1)
    if len(members) < least:
        return None
    return pack((members, tuple(peer for peer in order if peer in held), tuple(often[peer][0] for peer in members)))
