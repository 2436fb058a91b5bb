"""Writes the conformance suite: ``python specs/make_transcripts.py``; with ``--check`` it compares and writes nothing.

A *good* log is what real machines signed in a simulated round, with fixed identities and randomness, so that its bytes
are always the same. A *bad* one is a good one in which one peer signs one lie, under its own key and in its own chain.
The good ones are made in ``scenes.py``. ``conformance.json`` says what an auditor must find in each; it comes from what
was lied here, not from any auditor.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from decentra import derive
from decentra.protocols.survivors import Survivors
from decentra.types import PeerId
from decentra.wire.entry import ZERO, parse

SPECS = Path(__file__).resolve().parent
sys.path.insert(0, str(SPECS))

from scenes import (  # noqa: E402
    CHECKED,
    COLLUDE,
    MASKED,
    PEERS,
    SCENES,
    START,
    SUMMED,
    Line,
    Log,
    Story,
    apart,
    cast,
    file_of,
    honest,
    round_of,
    scene,
    unsent,
)

EXPECTED = SPECS / "conformance.json"

OTHER = b"\x5a" * 32
"""A hash, a key or a share that is of nothing."""


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
        return folder if folder in ("allreduce", "mesh", "bucketed") else "secagg"

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

# ── of mesh and bucketed ──────────────────────────────────────────────────────────────────────────────────────────────


def says_of_updates(log: Log, kind: str, **given: Any) -> Line:
    """The third peer signs a message of an endorsed round."""
    name = log.charter.protocol.name
    same = {"context": log.find(f"{name}.endorse").fields["context"], "after": log.find("rendezvous.roster")}
    return log.add(log.ids[2], f"{name}.{kind}", **{**same, **given})


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
    line = next(line for line in log.all(f"{log.charter.protocol.name}.result") if line not in shown)
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

def states(log: Log, who: PeerId, **given: Any) -> Line:
    """A peer of an endorsed round states its bucket's mean, or something else."""
    bucket = next(bucket for bucket in log.charter.drawn_buckets if who in bucket)
    same = {"context": log.find("bucketed.endorse").fields["context"], "members": bucket, "root": ZERO[:-1] + b"\1"}
    return log.add(who, "bucketed.mean", after=log.find("rendezvous.roster"), **{**same, **given})


def two_means(log: Log) -> Line:
    """A peer states its bucket's mean, and that there is none."""
    states(log, log.ids[2])
    return states(log, log.ids[2], members=(), root=ZERO)


def in_one_bucket(log: Log) -> tuple[PeerId, ...]:
    return log.charter.drawn_buckets[0]


def another_root(log: Log) -> Line:
    """A peer states another mean than the others of its bucket."""
    liar, *others = in_one_bucket(log)
    for who in others:
        states(log, who)
    return states(log, liar, root=OTHER)


def names(whole: bool, hashed: Callable[[Log, Line], bytes], **stated: Any) -> Twist:
    """A peer of another bucket names a statement of one whose members have made theirs."""

    def twist(log: Log) -> Line:
        lines = [states(log, who, **stated) for who in in_one_bucket(log)]
        bucket, (liar, *_) = in_one_bucket(log)[0], log.charter.drawn_buckets[1]
        given = {"stated": ((bucket, hashed(log, lines[0])),), "whole": (bucket,) * whole}
        same = {"context": lines[0].fields["context"], "after": log.find("rendezvous.roster")}
        return log.add(liar, "bucketed.holding", **{**same, **given})

    return twist


def body_hash(log: Log, line: Line) -> bytes:
    kind = log.codec.spec(line.kind)
    return sha256(log.codec.encode(line.kind, tuple(line.fields[name] for name, _ in kind.fields))).digest()


def relays_mean(log: Log, bucket: PeerId, root: bytes) -> Line:
    opened = log.find("certify.propose", topic="survivors")
    return says_of_updates(log, "relay", bucket=bucket, root=root, receiver=log.ids[1], after=opened)


OF_BUCKETED = (
    Lie("bucketed/bad-BU-1-two-endorsements", START, second("bucketed.endorse", context=OTHER)),
    Lie("bucketed/bad-BU-1-two-means", START, two_means),
    Lie(
        "bucketed/bad-BU-1-under-another-context",
        START,
        lambda log: says_of_updates(log, "mean", context=OTHER, members=(), root=ZERO),
    ),
    Lie(
        "bucketed/bad-BU-2-too-few-members",
        START,
        lambda log: states(log, in_one_bucket(log)[0], members=in_one_bucket(log)[: COLLUDE + 1]),
    ),
    Lie(
        "bucketed/bad-BU-2-another-bucket-s",
        START,
        lambda log: states(log, log.charter.drawn_buckets[1][0], members=in_one_bucket(log)),
    ),
    Lie("bucketed/bad-BU-2-a-mean-of-nobody", START, lambda log: states(log, log.ids[2], members=())),
    Lie("bucketed/bad-BU-2-not-what-its-bucket-states", START, another_root),
    Lie(
        "bucketed/bad-BU-4-no-bucket",
        START,
        lambda log: says_of_updates(log, "holding", stated=((PeerId(OTHER), OTHER),), whole=()),
    ),
    Lie(
        "bucketed/bad-BU-4-whole-and-not-stated",
        START,
        lambda log: says_of_updates(log, "holding", stated=(), whole=(in_one_bucket(log)[0],)),
    ),
    Lie("bucketed/bad-BU-4-what-nobody-stated", START, names(False, lambda log, line: OTHER)),
    Lie("bucketed/bad-BU-4-that-there-is-none", START, names(True, body_hash, members=(), root=ZERO)),
    Lie("bucketed/bad-BU-5-not-certified", MASKED, lambda log: relays_mean(log, PeerId(OTHER), OTHER)),
    Lie(
        "bucketed/bad-BU-5-another-mean",
        MASKED,
        lambda log: relays_mean(log, in_one_bucket(log)[0], OTHER),
    ),
    Lie("bucketed/bad-BU-7-two-results", SUMMED, second("bucketed.result", root=OTHER)),
    Lie("bucketed/bad-BU-7-not-what-others-signed", SUMMED, differs),
    Lie("bucketed/bad-BU-8-not-what-the-results-give", SUMMED, unbound(1, "outcome", value=OTHER)),
    Lie("bucketed/bad-BU-8-too-few-results", SUMMED, one_result),
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

LIES = (*OF_RENDEZVOUS, *OF_CERTIFY, *OF_SECAGG, *OF_ALLREDUCE, *OF_MESH, *OF_BUCKETED, *OF_ANY)

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


def two_words_of_a_mean() -> bytes:
    """A holder names a statement that one of a bucket made and the others, as far as the logs show, did not: either it
    or one of them lies."""
    log = honest("bucketed", START)
    first, *rest = in_one_bucket(log)
    line = states(log, first)
    for who in rest:
        states(log, who, members=(), root=ZERO)
    stated = ((first, body_hash(log, line)),)
    says_of_updates(log, "holding", stated=stated, whole=())
    return file_of(log.charter, log.signed())


UNDECIDED: Mapping[str, Callable[[], bytes]] = {
    "wire/undecided-a-gap": gap,
    "wire/undecided-a-forged-entry": forged,
    "wire/undecided-another-charter": another_charter,
    "wire/undecided-cut-short": cut,
    "wire/undecided-no-entry": nothing,
    "certify/undecided-a-withheld-commit": withheld_commit,
    "secagg/undecided-word-against-word": word_against_word,
    "bucketed/undecided-who-stated-it": two_words_of_a_mean,
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
