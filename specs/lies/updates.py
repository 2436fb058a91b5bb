"""Lies in rounds of mesh and bucketed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenes import COLLUDE, MASKED, START, SUMMED, Line, Log, unsent

from decentra.types import PeerId
from decentra.wire.entry import ZERO
from lies.common import OTHER, Lie, Twist, body_hash, second, unbound


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
