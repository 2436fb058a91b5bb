"""The clauses of shamir-gram that signed entries show.

Shares, slices and what suspects show are blobs, and in no log. Deals, holdings, shares of the beacon, checks, words and
tellings are: from these follows what may be certified, and who told what fits nobody else's word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from math import prod

from decentra import derive
from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules import reduce, survivors
from decentra.audit.rules.certify import COMMIT, PROPOSE
from decentra.audit.rules.shares import (
    UNDECIDED,
    Checked,
    Geometry,
    Numbers,
    Peers,
    Values,
    false_tellings,
    judge,
    may_give,
    open_words,
    read_elements,
)
from decentra.crypto.hashing import digest
from decentra.crypto.shamir import combine, extend
from decentra.types import PeerId, RoundId

DEAL, HOLDING, BEACON, CHECK, SHOWN, GRAM, PART, SLICE, TOLD = (
    f"shamir-gram.{name}"
    for name in ("deal", "holding", "beacon", "check", "shown", "gram", "part", "slice", "told")
)

CLAUSES = {
    "shamir-gram.endorse": "SG-1",
    DEAL: "SG-1",
    HOLDING: "SG-3",
    BEACON: "SG-4",
    CHECK: "SG-5",
    SHOWN: "SG-6",
    GRAM: "SG-7",
    PART: "SG-9",
    SLICE: "SG-10",
    TOLD: "SG-11",
}

ROSTER = ("rendezvous.roster",)

OPENS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("shamir-gram.endorse", "shamir-gram.endorsed", DEAL, HOLDING), ROSTER),
    **dict.fromkeys((BEACON, CHECK, SHOWN, GRAM, PART, SLICE, TOLD), (PROPOSE, "")),
}

SHARED = reduce.Clauses(DEAL, "SG-1", "SG-3", "SG-12")

MOST_KEYS = 64
"""Keys that are tried where owners signed several slices each."""

BEACON_SHARE = "beacon"
"""The kind under which shares of the beacon's parts, and these, are hashed."""

# ── what is certified ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Settled:
    """What a round has certified, as its author's roster has it: as far as that is here.

    Attributes:
        dealers, holders, deals: the survivors: whose updates count, who holds them, and the hash of each one's deal.
        checked, geometry: as certified; None where that is undecided, or not here.
        digests: by topic, the hash of the certified value as votes cite it.
    """

    roster: Record
    numbers: Numbers
    dealers: Peers
    holders: Peers
    deals: Mapping[PeerId, bytes]
    checked: Checked | None
    geometry: Geometry | None
    digests: Mapping[str, bytes]


def _settled(round_: Round, record: Record) -> Settled | None:
    """None where the roster of an entry's author can share nothing, or is not here, or certified no survivors."""
    ground, context = round_.ground, record["context"]
    roster = round_.roster(record.author, context)
    numbers = None if roster is None else Numbers.of(roster["members"], ground.c, ground.charter.protocol.rule)
    if roster is None or numbers is None:
        return None
    values = {
        topic: value
        for topic in ("survivors", "checked", "geometry")
        if (value := round_.certified(context, topic, roster)) is not None
    }
    digests = {topic: derive.vote_value(context, topic, value) for topic, value in values.items()}
    if "survivors" not in values:
        return None
    dealers, holders, hashes = survivors.read(values["survivors"]) or ((), (), ())
    if not numbers.holds(dealers, holders) or len(hashes) != len(dealers):
        return None
    return Settled(
        roster,
        numbers,
        dealers,
        holders,
        dict(zip(dealers, hashes, strict=True)),
        Checked.read(values.get("checked"), numbers),
        Geometry.read(values.get("geometry"), numbers),
        digests,
    )


def _votes(round_: Round, record: Record, *topics: str) -> tuple[Record, ...]:
    """What shows which values are certified: commits to them, and proposals of them."""
    found = round_.of(COMMIT, PROPOSE)
    return tuple(one for one in found if one["context"] == record["context"] and one["topic"] in topics)


def _astray(record: Record, settled: Settled, topic: str, among: Peers) -> str:
    """What is wrong with a message that follows from a vote, whatever else it says; empty where nothing is."""
    if record["certificate"] != settled.digests[topic]:
        return f"signed a {record.kind} under other {topic} than are certified"
    if not among:
        return f"signed a {record.kind} though its round is certified as failed or undecided"
    return "" if record.author in among else f"signed a {record.kind}, and is none of those who may"


def _following(
    round_: Round, kind: str, topic: str, clause: str, among: Callable[[Settled], Peers]
) -> Iterator[tuple[Record, Settled, Finding | None]]:
    """The messages of a kind that follow from a vote that is here, each with what is wrong with its place."""
    for record in round_.of(kind):
        settled = _settled(round_, record)
        if settled is None or topic not in settled.digests:
            continue
        flaw = _astray(record, settled, topic, among(settled))
        votes = (settled.roster, *_votes(round_, record, "survivors", topic))
        yield record, settled, violation(clause, record, flaw, *votes) if flaw else None


def _anybody(settled: Settled) -> Peers:
    return settled.numbers.order if settled.dealers else ()


def _holders(settled: Settled) -> Peers:
    return settled.holders


def _counted(settled: Settled) -> Peers:
    return () if settled.checked is None else settled.checked.holders


def _slicers(settled: Settled) -> Peers:
    return () if settled.geometry is None else settled.geometry.holders


# ── deals and the beacon ─────────────────────────────────────────────────────────────────────────────────────────────


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


def _deal(round_: Round, settled: Settled, dealer: PeerId) -> Record | None:
    """The certified deal of a survivor, where it is here and is one for the roster."""
    hashed, n = settled.deals.get(dealer), len(settled.numbers.order)
    for one in round_.of(DEAL):
        if one.author == dealer and one.entry.body == hashed:
            return one if len(one["roots"]) == len(one["beacon_share_hashes"]) == n else None
    return None


def beacons(round_: Round) -> Iterator[Finding]:
    """SG-4: shares of the beacon are shown under the certificate of the survivors, one of each, as it was dealt."""
    for record, settled, astray in _following(round_, BEACON, "survivors", "SG-4", _anybody):
        votes = (settled.roster, *_votes(round_, record, "survivors"))
        if astray is not None:
            yield astray
        elif tuple(peer for peer, _ in record["shares"]) != settled.dealers:
            yield violation("SG-4", record, "showed not one share of every survivor's part of the beacon", *votes)
        else:
            for dealer, share in record["shares"]:
                deal = _deal(round_, settled, dealer)
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


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def checks(round_: Round) -> Iterator[Finding]:
    """SG-5: a check comes from a holder, and tells two elements of each survivor."""
    for record, settled, astray in _following(round_, CHECK, "survivors", "SG-5", _holders):
        votes = (settled.roster, *_votes(round_, record, "survivors"))
        if astray is not None:
            yield astray
        elif _values(record, settled) is None:
            yield violation("SG-5", record, "told what is not two elements of each survivor", *votes)


def _values(record: Record, settled: Settled) -> Values | None:
    """What a check tells; None where it is none of these survivors' by a holder."""
    if record.kind != CHECK or record["certificate"] != settled.digests["survivors"]:
        return None
    degrees, zeros = (read_elements(record[name], len(settled.dealers)) for name in ("degrees", "zeros"))
    return None if degrees is None or zeros is None or record.author not in settled.holders else (degrees, zeros)


def _told(records: Sequence[Record], context: bytes, settled: Settled) -> dict[PeerId, tuple[Record, Values]]:
    """Of each holder the first of its checks in some entries."""
    told: dict[PeerId, tuple[Record, Values]] = {}
    for one in records:
        values = _values(one, settled) if one["context"] == context else None
        if values is not None:
            told.setdefault(one.author, (one, values))
    return told


def _settlements(round_: Round, kind: str) -> Iterator[tuple[Record, Settled]]:
    """Each context in which messages of a kind were signed, with what was certified in it, as each roster has it."""
    seen: set[tuple[bytes, bytes]] = set()
    for record in round_.of(kind):
        settled = _settled(round_, record)
        if settled is not None and (place := (record["context"], settled.roster.entry.hash)) not in seen:
            seen.add(place)
            yield record, settled


def truth_of_checks(round_: Round) -> Iterator[Finding]:
    """SG-6: what a dealer dealt is on polynomials of its degree, and what a holder told is what it was dealt.

    A dealer whose values are none, whatever c holders said, dealt falsely; who fits no others' word of more than c
    dealers told falsely, as one of those is honest. Else it is one of the two, and the blob that would tell is in no
    log; but who is certified to be proved is, as t peers do not certify what no honest one has seen.
    """
    for first, settled in _settlements(round_, CHECK):
        told = _told(round_.of(CHECK), first["context"], settled)
        found = judge(settled.numbers, settled.dealers, {peer: values for peer, (_, values) in told.items()})
        votes = (settled.roster, *_votes(round_, first, "survivors"), *(one for one, _ in told.values()))
        for dealer in sorted(found.bad):
            deal = _deal(round_, settled, dealer)
            if deal is not None and _is_under(round_, first, settled, dealer):
                yield violation("SG-6", deal, "dealt what is on no polynomials of its degree, or no zeros", *votes)
        suspect: dict[PeerId, list[PeerId]] = defaultdict(list)
        for dealer, holder in found.suspects:
            suspect[holder].append(dealer)
        proved = () if settled.checked is None else settled.checked.proved
        for holder, dealers in suspect.items():
            if len(dealers) > round_.ground.c and _is_under(round_, first, settled, holder):
                said = "told of more dealers than may lie what fits no others' word"
                yield violation("SG-6", told[holder][0], said, *votes)
            elif holder not in proved and not set(dealers) <= {*proved}:
                yield Missing("what was dealt to who fits no others' word: a blob", holder, round_.number)
        yield from _proved(round_, first, settled, "SG-6", CHECK, proved)


def _is_under(round_: Round, first: Record, settled: Settled, peer: PeerId) -> bool:
    """Whether a peer acts under this roster by its own word: nobody else's puts its values on these points."""
    return round_.roster(peer, first["context"]) is settled.roster


def _proved(
    round_: Round, first: Record, settled: Settled, clause: str, kind: str, proved: Peers
) -> Iterator[Finding]:
    """Who is certified to be proved to lie, by what it dealt, or told in a message of this kind: t peers certify it,
    and no honest one does what it has not seen."""
    votes = (settled.roster, *_votes(round_, first, "survivors", "checked", "geometry"))
    for peer in proved:
        own = [one for one in round_.of(DEAL, kind) if (one.author, one["context"]) == (peer, first["context"])]
        if own and _is_under(round_, first, settled, peer):
            yield violation(clause, own[-1], "dealt or told what is certified to be proved false", *votes)


def shown(round_: Round) -> Iterator[Finding]:
    """SG-6: what is shown is what a survivor dealt to that receiver, under the root that it signed."""
    for record, settled, astray in _following(round_, SHOWN, "survivors", "SG-6", _anybody):
        if astray is not None:
            yield astray
            continue
        votes, dealer = (settled.roster, *_votes(round_, record, "survivors")), record["dealer"]
        if dealer not in settled.dealers or record["receiver"] not in settled.numbers.order:
            yield violation("SG-6", record, "showed what no survivor dealt to any of the roster", *votes)
            continue
        deal = _deal(round_, settled, dealer)
        if deal is None:
            yield Missing("the deal of a survivor", dealer, round_.number)
        elif deal["roots"][settled.numbers.point(record["receiver"]) - 1] != record["root"]:
            yield violation("SG-6", record, "showed something else than was dealt", *votes, deal)


def _proposed(round_: Round, topic: str) -> Iterator[tuple[Record, Settled, tuple[Record | None, ...]]]:
    """Proposals of a topic that rest on what they show, and what that is."""
    for record in round_.of(PROPOSE):
        if record["topic"] == topic and not record["locked"]:
            settled = _settled(round_, record)
            if settled is not None:
                yield record, settled, round_.cited(record, "shown")


def proposed_checks(round_: Round) -> Iterator[Finding]:
    """SG-6: who proposes what checks come to shows checks that can give it."""
    for record, settled, cited in _proposed(round_, "checked"):
        entries = [one for one in cited if one is not None and one.entry.round == round_.number]
        told = _told(entries, record["context"], settled)
        votes = (settled.roster, *_votes(round_, record, "survivors"))
        values = {peer: values for peer, (_, values) in told.items()}
        whole = all(one["context"] == record["context"] and _values(one, settled) is not None for one in entries)
        if not whole or len(entries) < len(cited):
            yield violation("SG-6", record, "shows something else than checks of its round", *votes)
        elif not may_give(settled.numbers, settled.dealers, settled.holders, values, record["value"]):
            yield violation("SG-6", record, "proposed what the checks it shows do not give", *votes)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def words(round_: Round) -> Iterator[Finding]:
    """SG-7: a word comes from a holder that is counted, and has an element for each pair of dealers that stand."""
    for record, settled, astray in _following(round_, GRAM, "checked", "SG-7", _counted):
        votes = (settled.roster, *_votes(round_, record, "survivors", "checked"))
        if astray is not None:
            yield astray
        elif _word(record, settled) is None:
            yield violation("SG-7", record, "told what is not an element for each pair of dealers that stand", *votes)


def _word(record: Record, settled: Settled) -> bytes | None:
    checked = settled.checked
    if checked is None or record.kind != GRAM or record["certificate"] != settled.digests["checked"]:
        return None
    count, word = len(checked.dealers), bytes(record["word"])
    sound = read_elements(word, count * (count + 1) // 2) is not None
    return word if sound and record.author in checked.holders else None


def _said(records: Sequence[Record], context: bytes, settled: Settled) -> dict[PeerId, tuple[Record, bytes]]:
    said: dict[PeerId, tuple[Record, bytes]] = {}
    for one in records:
        word = _word(one, settled) if one["context"] == context else None
        if word is not None:
            said.setdefault(one.author, (one, word))
    return said


def truth_of_words(round_: Round) -> Iterator[Finding]:
    """SG-8: whose word is on none of the polynomials that the others' are on, and whose vector can be none."""
    for first, settled in _settlements(round_, GRAM):
        if settled.checked is None:
            continue
        said = _said(round_.of(GRAM), first["context"], settled)
        opened = open_words(settled.numbers, settled.checked, {peer: word for peer, (_, word) in said.items()})
        votes = (settled.roster, *_votes(round_, first, "survivors", "checked"), *(one for one, _ in said.values()))
        for peer in () if opened is None else opened.wrong:
            if _is_under(round_, first, settled, peer):
                yield violation("SG-8", said[peer][0], "told a word of the products that is false", *votes)
        for peer in () if opened is None else opened.out:
            deal = _deal(round_, settled, peer)
            if deal is not None and _is_under(round_, first, settled, peer):
                yield violation("SG-8", deal, "dealt what can be no vector of the largest length", *votes)
        later = () if settled.geometry is None else settled.geometry.proved
        new = tuple(peer for peer in later if peer not in settled.checked.proved)
        yield from _proved(round_, first, settled, "SG-8", GRAM, new)


def proposed_geometry(round_: Round) -> Iterator[Finding]:
    """SG-8: who proposes a geometry shows words that give it."""
    for record, settled, cited in _proposed(round_, "geometry"):
        if settled.checked is None:
            continue
        entries = [one for one in cited if one is not None and one.entry.round == round_.number]
        votes = (settled.roster, *_votes(round_, record, "survivors", "checked"))
        said = _said(entries, record["context"], settled)
        whole = all(one["context"] == record["context"] and _word(one, settled) is not None for one in entries)
        if not whole or len(entries) < len(cited):
            yield violation("SG-8", record, "shows something else than words of its round", *votes)
            continue
        opened = open_words(settled.numbers, settled.checked, {peer: word for peer, (_, word) in said.items()})
        value = None if opened is None else opened.value
        if record["value"] != (UNDECIDED if value is None else value):
            yield violation("SG-8", record, "proposed another geometry than the words it shows give", *votes)


# ── the sum ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def parts(round_: Round) -> Iterator[Finding]:
    """SG-9: a part comes from a holder of true words, with a root for each slice."""
    for record, settled, astray in _following(round_, PART, "geometry", "SG-9", _slicers):
        if astray is not None:
            yield astray
        elif len(record["roots"]) != len(_slicers(settled)):
            votes = (settled.roster, *_votes(round_, record, "survivors", "geometry"))
            yield violation("SG-9", record, "signed a part that is not one of each slice", *votes)


def slices(round_: Round) -> Iterator[Finding]:
    """SG-10: a slice comes from who owns one."""
    for _, _, astray in _following(round_, SLICE, "geometry", "SG-10", _slicers):
        if astray is not None:
            yield astray


def tellings(round_: Round) -> Iterator[Finding]:
    """SG-11: a holder tells an element for each slice, under the key that the slices give, and what fits the others'.

    Of a key that the slices here do not give, either its author or an owner of a slice, who signed two, is to blame.
    """
    alike: dict[tuple[bytes, bytes, bytes], dict[PeerId, Record]] = defaultdict(dict)
    among: dict[tuple[bytes, bytes, bytes], Settled] = {}
    for record, settled, astray in _following(round_, TOLD, "geometry", "SG-11", _slicers):
        if astray is not None:
            yield astray
        elif read_elements(record["values"], len(_slicers(settled))) is None:
            votes = (settled.roster, *_votes(round_, record, "survivors", "geometry"))
            yield violation("SG-11", record, "told what is not an element for each slice", *votes)
        else:
            if record["key"] not in _keys(round_, record, settled):
                who = round_.ground.name(record.author)
                yield Missing(f"the slices that {who} tells of", record.author, round_.number)
            place = (record["context"], settled.roster.entry.hash, record["key"])
            among[place] = settled
            alike[place].setdefault(record.author, record)
    for place, told in alike.items():
        settled = among[place]
        geometry = settled.geometry
        if geometry is None:
            continue
        values = {peer: read_elements(one["values"], len(geometry.holders)) or () for peer, one in told.items()}
        liars = settled.numbers.liars(len(geometry.proved))
        for peer in sorted(false_tellings(settled.numbers, liars, values)):
            record = told[peer]
            votes = (settled.roster, *_votes(round_, record, "survivors", "geometry"))
            yield violation("SG-11", record, "told of its share of the sum what is false", *votes, *told.values())


def _keys(round_: Round, record: Record, settled: Settled) -> frozenset[bytes]:
    """The keys that the owners' slices give: more than one where an owner signed two, none where one is missing."""
    certificate = settled.digests["geometry"]
    roots: dict[PeerId, set[bytes]] = defaultdict(set)
    for one in round_.of(SLICE):
        if (one["context"], one["certificate"]) == (record["context"], certificate):
            roots[one.author].add(one["root"])
    owned = [sorted(roots[owner]) for owner in _slicers(settled)]
    if prod(map(len, owned)) > MOST_KEYS:
        return frozenset()
    opened = ("opened", record["context"], certificate, len(owned))
    return frozenset(digest(*opened, *some) for some in product(*owned))


def outcomes(round_: Round) -> Iterator[Finding]:
    """SG-12: an outcome that is proposed is the hash of what the slices that it shows are."""
    for record, settled, cited in _proposed(round_, "outcome"):
        geometry = settled.geometry
        if record["value"] == reduce.LOST or geometry is None:
            continue
        votes = (settled.roster, *_votes(round_, record, "survivors", "geometry"))
        entries = [one for one in cited if one is not None and one.kind == SLICE]
        under = {(one["context"], one["certificate"]) for one in entries}
        whole = tuple(one.author for one in entries) == geometry.holders and len(entries) == len(cited)
        if not whole or under != {(record["context"], settled.digests["geometry"])}:
            yield violation("SG-12", record, "proposed an outcome without one slice of every owner", *votes)
            continue
        roots = tuple(one["root"] for one in entries)
        value = derive.outcome_value(
            record["context"], settled.digests["survivors"], len(geometry.dealers), roots
        )
        if record["value"] != value:
            yield violation("SG-12", record, "proposed an outcome that the slices it shows do not give", *votes)


def _one_by_one(round_: Round, rules: Sequence[Callable[[Round], Iterator[Finding]]]) -> Iterator[Finding]:
    return chain.from_iterable(rule(round_) for rule in rules)


RULES: Mapping[str, Callable[[Round], Iterator[Finding]]] = {
    "SG-1": partial(reduce.one_context, clauses=SHARED),
    "SG-2": deals,
    "SG-3": holdings,
    "SG-4": beacons,
    "SG-5": checks,
    "SG-6": partial(_one_by_one, rules=(truth_of_checks, shown, proposed_checks)),
    "SG-7": words,
    "SG-8": partial(_one_by_one, rules=(truth_of_words, proposed_geometry)),
    "SG-9": parts,
    "SG-10": slices,
    "SG-11": tellings,
    "SG-12": outcomes,
}
