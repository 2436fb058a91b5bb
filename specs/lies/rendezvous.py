"""Lies about who takes part in a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scenes import START, Line, Log

from decentra.types import PeerId
from lies.common import OTHER, Lie, Twist, instead, second


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
