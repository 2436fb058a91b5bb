"""Lies in votes."""

from __future__ import annotations

from scenes import MASKED, PEERS, SUMMED, Line, Log

from decentra import derive
from lies.common import OTHER, Lie, Twist, propose, unbound, votes


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
