"""The clauses of shamir-gram on checks, on what these come to, and on what is shown of who is suspect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules.shamir_gram.settled import (
    CHECK,
    SHOWN,
    Settled,
    anybody,
    certified_deal,
    following,
    holders_of,
    is_under,
    proposed,
    proved_liars,
    settlements,
    votes_on,
)
from decentra.audit.rules.shares import Values, judge, may_give, read_elements
from decentra.types import PeerId


def checks(round_: Round) -> Iterator[Finding]:
    """SG-5: a check comes from a holder, and tells two elements of each survivor."""
    for record, settled, astray in following(round_, CHECK, "survivors", "SG-5", holders_of):
        votes = (settled.roster, *votes_on(round_, record, "survivors"))
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


def truth_of_checks(round_: Round) -> Iterator[Finding]:
    """SG-6: what a dealer dealt is on polynomials of its degree, and what a holder told is what it was dealt.

    A dealer whose values are none, whatever c holders said, dealt falsely; who fits no others' word of more than c
    dealers told falsely, as one of those is honest. Else it is one of the two, and the blob that would tell is in no
    log; but who is certified to be proved is, as t peers do not certify what no honest one has seen.
    """
    for first, settled in settlements(round_, CHECK, "survivors"):
        told = _told(round_.of(CHECK), first["context"], settled)
        found = judge(settled.numbers, settled.dealers, {peer: values for peer, (_, values) in told.items()})
        votes = (settled.roster, *votes_on(round_, first, "survivors"), *(one for one, _ in told.values()))
        for dealer in sorted(found.bad):
            deal = certified_deal(round_, settled, dealer)
            if deal is not None and is_under(round_, first, settled, dealer):
                yield violation("SG-6", deal, "dealt what is on no polynomials of its degree, or no zeros", *votes)
        suspect: dict[PeerId, list[PeerId]] = defaultdict(list)
        for dealer, holder in found.suspects:
            suspect[holder].append(dealer)
        proved = () if settled.checked is None else settled.checked.proved
        for dealer in sorted(found.torn - {*proved}):
            yield Missing("what was dealt by one of whom holders tell otherwise: blobs", dealer, round_.number)
        for holder, dealers in suspect.items():
            if len(dealers) > round_.ground.c and is_under(round_, first, settled, holder):
                said = "told of more dealers than may lie what fits no others' word"
                yield violation("SG-6", told[holder][0], said, *votes)
            elif holder not in proved and not set(dealers) <= {*proved}:
                yield Missing("what was dealt to who fits no others' word: a blob", holder, round_.number)
        yield from proved_liars(round_, first, settled, "SG-6", CHECK, proved)


def shown(round_: Round) -> Iterator[Finding]:
    """SG-6: what is shown is what a survivor dealt to that receiver, under the root that it signed."""
    for record, settled, astray in following(round_, SHOWN, "survivors", "SG-6", anybody):
        if astray is not None:
            yield astray
            continue
        votes, dealer = (settled.roster, *votes_on(round_, record, "survivors")), record["dealer"]
        if dealer not in settled.dealers or record["receiver"] not in settled.numbers.order:
            yield violation("SG-6", record, "showed what no survivor dealt to any of the roster", *votes)
            continue
        deal = certified_deal(round_, settled, dealer)
        if deal is None:
            yield Missing("the deal of a survivor", dealer, round_.number)
        elif deal["roots"][settled.numbers.point(record["receiver"]) - 1] != record["root"]:
            yield violation("SG-6", record, "showed something else than was dealt", *votes, deal)


def proposed_checks(round_: Round) -> Iterator[Finding]:
    """SG-6: who proposes what checks come to shows checks that can give it."""
    for record, settled, cited in proposed(round_, "checked", "survivors"):
        entries = [one for one in cited if one is not None and one.entry.round == round_.number]
        told = _told(entries, record["context"], settled)
        votes = (settled.roster, *votes_on(round_, record, "survivors"))
        values = {peer: values for peer, (_, values) in told.items()}
        whole = all(one["context"] == record["context"] and _values(one, settled) is not None for one in entries)
        if not whole or len(entries) < len(cited):
            yield violation("SG-6", record, "shows something else than checks of its round", *votes)
        elif not may_give(settled.numbers, settled.dealers, settled.holders, values, record["value"]):
            yield violation("SG-6", record, "proposed what the checks it shows do not give", *votes)
