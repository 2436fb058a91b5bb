"""Logs to make bad ones of: what real machines sign in simulated rounds, which can be changed and signed again.

Identities and randomness are fixed, so that the bytes of a log are always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from decentra import derive, spec
from decentra.audit.transcript import HEAD
from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.driver.given import describe
from decentra.driver.session import Vector
from decentra.gossip.group import combining_charter
from decentra.protocols.bucketed.buckets import Buckets
from decentra.simulation.group import SimulatedGroup, charter_for, identities
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Codec, Signed, pack
from decentra.wire.entry import EVERYONE, LABEL, VERSION, ZERO, Entry, parse

SEED, PEERS, COLLUDE, COORDINATES = 7, 4, 1, 5
BUCKETED, IN_BUCKETS, BEACON = "bucketed", 9, b"\xbe" * 32
"""A protocol whose sessions have buckets, the members of one, and what these were drawn with."""
SHARED, IN_SHARES = "shamir-gram", 5
"""A protocol that works on shares, and so many members that a lie about a product is named."""
PATIENCE = 3600.0
"""Virtual seconds within which a round has ended."""

START, MASKED, SUMMED, CHECKED = range(4)
ENDED = 9
"""How far a round has come: endorsed; survivors certified; outcome certified; recomputed; ended. What comes later is
left away, where a lie does not need it."""

DEALT, TOLD, STANDING, WORDS, WEIGHED, SLICED, TRIED = range(1, 8)
"""The same of shamir-gram: survivors certified; checks told; these certified; words told; geometry certified; slices
published; and tried by what holders tell."""

PARTS = {
    **dict.fromkeys(("ready", "later", "absent", "roster", "abort", "leave", "deal", "context", "endorse"), START),
    **dict.fromkeys(("endorsed", "masked", "slices", "update", "mean", "again", "holding", "survivors"), MASKED),
    **dict.fromkeys(("unmask", "sum", "relay", "result", "outcome"), SUMMED),
    **dict.fromkeys(("beacon", "part", "checked"), CHECKED),
    "verdict": ENDED,
}
"""The part of a round that a message belongs to; a vote by its topic."""

SHARED_PARTS = {
    **PARTS,
    **dict.fromkeys(("deal", "holding", "survivors"), DEALT),
    **dict.fromkeys(("beacon", "check", "shown"), TOLD),
    "checked": STANDING, "gram": WORDS, "geometry": WEIGHED, "told": TRIED, "outcome": ENDED,
    **dict.fromkeys(("part", "slice"), SLICED),
}
"""The same of shamir-gram."""

# ── logs that can be changed and signed again ────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Line:
    """An entry to be signed. It names other lines, not their hashes, so that they can be changed.

    Attributes:
        fields: those of its body.
        digest: the hash of a body of which the log keeps no more.
        raw: a body that is written as it is.
        prev: what it names as the entry before, where that is not the one before.
        twin: whether it stands under the number of the line before it.
        forged: whether its signature is none.
    """

    who: PeerId
    kind: str
    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    digest: bytes | None = None
    after: Line | None = None
    receiver: bytes = EVERYONE
    boot: int = 1
    epoch: int = 1
    raw: bytes | None = None
    prev: bytes | None = None
    twin: bool = False
    forged: bool = False


@dataclass
class Log:
    """What everybody signed in a session, by author."""

    charter: Charter
    members: Mapping[PeerId, Identity]
    codec: Codec
    session: bytes
    chains: dict[PeerId, list[Line]] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[PeerId, ...]:
        return tuple(sorted(self.members))

    def turn(self, view: int, number: int = 1) -> PeerId:
        """Who proposes in a view."""
        order = derive.proposer_order(self.charter.hash, RoundId(1, number), self.ids)
        return order[view % len(order)]

    def all(self, kind: str, topic: str | None = None) -> tuple[Line, ...]:
        """The lines of a kind, and a topic, by author."""
        lines = (line for who in self.ids for line in self.chains[who] if line.kind == kind)
        return tuple(line for line in lines if topic is None or line.fields.get("topic") == topic)

    def find(self, kind: str, who: PeerId | None = None, topic: str | None = None) -> Line:
        """The first of these lines."""
        return next(line for line in self.all(kind, topic) if who in (None, line.who))

    def add(self, who: PeerId, kind: str, before: Line | None = None, *, number: int = 1, **given: Any) -> Line:
        """A line at the end of its author's chain, or before another of its."""
        about = {key: given.pop(key) for key in Line.__dataclass_fields__ if key in given}
        line = Line(who, kind, number, given, **about)
        chain = self.chains[who]
        chain.insert(len(chain) if before is None else chain.index(before), line)
        return line

    def repeat(self, line: Line, before: Line | None = None, **changes: Any) -> Line:
        """Another line of the same author, kind and phase, with some fields changed."""
        given = {**line.fields, **changes}
        about = {"after": line.after, "receiver": line.receiver}
        return self.add(line.who, line.kind, before, number=line.number, **about, **given)

    def upto(self, part: int) -> None:
        """Leave away what comes later in the round."""
        for who, chain in self.chains.items():
            self.chains[who] = [line for line in chain if self._part(line) <= part]

    def _part(self, line: Line) -> int:
        parts = SHARED_PARTS if self.charter.protocol.name == SHARED else PARTS
        return parts[line.fields.get("topic") or line.kind.partition(".")[2]]

    def signed(self) -> list[Signed]:
        """Everything, signed; by author, and each author's in its own order."""
        done: dict[int, Signed] = {}

        def sign(line: Line) -> Signed:
            if id(line) not in done:
                done[id(line)] = self._sign(line, sign)
            return done[id(line)]

        return [sign(line) for who in self.ids for line in self.chains[who]]

    def _sign(self, line: Line, sign: Callable[[Line], Signed]) -> Signed:
        def plain(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(plain, value))
            return sign(value) if isinstance(value, Line) else value

        def hashed(other: Line) -> bytes:
            return sha256(sign(other).entry).digest()

        body = line.raw
        if body is None and line.digest is None:
            names = [name for name, _ in self.codec.spec(line.kind).fields]
            body = self.codec.encode(line.kind, tuple(plain(line.fields[name]) for name in names))
        before = [other for other in self.chains[line.who] if other.boot == line.boot]
        before = before[: before.index(line) - line.twin] if line in before else before
        seq = 1 + sum(not other.twin for other in before)
        prev = line.prev or (hashed(before[-1]) if before else ZERO)
        after = ZERO if line.after is None else hashed(line.after)
        digest = line.digest or sha256(body or b"").digest()
        fields = (
            *(self.session, line.epoch, line.number, line.who, line.boot, seq, prev),
            *(line.kind, after, line.receiver, digest),
        )
        signature = self.members[line.who].sign(LABEL + pack((VERSION, *fields)))
        if line.forged:
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        return Signed(Entry(*fields, signature).packed, body or b"")


def lines_of(log: Log, journals: Iterable[Sequence[Signed]]) -> Log:
    """Fill a log with what peers' journals hold."""
    known: dict[bytes, Line] = {}
    held: list[tuple[Line, Entry, bytes]] = []
    for journal in journals:
        for signed in journal:
            entry = parse(signed.entry)
            kept = None if signed.body else entry.body
            line = Line(entry.author, entry.kind, entry.round, digest=kept, boot=entry.boot, receiver=entry.receiver)
            known[entry.hash] = line
            held.append((line, entry, signed.body))
            log.chains.setdefault(entry.author, []).append(line)

    def linked(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(linked, value))
        return known[sha256(value.entry).digest()] if isinstance(value, Signed) else value

    for line, entry, body in held:
        line.after = known.get(entry.after)
        if body:
            names = (name for name, _ in log.codec.spec(entry.kind).fields)
            values = map(linked, log.codec.decode(entry.kind, body))
            line.fields = dict(zip(names, values, strict=True))
    return log


def file_of(charter: Charter, entries: Iterable[Signed]) -> bytes:
    """A transcript's bytes."""
    records = [(HEAD, charter.to_toml().encode()), *((one.entry, one.body) for one in entries)]
    return b"".join(map(pack, records))


# ── good logs: what real machines sign ───────────────────────────────────────────────────────────────────────────────

Story = Callable[[SimulatedGroup], None]


def vector(position: int, number: int = 1) -> Vector:
    tensor = np.full(COORDINATES, 0.01 * position - 0.002 * number, np.float32)
    return Vector([tensor], describe([tensor], None))


def round_of(group: SimulatedGroup, number: int = 1, without: Sequence[int] = ()) -> None:
    """A round of everybody, or without some who do not start."""
    places = range(len(group.peers))
    group.run([None if place in without else brought(group, place, number) for place in places])


def brought(group: SimulatedGroup, place: int, number: int = 1, lost: int | None = None) -> Vector:
    """What a peer brings to a round: its update; or its bucket's mean, and of a ``lost`` bucket nothing."""
    buckets = group.charter.drawn_buckets
    if not buckets:
        return vector(place, number)
    which = next(index for index, bucket in enumerate(buckets) if group.charter.ids[place] in bucket)
    return replace(vector(which, number), summed=() if which == lost else buckets[which])


def begin(group: SimulatedGroup, until: Callable[[], bool], what: str) -> None:
    """The beginning of a round of everybody, until something has come about."""
    for position, peer in enumerate(group.peers):
        peer.begin(brought(group, position))
    if not group.clock.run_until(until, group.clock.now() + PATIENCE):
        raise SystemExit(f"{what} no more; mend the stories of {Path(__file__).name}")


def stops(group: SimulatedGroup, place: int, kind: str, topic: str | None = None) -> None:
    """A round in which a peer's process ends as soon as it has signed something."""
    codec = Codec(spec.load(group.charter.protocol.name).messages)
    own, others = group.peers[place], [peer for position, peer in enumerate(group.peers) if position != place]

    def reached() -> bool:
        for signed in own.journal.entries:
            if parse(signed.entry).kind == kind and (topic is None or topic in codec.decode(kind, signed.body)):
                return True
        return False

    begin(group, reached, f"a {kind} is signed")
    own.driver.close()
    group.clock.run_until(lambda: all(peer.ended is not None for peer in others), group.clock.now() + PATIENCE)


def apart(group: SimulatedGroup) -> None:
    """A round in which two peers' vectors do not come to each other."""
    both = one, other = group.peers[:2]

    def masked() -> bool:
        return all(any(parse(signed.entry).kind == "secagg.masked" for signed in peer.journal.entries) for peer in both)

    begin(group, masked, "a vector is masked")
    for source, target in ((one, other), (other, one)):
        group.network.cut(source.identity.id, target.identity.id)
    group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), group.clock.now() + PATIENCE)


def unheard(group: SimulatedGroup) -> None:
    """A round in which one peer's update does not come to another."""
    withheld(group, 0, (1,))


def unsent(group: SimulatedGroup) -> None:
    """A round in which one peer's update comes to nobody."""
    withheld(group, 3, (0, 1, 2))


def withheld(group: SimulatedGroup, place: int, others: Sequence[int]) -> None:
    """A round in which nothing that a peer sends from its update, its bucket's mean or its deal on comes to some."""

    def given() -> bool:
        signed = [{parse(one.entry).kind for one in peer.journal.entries} for peer in group.peers]
        return all(kinds & {"mesh.update", "bucketed.mean", "shamir-gram.deal"} for kinds in signed)

    begin(group, given, "an update is signed")
    for other in others:
        group.network.cut(group.peers[place].identity.id, group.peers[other].identity.id)
    group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), group.clock.now() + PATIENCE)


def kept_back(group: SimulatedGroup) -> None:
    """A round in which a bucket's mean does not come to one that this peer is to send it to."""
    charter = group.charter
    receivers = Buckets(charter.drawn_buckets, charter.bucket_corrupt).receivers(charter.ids[0])
    withheld(group, 0, (charter.ids.index(receivers[0]),))


def without_a_mean(group: SimulatedGroup) -> None:
    """A round in which one bucket's session has given nothing."""
    group.run([brought(group, place, lost=0) for place in range(len(group.peers))])


def leaves(group: SimulatedGroup) -> None:
    """One leaves after its first round, and the others go on."""
    round_of(group)
    group.peers[3].session.leave()
    round_of(group, 2, without=(3,))


def proposer(group: SimulatedGroup) -> int:
    """Whose turn the first view is."""
    ids = [peer.identity.id for peer in group.peers]
    return ids.index(derive.proposer_order(group.charter.hash, RoundId(1, 1), ids)[0])


@dataclass(frozen=True)
class Scene:
    """A good log: where it goes, what is played, and a kind or a packed value that must have come of it."""

    path: str
    protocol: str
    says: str
    story: Story
    holds: str | bytes
    changes: tuple[tuple[str, object], ...] = ()
    peers: int = 0
    """How many, where it is not the protocol's usual number."""


SCENES = (
    Scene("secagg/good-round", "secagg", "A round of four.", round_of, "secagg.checked"),
    Scene(
        "secagg/good-taken-over",
        "secagg",
        "A peer stops when all have its vector, and its slice is taken over.",
        lambda group: stops(group, 3, "secagg.holding"),
        "secagg.again",
    ),
    Scene(
        "secagg/good-lost",
        "secagg",
        "A slice's owner stops once the survivors are voted on: the round is certified as lost.",
        lambda group: stops(group, 3, "certify.commit", "survivors"),
        pack(b"lost"),
    ),
    Scene(
        "secagg/good-backup",
        "secagg",
        "The same with backups: who holds the spare parts sums the slice.",
        lambda group: stops(group, 3, "certify.commit", "survivors"),
        "secagg.checked",
        (("protocol__backup", True),),
    ),
    Scene(
        "secagg/good-failed",
        "secagg",
        "Two peers' vectors do not come to each other: too few survive, and the round is certified as failed.",
        apart,
        pack(b"fail"),
    ),
    Scene("allreduce/good-round", "allreduce", "A round of four.", round_of, "certify.certificate"),
    Scene("mesh/good-round", "mesh", "A round of four.", round_of, "mesh.result"),
    Scene(
        "mesh/good-relay",
        "mesh",
        "A peer's update does not come to another, to which others relay it.",
        unheard,
        "mesh.relay",
    ),
    Scene("bucketed/good-round", "bucketed", "A round of nine in three buckets.", round_of, "bucketed.result"),
    Scene(
        "bucketed/good-relay",
        "bucketed",
        "A bucket's mean does not come to one from who is to send it, and others relay it.",
        kept_back,
        "bucketed.relay",
    ),
    Scene(
        "bucketed/good-failed",
        "bucketed",
        "A bucket has no mean: too few are left, and the round is certified as failed.",
        without_a_mean,
        pack(b"fail"),
    ),
    Scene("shamir-gram/good-round", SHARED, "A round of five.", round_of, "shamir-gram.told"),
    Scene(
        "shamir-gram/good-without-one",
        SHARED,
        "A peer stops once the survivors are certified: its update counts, and others open the sum.",
        lambda group: stops(group, 3, "certify.commit", "survivors"),
        "shamir-gram.told",
    ),
    Scene(
        "shamir-gram/good-denied",
        SHARED,
        "A peer's deal does not come to another: one of the two is left out.",
        unheard,
        "shamir-gram.told",
    ),
    Scene(
        "shamir-gram/good-failed",
        SHARED,
        "The same of four: too few are left, and the round is certified as failed.",
        unheard,
        pack(b"fail"),
        peers=4,
    ),
    Scene(
        "shamir-gram/good-undecided",
        SHARED,
        "Of four a peer stops once the survivors are certified: too few checks are told, and that is certified.",
        lambda group: stops(group, 3, "certify.commit", "survivors"),
        pack(b"undecided"),
        peers=4,
    ),
    Scene(
        "certify/good-next-view",
        "allreduce",
        "The first proposer stops before it proposes survivors, and the second view's does.",
        lambda group: stops(group, proposer(group), "allreduce.holding"),
        "certify.lock",
    ),
    Scene(
        "rendezvous/good-left-out",
        "allreduce",
        "A peer never starts, and the roster cites who missed it.",
        lambda group: round_of(group, without=(3,)),
        "rendezvous.absent",
    ),
    Scene(
        "rendezvous/good-abort",
        "secagg",
        "A peer stops before its vector is out, and the others end the round.",
        lambda group: stops(group, 3, "secagg.masked"),
        "rendezvous.abort",
    ),
    Scene(
        "rendezvous/good-leave",
        "allreduce",
        "A peer leaves after a round, and the next roster cites that.",
        leaves,
        "rendezvous.leave",
    ),
)


@cache
def cast(
    protocol: str, changes: tuple[tuple[str, object], ...] = (), peers: int = 0
) -> tuple[Charter, tuple[Identity, ...]]:
    usual = {BUCKETED: IN_BUCKETS, SHARED: IN_SHARES}.get(protocol, PEERS)
    members = identities(peers or usual, SEED)
    terms: dict[str, Any] = {"group__name": "conformance", "protocol__c": COLLUDE, **dict(changes)}
    charter = charter_for(members, protocol, **terms)
    return combining_charter(charter, charter.hash, BEACON) if protocol == BUCKETED else charter, members


@cache
def played(
    protocol: str, story: Story, changes: tuple[tuple[str, object], ...] = (), peers: int = 0
) -> tuple[tuple[Signed, ...], ...]:
    """The peers' journals after a story."""
    charter, members = cast(protocol, changes, peers)
    with SimulatedGroup(charter, members, seed=SEED) as group:
        story(group)
        return tuple(tuple(peer.journal.entries) for peer in group.peers)


def scene(one: Scene) -> bytes:
    charter, _ = cast(one.protocol, one.changes, one.peers)
    entries = [signed for journal in played(one.protocol, one.story, one.changes, one.peers) for signed in journal]
    shown = one.holds if isinstance(one.holds, bytes) else one.holds.encode()
    if not any(shown in signed.entry or shown in signed.body for signed in entries):
        raise SystemExit(f"{one.path} shows no {shown!r} any more; mend its story in {Path(__file__).name}")
    return file_of(charter, entries)


def honest(protocol: str, part: int = ENDED, story: Story = round_of) -> Log:
    """An honest round up to some part of it, to be lied in."""
    charter, members = cast(protocol)
    messages = spec.load(protocol)
    name = derive.session(messages.source, charter.hash, 1)
    log = Log(charter, {one.id: one for one in members}, Codec(messages.messages), name)
    lines_of(log, played(protocol, story))
    log.upto(part)
    return log
