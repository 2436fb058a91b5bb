"""What a round of shamir-gram has certified, and what is said under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from decentra import derive
from decentra.audit.findings import Finding
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules import survivors
from decentra.audit.rules.certify import COMMIT, PROPOSE
from decentra.audit.rules.shares import Checked, Geometry, Numbers, Peers
from decentra.types import PeerId

DEAL, HOLDING, BEACON, CHECK, SHOWN, GRAM, PART, SLICE, TOLD = (
    f"shamir-gram.{name}"
    for name in ("deal", "holding", "beacon", "check", "shown", "gram", "part", "slice", "told")
)


@dataclass(frozen=True)
class Settled:
    """What a round has certified, as its author's roster has it: as far as that is here.

    Attributes:
        dealers, holders, deals: the survivors: whose updates count, who holds them, and the hash of each one's deal;
            nobody where the round is certified as failed, or nothing of it is here.
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


def settled_for(round_: Round, record: Record) -> Settled | None:
    """None where the roster of an entry's author can share nothing, or is not here."""
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
    dealers, holders, hashes = survivors.read(values.get("survivors", b"")) or ((), (), ())
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


def votes_on(round_: Round, record: Record, *topics: str) -> tuple[Record, ...]:
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


def following(
    round_: Round, kind: str, topic: str, clause: str, among: Callable[[Settled], Peers]
) -> Iterator[tuple[Record, Settled, Finding | None]]:
    """The messages of a kind that follow from a vote that is here, each with what is wrong with its place."""
    for record in round_.of(kind):
        settled = settled_for(round_, record)
        if settled is None or topic not in settled.digests:
            continue
        flaw = _astray(record, settled, topic, among(settled))
        votes = (settled.roster, *votes_on(round_, record, topic))
        yield record, settled, violation(clause, record, flaw, *votes) if flaw else None


def anybody(settled: Settled) -> Peers:
    return settled.numbers.order if settled.dealers else ()


def holders_of(settled: Settled) -> Peers:
    return settled.holders


def counted(settled: Settled) -> Peers:
    return () if settled.checked is None else settled.checked.holders


def slicers(settled: Settled) -> Peers:
    return () if settled.geometry is None else settled.geometry.holders


def settlements(round_: Round, kind: str, topic: str) -> Iterator[tuple[Record, Settled]]:
    """Each context in which messages of a kind were signed and a topic is settled, as each roster has it."""
    seen: set[tuple[bytes, bytes]] = set()
    for record in round_.of(kind):
        settled = settled_for(round_, record)
        if settled is None or topic not in settled.digests:
            continue
        if (place := (record["context"], settled.roster.entry.hash)) not in seen:
            seen.add(place)
            yield record, settled


def proposed(
    round_: Round, topic: str, *before: str
) -> Iterator[tuple[Record, Settled, tuple[Record | None, ...]]]:
    """Proposals of a topic that rest on what they show, and what that is, where the topics before it are settled."""
    for record in round_.of(PROPOSE):
        if record["topic"] == topic and not record["locked"]:
            settled = settled_for(round_, record)
            if settled is not None and settled.digests.keys() >= {*before}:
                yield record, settled, round_.cited(record, "shown")


def certified_deal(round_: Round, settled: Settled, dealer: PeerId) -> Record | None:
    """The certified deal of a survivor, where it is here and is one for the roster."""
    hashed, n = settled.deals.get(dealer), len(settled.numbers.order)
    for one in round_.of(DEAL):
        if one.author == dealer and one.entry.body == hashed:
            return one if len(one["roots"]) == len(one["beacon_share_hashes"]) == n else None
    return None


def is_under(round_: Round, first: Record, settled: Settled, peer: PeerId) -> bool:
    """Whether a peer acts under this roster by its own word: nobody else's puts its values on these points."""
    return round_.roster(peer, first["context"]) is settled.roster


def proved_liars(
    round_: Round, first: Record, settled: Settled, clause: str, kind: str, proved: Peers
) -> Iterator[Finding]:
    """Who is certified to be proved to lie, by what it dealt, or told in a message of this kind: t peers certify it,
    and no honest one does what it has not seen."""
    votes = (settled.roster, *votes_on(round_, first, "survivors", "checked", "geometry"))
    for peer in proved:
        own = [one for one in round_.of(DEAL, kind) if (one.author, one["context"]) == (peer, first["context"])]
        if own and is_under(round_, first, settled, peer):
            yield violation(clause, own[-1], "dealt or told what is certified to be proved false", *votes)
