"""The auditor, over real machines on a network that loses, delays, stops and lies: nobody honest is accused, whoever
lies is found under its clause with evidence that convinces by itself, and nothing that it reads can crash it."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import decentra, done, refused, told
from decentra import derive, spec
from decentra.audit import Missing, Report, Verdict, Violation, audit, generic
from decentra.audit.auditor import Auditor
from decentra.audit.ground import Ground
from decentra.audit.rules import BOOKS, GENERIC
from decentra.audit.transcript import read, write
from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.errors import LocalError
from decentra.protocols.catalogue import registry
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.rendezvous.messages import AbortRound, Absent, Leave, Ready, Roster
from decentra.protocols.secagg.messages import Context, Endorse, Holding, Masked
from decentra.simulation.adversaries import ADVERSARIES
from decentra.simulation.group import charter_for, identities
from decentra.simulation.hazards import Mix
from decentra.simulation.search import Play, stage_of
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed, pack
from decentra.wire.entry import ZERO, Chain, Entry
from decentra.wire.message import Message, Verified
from overhearing import damaged, play
from starting import Group, all_at_once

HARMLESS = ("", "silence")
"""What liars do that sign nothing but what an honest machine signs."""

# ── schedules of the simulator ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Played:
    """What a schedule left: everything that anybody signed and somebody got, and who lied."""

    ground: Ground
    entries: tuple[Signed, ...]
    liars: frozenset[PeerId]
    adversary: str


@cache
def played(protocol: str, n: int, c: int, seed: int, mix: Mix, adversary: str | None = None) -> Played:
    stage = stage_of(Play(protocol, n, c, "ideal"), seed, mix, adversary=adversary)
    left = play(stage)
    lying = stage.coalition.adversary.name if stage.coalition is not None else ""
    return Played(left.ground, left.entries, frozenset() if lying in HARMLESS else left.liars, lying)


def judged(ground: Ground, entries: Iterable[Signed]) -> Report:
    auditor = Auditor(grounds=[ground])
    try:
        auditor.add(entries)
        return auditor.judge()
    finally:
        auditor.close()


def shown(violation: Violation) -> list[Signed]:
    return [Signed(record.entry.packed, record.body or b"") for record in violation.evidence]


MIXES: tuple[Mix, ...] = ("none", "drops", "crashes", "journals", "liars", "mixed")
SHARE = st.sampled_from((1.0, 0.9, 0.5))


@given(
    st.sampled_from(
        [
            *(("secagg", 4, 1), ("secagg", 7, 2), ("allreduce", 5, 2), ("mesh", 4, 1), ("mesh", 7, 2)),
            *(("bucketed", 9, 1), ("bucketed", 12, 1)),
            *(("shamir-gram", 4, 1), ("shamir-gram", 5, 1), ("shamir-gram", 7, 2)),
        ]
    ),
    st.sampled_from(MIXES),
    st.integers(0, 1 << 20),
    SHARE,
    SHARE,
    SHARE,
)
@settings(max_examples=400)
def test_no_honest_peer_is_accused_whatever_becomes_of_the_logs(
    size: tuple[str, int, int], mix: Mix, seed: int, kept: float, whole: float, sound: float
) -> None:
    came = played(*size, seed, mix)
    report = judged(came.ground, damaged(came.entries, random.Random(seed), kept, whole, sound))
    assert {one.who for one in report.violations} <= came.liars, report.violations
    if not came.liars and (kept, whole, sound) == (1.0, 1.0, 1.0):
        assert report.verdict is Verdict.CLEAN, report.missing


FOUND = {
    "equivocator": "CE-1",
    "double-voter": "CE-2",
    "double-committer": "CE-4",
    "yes-man": "ORDER",
    "false-lock": "CE-6",
    "stale-certificate": "CE-5",
    "bait": "SA-7",
    "late": "ORDER",
    "two-deals": "SA-1",
    "two-contexts": "SA-2",
    "two-rosters": "RV-3",
    "two-vectors": "SA-4",
    "false-holding": "SA-11",
    "both-shares": "SA-3",
    "two-sums": "SA-8",
    "false-sum": "SA-9",
    "wrong-part": "EQUIVOCATION",
    "framer": "RV-7",
}
"""Under which clause each adversary of the simulator is found in what it signed under secagg."""

FOUND_IN_MESH = {
    "two-contexts": "ME-1",
    "two-vectors": "ME-1",
    "false-holding": "ME-3",
    "false-relay": "ME-4",
    "false-result": "ME-6",
}
"""The same under mesh, where it is another."""

FOUND_IN_BUCKETED = {
    "two-contexts": "BU-1",
    "false-mean": "BU-2",
    "two-means": "BU-1",
    "false-whole": "BU-4",
    "false-relay": "BU-5",
    "false-result": "BU-7",
}
"""The same under bucketed."""

FOUND_IN_SHARES = {
    "bad-degree": "SG-6",
    "false-deal": "SG-6",
    "false-zeros": "SG-6",
    "two-dealings": "SG-1",
    "wrap-around": "SG-8",
    "wrong-check": "SG-6",
    "mute-suspect": "SG-6",
    "unasked": "SG-6",
    "false-word": "SG-8",
    "two-words": "SG-7",
    "two-slices": "SG-10",
    "false-telling": "SG-11",
    "giver-up": "CE-2",
    "false-holding": "SG-3",
    "false-beacon": "SG-4",
}
"""The same under shamir-gram, at n = 5."""

NOT_TOLD = {
    "silence": "nothing is signed that shows it",
    "bad-deal": "deals are logged by hash: only who opens one sees it",
    "wrong-slice": "blobs are in no log",
    "false-share": "what shares hash to is in the deals, which are logged by hash",
    "false-beacon": "what shares hash to is in the deals, which are logged by hash",
    "false-check": "blobs are in no log",
    "false-update": "blobs are in no log",
    "kept-mean": "what is not sent is in no log",
    "short-mean": "blobs are in no log",
    "replayer": "what it repeats it signed once",
    "torn-deal": "what it deals is no blob of elements, and blobs are in no log",
    "long-vector": "it is as long as may be",
    "denial": "either it denies or its dealer dealt it nothing",
    "kept-z": "what is not sent is in no log",
    "divider": "what it skips, denies and keeps back is in no log",
    "kept-word": "what is not sent is in no log",
    "false-part": "blobs are in no log",
    "false-slice": "blobs are in no log",
    "kept-slice": "what is not sent is in no log",
}


def test_every_adversary_is_found_or_it_is_said_why_not() -> None:
    elsewhere = FOUND_IN_MESH | FOUND_IN_BUCKETED | FOUND_IN_SHARES
    assert FOUND.keys() | elsewhere.keys() | NOT_TOLD.keys() == ADVERSARIES.keys()
    told_elsewhere = {"false-beacon"}  # under shamir-gram deals, and the hashes in them, are in the log
    assert (FOUND.keys() | elsewhere.keys()) & NOT_TOLD.keys() == told_elsewhere
    known = {clause for book in BOOKS.values() for clause in book.clauses} | {*GENERIC}
    assert known >= {*FOUND.values(), *elsewhere.values()}


@pytest.mark.parametrize(
    ("protocol", "adversary", "clause"),
    [
        *(("secagg", *one) for one in FOUND.items()),
        *(("mesh", *one) for one in FOUND_IN_MESH.items()),
        *(("bucketed", *one) for one in FOUND_IN_BUCKETED.items()),
        *(("shamir-gram", *one) for one in FOUND_IN_SHARES.items()),
    ],
)
def test_who_lies_is_found_under_its_clause_with_evidence_that_convinces_alone(
    protocol: str, adversary: str, clause: str
) -> None:
    for seed in range(1, 60):
        n = {"bucketed": 9, "shamir-gram": 5}.get(protocol, 4)
        came = played(protocol, n, 1, seed, "liars", adversary)
        for one in judged(came.ground, came.entries).violations:
            assert one.who in came.liars
            again = judged(came.ground, shown(one))
            assert (one.clause, one.who) in {(other.clause, other.who) for other in again.violations}
            if one.clause == clause:
                most = 20 if protocol in ("bucketed", "shamir-gram") else 12  # a roster of nine; five, with five votes
                assert len(one.evidence) <= most
                return
    raise AssertionError(f"{adversary} is never found under {clause}")


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Scribe:
    """Members that sign whatever they are told to, under real keys."""

    def __init__(self, n: int = 4, c: int = 1) -> None:
        self.members: Sequence[Identity] = sorted(identities(n, 7), key=lambda one: one.id)
        self.charter: Charter = charter_for(self.members, "secagg", protocol__c=c)
        self.ground = Ground.of(self.charter)
        self.registry = registry("secagg")
        self.chains = {one.id: Chain(one, self.ground.session, 1) for one in self.members}
        self.said: list[Verified] = []
        self.number = 1

    @property
    def ids(self) -> tuple[PeerId, ...]:
        return self.ground.members

    def sign(self, who: PeerId, message: Message, after: Verified | None = None, number: int = 0) -> Verified:
        body = self.registry.encode(message)
        round_id = RoundId(self.ground.epoch, number or self.number)
        entry = self.chains[who].sign(round_id, message.kind, body, ZERO if after is None else after.entry.hash)
        self.said.append(Verified(entry, message, Signed(entry.packed, body)))
        return self.said[-1]

    @property
    def proposer(self) -> PeerId:
        return self.ground.order(self.number)[0]

    def ready(self, who: PeerId, model: bytes = b"m" * 32) -> Verified:
        return self.sign(who, Ready(model, b"l" * 32, ZERO, ZERO, b"s" * 32))

    def roster(self, members: Sequence[PeerId] = (), citations: tuple[Verified, ...] = (), view: int = 0) -> Verified:
        who = self.ground.order(self.number)[view]
        chosen = tuple(members or self.ids)
        return self.sign(who, Roster(view, chosen, b"m" * 32, b"l" * 32, ZERO, ZERO, citations))

    def endorsed(self) -> dict[PeerId, Verified]:
        """A round up to its endorsements."""
        for who in self.ids:
            self.ready(who)
        roster = self.roster()
        listed = self.sign(self.proposer, Context(0, (b"d" * 32,) * len(self.ids)), roster)
        return {who: self.sign(who, Endorse(CONTEXT), listed) for who in self.ids}

    def report(self) -> Report:
        return judged(self.ground, [verified.signed for verified in self.said])

    def accused(self) -> set[tuple[str, PeerId]]:
        return {(one.clause, one.who) for one in self.report().violations}


CONTEXT = b"c" * 32


def test_an_honest_beginning_is_clean() -> None:
    scribe = Scribe()
    scribe.endorsed()
    report = scribe.report()
    assert report.verdict is Verdict.CLEAN, (report.violations, report.missing)
    assert report.as_dict()["verdict"] == "clean"


def test_a_fork_is_found_as_soon_as_both_histories_are_there() -> None:
    scribe = Scribe()
    liar = scribe.ids[2]
    scribe.endorsed()
    chain = scribe.chains[liar]
    seq, head = chain.seq, chain.head
    one = scribe.sign(liar, Leave())
    chain.seq, chain.head = seq, head
    other = scribe.sign(liar, AbortRound("LOCAL", (liar,), "it said another thing to others"))
    entries = [verified.signed for verified in scribe.said]
    assert not judged(scribe.ground, [signed for signed in entries if signed != other.signed]).violations
    assert not judged(scribe.ground, [signed for signed in entries if signed != one.signed]).violations
    (fork,) = judged(scribe.ground, entries).violations
    assert (fork.clause, fork.who) == ("FORK", liar)
    assert {record.entry.hash for record in fork.evidence} == {one.entry.hash, other.entry.hash}


def test_chains_that_name_another_entry_before_or_go_back_in_rounds_are_found() -> None:
    scribe = Scribe()
    first, second, third = scribe.ids[:3]
    for who in scribe.ids:
        scribe.ready(who)
    scribe.chains[first].head = b"x" * 32
    scribe.sign(first, Leave())
    scribe.sign(second, Leave(), number=3)
    scribe.sign(second, AbortRound("LOCAL", (), "late"), number=2)
    scribe.chains[third].head = ZERO
    scribe.sign(third, Leave())
    assert scribe.accused() == {("CHAIN", first), ("REPLAY", second), ("CHAIN", third)}


def test_a_gap_is_nobodys_fault_and_says_what_is_missing() -> None:
    scribe = Scribe()
    scribe.endorsed()
    author = scribe.ids[3]
    middle = next(one for one in scribe.said if one.sender == author and one.entry.seq == 1)
    report = judged(scribe.ground, [one.signed for one in scribe.said if one is not middle])
    assert not report.violations and report.verdict is Verdict.UNDECIDED
    assert Missing("entry 1 of boot 1", author, 1) in report.missing


def test_rosters_are_held_against_their_rules() -> None:
    scribe = Scribe(8, 2)
    for who in scribe.ids[:7]:
        scribe.ready(who)
    absent = [scribe.sign(who, Absent(0, (scribe.ids[7],))) for who in scribe.ids[:3]]
    scribe.roster(scribe.ids[:7], tuple(absent))
    assert not scribe.report().violations

    uncited, small, foreign = Scribe(8, 2), Scribe(8, 2), Scribe(8, 2)
    uncited.roster(uncited.ids[:7], tuple(absent[:2]))
    assert uncited.accused() == {("RV-4", uncited.proposer)}
    words = tuple(small.sign(who, AbortRound("LOCAL", (), "ended")) for who in small.ids[5:])
    small.roster(small.ids[:5], words)
    assert small.accused() == {("RV-5", small.proposer)}
    other = foreign.ground.order(1)[1]
    foreign.sign(other, Roster(0, foreign.ids, b"m" * 32, b"l" * 32, ZERO, ZERO, ()))
    assert foreign.accused() == {("RV-3", other)}


def test_a_roster_without_its_own_proposer_is_found() -> None:
    scribe = Scribe()
    own = scribe.sign(scribe.proposer, AbortRound("LOCAL", (), "for itself"))
    scribe.roster([peer for peer in scribe.ids if peer != scribe.proposer], (own,))
    assert scribe.accused() == {("ROLE", scribe.proposer)}


def test_who_is_missed_later_than_the_benched_is_named_in_a_second_statement() -> None:
    scribe = Scribe(8, 2)
    author = scribe.ids[0]
    scribe.sign(author, Absent(0, scribe.ids[7:]))
    scribe.sign(author, Absent(0, scribe.ids[6:]))
    assert not scribe.report().violations


def test_a_roster_may_cite_words_of_other_rounds() -> None:
    scribe = Scribe(8, 2)
    out, gone = scribe.ground.order(5)[-2:]
    left = scribe.sign(gone, Leave(), number=3)
    ahead = scribe.sign(out, Ready(b"m" * 32, b"l" * 32, ZERO, ZERO, b"s" * 32), number=6)
    scribe.number = 5
    scribe.roster([peer for peer in scribe.ids if peer not in (out, gone)], (left, ahead))
    assert not scribe.report().violations
    early = Scribe(8, 2)
    early.number = 2
    last = early.ground.order(2)[-1]
    later = early.sign(last, Leave(), number=3)
    early.roster([peer for peer in early.ids if peer != last], (later,))
    assert early.accused() == {("RV-4", early.proposer)}


def test_who_endorses_a_roster_of_another_model_than_it_was_ready_with_is_found() -> None:
    scribe = Scribe()
    liar = scribe.ids[3]
    for who in scribe.ids:
        scribe.ready(who, b"x" * 32 if who == liar else b"m" * 32)
    listed = scribe.sign(scribe.proposer, Context(0, (b"d" * 32,) * 4), scribe.roster())
    for who in scribe.ids:
        scribe.sign(who, Endorse(CONTEXT), listed)
    assert scribe.accused() == {("RV-2", liar)}


def test_the_proposer_of_a_vote_is_the_rosters_and_its_survivors_are_enough() -> None:
    scribe = Scribe()
    scribe.endorsed()
    order = scribe.ground.order(1)
    first = scribe.sign(order[1], Propose(CONTEXT, "survivors", 0, b"fail", (), ()))
    value = pack((scribe.ids[:2], (), ()))
    scribe.sign(order[0], Propose(CONTEXT, "survivors", 0, value, (), ()))
    shown_nothing = {("CE-2", order[0]), ("CE-2", order[1])}
    assert scribe.accused() == {("CE-1", order[1]), ("SA-6", order[0])} | shown_nothing
    (one,) = [one for one in scribe.report().violations if one.clause == "CE-1"]
    assert first.entry.hash in {record.entry.hash for record in one.evidence}


def test_a_lock_binds_and_moves_with_every_quorum_that_its_author_commits_to() -> None:
    """A commit may be of a view that its author has not come to; in that view it then prepares the same value."""
    scribe = Scribe()
    scribe.endorsed()
    order = scribe.ground.order(1)
    voter = order[3]

    def hashed(value: bytes) -> bytes:
        return derive.vote_value(CONTEXT, "outcome", value)

    proposals = [
        scribe.sign(order[view], Propose(CONTEXT, "outcome", view, value, (), ()))
        for view, value in ((0, b"lost"), (1, b"lost"))
    ]
    scribe.sign(voter, Prepare(CONTEXT, "outcome", 0, hashed(b"lost")), proposals[0])
    scribe.sign(voter, Commit(CONTEXT, "outcome", 0, hashed(b"x")), proposals[0])
    scribe.sign(voter, Commit(CONTEXT, "outcome", 1, hashed(b"lost")), proposals[1])
    honest = len(scribe.said)
    scribe.sign(voter, Prepare(CONTEXT, "outcome", 1, hashed(b"lost")), proposals[1])
    assert not scribe.accused()
    del scribe.said[honest - 1]  # somebody withholds the commit that bound it otherwise
    report = scribe.report()
    assert not report.violations and report.verdict is Verdict.UNDECIDED
    assert any(one.what == "what its author signed before a vote" for one in report.missing)

    liar = Scribe()
    liar.endorsed()
    proposal = liar.sign(order[1], Propose(CONTEXT, "outcome", 1, b"lost", (), ()))
    liar.sign(voter, Commit(CONTEXT, "outcome", 0, hashed(b"x")), proposal)
    liar.sign(voter, Prepare(CONTEXT, "outcome", 1, hashed(b"lost")), proposal)
    liar.sign(voter, Lock(CONTEXT, "outcome", 2, b"", ()), proposal)
    assert liar.accused() == {("CE-3", voter), ("CE-6", voter)}


def test_words_under_another_context_than_the_endorsed_one_and_false_holdings_are_found() -> None:
    scribe = Scribe()
    scribe.endorsed()
    roster = next(one for one in scribe.said if isinstance(one.message, Roster))
    first, second, third = scribe.ids[:3]
    scribe.sign(first, Masked(b"other context" + bytes(19), (b"r" * 32,) * 4), roster)
    own = scribe.sign(second, Masked(CONTEXT, (b"r" * 32,) * 4), roster)
    scribe.sign(second, Holding(CONTEXT, 1, ((second, b"h" * 32),)), roster)
    scribe.sign(third, Holding(CONTEXT, 2, ((second, own.body_hash),)), roster)
    assert scribe.accused() == {("SA-2", first), ("SA-11", second), ("SA-11", third)}


def test_what_holder_and_owner_say_of_one_list_is_undecided_until_the_second_list_shows() -> None:
    scribe = Scribe()
    scribe.endorsed()
    roster = next(one for one in scribe.said if isinstance(one.message, Roster))
    owner, holder = scribe.ids[:2]
    scribe.sign(owner, Masked(CONTEXT, (b"r" * 32,) * 4), roster)
    mine = scribe.sign(holder, Masked(CONTEXT, (b"q" * 32,) * 4), roster)
    held = tuple(sorted(((holder, mine.body_hash), (owner, b"?" * 32))))
    scribe.sign(holder, Holding(CONTEXT, 1, held), roster)
    report = scribe.report()
    assert not report.violations and report.verdict is Verdict.UNDECIDED
    assert any("signed the list" in one.what for one in report.missing)


def test_an_abort_that_blames_names_a_clause_that_there_is_and_one_that_repeats_anothers_blames_nobody() -> None:
    scribe = Scribe()
    liar, honest = scribe.ids[:2]
    scribe.sign(liar, AbortRound("SA-99", (honest,), "because"))
    scribe.sign(honest, AbortRound("SA-99", (), f"{liar} ended the round"))
    assert scribe.accused() == {("RV-7", liar)}


def test_who_leaves_before_it_has_begun_a_round_breaks_nothing() -> None:
    scribe = Scribe()
    author = scribe.ids[1]
    scribe.endorsed()
    chain = scribe.chains[author] = Chain(scribe.members[1], scribe.ground.session, 2)
    body = scribe.registry.encode(Leave())
    entry = chain.sign(RoundId(scribe.ground.epoch, 0), Leave.kind, body)
    scribe.said.append(Verified(entry, Leave(), Signed(entry.packed, body)))
    assert scribe.report().verdict is Verdict.CLEAN


def test_a_certificate_of_votes_that_were_signed_in_another_round_is_none() -> None:
    scribe = Scribe()
    scribe.endorsed()
    proposal = scribe.sign(scribe.proposer, Propose(CONTEXT, "outcome", 0, b"lost", (), ()))
    digest = derive.vote_value(CONTEXT, "outcome", b"lost")
    cast = Commit(CONTEXT, "outcome", 0, digest)
    commits = tuple(scribe.sign(who, cast, proposal, number=place // 2 + 1) for place, who in enumerate(scribe.ids[:3]))
    relay = scribe.ids[3]
    scribe.sign(relay, Certificate(CONTEXT, "outcome", b"lost", commits), proposal)
    assert ("CE-5", relay) in scribe.accused()


def test_what_a_body_cites_is_read_whatever_came_first(tmp_path: Path) -> None:
    """The charter may come after the entries: what these cite counts all the same."""
    scribe = Scribe(8, 2)
    words = tuple(scribe.sign(who, AbortRound("LOCAL", (), "ended")) for who in scribe.ids[6:])
    roster = scribe.roster(scribe.ids[:6], words)
    whole = pack((roster.signed.entry, roster.signed.body))
    (tmp_path / "a.log").write_bytes(whole)
    write(tmp_path / "b.log", scribe.charter.to_toml(), [])
    report = audit([tmp_path])
    assert not report.violations and report.verdict is Verdict.CLEAN


def test_who_acts_in_a_context_without_its_endorsement_is_not_clean() -> None:
    scribe = Scribe()
    endorsed = scribe.endorsed()
    author = scribe.ids[2]
    scribe.sign(author, Lock(CONTEXT, "survivors", 1, b"", ()))
    report = judged(scribe.ground, [one.signed for one in scribe.said if one is not endorsed[author]])
    assert any(one.what == "the endorsement of a context" for one in report.missing)


def test_a_charter_that_can_be_none_stops_nothing(tmp_path: Path) -> None:
    scribe = Scribe()
    scribe.endorsed()
    transcript_of(scribe, tmp_path / "run.log")
    text = scribe.charter.to_toml().replace('name = "secagg"', 'name = "' + "\U0001f600" * 64 + '"')
    (tmp_path / "charter.toml").write_text(text)
    (tmp_path / "folder.log").mkdir()
    assert audit([tmp_path]).verdict is Verdict.CLEAN


def test_form_is_judged_only_where_it_was_signed() -> None:
    scribe = Scribe()
    liar, framed = scribe.ids[:2]
    session = scribe.ground.session
    entry = scribe.chains[liar].sign(RoundId(scribe.ground.epoch, 1), "rendezvous.ready", b"\x01")
    unknown = scribe.chains[liar].sign(RoundId(scribe.ground.epoch, 1), "secagg.nothing", b"\x90")
    wrong_epoch = scribe.chains[liar].sign(RoundId(scribe.ground.epoch + 1, 1), "rendezvous.leave", b"\x90")
    stranger = Chain(identities(1, 99)[0], session, 1).sign(RoundId(1, 1), "rendezvous.leave", b"\x90")
    forged = scribe.ready(framed).signed
    broken = Signed(forged.entry[:-1] + bytes([forged.entry[-1] ^ 1]), forged.body)
    entries = [
        Signed(entry.packed, b"\x01"),
        Signed(unknown.packed, b"\x90"),
        Signed(wrong_epoch.packed, b"\x90"),
        Signed(stranger.packed, b"\x90"),
        broken,
        broken,
    ]
    found = {(one.clause, one.who) for one in judged(scribe.ground, entries).violations}
    assert found == {("SCHEMA", liar), ("SESSION", liar)}


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("body", [b"", b"\x91\x01"])
def test_who_cites_an_entry_with_a_body_that_is_not_its_own_is_found(here: bool, body: bytes) -> None:
    scribe = Scribe()
    scribe.endorsed()
    scribe.number = 2
    left = scribe.sign(scribe.ids[3], AbortRound("LOCAL", (scribe.ids[3],), "it ends"))
    if not here:
        scribe.said.remove(left)
    cited = Verified(left.entry, left.message, Signed(left.signed.entry, body))
    roster = scribe.roster(scribe.ids[:3], (cited,))
    assert ("SIGNATURE", roster.sender) in scribe.accused()
    assert scribe.ids[3] not in {who for _, who in scribe.accused()}


def test_who_cites_what_nobody_signed_is_found_and_the_named_author_is_not() -> None:
    scribe = Scribe(8, 2)
    for who in scribe.ids[:7]:
        scribe.ready(who)
    cited = scribe.sign(scribe.ids[7], AbortRound("LOCAL", (), "ended"))
    scribe.said.pop()
    entry = cited.signed.entry
    forged = Verified(cited.entry, cited.message, Signed(entry[:-1] + bytes([entry[-1] ^ 1]), cited.signed.body))
    scribe.roster(scribe.ids[:7], (forged,))
    assert scribe.accused() == {("SIGNATURE", scribe.proposer), ("RV-4", scribe.proposer)}


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def transcript_of(scribe: Scribe, path: Path) -> Path:
    write(path, scribe.charter.to_toml(), [(one.signed.entry, one.signed.body) for one in scribe.said])
    return path


def test_a_transcript_is_audited_alone_and_with_others_behind_it(tmp_path: Path) -> None:
    scribe = Scribe()
    scribe.endorsed()
    path = transcript_of(scribe, tmp_path / "one.log")
    assert audit([path]).verdict is Verdict.CLEAN
    double = tmp_path / "double.log"
    double.write_bytes(path.read_bytes() * 2)
    assert audit([double, tmp_path]).verdict is Verdict.CLEAN
    path.write_bytes(path.read_bytes()[:-1])
    report = audit([path])
    assert report.verdict is Verdict.UNDECIDED and len(report.unreadable) == 1


def test_a_session_of_no_known_charter_is_undecided(tmp_path: Path) -> None:
    scribe, other = Scribe(), Scribe(5)
    scribe.endorsed()
    path = tmp_path / "one.log"
    write(path, other.charter.to_toml(), [(one.signed.entry, one.signed.body) for one in scribe.said])
    report = audit([path])
    assert report.verdict is Verdict.UNDECIDED
    assert [each.ground for each in report.sessions] == [None]
    assert audit([path], charters=[scribe.charter]).verdict is Verdict.CLEAN


@given(st.binary(max_size=2000), st.integers(0, 1 << 30))
@settings(max_examples=400)
def test_no_bytes_crash_it(raw: bytes, seed: int) -> None:
    whole = _whole()
    rng = random.Random(seed)
    at = rng.randrange(len(whole))
    for content in (raw, whole[:at] + raw + whole[at:], whole[:at] + raw + whole[at + len(raw) :]):
        path = _scratch() / "x.log"
        path.write_bytes(content)
        report = audit([path])
        assert not report.violations
        if report.verdict is Verdict.CLEAN:  # what was changed is a charter's text, where it is not hashed
            assert {signed.entry for signed in read(path)} == {signed.entry for signed in _signed()}


PEAK = """
import resource, sys
from pathlib import Path
from decentra.audit import audit
audit([Path(sys.argv[1])])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(audit([Path(sys.argv[2])]).verdict.value, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
HOSTILE_BYTES = 4 << 20


@pytest.mark.parametrize("held", ["no entries", "a round of nobody's", "sessions", "rounds", "bodies of others"])
def test_what_a_file_holds_costs_no_more_memory_than_four_times_its_size(held: str, tmp_path: Path) -> None:
    scribe, rng = Scribe(), random.Random(1)
    scribe.endorsed()
    small = transcript_of(scribe, tmp_path / "small.log")
    member, body = scribe.ids[0], rng.randbytes(200_000)

    def record(place: int) -> bytes:
        session = rng.randbytes(32) if held == "sessions" else scribe.ground.session
        number = place + 1 if held == "rounds" else 1
        hashed = hashlib.sha256(b"\x90").digest()
        chained = (member, 1, place + 1, rng.randbytes(32))
        entry = Entry(session, 1, number, *chained, Leave.kind, ZERO, b"", hashed, bytes(64))
        match held:
            case "no entries":
                return pack((rng.randbytes(300), b""))
            case "bodies of others":
                return pack((entry.packed, body))
        return pack((entry.packed, b"\x90"))

    content, place = bytearray(small.read_bytes()), 0
    while len(content) < HOSTILE_BYTES:
        content += record(place)
        place += 1
    (tmp_path / "large.log").write_bytes(content)
    command = [sys.executable, "-c", PEAK, str(small), str(tmp_path / "large.log")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == "undecided"
    assert int(told[1]) < 4 * HOSTILE_BYTES


def test_of_one_author_so_many_entries_of_a_round_are_judged_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic, "MOST", 5)
    scribe = Scribe()
    author = scribe.ids[1]
    for place in range(9):
        scribe.sign(author, Absent(0, (PeerId(bytes([place]) * 32),)))
    report = scribe.report()
    assert report.verdict is Verdict.UNDECIDED and not report.violations
    assert [(one.what, one.whose) for one in report.missing] == [
        ("a judgement of every rendezvous.absent: 5 a round are looked at", author)
    ]


@pytest.mark.parametrize("behind", ["the same again", "another kind", "another topic"])
def test_nobody_hides_what_it_signed_behind_more_that_it_signs(behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic, "MOST", 20)
    scribe = Scribe()
    liar = scribe.ids[2]
    scribe.endorsed()
    scribe.chains[liar] = Chain(scribe.members[2], scribe.ground.session, 2)
    for place in range(100):  # of an earlier boot than the lie, so they are read before it
        match behind:
            case "the same again":
                scribe.sign(liar, Ready(b"m" * 32, b"l" * 32, ZERO, ZERO, b"s" * 32))
            case "another kind":
                scribe.sign(liar, Absent(0, (PeerId(place.to_bytes(32)),)))
            case _:
                scribe.sign(liar, Propose(CONTEXT, f"topic {place}", 0, b"lost", (), ()))
    scribe.chains[liar] = Chain(scribe.members[2], scribe.ground.session, 3)
    scribe.sign(liar, Ready(b"other" + bytes(27), b"l" * 32, ZERO, ZERO, b"s" * 32))
    accused = scribe.accused()
    assert ("RV-1", liar) in accused and {who for _, who in accused} == {liar}
    assert (("SCHEMA", liar) in accused) == (behind == "another topic")


def test_a_number_far_ahead_costs_nothing() -> None:
    scribe = Scribe()
    liar = scribe.ids[1]
    scribe.endorsed()
    digest = [derive.vote_value(CONTEXT, "outcome", value) for value in (b"lost", b"other")]
    scribe.sign(liar, Commit(CONTEXT, "outcome", 0, digest[0]))
    scribe.chains[liar].seq = (1 << 63) - 3
    other = scribe.sign(scribe.proposer, Propose(CONTEXT, "outcome", 1, b"other", (), ()))
    scribe.sign(liar, Prepare(CONTEXT, "outcome", 1, digest[1]), other)
    report = scribe.report()
    assert any(one.what == "what its author signed before a vote" for one in report.missing)


@settings(max_examples=30)
@given(st.permutations(range(4)))
def test_the_verdict_is_the_same_in_whatever_order_records_come(order: Sequence[int]) -> None:
    """Entries that cite entries that cite entries: what stands deepest shows a fork where it is followed."""
    reports = []
    for places in (range(4), order):
        scribe = Scribe()
        liar = scribe.ids[2]
        scribe.endorsed()
        fork = Chain(scribe.members[2], scribe.ground.session, 1)
        body = scribe.registry.encode(Leave())
        entry = fork.sign(RoundId(1, 1), Leave.kind, body)
        inner = Verified(entry, Leave(), Signed(entry.packed, body))
        nested = []
        for number in (2, 3, 4, 5):
            scribe.number = number
            members = [one for one in scribe.ids if one != liar]
            inner = scribe.sign(members[0], Roster(0, tuple(members), b"m" * 32, b"l" * 32, ZERO, ZERO, (inner,)))
            nested.append(scribe.said.pop())
        said = [one.signed for one in scribe.said] + [nested[place].signed for place in places]
        reports.append({(one.clause, one.who, one.round) for one in judged(scribe.ground, said).violations})
    assert reports[0] == reports[1] and ("FORK", liar, 1) in reports[0]


def test_what_others_signed_moves_no_cursor(tmp_path: Path) -> None:
    scribe = Scribe()
    liar = scribe.ids[1]
    scribe.endorsed()
    kind = "\x1b[1A\x1b[2K\u202e"
    entry = scribe.chains[liar].sign(RoundId(1, 1), kind, b"\x90", ZERO, bytes(liar))
    scribe.said.append(Verified(entry, Leave(), Signed(entry.packed, b"\x90")))
    ended = decentra("audit", transcript_of(scribe, tmp_path / "run.log"))
    assert ended.code == 1 and "VIOLATION ROLE" in ended.out
    assert "\x1b" not in ended.out and "\u202e" not in ended.out


def test_what_is_cited_is_read_also_where_its_charter_comes_in_a_later_file(tmp_path: Path) -> None:
    scribe = Scribe()
    liar = scribe.ids[2]
    scribe.endorsed()
    hidden = scribe.sign(liar, Ready(b"other" + bytes(27), b"l" * 32, ZERO, ZERO, b"s" * 32))
    scribe.number = 2
    scribe.roster(scribe.ids[:2] + scribe.ids[3:], (hidden,))
    scribe.said.remove(hidden)
    write(tmp_path / "a.log", "no charter", [(one.signed.entry, one.signed.body) for one in scribe.said])
    write(tmp_path / "b.log", scribe.charter.to_toml(), [])
    found = {(one.clause, one.who) for one in audit([tmp_path]).violations}
    assert ("RV-1", liar) in found


@cache
def _whole() -> bytes:
    scribe = Scribe()
    scribe.endorsed()
    return transcript_of(scribe, _scratch() / "whole.log").read_bytes()


@cache
def _signed() -> tuple[Signed, ...]:
    _whole()
    return tuple(read(_scratch() / "whole.log"))


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp())


def test_paths_without_transcripts_are_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "does not exist"), (tmp_path, "no transcript")):
        with pytest.raises(LocalError, match=why):
            audit([path])
    with pytest.raises(LocalError, match="no transcript"):
        audit([])


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_of_real_peers_is_clean_also_without_one_folder_and_from_one_alone_undecided(
    make_group: Callable[..., Group],
) -> None:
    group = make_group(4)
    peers = [group.peer(index) for index in range(4)]
    for number in range(2):
        updates = [[np.full(5, 0.01 * index + number, np.float32)] for index in range(4)]
        all_at_once([partial(peer.average, update) for peer, update in zip(peers, updates, strict=True)])
    all_at_once([peer.close for peer in peers])
    folders = [folder.path for folder in group.folders]
    said = done("audit", *folders)
    assert "verdict: clean" in said and "secagg version 1" in said
    report = told("audit", *folders)
    (session,) = report["sessions"]
    assert (report["verdict"], session["violations"], session["missing"]) == ("clean", [], [])
    assert session["rounds"] == [1, 2] and session["entries"] > 100
    assert told("audit", *folders[1:])["verdict"] == "clean"  # what the first said, the others heard
    ended = decentra("audit", folders[1])
    assert ended.code == 2 and "verdict: undecided" in ended.out and "missing, round" in ended.out


def test_evidence_is_written_and_convinces_whoever_has_nothing_else(tmp_path: Path) -> None:
    scribe = Scribe()
    liar = scribe.ids[2]
    scribe.endorsed()
    scribe.sign(liar, Ready(b"other" + bytes(27), b"l" * 32, ZERO, ZERO, b"s" * 32))
    path, folder = transcript_of(scribe, tmp_path / "run.log"), tmp_path / "evidence"
    ended = decentra("audit", path, "--evidence", folder)
    assert ended.code == 1
    assert f"VIOLATION RV-1, round 1: {scribe.ground.name(liar)} signed two different rendezvous.ready" in ended.out
    assert spec.load("secagg").clauses["RV-1"].says in ended.out
    (file,) = [one for one in folder.iterdir() if "RV-1" in one.name]
    alone = decentra("audit", file, "--json")
    (violation,) = [one for one in json.loads(alone.out)["sessions"][0]["violations"] if one["clause"] == "RV-1"]
    assert alone.code == 1 and violation["who"] == liar.hex() and len(violation["evidence"]) == 2


def test_what_cannot_be_audited_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    assert "does not exist" in refused("audit", tmp_path / "none", code=3)
    assert "no transcript" in refused("audit", tmp_path, code=3)
    scribe = Scribe()
    scribe.endorsed()
    path = transcript_of(scribe, tmp_path / "run.log")
    assert "can't be read" in refused("audit", path, "--charter", tmp_path / "none.toml", code=3)
    assert "is no folder of specs" in refused("audit", path, "--spec", tmp_path / "none", code=3)
    (tmp_path / "noise.log").write_bytes(b"noise")
    ended = decentra("audit", tmp_path / "noise.log")
    assert ended.code == 2 and "is no transcript from byte 0 on" in ended.out
