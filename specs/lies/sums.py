"""Lies in rounds of secagg and allreduce."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scenes import CHECKED, MASKED, PEERS, START, SUMMED, Line, Log, apart

from decentra.protocols.survivors import Survivors
from decentra.types import PeerId
from decentra.wire.entry import ZERO
from lies.common import OTHER, Lie, instead, second, unbound


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
