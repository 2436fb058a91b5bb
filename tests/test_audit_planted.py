"""The planted bugs of ``mutants.py`` before the auditor: which it finds in what their machines signed, and why not the
others."""

from __future__ import annotations

import pytest

from decentra.audit.rules import BOOKS
from mutants import CATALOGUE, recorded, staged
from overhearing import judged, play

SEEDS = recorded()

FOUND = {
    "quorum-t-1": "CE-5",
    "prepares-suffice": "CE-5",
    "no-certificate": "CE-5",
    "stale-certificate": "CE-5",
    "lock-forgotten": "CE-3",
    "lock-ignored": "CE-3",
    "prepares-twice": "CE-2",
    "prepares-below": "CE-2",
    "commits-below": "CE-4",
    "proposes-again": "CE-1",
    "mask-reused": "SA-4",
    "round-again": "RV-1",
    "holds-again": "SA-11",
    "floor-c+1": "SA-6",
    "first-come-owner": "CE-2",
    "both-shares": "SA-3",
    "unmasks-dropped": "SA-7",
    "weight-unchecked": "SA-9",
    "any-update": "ME-6",
    "early-relay": "ORDER",
}
"""Under which clause; who takes for a certificate what is none is found in the certificate that it hands on."""

_DISK = "what was durable, and when, is a matter of the disk"
_BLOB = "blobs are in no log"
_DEAL = "deals are logged by hash"
_CAME = "what had come when it signed is nowhere cited"

NOT_TOLD = {
    "one-vote": _CAME,
    "masks-early": _CAME,
    "early-beacon": _CAME,
    "lost-too-soon": _CAME,
    "any-endorsement": _CAME,
    "hearsay-echo": _CAME,
    "thin-certificate": "it acts on another's certificate, and hands none on",
    "outcome-unshown": "it votes for what another proposes; the proposer, who shows too little for it, is found",
    "outcome-unchecked": "it votes for what another proposes; the proposer's two sums are found",
    "view-for-good": "it signs nothing more",
    "prepare-unsaved": _DISK,
    "commit-unsaved": _DISK,
    "saved-late": _DISK,
    "intent-unsaved": _DISK,
    "reveal-unsaved": _DISK,
    "update-folded-back": "what becomes of an update inside of its peer is not signed",
    "update-freed-early": "what becomes of an update inside of its peer is not signed",
    "other-bytes": _BLOB,
    "slice-unchecked": _BLOB,
    "part-unchecked": _BLOB,
    "hearsay-holding": _BLOB,
    "yes-verifier": _BLOB,
    "hearsay-repair": _BLOB,
    "share-to-mask-key": _DEAL,
    "low-order-key": _DEAL,
    "share-unchecked": _DEAL,
    "context-unbound": "the ranges that a context hashes are in no log",
    "two-vectors-unseen": "it says nothing of what another signed, which is found",
    "hearsay-blame": "whom it names it may have seen break that clause",
}


def test_every_planted_bug_is_found_or_it_is_said_why_not() -> None:
    assert FOUND.keys() | NOT_TOLD.keys() == CATALOGUE.keys()
    assert not FOUND.keys() & NOT_TOLD.keys()
    assert set(FOUND.values()) <= BOOKS["secagg"].clauses | BOOKS["mesh"].clauses | {"ORDER"}


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_planted_bug_is_blamed_on_who_has_it(name: str) -> None:
    """Every machine of the schedule has the bug, whoever else lies in it."""
    with staged(CATALOGUE[name], SEEDS[name]) as stage:
        left = play(stage)
    blamed = {one.clause for one in judged(left).violations if one.who not in left.liars}
    if name in FOUND:
        assert FOUND[name] in blamed
    else:
        assert not blamed


@pytest.mark.parametrize("name", FOUND)
def test_the_real_machines_are_blamed_for_nothing_in_the_same_schedule(name: str) -> None:
    with staged(CATALOGUE[name], SEEDS[name], real=True) as stage:
        left = play(stage)
    assert {one.who for one in judged(left).violations} <= left.liars
