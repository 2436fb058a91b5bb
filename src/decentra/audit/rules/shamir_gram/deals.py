"""The clauses of shamir-gram on deals, holdings and shares of the beacon."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from decentra import derive
from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules import reduce
from decentra.audit.rules.shamir_gram.settled import BEACON, DEAL, HOLDING, anybody, certified_deal, following, votes_on
from decentra.crypto.shamir import combine, extend
from decentra.types import PeerId, RoundId

BEACON_SHARE = "beacon"
"""The kind under which shares of the beacon's parts, and these, are hashed."""


def deals(round_: Round) -> Iterator[Finding]:
    """SG-2: a deal is one for its roster; and what t peers show of its part of the beacon, each as its dealer signed
    it, is that part."""
    for record in round_.of(DEAL):
        roster = round_.roster(record.author, record["context"])
        if roster is None:
            continue
        order, hashes = roster["members"], record["beacon_share_hashes"]
        if not len(order) == len(record["roots"]) == len(record["sealed"]) == len(hashes):
            yield violation("SG-2", record, "dealt what is none for its roster", roster)
            continue
        signed: dict[int, tuple[bytes, Record]] = {}
        for one in round_.of(BEACON):
            share = dict(one["shares"]).get(record.author)
            if one["context"] != record["context"] or one.author not in order or share is None:
                continue
            place = order.index(one.author)
            if _share_hash(round_, roster, record.author, one.author, share) == hashes[place]:
                signed[place + 1] = share, one
        shares = {point: share for point, (share, _) in signed.items()}
        if len(shares) >= round_.ground.quorum(len(order)) and not _is_part(round_, roster, record, shares):
            said = "signed shares of its part of the beacon that are not of one part, or not of the one it signed"
            yield violation("SG-2", record, said, roster, *(one for _, one in signed.values()))


def _share_hash(round_: Round, roster: Record, dealer: PeerId, receiver: PeerId, share: bytes) -> bytes:
    number = RoundId(round_.ground.epoch, round_.number)
    place = (round_.ground.session, number, roster["view"], roster["members"])
    return derive.share_hash(*place, dealer, receiver, BEACON_SHARE, share)


def _is_part(round_: Round, roster: Record, deal: Record, shares: Mapping[int, bytes]) -> bool:
    """Whether t shares or more give the part that a dealer signed, and all others that it signed."""
    ground, order, number = round_.ground, roster["members"], RoundId(round_.ground.epoch, round_.number)
    least = ground.quorum(len(order))
    try:
        part, all_ = combine(shares, least), extend(shares, least, len(order))
    except ValueError:
        return False
    hashes = tuple(
        _share_hash(round_, roster, deal.author, peer, share) for peer, share in zip(order, all_, strict=True)
    )
    whole = derive.secret_hash(ground.session, number, roster["view"], deal.author, BEACON_SHARE, part)
    return (whole, hashes) == (deal["beacon_hash"], deal["beacon_share_hashes"])


def holdings(round_: Round) -> Iterator[Finding]:
    """SG-3: a holding names members of the roster, its author among them, and what these signed."""
    signed: dict[bytes, list[Record]] = defaultdict(list)
    for record in round_.of(DEAL):
        signed[record.author].append(record)
    for record in round_.of(HOLDING):
        held = dict(record["held"])
        roster = round_.roster(record.author, record["context"])
        if roster is not None and not ({record.author} <= set(held) <= set(roster["members"])):
            yield violation("SG-3", record, "signed a holding that is of no deals of its round", roster)
            continue
        yield from reduce.held_truly(round_, record, signed, "SG-3", "deal")


def beacons(round_: Round) -> Iterator[Finding]:
    """SG-4: shares of the beacon are shown under the certificate of the survivors, one of each, as it was dealt."""
    for record, settled, astray in following(round_, BEACON, "survivors", "SG-4", anybody):
        votes = (settled.roster, *votes_on(round_, record, "survivors"))
        if astray is not None:
            yield astray
        elif tuple(peer for peer, _ in record["shares"]) != settled.dealers:
            yield violation("SG-4", record, "showed not one share of every survivor's part of the beacon", *votes)
        else:
            for dealer, share in record["shares"]:
                deal = certified_deal(round_, settled, dealer)
                if deal is None:
                    yield Missing("the deal of a survivor", dealer, round_.number)
                    continue
                place = settled.numbers.point(record.author) - 1
                hashed = _share_hash(round_, settled.roster, dealer, record.author, share)
                if hashed != deal["beacon_share_hashes"][place]:
                    whose = round_.ground.name(dealer)
                    said = f"showed another share of the part of the beacon of {whose} than it was dealt"
                    yield violation("SG-4", record, said, *votes, deal)
                    break
