"""Who is up: what statements come to, what liars can't do, and how soon a stop is noticed, beside SWIM's theory."""

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.errors import LocalError, RemoteError
from decentra.gossip import limits, messages
from decentra.gossip.allowance import Allowance
from decentra.gossip.backlog import Backlog
from decentra.gossip.happenings import Changed, Doing, Heard, Leave, Say, Setting
from decentra.gossip.membership import Membership
from decentra.gossip.messages import Ack, Datagram, Nack, Ping, PingReq, Sync, pack, read, size
from decentra.gossip.statements import Statement, Word, incarnation, proof_bytes, signed_bytes
from decentra.gossip.view import Member, suspicion_time
from decentra.machine.effects import Abort, SetTimer
from decentra.machine.events import Expired, Start
from decentra.simulation import membership as simulated
from decentra.simulation.hazards import MIXES, Cut
from decentra.simulation.membership import SESSION, World, cast_for
from decentra.simulation.membership_hazards import Hazards, Nap, Stop
from decentra.simulation.membership_liars import WAYS, Liars
from decentra.simulation.membership_search import Play, expected_periods, run_seed, search, spread_periods
from decentra.types import PeerId

FIRST = incarnation(1, 0)


class Desk:
    """One machine of a group, with everyone's keys at hand."""

    def __init__(self, n: int = 8, c: int = 2, boot: int = 1, known: bool = True) -> None:
        self.n, self.c, self.cast = n, c, cast_for(n, "ideal")
        self.peers = self.cast.members
        self.me = self.peers[0]
        words = {peer: self.word(place, Word.ALIVE, FIRST, place) for place, peer in enumerate(self.peers)}
        setting = Setting(self.me, boot, SESSION, self.peers, c, self.cast.sign[0], self.cast.check)
        self.machine = Membership(setting, bytes(32), words if known else None)
        self.due: dict[str, float] = {}
        self.now = 0.0
        self.done: list[Doing] = []
        self.do(Start())

    def word(self, author: int, word: Word, current: int, subject: int) -> Statement:
        signature = self.cast.sign[author](signed_bytes(SESSION, word, current, self.peers[subject]))
        return Statement(word, current, self.peers[subject], self.peers[author], signature)

    def do(self, happening: Any) -> list[Doing]:
        done = self.machine.handle(happening, self.now)
        for one in done:
            if isinstance(one, SetTimer):
                self.due[one.name] = self.now + one.after
        self.done += done
        return done

    def hear(self, sender: int, message: Datagram) -> list[Doing]:
        return self.do(Heard(self.peers[sender], message))

    def told(self, sender: int, *statements: Statement) -> list[Doing]:
        return self.hear(sender, Ping(7, self.peers[sender], tuple(one.pack() for one in statements)))

    def wait(self, seconds: float, late: float = 0.0) -> list[Doing]:
        """Let time pass, each timer running out at its time or so much later."""
        begun, until = len(self.done), self.now + seconds
        while self.due and min(self.due.values()) + late <= until:
            name = min(self.due, key=lambda one: (self.due[one], one))
            self.now = max(self.now, self.due.pop(name) + late)
            self.do(Expired(name))
        self.now = until
        return self.done[begun:]

    def status(self, place: int) -> str:
        return self.machine.standing(self.peers[place]).status


def said(done: Sequence[Doing], kind: type[Any]) -> list[Say]:
    return [one for one in done if isinstance(one, Say) and isinstance(one.message, kind)]


# ── statements ───────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = tuple(PeerId(bytes((place,)) * 32) for place in range(4))
STATEMENTS = st.builds(
    lambda word, current, author: Statement(
        word, current, NAMES[0], NAMES[author] if word is Word.SUSPECT else NAMES[0], bytes(64)
    ),
    st.sampled_from(Word),
    st.integers(1, 4).map(lambda count: incarnation(1, count)),
    st.integers(1, 3),
)


def view_of(statements: Sequence[Statement]) -> tuple[object, ...]:
    member = Member()
    for one in statements:
        member.heed(one)
    return member.word, dict(member.suspicions), dict(member._later), member.status


@given(st.lists(STATEMENTS, max_size=12), st.randoms(use_true_random=False))
def test_what_is_known_depends_neither_on_order_nor_on_repetition(said: list[Statement], rng: random.Random) -> None:
    """MB-3: the merge of statements is commutative, associative and idempotent."""
    again = [*said, *rng.sample(said, len(said) // 2)]
    rng.shuffle(again)
    assert view_of(again) == view_of(said)
    cut = rng.randint(0, len(said))
    one, other = view_of(said[:cut]), view_of(said[cut:])
    merged = [one for view in (other, one) for one in (view[0], *view[1].values(), *view[2].values()) if one]
    assert view_of(merged) == view_of(said)


@given(st.lists(STATEMENTS, min_size=1, max_size=12))
def test_incarnations_only_grow_and_a_higher_one_voids_suspicions(said: list[Statement]) -> None:
    member = Member()
    for one in said:
        before = member.incarnation
        member.heed(one)
        assert member.incarnation >= before
        assert all(held.incarnation == member.incarnation for held in member.suspicions.values())
        assert member.held <= 3


@given(st.binary(max_size=200))
def test_bytes_are_a_statement_that_packs_as_itself_or_none(raw: bytes) -> None:
    try:
        one = Statement.read(raw)
    except ValueError:
        return
    assert one.pack() == raw


def test_a_backlog_tells_each_statement_a_bounded_number_of_times_and_the_least_told_first() -> None:
    desk, backlog = Desk(), Backlog(3)
    words = [desk.word(place, Word.ALIVE, FIRST, place) for place in range(8)]
    doubts = [desk.word(place, Word.SUSPECT, FIRST, 0) for place in range(1, 8)]
    for one in (*words, *doubts, *words):
        backlog.put(one)
    told: list[bytes] = []
    first = backlog.take(8)
    assert len(set(first)) == 8 and {raw[0] for raw in first} == {Word.ALIVE, Word.SUSPECT}
    told += first
    while taken := backlog.take(8):
        assert len(set(taken)) == len(taken)
        told += taken
    assert {told.count(one.pack()) for one in (*words, *doubts)} == {3}
    assert len(backlog) == 0


def test_a_suspicion_s_time_shrinks_to_the_floor_and_never_below_five_seconds() -> None:
    for n in range(3, 65):
        for c in range(1, n - 1):
            times = [suspicion_time(n, c, beyond) for beyond in range(5)]
            assert times == sorted(times, reverse=True)
            assert times[-1] == limits.SUSPICION_FLOOR * max(1.0, math.log10(n)) >= 5.0
            assert times[0] <= limits.SUSPICION_STRETCH * times[-1]


def test_a_neighbour_can_cost_so_many_signatures_and_no_more() -> None:
    allowance = Allowance(2.0, 5.0)
    assert [allowance.spend(NAMES[0], 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert allowance.spend(NAMES[1], 0.0)
    assert [allowance.spend(NAMES[0], 1.0) for _ in range(3)] == [True, True, False]


# ── datagrams ────────────────────────────────────────────────────────────────────────────────────────────────────────

DESK = Desk()
PEERS = st.sampled_from((*DESK.peers, NAMES[0]))
NUMBERS = st.integers(0, (1 << 63) - 1)
RAWS = st.one_of(
    st.binary(min_size=137, max_size=137),
    st.builds(
        lambda author, word, ahead, subject, forged: replace_signature(
            DESK.word(author, word, FIRST + ahead, subject), forged
        ).pack(),
        st.integers(0, 7),
        st.sampled_from(Word),
        st.integers(0, 2),
        st.integers(0, 7),
        st.booleans(),
    ),
)
CARRIED = st.lists(RAWS, max_size=8).map(tuple)
DATAGRAMS = st.one_of(
    st.builds(Ping, NUMBERS, PEERS, CARRIED),
    st.builds(PingReq, NUMBERS, PEERS, CARRIED),
    st.builds(Ack, NUMBERS, PEERS, PEERS, st.binary(max_size=64), CARRIED),
    st.builds(Nack, NUMBERS, PEERS, CARRIED),
    st.builds(
        Sync,
        st.integers(0, 2),
        st.one_of(st.lists(NUMBERS, min_size=8, max_size=8), st.lists(NUMBERS, max_size=64)).map(tuple),
        st.dictionaries(PEERS, st.binary(max_size=8), max_size=8).map(lambda found: tuple(sorted(found.items()))),
        st.lists(RAWS, max_size=64).map(tuple),
    ),
)


def replace_signature(one: Statement, forged: bool) -> Statement:
    return one._replace(signature=one.signature[::-1]) if forged else one


@given(DATAGRAMS)
def test_a_datagram_is_as_long_as_it_is_said_to_be_within_its_bound_and_reads_back(message: Datagram) -> None:
    raw = pack(message)
    assert len(raw) == size(message) <= (limits.SYNC_BYTES if isinstance(message, Sync) else limits.DATAGRAM_BYTES)
    assert read(raw, NAMES[0]) == message


@given(st.one_of(st.binary(max_size=1500), st.builds(lambda a, b: bytes((a,)) + b, st.integers(0, 4), st.binary())))
def test_arbitrary_bytes_raise_nothing_but_a_remote_error_that_names_the_sender(raw: bytes) -> None:
    try:
        read(raw, NAMES[1])
    except RemoteError as error:
        assert error.peer == NAMES[1]
        assert error.clause in ("SCHEMA", "MB-8")


@given(DATAGRAMS, st.integers(0, 2000), st.integers(0, 255))
def test_a_flipped_byte_raises_nothing_but_a_remote_error(message: Datagram, at: int, value: int) -> None:
    raw = bytearray(pack(message))
    raw[at % len(raw)] = value
    desk = Desk()
    try:
        desk.hear(1, read(bytes(raw), desk.peers[1]))
    except RemoteError as error:
        assert error.peer == desk.peers[1]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 7), DATAGRAMS, st.floats(0, 3)), max_size=20))
def test_whatever_is_said_raises_nothing_but_a_remote_error_and_then_changes_nothing(
    said: list[tuple[int, Datagram, float]],
) -> None:
    desk = Desk()
    for sender, message, pause in said:
        before = desk.machine.snapshot(), desk.machine.held
        try:
            desk.hear(sender, message)
        except RemoteError as error:
            assert error.peer == desk.peers[sender]
            assert error.clause in ("MB-1", "MB-2", "MB-7", "MB-9")
            assert (desk.machine.snapshot(), desk.machine.held) == before
        assert desk.machine.held <= 2 * desk.n * (desk.n + 1)
        desk.wait(pause)


def refused(clause: str, attack: Callable[[], object], peer: PeerId) -> None:
    with pytest.raises(RemoteError) as caught:
        attack()
    assert (caught.value.clause, caught.value.peer) == (clause, peer)
    assert "\n" not in str(caught.value)


def test_a_forged_statement_is_its_bearer_s_fault_and_counts_for_nothing() -> None:
    desk = Desk()
    honest = desk.word(2, Word.SUSPECT, FIRST, 3)
    desk.told(1, honest)
    assert desk.status(3) == "suspected"
    forged = desk.word(4, Word.SUSPECT, FIRST, 5)._replace(author=desk.peers[6])
    refused("MB-1", lambda: desk.told(1, forged), desk.peers[1])
    stranger = desk.word(4, Word.SUSPECT, FIRST, 5)._replace(author=NAMES[0])
    refused("MB-1", lambda: desk.told(1, stranger), desk.peers[1])
    assert desk.status(5) == "up"


def test_nobody_says_of_another_that_it_is_alive_or_gone_nor_suspects_itself() -> None:
    desk = Desk()
    desk.told(1, desk.word(2, Word.ALIVE, FIRST + 1, 2))
    assert desk.machine.standing(desk.peers[2]).incarnation == FIRST + 1
    for author, word, subject in ((1, Word.ALIVE, 2), (1, Word.LEFT, 2), (1, Word.SUSPECT, 1)):
        one = desk.word(author, word, FIRST + 9, subject)
        refused("MB-2", partial(desk.told, 1, one), desk.peers[1])
    refused("MB-2", lambda: desk.told(1, desk.word(2, Word.ALIVE, 5, 2)), desk.peers[1])
    assert desk.machine.standing(desk.peers[2]).incarnation == FIRST + 1


def test_an_acknowledgement_through_another_needs_its_subject_s_signature() -> None:
    def asked() -> tuple[Desk, int, Ping, int]:
        desk = Desk()
        done = desk.wait(2.0)
        requests = said(done, PingReq)
        probe = next(one for one in said(done, Ping) if one.message.number == requests[0].message.number)
        return desk, desk.peers.index(requests[0].to), probe.message, desk.peers.index(probe.to)

    for honest in (True, False):
        desk, proxy, probe, subject = asked()
        by = subject if honest else proxy
        proof = desk.cast.sign[by](proof_bytes(SESSION, desk.me, desk.peers[subject], probe.number))
        answer = Ack(probe.number, desk.me, desk.peers[subject], proof, ())
        open_ = desk.machine._probe is not None and desk.machine._probe.number == probe.number
        if honest or not open_:
            desk.hear(proxy, answer)
            assert not open_ or desk.machine._probe.answered
        else:
            refused("MB-7", partial(desk.hear, proxy, answer), desk.peers[proxy])
            assert not desk.machine._probe.answered


def test_a_datagram_longer_than_its_kind_is_refused_unread() -> None:
    desk = Desk()
    raw = pack(Ping(1, desk.peers[1], ()))
    assert read(raw, desk.peers[1]).number == 1
    refused("MB-8", lambda: read(raw + bytes(limits.DATAGRAM_BYTES), desk.peers[1]), desk.peers[1])
    refused("MB-8", lambda: read(b"\4" + bytes(limits.SYNC_BYTES), desk.peers[1]), desk.peers[1])
    refused("SCHEMA", lambda: read(raw + b"\0", desk.peers[1]), desk.peers[1])
    refused("SCHEMA", lambda: read(b"", desk.peers[1]), desk.peers[1])
    too_many = b"\0\x93\1\xc4\x20" + bytes(32) + b"\x99" + (b"\xc4\x89" + bytes(137)) * 9
    refused("SCHEMA", lambda: read(too_many, desk.peers[1]), desk.peers[1])


def test_a_datagram_speaks_of_members_only() -> None:
    desk, peer = Desk(), DESK.peers
    heads = (FIRST << 1,) * 8
    assert said(desk.hear(1, Sync(0, heads, ((peer[2], b"\x80"),), ())), Sync)
    for message in (
        Ping(1, NAMES[0], ()),
        Ping(1, desk.me, ()),
        PingReq(1, peer[1], ()),
        PingReq(1, desk.me, ()),
        Nack(1, NAMES[0], ()),
        Ack(1, NAMES[0], peer[1], b"", ()),
        Sync(0, heads[:7], (), ()),
        Sync(2, heads, (), ()),
        Sync(0, heads, ((NAMES[0], b"\1"),), ()),
        Sync(0, heads, ((peer[2], b"\1\0"),), ()),
    ):
        refused("MB-9", partial(desk.hear, 1, message), peer[1])
    refused("MB-9", lambda: desk.do(Heard(NAMES[0], Ping(1, NAMES[0], ()))), NAMES[0])


# ── exclusion and refutation ─────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=40)
@given(st.data())
def test_c_suspicions_never_exclude_and_one_more_does_after_its_time(data: st.DataObject) -> None:
    """MB-5."""
    n = data.draw(st.integers(4, 16))
    c = data.draw(st.integers(1, (n - 2) // 2))
    desk = Desk(n, c)
    authors = data.draw(st.permutations(range(2, n)))[: c + 1]
    for author in authors[:c]:
        desk.told(author, desk.word(author, Word.SUSPECT, FIRST, 1))
    victim, own = desk.peers[1], f"suspicion {desk.peers[1].hex()}"
    assert desk.status(1) == "suspected" and own not in desk.due
    desk.now += 1000.0
    last = desk.word(authors[c], Word.SUSPECT, FIRST, 1)
    desk.told(authors[c], last)
    assert desk.due[own] - desk.now == pytest.approx(suspicion_time(n, c, 0))
    desk.now = desk.due[own] - 0.01
    assert not desk.do(Expired(own)) or desk.status(1) == "suspected"
    desk.now = desk.due[own]
    assert Changed(victim, "down") in desk.do(Expired(own))
    assert desk.machine.away == {victim}
    assert set(desk.machine.standing(victim).suspected_by) == {desk.peers[author] for author in authors}
    desk.told(2, desk.word(1, Word.ALIVE, FIRST + 1, 1))
    assert desk.status(1) == "up" and not desk.machine.away


def test_whoever_is_suspected_is_told_so_and_refutes_at_once_but_once_a_second() -> None:
    """MB-6, and Lifeguard's buddy system."""
    desk = Desk()
    doubt = desk.word(2, Word.SUSPECT, FIRST, 1)
    desk.told(2, doubt)
    (ack,) = said(desk.hear(1, Ping(3, desk.peers[1], ())), Ack)
    assert ack.message.statements[0] == doubt.pack()

    desk = Desk()
    (ack,) = said(desk.told(2, desk.word(2, Word.SUSPECT, FIRST, 0)), Ack)
    (word,) = [one for one in map(Statement.read, ack.message.statements) if one.subject == desk.me]
    assert (word.word, word.incarnation) == (Word.ALIVE, FIRST + 1)
    for count in range(20):
        desk.now += 0.1
        desk.told(2, desk.word(2, Word.SUSPECT, desk.machine.standing(desk.me).incarnation, 0))
        assert count >= 0
    assert desk.machine.standing(desk.me).incarnation <= FIRST + 4
    assert desk.machine.standing(desk.me).status == "up"


def test_an_old_suspicion_is_answered_with_the_word_that_voids_it() -> None:
    desk = Desk()
    old = desk.word(2, Word.SUSPECT, FIRST, 3)
    newer = desk.word(3, Word.ALIVE, FIRST + 1, 3)
    desk.told(3, newer)
    desk.machine._backlog = Backlog(1)
    (ack,) = said(desk.told(2, old), Ack)
    assert newer.pack() in ack.message.statements
    assert desk.status(3) == "up"


def test_old_incarnations_and_suspicions_of_coming_ones_count_for_nothing() -> None:
    """MB-4: a liar neither ages nor resurrects another's incarnation."""
    desk = Desk(c=1)
    desk.told(1, desk.word(3, Word.ALIVE, incarnation(2, 0), 3))
    desk.told(1, desk.word(3, Word.LEFT, FIRST + 5, 3), desk.word(3, Word.ALIVE, FIRST, 3))
    for author in (1, 2, 4):
        desk.told(author, desk.word(author, Word.SUSPECT, FIRST, 3))
        desk.told(author, desk.word(author, Word.SUSPECT, incarnation(2, 7), 3))
    standing = desk.machine.standing(desk.peers[3])
    assert (standing.status, standing.incarnation, standing.suspected_by) == ("up", incarnation(2, 0), ())
    desk.told(1, desk.word(3, Word.ALIVE, incarnation(2, 7), 3))
    assert len(desk.machine.standing(desk.peers[3]).suspected_by) == 3


def test_a_restarted_peer_is_above_all_that_was_said_of_it_before() -> None:
    desk = Desk(boot=2)
    (ack,) = said(desk.told(1, desk.word(1, Word.SUSPECT, FIRST + 70, 0), desk.word(0, Word.LEFT, FIRST + 90, 0)), Ack)
    assert desk.machine.standing(desk.me) == replace(desk.machine.standing(desk.me), status="up")
    assert desk.machine.standing(desk.me).incarnation == incarnation(2, 0)
    assert ack.message.asker == desk.peers[1]


def test_a_second_process_under_one_key_is_told_to_its_owner() -> None:
    desk = Desk()
    done = desk.told(1, desk.word(0, Word.ALIVE, incarnation(2, 0), 0))
    (abort,) = [one for one in done if isinstance(one, Abort)]
    assert "another process signs with this peer's key" in str(abort.error)
    assert desk.wait(30.0) == []


@pytest.mark.parametrize(
    ("changes", "mend"),
    [({"boot": 0}, "sound journal"), ({"me": NAMES[0]}, "compare charters"), ({"boot": 1 << 31}, "sound journal")],
)
def test_a_setting_that_cannot_be_is_refused(changes: dict[str, Any], mend: str) -> None:
    sound = Setting(DESK.me, 1, SESSION, DESK.peers, 2, DESK.cast.sign[0], DESK.cast.check)
    with pytest.raises(LocalError, match=mend):
        Membership(replace(sound, **changes), bytes(32))
    with pytest.raises(LocalError, match="32 bytes"):
        Membership(sound, b"")


def test_a_peer_that_leaves_says_so_to_all_and_is_silent_then() -> None:
    desk = Desk()
    farewell = said(desk.do(Leave()), Ping)
    assert {one.to for one in farewell} == set(desk.peers[1:])
    assert desk.wait(60.0) == []
    other = Desk()
    other.machine.handle(Heard(other.peers[1], Ping(1, other.peers[1], ())), 0.0)
    other.told(1, other.word(1, Word.LEFT, FIRST, 1))
    assert other.status(1) == "left" and other.machine.away == {other.peers[1]}


def test_who_was_never_heard_is_awaited_all_the_same() -> None:
    desk = Desk(c=1, known=False)
    for author in (2, 3, 4, 5, 6):
        desk.told(author, desk.word(author, Word.ALIVE, FIRST, author), desk.word(author, Word.SUSPECT, 0, 1))
    desk.wait(60.0)
    assert desk.status(1) == "down"
    assert desk.peers[1] not in desk.machine.away


def test_a_starved_prober_suspects_nobody() -> None:
    late, prompt = Desk(), Desk()
    late.wait(60.0, late=limits.LATE + 0.1)
    assert not any(standing.suspected_by for standing in late.machine.snapshot())
    assert late.machine.health == limits.MOST_HEALTH
    prompt.wait(30.0)
    assert any(standing.suspected_by for standing in prompt.machine.snapshot())


def test_nobody_can_fill_a_peer_with_probes_for_others() -> None:
    desk = Desk()
    relayed = [said(desk.hear(1, PingReq(number, desk.peers[2], ())), Ping) for number in range(100)]
    assert sum(map(bool, relayed)) == limits.MOST_RELAYED
    assert len(said(desk.wait(1.0), Nack)) == limits.MOST_RELAYED


# ── many peers ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(("n", "c"), [(4, 1), (8, 2)])
def test_hostile_schedules_break_nothing(n: int, c: int, mix: Any) -> None:
    tally = search(Play(n, c), mix, range(500, 512))
    assert [(one.seed, one.way, one.violations) for one in tally.violating] == []
    assert mix == "none" or tally.settled is not None


@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_lying_breaks_anything_or_has_an_honest_peer_blamed(way: str) -> None:
    tally = search(Play(7, 2, way=way), "liars", range(4))
    assert [(one.seed, one.violations) for one in tally.violating] == []


def test_real_signatures_do_as_ideal_ones() -> None:
    assert not search(Play(4, 1, "real"), "mixed", range(3)).violating


def _one_too_few(*values: Any) -> Setting:
    return Setting(*values[:4], values[4] - 1, *values[5:])


def _trusting(self: Membership, sender: PeerId, raws: tuple[bytes, ...]) -> list[Statement]:
    return [one for one in map(Statement.read, raws) if self._seen(one.subject).news(one)]


PLANTED: dict[str, tuple[Any, str, Any, str, str, str]] = {
    "c suspicions exclude": (simulated, "Setting", _one_too_few, "drops", "frame", "MB-5"),
    "signatures are not checked": (Membership, "_read", _trusting, "liars", "forge", "MB-1"),
    "nobody refutes": (Membership, "_refute", lambda self: None, "mixed", "frame", "MB-3"),
    "signatures are never afforded": (Allowance, "spend", lambda *_, **__: False, "crashes", "mute", "MB-3"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, instead, mix, way, clause = PLANTED[name]
    monkeypatch.setattr(where, what, instead)
    for seed in range(60):
        found = run_seed(Play(5, 1, way=way), seed, mix).violations
        if any(one.clause == clause for one in found):
            return
    pytest.fail(f"no schedule of 60 found it under {clause}")


def plain(n: int, c: int, **changes: Any) -> World:
    hazards = Hazards(sheltered=frozenset(range(n)), calm_from=0.0, until=200.0)
    return World(n, c, replace(hazards, **changes), 1, settled=True)


@pytest.mark.parametrize("lasts", [0.4, 3.0, 15.0])
@pytest.mark.parametrize("timers_first", [False, True])
def test_a_starved_peer_wrongs_nobody_and_is_back_within_ten_seconds(lasts: float, timers_first: bool) -> None:
    world = plain(8, 2, naps=(Nap(3, 5.0, lasts, timers_first),), sheltered=frozenset(range(8)) - {3})
    world.run(5.0 + lasts + 10.0)
    assert list(world.disagreements(world.honest)) == []
    wronged = {subject for _, _, subject, status in world.changes if status == "down"}
    assert wronged <= ({3} if lasts > 7.0 else set())
    assert world.violations == []


@pytest.mark.parametrize("one_way", [False, True])
def test_two_halves_are_one_group_again_within_twenty_seconds(one_way: bool) -> None:
    pairs = [(a, b) for a in range(4) for b in range(4, 8)]
    cuts = [Cut(a, b, 3.0, 60.0) for a, b in pairs] + [Cut(b, a, 3.0, 60.0) for a, b in pairs if not one_way]
    world = plain(8, 2, cuts=tuple(cuts), sheltered=frozenset())
    world.run(59.0)
    assert any(status == "down" for *_, status in world.changes) or one_way
    world.run(80.0)
    assert list(world.disagreements(world.honest)) == []
    assert world.violations == []


def test_a_restarted_peer_is_up_to_all_within_five_seconds() -> None:
    world = plain(8, 2, crashes=(Stop(2, 5.0, 20.0),), sheltered=frozenset(range(8)) - {2})
    world.run(24.0)
    assert all(node.running.standing(world.cast.members[2]).status == "down" for node in world.honest)
    world.run(30.0)
    assert list(world.disagreements(world.honest)) == []
    known = {standing.status for standing in world.nodes[2].running.snapshot()}
    assert known == {"up"}


TRACED = """
import hashlib
from decentra.simulation.membership_search import Play, world_of
lines = []
for seed in (5, 6):
    lines.append(str(seed))
    world_of(Play(5, 1), seed, "mixed", trace=lines).run(15.0)
print(len(lines), hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_a_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    source = str(Path(__file__).resolve().parent.parent / "src")
    found = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source}
        command = [sys.executable, "-c", TRACED]
        found.add(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    (only,) = found
    assert int(only.split()[0]) > 200


# ── beside the theory ────────────────────────────────────────────────────────────────────────────────────────────────


def detected(n: int, c: int, seed: int) -> tuple[int, float, float]:
    """Periods to the first probe in vain; seconds from the first suspicion until all know; messages a peer second."""
    at = 1.0 + random.Random(seed).random()
    world = World(n, c, Hazards(jitter=0.05, crashes=(Stop(0, at, None),), calm_from=99.0), seed, settled=True)
    world.run(at)
    load = sum(node.messages for node in world.nodes) / n / at
    world.heap.run_until(lambda: bool(world.suspicions))
    first = world.heap.now()
    others = set(range(1, n))
    world.heap.run_until(lambda: {seen for _, seen, subject, _ in world.changes if subject == 0} >= others)
    periods = max(1, math.ceil((first - limits.PERIOD - at) / limits.PERIOD))
    return periods, world.heap.now() - first, load


@pytest.mark.parametrize(("n", "c", "count"), [(8, 2, 200), (64, 21, 40)])
def test_detection_and_spread_are_as_the_theory_says(n: int, c: int, count: int) -> None:
    """SWIM, sections 3.1 and 4.1: e/(e−1) periods to the first detection, O(log n) to all, a constant load."""
    found = [detected(n, c, seed) for seed in range(count)]
    periods = [one for one, _, _ in found]
    error = statistics.stdev(periods) / math.sqrt(count)
    assert abs(statistics.fmean(periods) - expected_periods(n)) < 4 * error
    assert abs(expected_periods(n) - math.e / (math.e - 1)) < 1.0 / n
    spread = statistics.fmean(one for _, one, _ in found) / limits.PERIOD
    assert 0.4 * spread_periods(n) < spread < 1.2 * spread_periods(n)
    assert statistics.fmean(one for _, _, one in found) == pytest.approx(2.0, abs=0.15)


def test_the_machines_have_a_way_to_be_carried() -> None:
    """The datagrams of a whole schedule survive the wire."""
    world = plain(5, 1, crashes=(Stop(2, 5.0, 10.0),), sheltered=frozenset())
    carried = 0
    carry = world.carry

    def through_bytes(source: Any, one: Say, length: int) -> None:
        nonlocal carried
        carried += 1
        raw = messages.pack(one.message)
        assert len(raw) == length
        carry(source, Say(one.to, messages.read(raw, source.id)), length)

    world.carry = through_bytes  # type: ignore[method-assign]
    world.run(40.0)
    assert carried > 300
    assert list(world.disagreements(world.honest)) == []


def test_nothing_of_a_round_reads_who_is_up() -> None:
    """MB-10: floor, quorum and thresholds are computed in rooms that do not know of membership."""
    library = Path(simulated.__file__).resolve().parent.parent
    rooms = [library / name for name in ("derive.py", "charter", "wire", "machine", "protocols")]
    files = [path for room in rooms for path in ([room] if room.is_file() else room.rglob("*.py"))]
    assert len(files) > 20
    assert [path.name for path in files if "decentra.gossip" in path.read_text("utf-8")] == []


def test_every_way_of_lying_is_a_way_of_its_own() -> None:
    assert all(issubclass(way, Liars) and way.__doc__ for way in WAYS.values() if isinstance(way, type))
    assert len(set(WAYS.values())) == len(WAYS)
