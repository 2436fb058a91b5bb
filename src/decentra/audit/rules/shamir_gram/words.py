"""The clauses of shamir-gram on words of inner products, and on the geometry that these give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules.shamir_gram.settled import (
    GRAM,
    Settled,
    certified_deal,
    counted,
    following,
    is_under,
    proposed,
    proved_liars,
    settlements,
    votes_on,
)
from decentra.audit.rules.shares import UNDECIDED, open_words, read_elements
from decentra.types import PeerId


def words(round_: Round) -> Iterator[Finding]:
    """SG-7: a word comes from a holder that is counted, and has an element for each pair of dealers that stand."""
    for record, settled, astray in following(round_, GRAM, "checked", "SG-7", counted):
        votes = (settled.roster, *votes_on(round_, record, "checked"))
        if astray is not None:
            yield astray
        elif _word(record, settled) is None:
            yield violation("SG-7", record, "told what is not an element for each pair of dealers that stand", *votes)


def _word(record: Record, settled: Settled) -> bytes | None:
    checked = settled.checked
    if checked is None or record.kind != GRAM or record["certificate"] != settled.digests["checked"]:
        return None
    count, word = len(checked.dealers), bytes(record["word"])
    sound = read_elements(word, count * (count + 1) // 2) is not None
    return word if sound and record.author in checked.holders else None


def _said(records: Sequence[Record], context: bytes, settled: Settled) -> dict[PeerId, tuple[Record, bytes]]:
    said: dict[PeerId, tuple[Record, bytes]] = {}
    for one in records:
        word = _word(one, settled) if one["context"] == context else None
        if word is not None:
            said.setdefault(one.author, (one, word))
    return said


def truth_of_words(round_: Round) -> Iterator[Finding]:
    """SG-8: whose word is on none of the polynomials that the others' are on, and whose vector can be none."""
    for first, settled in settlements(round_, GRAM, "checked"):
        if settled.checked is None:
            continue
        said = _said(round_.of(GRAM), first["context"], settled)
        opened = open_words(settled.numbers, settled.checked, {peer: word for peer, (_, word) in said.items()})
        votes = (settled.roster, *votes_on(round_, first, "survivors", "checked"), *(one for one, _ in said.values()))
        if opened.torn:
            yield Missing("more words of the products, of which some are false", None, round_.number)
        for peer in opened.wrong:
            if is_under(round_, first, settled, peer):
                yield violation("SG-8", said[peer][0], "told a word of the products that is false", *votes)
        for peer in opened.out:
            deal = certified_deal(round_, settled, peer)
            if deal is not None and is_under(round_, first, settled, peer):
                yield violation("SG-8", deal, "dealt what can be no vector of the largest length", *votes)
        later = () if settled.geometry is None else settled.geometry.proved
        new = tuple(peer for peer in later if peer not in settled.checked.proved)
        yield from proved_liars(round_, first, settled, "SG-8", GRAM, new)


def proposed_geometry(round_: Round) -> Iterator[Finding]:
    """SG-8: who proposes a geometry shows words that give it."""
    for record, settled, cited in proposed(round_, "geometry", "checked"):
        if settled.checked is None:
            continue
        entries = [one for one in cited if one is not None and one.entry.round == round_.number]
        votes = (settled.roster, *votes_on(round_, record, "survivors", "checked"))
        said = _said(entries, record["context"], settled)
        whole = all(one["context"] == record["context"] and _word(one, settled) is not None for one in entries)
        if not whole or len(entries) < len(cited):
            yield violation("SG-8", record, "shows something else than words of its round", *votes)
            continue
        opened = open_words(settled.numbers, settled.checked, {peer: word for peer, (_, word) in said.items()})
        if record["value"] != (opened.value or UNDECIDED):
            yield violation("SG-8", record, "proposed another geometry than the words it shows give", *votes)
