"""The rules of the protocols: one file a spec, each a table from clause to what looks for its breach in a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from decentra.audit.findings import Finding
from decentra.audit.record import Round
from decentra.audit.rules import allreduce, bucketed, certify, mesh, rendezvous, secagg, shamir_gram

Rule = Callable[[Round], Iterator[Finding]]
Rules = Mapping[str, Rule]


@dataclass(frozen=True)
class Book:
    """What a protocol is held against: its rules, what may open each message's phase, and which clause allows each
    message once. ``clauses`` are those of the spec that a breach is found under."""

    rules: tuple[Rule, ...]
    clauses: frozenset[str]
    opens: Mapping[str, tuple[str, ...]]
    once: Mapping[str, str]


def _book(*specs: tuple[Rules, Mapping[str, tuple[str, ...]], Mapping[str, str]]) -> Book:
    rules, opens, once = dict[Rule, None](), dict[str, tuple[str, ...]](), dict[str, str]()
    judged = set[str]()
    for named, opening, clauses in specs:
        rules |= dict.fromkeys(named.values())
        opens |= opening
        once |= clauses
        judged |= {*named, *clauses.values()} - {""}
    return Book(tuple(rules), frozenset(judged), opens, once)


_BASE = (
    (rendezvous.RULES, rendezvous.OPENS, rendezvous.CLAUSES),
    (certify.RULES, certify.OPENS, certify.CLAUSES),
)

_BLOBS = "blobs are in no log"
_DEALS = "deals are logged by hash"

PARTLY: Mapping[str, str] = {
    "SA-1": f"two deals; not a share that does not open, since {_DEALS}",
    "SA-7": f"under which certificate, and of whom; not whether a share is the one that was dealt, since {_DEALS}",
    "SA-8": f"two sums; not whether a sum is what its parts give, since {_BLOBS}",
    "SA-9": "in a proposal; not where it is certified without one that shows the sums",
    "SA-10": f"two different parts; not whether one hashes to what was signed, since {_BLOBS}",
    "SA-12": f"under which certificate, and of whom; not whether a share is the one that was dealt, since {_DEALS}",
    "SA-13": f"two reports; not whether one is true, since {_BLOBS}",
    "AR-2": f"two different parts; not whether one hashes to what was signed, since {_BLOBS}",
    "AR-4": f"two sums; not whether a sum is what its parts give, since {_BLOBS}",
    "AR-5": "in a proposal; not where it is certified without one that shows the sums",
    "ME-6": f"two results, or one that differs from what c + 1 signed; not what the rule gives, since {_BLOBS}",
    "ME-7": "in a proposal; not where it is certified without one that shows the results",
    "BU-2": "of whom it is, or that more of the bucket than may lie state another; not what the bucket's session "
    "certified, which is in other transcripts",
    "BU-7": f"two results, or one that differs from what c + 1 signed; not what the rule gives, since {_BLOBS}",
    "BU-8": "in a proposal; not where it is certified without one that shows the results",
    "SG-2": "whether a deal is one for its roster, and its part of the beacon one; not what a receiver was dealt, "
    f"since {_BLOBS}",
    "SG-3": "against what its author signed itself; not whether it has what it names, nor, where it lacks a deal, "
    "which of the two lies",
    "SG-6": "in a proposal; of who is certified to be proved, who fits nobody's word of more dealers than may lie, and "
    f"whose deal is none whatever c holders said; not which of another suspect and its dealer lied, since {_BLOBS}",
    "SG-9": f"two parts, and by whom; not whether one is its author's share, since {_BLOBS}",
    "SG-10": f"two slices, and by whom; not whether one is what the shares give, since {_BLOBS}",
    "SG-11": "what fits no others' word; not whether a slice is what is told of it, nor whether its author or who owns "
    f"two slices has another key, since {_BLOBS}",
    "SG-12": "in a proposal; not where it is certified without one that shows the slices, nor how long a sum is, since "
    f"{_BLOBS}",
    "CE-2": "of survivors; of other topics that a value was proposed, not that what is shown gives it",
    "CE-4": "in which view; not that t prepares had come, since nobody cites those that it commits on",
    "CE-6": "against what the author committed to; not that a proposer offers others' locks",
}
"""Clauses of which transcripts tell a part, and which."""

UNTOLD: Mapping[str, str] = {
    "RV-6": f"a state's index is a blob, and {_BLOBS}",
    "ME-2": f"an update is a blob, and {_BLOBS}",
    "ME-5": f"an update is a blob, and {_BLOBS}",
    "BU-3": f"a mean is a blob, and {_BLOBS}",
    "BU-6": f"a mean is a blob, and {_BLOBS}",
    "SA-5": "told as CE-1 to CE-6",
    **{f"MB-{number}": "datagrams are in no log" for number in range(1, 11)},
}
"""Clauses that transcripts don't tell, and why."""

GENERIC = ("SIGNATURE", "SCHEMA", "SESSION", "ROLE", "ORDER", "EQUIVOCATION", "CHAIN", "FORK", "REPLAY")
"""The rules that follow from any spec (``specs/audit``)."""

BOOKS = {
    "secagg": _book(*_BASE, (secagg.RULES, secagg.OPENS, secagg.CLAUSES)),
    "allreduce": _book(*_BASE, (allreduce.RULES, allreduce.OPENS, allreduce.CLAUSES)),
    "mesh": _book(*_BASE, (mesh.RULES, mesh.OPENS, mesh.CLAUSES)),
    "bucketed": _book(*_BASE, (bucketed.RULES, bucketed.OPENS, bucketed.CLAUSES)),
    "shamir-gram": _book(*_BASE, (shamir_gram.RULES, shamir_gram.OPENS, shamir_gram.CLAUSES)),
}
"""By the name of a spec."""
