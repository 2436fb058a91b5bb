"""The planted bugs of ``planted_buckets.py`` before the auditor: which it finds in what their machines signed, and why
not the others."""

from __future__ import annotations

import pytest

from decentra.audit.rules import BOOKS
from mutants import staged
from overhearing import judged, play
from planted_buckets import PLANTED
from test_bucketed_search import SEEDS

FOUND = {
    "own-coins": "BU-2",
    "hearsay-holding": "BU-4",
    "any-mean": "BU-7",
    "c+1-buckets": "CE-2",
    "any-relay": "BU-7",
    "early-relay": "ORDER",
    "without-one": "BU-7",
}
"""Under which clause."""

_BLOB = "blobs are in no log"
_CAME = "what had come when it signed is nowhere cited"
_ALL = "all machines have it alike, and sign one result"

NOT_TOLD = {
    "mean-unsaved": "what was durable, and when, is a matter of the disk",
    "states-early": _CAME,
    "mean-of-another-state": "what its bucket summed under is in its bucket's session",
    "c-statements": "one of the bucket made the statement, and who else made two is not all here",
    "c-statements-of-two": "some of the bucket made the statement, and who else made two is not all here",
    "claims-all": _BLOB,
    "two-means-unseen": "it says nothing of what another signed, which is found",
    "absent-too-soon": "whom it waits for is not signed",
    "no-certificate": _CAME,
    "none-to-its-mates": "what is not sent is in no log",
    "one-relay": "what is not sent is in no log",
    "no-early-relay": "what is not taken in is in no log",
    "trusts-all": _ALL,
    "outcome-unshown": "it votes for what another proposes; the proposer, who shows too little for it, is found",
    "phase-for-good": "it signs nothing more",
}


def test_every_planted_bug_is_found_or_it_is_said_why_not() -> None:
    assert FOUND.keys() | NOT_TOLD.keys() == PLANTED.keys()
    assert not FOUND.keys() & NOT_TOLD.keys()
    assert set(FOUND.values()) <= BOOKS["bucketed"].clauses | {"ORDER"}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_blamed_on_who_has_it(name: str) -> None:
    """Every machine of the schedule has the bug, whoever else lies in it."""
    with staged(PLANTED[name], SEEDS.get(name, 0)) as stage:
        left = play(stage)
    blamed = {one.clause for one in judged(left).violations if one.who not in left.liars}
    if name in FOUND:
        assert FOUND[name] in blamed
    else:
        assert not blamed


@pytest.mark.parametrize("name", FOUND)
def test_the_real_machines_are_blamed_for_nothing_in_the_same_schedule(name: str) -> None:
    with staged(PLANTED[name], SEEDS.get(name, 0), real=True) as stage:
        left = play(stage)
    assert {one.who for one in judged(left).violations} <= left.liars
