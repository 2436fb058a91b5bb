"""The clauses of shamir-gram on the weighted sum: parts, slices, what is told of them, and the outcome."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from math import prod

from decentra import derive
from decentra.audit.findings import Finding, Missing
from decentra.audit.generic import violation
from decentra.audit.record import Record, Round
from decentra.audit.rules.reduce import LOST
from decentra.audit.rules.shamir_gram.settled import (
    PART,
    SLICE,
    TOLD,
    Settled,
    following,
    is_under,
    proposed,
    settlements,
    slicers,
    votes_on,
)
from decentra.audit.rules.shares import false_tellings, read_elements
from decentra.crypto.hashing import digest
from decentra.types import PeerId

MOST_KEYS = 64
"""Keys that are tried where owners signed several slices each."""


def parts(round_: Round) -> Iterator[Finding]:
    """SG-9: a part comes from a holder of true words, with a root for each slice."""
    for record, settled, astray in following(round_, PART, "geometry", "SG-9", slicers):
        if astray is not None:
            yield astray
        elif len(record["roots"]) != len(slicers(settled)):
            votes = (settled.roster, *votes_on(round_, record, "geometry"))
            yield violation("SG-9", record, "signed a part that is not one of each slice", *votes)


def slices(round_: Round) -> Iterator[Finding]:
    """SG-10: a slice comes from who owns one."""
    for _, _, astray in following(round_, SLICE, "geometry", "SG-10", slicers):
        if astray is not None:
            yield astray


def tellings(round_: Round) -> Iterator[Finding]:
    """SG-11: a holder tells an element for each slice, under a key that the slices give.

    Of a key that the slices here do not give, either its author or an owner of a slice, who signed two, is to blame.
    """
    for record, settled, astray in following(round_, TOLD, "geometry", "SG-11", slicers):
        if astray is not None:
            yield astray
        elif _telling(record, settled) is None:
            votes = (settled.roster, *votes_on(round_, record, "geometry"))
            yield violation("SG-11", record, "told what is not an element for each slice", *votes)
        elif record["key"] not in _keys(round_, record, settled):
            who = round_.ground.name(record.author)
            yield Missing(f"the slices that {who} tells of", record.author, round_.number)


def truth_of_tellings(round_: Round) -> Iterator[Finding]:
    """SG-11: what a holder tells of its share of the sum is on the polynomial that others' tellings are on."""
    for first, settled in settlements(round_, TOLD, "geometry"):
        alike: dict[bytes, dict[PeerId, tuple[Record, tuple[int, ...]]]] = defaultdict(dict)
        for record in round_.of(TOLD):
            values = _telling(record, settled) if record["context"] == first["context"] else None
            if values is not None:
                alike[record["key"]].setdefault(record.author, (record, values))
        proved = () if settled.geometry is None else settled.geometry.proved
        votes = (settled.roster, *votes_on(round_, first, "geometry"))
        for told in alike.values():
            values_of, numbers = {peer: values for peer, (_, values) in told.items()}, settled.numbers
            wrong, torn = false_tellings(numbers, numbers.liars(len(proved)), values_of)
            if torn:
                yield Missing("more tellings of the sum, of which some are false", None, round_.number)
            for peer in sorted(wrong):
                if is_under(round_, first, settled, peer):
                    beside = (one for one, _ in told.values())
                    said = "told of its share of the sum what is false"
                    yield violation("SG-11", told[peer][0], said, *votes, *beside)


def _telling(record: Record, settled: Settled) -> tuple[int, ...] | None:
    """What a holder tells of its share of the sum; None where it is none of this geometry."""
    owners = slicers(settled)
    if record["certificate"] != settled.digests["geometry"] or record.author not in owners:
        return None
    return read_elements(record["values"], len(owners))


def _keys(round_: Round, record: Record, settled: Settled) -> frozenset[bytes]:
    """The keys that the owners' slices give: more than one where an owner signed two, none where one is missing."""
    certificate = settled.digests["geometry"]
    roots: dict[PeerId, set[bytes]] = defaultdict(set)
    for one in round_.of(SLICE):
        if (one["context"], one["certificate"]) == (record["context"], certificate):
            roots[one.author].add(one["root"])
    owned = [sorted(roots[owner]) for owner in slicers(settled)]
    if prod(map(len, owned)) > MOST_KEYS:
        return frozenset()
    opened = ("opened", record["context"], certificate, len(owned))
    return frozenset(digest(*opened, *some) for some in product(*owned))


def outcomes(round_: Round) -> Iterator[Finding]:
    """SG-12: an outcome that is proposed is the hash of what the slices that it shows are."""
    for record, settled, cited in proposed(round_, "outcome", "survivors", "geometry"):
        geometry = settled.geometry
        if record["value"] == LOST or geometry is None:
            continue
        votes = (settled.roster, *votes_on(round_, record, "survivors", "geometry"))
        entries = [one for one in cited if one is not None and one.kind == SLICE]
        under = {(one["context"], one["certificate"]) for one in entries}
        whole = tuple(one.author for one in entries) == geometry.holders and len(entries) == len(cited)
        if not whole or under != {(record["context"], settled.digests["geometry"])}:
            yield violation("SG-12", record, "proposed an outcome without one slice of every owner", *votes)
            continue
        roots = tuple(one["root"] for one in entries)
        value = derive.outcome_value(
            record["context"], settled.digests["survivors"], len(geometry.dealers), roots
        )
        if record["value"] != value:
            yield violation("SG-12", record, "proposed an outcome that the slices it shows do not give", *votes)
