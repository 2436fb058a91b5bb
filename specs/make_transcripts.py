"""Writes the conformance suite: ``python specs/make_transcripts.py``; with ``--check`` it compares and writes nothing.

A *good* log is what real machines signed in a simulated round, with fixed identities and randomness, so that its bytes
are always the same. A *bad* one is a good one in which one peer signs one lie, under its own key and in its own chain.
``conformance.json`` says what an auditor must find in each; it comes from what was lied here, not from any auditor.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from decentra.protocols.survivors import Survivors
from decentra.simulation.group import SimulatedGroup, charter_for, identities
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Codec, Signed, pack
from decentra.wire.entry import EVERYONE, LABEL, VERSION, ZERO, Entry, parse

SPECS = Path(__file__).resolve().parent
EXPECTED = SPECS / "conformance.json"

SEED, PEERS, COLLUDE, COORDINATES = 7, 4, 1, 5
PATIENCE = 3600.0
"""Virtual seconds within which a round has ended."""

OTHER = b"\x5a" * 32
"""A hash, a key or a share that is of nothing."""

START, MASKED, SUMMED, CHECKED, ENDED = range(5)
"""How far a round has come: endorsed; survivors certified; outcome certified; recomputed; ended. What comes later is
left away, where a lie does not need it."""

PARTS = {
    **dict.fromkeys(("ready", "later", "absent", "roster", "abort", "leave", "deal", "context", "endorse"), START),
    **dict.fromkeys(("endorsed", "masked", "slices", "update", "again", "holding", "survivors"), MASKED),
    **dict.fromkeys(("unmask", "sum", "relay", "result", "outcome"), SUMMED),
    **dict.fromkeys(("beacon", "part", "checked"), CHECKED),
    "verdict": ENDED,
}
"""The part of a round that a message belongs to; a vote by its topic."""

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

    @staticmethod
    def _part(line: Line) -> int:
        return PARTS[line.fields.get("topic") or line.kind.partition(".")[2]]

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
    group.run([None if place in without else vector(place, number) for place in range(PEERS)])


def begin(group: SimulatedGroup, until: Callable[[], bool], what: str) -> None:
    """The beginning of a round of everybody, until something has come about."""
    for position, peer in enumerate(group.peers):
        peer.begin(vector(position))
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
    """A round in which nothing that a peer sends from its update on comes to some."""

    def given() -> bool:
        signed = [{parse(one.entry).kind for one in peer.journal.entries} for peer in group.peers]
        return all("mesh.update" in kinds for kinds in signed)

    begin(group, given, "an update is signed")
    for other in others:
        group.network.cut(group.peers[place].identity.id, group.peers[other].identity.id)
    group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), group.clock.now() + PATIENCE)


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
def cast(protocol: str, changes: tuple[tuple[str, object], ...] = ()) -> tuple[Charter, tuple[Identity, ...]]:
    members = identities(PEERS, SEED)
    terms: dict[str, Any] = {"group__name": "conformance", "protocol__c": COLLUDE, **dict(changes)}
    return charter_for(members, protocol, **terms), members


@cache
def played(protocol: str, story: Story, changes: tuple[tuple[str, object], ...] = ()) -> tuple[tuple[Signed, ...], ...]:
    """The peers' journals after a story."""
    charter, members = cast(protocol, changes)
    with SimulatedGroup(charter, members, seed=SEED) as group:
        story(group)
        return tuple(tuple(peer.journal.entries) for peer in group.peers)


def scene(one: Scene) -> bytes:
    charter, _ = cast(one.protocol, one.changes)
    entries = [signed for journal in played(one.protocol, one.story, one.changes) for signed in journal]
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


# ── bad logs: one lie each ───────────────────────────────────────────────────────────────────────────────────────────

Twist = Callable[[Log], Line]
"""Lies in a log; a line of the liar's."""


@dataclass(frozen=True)
class Lie:
    """A bad log: where it goes, up to which part of what round it is, and the lie."""

    path: str
    part: int
    twist: Twist
    story: Story = round_of

    @property
    def protocol(self) -> str:
        """What is lied in: secagg, but where the folder is another protocol's."""
        folder = self.path.partition("/")[0]
        return folder if folder in ("allreduce", "mesh") else "secagg"

    @property
    def clause(self) -> str:
        """The clause that is broken: it stands in the file's name."""
        words = self.path.rpartition("/")[2].split("-")[1:]
        return f"{words[0]}-{words[1]}" if words[1].isdigit() else words[0]


def second(kind: str, **changes: Any) -> Twist:
    """A peer signs another message of a kind of which it has signed one: the third peer, or who else has."""

    def twist(log: Log) -> Line:
        name = kind.replace("*", log.charter.protocol.name)
        return log.repeat(next((line for line in log.all(name) if line.who == log.ids[2]), log.find(name)), **changes)

    return twist


def instead(kind: str, change: Callable[[Log, dict[str, Any]], Mapping[str, Any]]) -> Twist:
    """A peer signs other fields than the honest ones."""

    def twist(log: Log) -> Line:
        line = log.find(kind, log.turn(0) if kind == "rendezvous.ready" else log.turn(2))
        line.fields = {**line.fields, **change(log, line.fields)}
        return line

    return twist


def says(kind: str, **given: Any) -> Twist:
    """The third peer signs one more message."""
    return lambda log: log.add(log.ids[2], kind, **given)


# ── of rendezvous ────────────────────────────────────────────────────────────────────────────────────────────────────


def offer(log: Log, members: Iterable[PeerId], *citations: Line, view: int = 1, number: int = 1) -> Line:
    """A roster of another view, by whose turn it is."""
    same = log.find("rendezvous.roster").fields
    changed = {**same, "view": view, "members": tuple(members), "citations": citations}
    return log.add(log.turn(view, number), "rendezvous.roster", number=number, **changed)


def but(log: Log, out: PeerId) -> list[PeerId]:
    return [who for who in log.ids if who != out]


def one_absence(log: Log) -> Line:
    out = log.turn(0)
    return offer(log, but(log, out), log.add(log.turn(1), "rendezvous.absent", view=1, peers=(out,)))


def below_the_floor(log: Log) -> Line:
    """Two leave in time, and the proposer of the next round goes on with the one that stays."""
    liar, stays, *others = sorted(log.ids, key=lambda who: (who != log.turn(0, 2), who))
    left = [log.add(who, "rendezvous.leave") for who in others]
    log.add(liar, "rendezvous.ready", number=2, **log.find("rendezvous.ready", liar).fields)
    return offer(log, sorted((liar, stays)), *left, view=0, number=2)


def ends(clause: str, blamed: Callable[[Log], PeerId]) -> Twist:
    """A peer ends the round, and blames another."""
    given: dict[str, Any] = {"clause": clause, "reason": "it says why"}
    return lambda log: log.add(log.ids[2], "rendezvous.abort", blamed=(blamed(log),), **given)


OF_RENDEZVOUS = (
    Lie("rendezvous/bad-RV-1-two-readinesses", START, second("rendezvous.ready", seal=OTHER)),
    Lie(
        "rendezvous/bad-RV-2-another-model",
        START,
        instead("rendezvous.ready", lambda log, said: {"fingerprint": OTHER}),
    ),
    Lie(
        "rendezvous/bad-RV-3-not-its-view",
        START,
        lambda log: log.add(log.turn(1), "rendezvous.roster", **log.find("rendezvous.roster").fields),
    ),
    Lie("rendezvous/bad-RV-3-two-rosters", START, second("rendezvous.roster", state=OTHER)),
    Lie("rendezvous/bad-RV-4-nothing-cited", START, lambda log: offer(log, but(log, log.turn(0)))),
    Lie("rendezvous/bad-RV-4-one-absence", START, one_absence),
    Lie("rendezvous/bad-RV-5-below-the-floor", START, below_the_floor),
    Lie("rendezvous/bad-RV-5-not-ascending", START, lambda log: offer(log, reversed(log.ids))),
    Lie("rendezvous/bad-RV-7-no-such-clause", START, ends("SA-99", lambda log: log.ids[0])),
    Lie("rendezvous/bad-RV-7-blames-a-stranger", START, ends("SA-1", lambda log: PeerId(OTHER))),
)

# ── of certify ───────────────────────────────────────────────────────────────────────────────────────────────────────


def votes(log: Log, kind: str, topic: str) -> tuple[Line, ...]:
    return log.all(f"certify.{kind}", topic)


def propose(log: Log, who: PeerId, view: int, topic: str, before: Line | None = None, **changes: Any) -> Line:
    """A proposal like the first one of the topic, in another view."""
    same = log.find("certify.propose", topic=topic).fields
    return log.add(who, "certify.propose", before, **{**same, "view": view, **changes})


def unbound(view: int, topic: str, **changes: Any) -> Twist:
    """Whose turn a view is proposes in it before it is bound by a commit."""

    def twist(log: Log) -> Line:
        who = log.turn(view)
        return propose(log, who, view, topic, log.find("certify.commit", who, topic), **changes)

    return twist


def second_vote(kind: str) -> Twist:
    return lambda log: log.repeat(log.find(kind, log.turn(2), "outcome"), value=OTHER)


def two_proposals(log: Log) -> Line:
    first = log.find("certify.propose", topic="outcome")
    return log.repeat(first, log.find("certify.commit", first.who, "outcome"), value=b"lost", shown=())


def prepared_behind(log: Log) -> Line:
    liar, prepared = log.turn(1), votes(log, "prepare", "survivors")
    for view in (1 + PEERS, 1):
        shown = propose(log, liar, view, "survivors", shown=(), locked=prepared)
        last = log.add(liar, "certify.prepare", after=shown, **{**prepared[0].fields, "view": view})
    return last


def committed_behind(log: Log) -> Line:
    liar = log.turn(1)
    committed = log.find("certify.commit", liar, "survivors")
    shown = propose(log, liar, 1, "survivors", committed)
    log.add(liar, "certify.prepare", committed, after=shown, **{**committed.fields, "view": 1})
    return committed


def against_its_lock(log: Log) -> Line:
    """One who was not locked proposes another outcome in the next view, and one who was prepares it."""
    proposer, liar = log.turn(1), log.turn(2)
    own = log.find("certify.commit", proposer, "outcome")
    log.chains[proposer].remove(own)
    vote = {**own.fields, "view": 1}
    log.add(proposer, "certify.lock", **{**vote, "value": b"", "prepares": ()})
    shown = propose(log, proposer, 1, "outcome", value=b"lost", shown=())
    vote["value"] = derive.vote_value(vote["context"], "outcome", b"lost")
    return log.add(liar, "certify.prepare", after=shown, **vote)


def few_commits(log: Log) -> Line:
    few = votes(log, "commit", "outcome")[:2]
    same = {name: few[0].fields[name] for name in ("context", "topic")}
    value = log.find("certify.propose", topic="outcome").fields["value"]
    return log.add(log.turn(2), "certify.certificate", receiver=log.turn(3), value=value, commits=few, **same)


def shows_lock(log: Log, count: int) -> Line:
    """A peer comes to the next view and shows so many prepares as its lock."""
    proposal = log.find("certify.propose", topic="outcome").fields
    shown = {"context": proposal["context"], "topic": "outcome", "view": 1}
    shown |= {"value": proposal["value"] if count else b"", "prepares": votes(log, "prepare", "outcome")[:count]}
    return log.add(log.turn(2), "certify.lock", **shown)


OF_CERTIFY = (
    Lie(
        "certify/bad-CE-1-not-its-view",
        MASKED,
        lambda log: propose(log, log.turn(2), 1, "survivors", shown=(), locked=votes(log, "prepare", "survivors")),
    ),
    Lie("certify/bad-CE-1-two-proposals", SUMMED, two_proposals),
    Lie("certify/bad-CE-2-two-prepares", SUMMED, second_vote("certify.prepare")),
    Lie("certify/bad-CE-2-not-what-the-holdings-give", MASKED, unbound(PEERS, "survivors", value=b"fail")),
    Lie("certify/bad-CE-2-a-view-behind", MASKED, prepared_behind),
    Lie("certify/bad-CE-3-against-its-lock", SUMMED, against_its_lock),
    Lie("certify/bad-CE-4-two-commits", SUMMED, second_vote("certify.commit")),
    Lie("certify/bad-CE-4-a-view-behind", MASKED, committed_behind),
    Lie("certify/bad-CE-5-too-few-commits", SUMMED, few_commits),
    Lie("certify/bad-CE-6-no-lock", SUMMED, lambda log: shows_lock(log, 2)),
    Lie("certify/bad-CE-6-hides-its-lock", SUMMED, lambda log: shows_lock(log, 0)),
)

# ── of secagg and allreduce ──────────────────────────────────────────────────────────────────────────────────────────


def again(log: Log, **given: Any) -> Line:
    """A peer repeats its part of the first slice."""
    name = log.charter.protocol.name
    same = {"context": log.find(f"{name}.endorse").fields["context"], "slice": 0, "root": OTHER}
    return log.add(log.ids[2], f"{name}.again", **{"after": log.find("rendezvous.roster"), **same, **given})


def two_parts(log: Log) -> Line:
    again(log)
    return again(log, root=ZERO)


def own_list(log: Log) -> bytes:
    """The list of slices that the second peer signed, by its hash."""
    held: dict[PeerId, bytes] = dict(log.find(f"{log.charter.protocol.name}.holding", log.ids[1]).fields["held"])
    return held[log.ids[1]]


def holds(log: Log, own: bytes, *beside: tuple[PeerId, bytes]) -> Line:
    """The second peer takes over the slice behind its own."""
    first = log.find(f"{log.charter.protocol.name}.holding", log.ids[1])
    return log.repeat(first, slice=2, held=tuple(sorted(((first.who, own), *beside))))


def too_few(log: Log) -> Line:
    given = Survivors.unpack(log.find("certify.propose", topic="survivors").fields["value"])
    few = Survivors(given.members[:2], given.owners, given.holdings)
    return unbound(PEERS, "survivors", value=few.pack())(log)


def without_a_sum(log: Log) -> Line:
    shown = log.find("certify.propose", topic="outcome").fields["shown"]
    return unbound(1, "outcome", shown=shown[1:])(log)


def unmasked_though_failed(log: Log) -> Line:
    vote = log.find("certify.commit", log.ids[2]).fields
    shares = tuple((who, OTHER) for who in log.ids)
    shown = {"context": vote["context"], "survivors": vote["value"], "self_shares": shares, "key_shares": ()}
    return log.add(log.ids[2], "secagg.unmask", **shown)


def swapped(log: Log, said: dict[str, Any]) -> Mapping[str, Any]:
    first, *rest = said["self_shares"]
    return {"self_shares": tuple(rest), "key_shares": (first,)}


OF_SECAGG = (
    Lie("secagg/bad-SA-1-two-deals", START, second("secagg.deal", digest=OTHER)),
    Lie("secagg/bad-SA-2-two-lists-of-deals", START, second("secagg.context", deals=(OTHER,) * PEERS)),
    Lie("secagg/bad-SA-2-two-endorsements", START, second("secagg.endorse", context=OTHER)),
    Lie("secagg/bad-SA-2-under-another-context", START, lambda log: again(log, context=OTHER)),
    Lie(
        "secagg/bad-SA-3-both-shares",
        SUMMED,
        instead("secagg.unmask", lambda log, said: {"key_shares": ((log.ids[0], OTHER),)}),
    ),
    Lie("secagg/bad-SA-3-a-survivors-mask-key", SUMMED, instead("secagg.unmask", swapped)),
    Lie("secagg/bad-SA-4-two-vectors", MASKED, second("secagg.masked", roots=(OTHER,) * PEERS)),
    Lie("secagg/bad-SA-6-too-few-survivors", MASKED, too_few),
    Lie(
        "secagg/bad-SA-7-under-another-set", SUMMED, instead("secagg.unmask", lambda log, said: {"survivors": OTHER})
    ),
    Lie(
        "secagg/bad-SA-7-not-every-survivor",
        SUMMED,
        instead("secagg.unmask", lambda log, said: {"self_shares": said["self_shares"][1:]}),
    ),
    Lie("secagg/bad-SA-7-in-a-failed-round", MASKED, unmasked_though_failed, apart),
    Lie("secagg/bad-SA-8-two-sums", SUMMED, second("*.sum", root=OTHER)),
    Lie("secagg/bad-SA-9-not-what-the-sums-give", SUMMED, unbound(1, "outcome", value=OTHER)),
    Lie("secagg/bad-SA-9-without-every-sum", SUMMED, without_a_sum),
    Lie("secagg/bad-SA-10-two-parts", CHECKED, second("secagg.part", root=OTHER)),
    Lie("secagg/bad-SA-11-not-the-list-that-it-signed", MASKED, lambda log: holds(log, OTHER)),
    Lie("secagg/bad-SA-11-a-stranger", MASKED, lambda log: holds(log, own_list(log), (PeerId(OTHER), OTHER))),
    Lie(
        "secagg/bad-SA-12-under-another-outcome",
        CHECKED,
        instead("secagg.beacon", lambda log, said: {"outcome": OTHER}),
    ),
    Lie(
        "secagg/bad-SA-12-not-every-survivor",
        CHECKED,
        instead("secagg.beacon", lambda log, said: {"shares": said["shares"][1:]}),
    ),
    Lie("secagg/bad-SA-13-two-reports", CHECKED, second("secagg.checked", root=OTHER)),
)

OF_ALLREDUCE = (
    Lie("allreduce/bad-AR-1-two-endorsements", START, second("allreduce.endorse", context=OTHER)),
    Lie("allreduce/bad-AR-1-two-sets-of-slices", MASKED, second("allreduce.slices", roots=(OTHER,) * PEERS)),
    Lie("allreduce/bad-AR-1-under-another-context", START, lambda log: again(log, context=OTHER)),
    Lie("allreduce/bad-AR-2-two-parts", START, two_parts),
    Lie("allreduce/bad-AR-3-not-the-list-that-it-signed", MASKED, lambda log: holds(log, OTHER)),
    Lie("allreduce/bad-AR-4-two-sums", SUMMED, second("*.sum", root=OTHER)),
    Lie("allreduce/bad-AR-5-not-what-the-sums-give", SUMMED, unbound(1, "outcome", value=OTHER)),
)

# ── of mesh ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def says_of_updates(log: Log, kind: str, **given: Any) -> Line:
    """The third peer signs a message of an endorsed round."""
    same = {"context": log.find("mesh.endorse").fields["context"], "after": log.find("rendezvous.roster")}
    return log.add(log.ids[2], f"mesh.{kind}", **{**same, **given})


def holds_another(log: Log) -> Line:
    """A peer holds another update of its own than it signed."""
    says_of_updates(log, "update", root=OTHER)
    return says_of_updates(log, "holding", held=((log.ids[2], OTHER),))


def relays(author: int, signer: int) -> Twist:
    """A peer relays, in one author's name, what another signed for its update."""

    def twist(log: Log) -> Line:
        cited, opened = log.find("mesh.update", log.ids[signer]), log.find("certify.propose", topic="survivors")
        given = {"author": log.ids[author], "update": cited, "receiver": log.ids[1], "after": opened}
        return says_of_updates(log, "relay", **given)

    return twist


def differs(log: Log) -> Line:
    """A peer signs another result than the others; not one whose result the outcome is shown by."""
    shown = log.find("certify.propose", topic="outcome").fields["shown"]
    line = next(line for line in log.all("mesh.result") if line not in shown)
    line.fields = {**line.fields, "root": OTHER}
    return line


def one_result(log: Log) -> Line:
    shown = log.find("certify.propose", topic="outcome").fields["shown"]
    return unbound(1, "outcome", shown=shown[:COLLUDE])(log)


OF_MESH = (
    Lie("mesh/bad-ME-1-two-endorsements", START, second("mesh.endorse", context=OTHER)),
    Lie("mesh/bad-ME-1-two-updates", MASKED, second("mesh.update", root=OTHER)),
    Lie(
        "mesh/bad-ME-1-under-another-context",
        START,
        lambda log: says_of_updates(log, "update", context=OTHER, root=OTHER),
    ),
    Lie("mesh/bad-ME-3-not-the-update-that-it-signed", START, holds_another),
    Lie(
        "mesh/bad-ME-3-a-stranger",
        START,
        lambda log: says_of_updates(log, "holding", held=tuple(sorted(((log.ids[2], OTHER), (PeerId(OTHER), OTHER))))),
    ),
    Lie("mesh/bad-ME-4-not-certified", MASKED, relays(3, 3), unsent),
    Lie("mesh/bad-ME-4-not-its-author-s", MASKED, relays(0, 3)),
    Lie("mesh/bad-ME-6-two-results", SUMMED, second("mesh.result", root=OTHER)),
    Lie("mesh/bad-ME-6-not-what-others-signed", SUMMED, differs),
    Lie("mesh/bad-ME-7-not-what-the-results-give", SUMMED, unbound(1, "outcome", value=OTHER)),
    Lie("mesh/bad-ME-7-too-few-results", SUMMED, one_result),
)

# ── of any spec ──────────────────────────────────────────────────────────────────────────────────────────────────────

ENDED_IT: Mapping[str, Any] = {"clause": "LOCAL", "blamed": (), "reason": "ended"}
STATE: Mapping[str, Any] = {"view": 0, "state": OTHER, "part": 0}


def cites_a_forgery(log: Log) -> Line:
    return offer(log, log.ids, Line(log.turn(3), "rendezvous.abort", 1, dict(ENDED_IT), forged=True))


def without_itself(log: Log) -> Line:
    out = log.turn(1)
    return offer(log, but(log, out), log.add(out, "rendezvous.abort", **ENDED_IT))


def two_states(log: Log) -> Line:
    for root in (OTHER, ZERO):
        line = log.add(log.ids[2], "rendezvous.state", receiver=log.ids[3], root=root, **STATE)
    return line


def forks(log: Log) -> Line:
    log.add(log.ids[2], "rendezvous.leave")
    return log.add(log.ids[2], "rendezvous.abort", twin=True, **ENDED_IT)


def goes_back(log: Log) -> Line:
    ready = log.find("rendezvous.ready", log.ids[2])
    log.add(ready.who, ready.kind, number=2, **ready.fields)
    return log.add(ready.who, "rendezvous.abort", **ENDED_IT)


OF_ANY = (
    Lie("wire/bad-SIGNATURE-cites-what-nobody-signed", START, cites_a_forgery),
    Lie("wire/bad-SCHEMA-unknown-kind", START, says("secagg.nothing", raw=b"\x90")),
    # a zero in a form longer than it needs
    Lie("wire/bad-SCHEMA-no-body-of-its-kind", START, says("rendezvous.absent", raw=b"\x92\xcc\x00\x90")),
    Lie("wire/bad-SESSION-another-epoch", START, says("rendezvous.leave", epoch=2)),
    Lie(
        "wire/bad-ROLE-to-itself",
        START,
        lambda log: log.add(log.ids[2], "rendezvous.want", receiver=log.ids[2], **STATE),
    ),
    Lie("wire/bad-ROLE-a-roster-without-its-proposer", START, without_itself),
    Lie("wire/bad-ORDER-nothing-opened-it", START, lambda log: again(log, after=None)),
    Lie("wire/bad-ORDER-opened-by-another-kind", START, lambda log: again(log, after=log.find("rendezvous.ready"))),
    Lie("wire/bad-EQUIVOCATION-two-parts-of-a-state", START, two_states),
    Lie("wire/bad-CHAIN-another-entry-before", START, says("rendezvous.leave", prev=OTHER)),
    Lie("wire/bad-CHAIN-none-before", START, says("rendezvous.leave", prev=ZERO)),
    Lie("wire/bad-FORK-two-of-one-number", START, forks),
    Lie("wire/bad-REPLAY-a-round-behind", START, goes_back),
)

LIES = (*OF_RENDEZVOUS, *OF_CERTIFY, *OF_SECAGG, *OF_ALLREDUCE, *OF_MESH, *OF_ANY)

BESIDE = {"secagg/bad-SA-6-too-few-survivors": "CE-2"}
"""A file in which the liar breaks a second clause by the same words: a set below t is never what holdings give."""

# ── logs of which nobody can tell ────────────────────────────────────────────────────────────────────────────────────


def gap() -> bytes:
    """One entry of one peer is not there."""
    log = honest("secagg", START)
    entries = log.signed()
    at = entries.index(next(one for one in entries if parse(one.entry).seq == 2))
    return file_of(log.charter, [*entries[:at], *entries[at + 1 :]])


def forged() -> bytes:
    """The last entry of one peer carries a signature that is none: it accuses nobody, and least of all its author."""
    log = honest("secagg", START)
    log.chains[log.ids[2]][-1].forged = True
    return file_of(log.charter, log.signed())


def another_charter() -> bytes:
    """The charter in the file is another group's than the entries' session has."""
    log = honest("secagg", START)
    charter, _ = cast("secagg", (("group__name", "another"),))
    return file_of(charter, log.signed())


def cut() -> bytes:
    """The file ends in the middle of an entry, and the chain before it is whole."""
    log = honest("secagg", START)
    return file_of(log.charter, log.signed())[:-40]


def nothing() -> bytes:
    """A charter, and no entry."""
    return file_of(cast("secagg")[0], [])


def withheld_commit() -> bytes:
    """A peer prepares another value than before, and what it signed between is not all there: it may be bound so."""
    log = honest("secagg", SUMMED)
    liar = against_its_lock(log).who
    at = [line for who in log.ids for line in log.chains[who]].index(log.find("certify.commit", liar, "outcome"))
    entries = log.signed()
    return file_of(log.charter, [*entries[:at], *entries[at + 1 :]])


def word_against_word() -> bytes:
    """A holder says that it holds a list which its author, as far as the logs show, did not sign: either may lie."""
    log = honest("secagg", MASKED)
    holds(log, own_list(log), (log.ids[3], OTHER))
    return file_of(log.charter, log.signed())


UNDECIDED: Mapping[str, Callable[[], bytes]] = {
    "wire/undecided-a-gap": gap,
    "wire/undecided-a-forged-entry": forged,
    "wire/undecided-another-charter": another_charter,
    "wire/undecided-cut-short": cut,
    "wire/undecided-no-entry": nothing,
    "certify/undecided-a-withheld-commit": withheld_commit,
    "secagg/undecided-word-against-word": word_against_word,
}


def shuffled() -> bytes:
    """The entries of a good round in an order that nobody signed, each third one twice."""
    log = honest("secagg", MASKED)
    entries = sorted(log.signed(), key=lambda one: sha256(one.entry).digest())
    return file_of(log.charter, [*entries, *entries[::3]])


def restarted() -> bytes:
    """A peer's second process leaves."""
    log = honest("secagg", START)
    log.add(log.ids[2], "rendezvous.leave", boot=2)
    return file_of(log.charter, log.signed())


# ── the suite ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _place(path: str) -> str:
    folder, _, name = path.partition("/")
    return f"{folder}/transcripts/{name}.log"


def made() -> dict[str, bytes]:
    """Every file of the suite by its place in ``specs``; last what is expected of them, a line each."""
    files: dict[str, bytes] = {}
    expected: dict[str, dict[str, Any]] = {}

    def keep(path: str, content: bytes, verdict: str, *violations: tuple[str, PeerId]) -> None:
        files[_place(path)] = content
        pairs = sorted([clause, who.hex()] for clause, who in violations)
        expected[_place(path)] = {"verdict": verdict, "violations": pairs}

    for one in SCENES:
        keep(one.path, scene(one), "clean")
    keep("wire/good-shuffled", shuffled(), "clean")
    keep("wire/good-restart", restarted(), "clean")
    for each in LIES:
        log = honest(each.protocol, each.part, each.story)
        liar = each.twist(log).who
        clauses = [each.clause, *([BESIDE[each.path]] if each.path in BESIDE else ())]
        keep(each.path, file_of(log.charter, log.signed()), "violation", *((clause, liar) for clause in clauses))
    for path, made_by in UNDECIDED.items():
        keep(path, made_by(), "undecided")
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(expected[name])}" for name in sorted(expected))
    listed = f'{{"version": 1, "files": {{\n{lines}\n}}}}\n'
    return {**dict(sorted(files.items())), EXPECTED.name: listed.encode()}


def differing(files: Mapping[str, bytes]) -> list[str]:
    """What the folder has otherwise than these files, a few words each."""
    there = {path.relative_to(SPECS).as_posix() for path in SPECS.glob("*/transcripts/*")}
    found = [f"{name} is none of the suite" for name in sorted(there - files.keys())]
    for name, content in files.items():
        path = SPECS / name
        if not path.is_file():
            found.append(f"{name} is not there")
        elif path.read_bytes() != content:
            found.append(f"{name} has other bytes")
    return found


def main() -> int:
    """Write the suite, or compare it."""
    reader = argparse.ArgumentParser(description="Write the conformance suite of the auditor's rules.")
    reader.add_argument("--check", action="store_true", help="compare with what is there, and write nothing")
    check = reader.parse_args().check
    files = made()
    if check:
        found = differing(files)
        for one in found:
            print(one)
        say = f"{len(found)} files differ from what the specs give; run: python specs/make_transcripts.py"
        print(say if found else f"{len(files)} files are what the specs give")
        return 1 if found else 0
    for path in SPECS.glob("*/transcripts/*"):
        if path.relative_to(SPECS).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        (SPECS / name).parent.mkdir(exist_ok=True)
        (SPECS / name).write_bytes(content)
    size = sum(map(len, files.values()))
    print(f"{len(files)} files, {size / 1e6:.2f} MB; the largest has {max(map(len, files.values())) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
