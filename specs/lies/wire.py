"""Lies that break a rule of any spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scenes import START, Line, Log

from decentra.wire.entry import ZERO
from lies.common import OTHER, Lie, says
from lies.rendezvous import but, offer
from lies.sums import again

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
