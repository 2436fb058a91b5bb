"""The driver: effects in order, durability, timers, blobs and their memory, the backlog, and a group of 64."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decentra.driver.blobs import BlobStore, Workbench
from decentra.driver.driver import Driver
from decentra.driver.others import AHEAD, Others
from decentra.driver.running import Ended
from decentra.driver.session import Decode
from decentra.errors import LocalError, RemoteError, Unavailable, Underway
from decentra.machine.effects import (
    Abort,
    Blame,
    Compute,
    Effect,
    Finish,
    Job,
    Persist,
    Record,
    Send,
    SetTimer,
    Tools,
)
from decentra.machine.events import Blob, Computed, Event, Expired, Received, Start
from decentra.peer.pool import ThreadPool
from decentra.protocols.rendezvous.messages import AbortRound, Absent, Leave, Want
from decentra.protocols.secagg.messages import Endorse, Masked
from decentra.simulation.group import SimulatedGroup
from decentra.simulation.ports import MemoryJournal
from decentra.transport.simulated import Faults
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.message import Message, Verified
from helpers import at, ids, kill, play, post_raw, results, settle, sign, simulate, small, vector, with_ports

Answer = Callable[[Event], Sequence[Effect]]


class Scripted:
    """A machine that answers events as a test says, and remembers them."""

    def __init__(self, answer: Answer, number: int = 1, roster: tuple[PeerId, ...] = ()) -> None:
        self.round, self.roster = RoundId(1, number), roster
        self.answer, self.events = answer, []  # type: ignore[var-annotated]

    def handle(self, event: Event) -> list[Effect]:
        self.events.append(event)
        return list(self.answer(event))

    def slot(self, message: Message) -> str:
        return message.kind

    def room(self, message: Message) -> int:
        return 1 << 20

    def wants(self, verified: Verified, root: bytes) -> bool:
        return True

    def defers(self, verified: Verified, root: bytes, coming: Sequence[Verified]) -> bool:
        return False

    def copied(self, verified: Verified) -> bytes:
        return b""

    def faulted(self, error: RemoteError) -> list[Effect]:
        return [Abort(error, False)]

    def cancel(self, error: Exception) -> list[Effect]:
        return [Abort(error, False)]  # type: ignore[arg-type]


@dataclass
class Note:
    """Job: write a word into a diary, and give a value."""

    diary: list[str]
    word: str
    value: object = None

    def run(self, tools: Tools) -> object:
        self.diary.append(self.word)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@dataclass
class Making:
    """Job: make a blob."""

    size: int = 100

    def run(self, tools: Tools) -> Blob:
        return tools.keep(np.zeros(self.size, np.uint8))


class SlowDisk(MemoryJournal):
    """A journal that is durable when the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []

    def entry(self, signed: Any, log_body: bool, durable: Callable[[], None]) -> None:
        super().entry(signed, log_body, lambda: self.waiting.append(durable))

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        super().record(round_id, record, lambda: self.waiting.append(durable))

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        for durable in waiting:
            durable()


@dataclass
class Bench:
    """One driver of a group of three, with a machine of the test's."""

    group: SimulatedGroup = field(default_factory=lambda: simulate(3))
    ended: list[Ended] = field(default_factory=list)

    @property
    def driver(self) -> Driver:
        return self.group.peers[0].driver

    def begin(self, answer: Answer, number: int = 1, roster: tuple[PeerId, ...] = ()) -> Scripted:
        machine = Scripted(answer, number, roster)
        self.driver.begin(machine, self.ended.append)
        return machine


def on_start(*effects: Effect) -> Answer:
    return lambda event: effects if isinstance(event, Start) else ()


# ── order and durability ─────────────────────────────────────────────────────────────────────────────────────────────


STEPS = st.lists(st.sampled_from(["compute", "persist", "send", "timer"]), min_size=1, max_size=12)


@settings(max_examples=30)
@given(steps=STEPS)
def test_effects_run_strictly_in_order_and_persist_suspends_them(steps: list[str]) -> None:
    bench, disk = Bench(), SlowDisk()
    with_ports(bench.group.peers[0], journal=disk)
    diary: list[str] = []
    effects: list[Effect] = []
    for place, step in enumerate(steps):
        if step == "compute":
            effects.append(Compute(str(place), Note(diary, str(place))))
        elif step == "persist":
            effects.append(Persist(Record("intent", str(place), b"")))
        elif step == "send":
            effects.append(Send(Absent(0, ())))
        else:
            effects.append(SetTimer(str(place), 1.0))
    bench.begin(on_start(*effects, Compute("end", Note(diary, "end"))))
    expected = [str(place) for place, step in enumerate(steps) if step == "compute"] + ["end"]
    durable = 0
    for place, step in enumerate(steps):
        if step in ("persist", "send"):
            assert len(disk.records) + len(disk.entries) == durable + 1  # nothing behind it has begun
            assert diary == [word for word in expected if word != "end" and int(word) < place]
            durable += 1
            disk.flush()
    assert diary == expected


def test_events_that_come_while_a_list_is_suspended_are_handled_but_their_effects_wait() -> None:
    bench, disk = Bench(), SlowDisk()
    with_ports(bench.group.peers[0], journal=disk)
    diary: list[str] = []

    def answer(event: Event) -> Sequence[Effect]:
        if isinstance(event, Start):
            return [SetTimer("soon", 1.0), Persist(Record("intent", "x", b"")), Compute("a", Note(diary, "first"))]
        return [Compute("b", Note(diary, "second"))] if isinstance(event, Expired) else []

    machine = bench.begin(answer)
    settle(bench.group, 5.0)
    assert Expired("soon") in machine.events
    assert diary == []
    disk.flush()
    assert diary == ["first", "second"]


def test_a_message_that_has_no_encoding_ends_its_round_and_no_callback() -> None:
    for message in (Absent(65, ()), Absent(-1, ()), AbortRound("\ud800", (), "")):
        bench = Bench()
        on_timer = Send(message)
        bench.begin(lambda event, send=on_timer: [send] if isinstance(event, Expired) else [SetTimer("x", 1.0)])
        settle(bench.group, 3.0)
        (end,) = bench.ended
        assert isinstance(end.error, LocalError)
        assert "no encoding" in str(end.error)
        bench.begin(on_start(Finish("next")), 2)
        assert bench.ended[1].result == "next"


def test_a_job_that_raises_what_no_job_may_raise_ends_the_round_that_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for error in (OverflowError("too large"), KeyError("missing"), RecursionError("too deep")):
        given: SimpleQueue[object] = SimpleQueue()
        pool = ThreadPool(lambda call: call())
        with caplog.at_level(logging.ERROR, "decentra"):
            pool.submit(Note([], "", error), Workbench(BlobStore(), bytes), given.put)
            value = given.get(timeout=20.0)
        pool.close()
        assert isinstance(value, LocalError)
        assert type(error).__name__ in str(value)
        assert any(record.exc_info for record in caplog.records)


def test_a_broadcast_comes_back_to_its_author_and_a_message_to_one_does_not() -> None:
    bench = Bench()
    to = ids(bench.group)[1]
    machine = bench.begin(on_start(Send(Absent(0, ())), Send(Want(0, bytes(32), 0), to=to)))
    own = [event.verified.message for event in machine.events if isinstance(event, Received)]
    assert own == [Absent(0, ())]


def test_a_job_that_raises_gives_its_error_as_the_value() -> None:
    bench, error = Bench(), ValueError("no")
    machine = bench.begin(on_start(Compute("job", Note([], "", error))))
    assert machine.events[-1] == Computed("job", error)


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Later:
    """A pool whose jobs end when the test says."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, job: Any, tools: Tools, done: Callable[[object], None]) -> None:
        self.jobs.append(lambda: done(job.run(tools)))


@pytest.mark.parametrize("end", [Finish("result"), Abort(LocalError("enough"), True)])
def test_the_end_is_told_once_the_last_job_is_over_and_what_it_computed_is_ignored_and_freed(end: Effect) -> None:
    bench, pool = Bench(), Later()
    with_ports(bench.group.peers[0], pool=pool)
    machine = bench.begin(on_start(Compute("late", Making()), SetTimer("late", 1.0), end))
    assert not bench.ended and bench.driver.busy  # the job may still read the caller's arrays
    for job in pool.jobs:
        job()
    assert len(bench.ended) == 1 and not bench.driver.busy
    settle(bench.group, 5.0)
    assert machine.events == [Start()]
    assert bench.driver.blobs.bytes_held == 0


def test_an_earlier_rounds_timers_do_not_reach_the_next_machine() -> None:
    bench = Bench()
    bench.begin(on_start(SetTimer("timer", 1.0), Finish(None)))
    second = bench.begin(on_start(SetTimer("other", 2.0)), number=2)
    settle(bench.group, 5.0)
    assert second.events == [Start(), Expired("other")]


def test_the_end_is_told_once_with_what_was_spent_and_why_nobody_answered() -> None:
    bench = Bench()
    gone = ids(bench.group)[2]
    kill(bench.group.peers[2])
    settle(bench.group, 5.0)
    bench.begin(on_start(Abort(Unavailable((gone,), 3.0, "nothing", "wait"), True), Finish("never")))
    (ended,) = bench.ended
    assert ended.spent
    assert ended.result is None
    assert "nobody answers at its address" in str(ended.error)


def test_blame_is_taken_down_and_the_round_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    stranger = ids(bench.group)[1]
    bench.begin(on_start(Blame(RemoteError(stranger, "ROLE", "it spoke"))), roster=(stranger,))
    assert bench.driver.busy
    assert bench.driver.reasons[stranger] == "it spoke"
    assert "broke ROLE" in caplog.text


def test_a_fault_still_explains_a_peer_whose_connection_broke_and_came_back() -> None:
    bench = Bench()
    liar = ids(bench.group)[1]
    bench.begin(on_start(Blame(RemoteError(liar, "ROLE", "it spoke out of turn"))))
    bench.driver.on_link(liar, False, "the cable is cut")
    assert bench.driver.reasons[liar] == "it spoke out of turn"
    bench.driver.on_link(liar, True, "")
    assert bench.driver.reasons[liar] == "it spoke out of turn"


def test_a_broken_way_explains_a_peer_until_it_is_open_again() -> None:
    bench = Bench()
    peer = ids(bench.group)[1]
    bench.driver.on_link(peer, False, "the cable is cut")
    assert bench.driver.reasons[peer] == "the cable is cut"
    bench.driver.on_link(peer, True, "")
    assert peer not in bench.driver.reasons


def test_a_failed_wait_that_is_explained_keeps_its_kind_and_whether_the_update_was_spent() -> None:
    bench = Bench()
    gone = ids(bench.group)[2]
    bench.driver.on_link(gone, False, "the cable is cut")
    underway = Underway((gone,), 0.0, "a beginning", "take the next round")
    underway.spent = False
    bench.begin(on_start(Abort(underway, False)))
    (ended,) = bench.ended
    assert isinstance(ended.error, Underway)
    assert ended.error.waited_for == (gone,)
    assert ended.error.spent is False
    assert "the cable is cut" in str(ended.error)


@pytest.mark.parametrize(
    ("seconds", "peers", "said"),
    [
        (3.0, 2, "waited 3.0 s for a sum from 01010101, 02020202; go on (the cable is cut)"),
        (3.0, 0, "waited 3.0 s for a sum from the group; go on (the cable is cut)"),
        (0.0, 2, "without 01010101, 02020202 nothing comes of a sum; go on (the cable is cut)"),
        (0.0, 0, "nothing comes of a sum; go on (the cable is cut)"),
    ],
)
def test_a_failed_wait_says_how_long_it_was_and_one_that_ended_at_once_does_not(
    seconds: float, peers: int, said: str
) -> None:
    silent = [PeerId(bytes([place]) * 32) for place in range(1, peers + 1)]
    assert str(Unavailable(silent, seconds, "a sum", "go on").because("the cable is cut")) == said


# ── timers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_timer_of_one_name_replaces_the_first() -> None:
    bench = Bench()
    machine = bench.begin(on_start(SetTimer("a", 1.0), SetTimer("b", 2.0), SetTimer("a", 5.0)))
    bench.group.clock.run_until(lambda: bench.group.clock.now() >= 4.0, 4.2)
    assert machine.events == [Start(), Expired("b")]
    settle(bench.group, 5.0)
    assert machine.events == [Start(), Expired("b"), Expired("a")]


# ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50)
@given(acts=st.lists(st.sampled_from(["lend", "give back", "release"]), max_size=8))
def test_a_blob_is_held_until_it_is_released_and_no_transfer_needs_it(acts: list[str]) -> None:
    store = BlobStore()
    blob = store.put(np.zeros(10, np.uint8), (bytes(32),))
    lent, released = 0, False
    for act in acts:
        if released and lent <= 0:
            break
        if act == "lend":
            store.lend(blob)
            lent += 1
        elif act == "give back" and lent:
            store.give_back(blob)
            lent -= 1
        elif act == "release":
            store.release(blob)
            released = True
        assert store.bytes_held == (0 if released and lent == 0 else 10)


def test_what_a_job_makes_after_its_round_is_over_is_freed_at_once_and_what_it_reads_is_gone() -> None:
    store = BlobStore()
    bench = Workbench(store, lambda count: bytes(count))
    early = bench.keep(np.zeros(10, np.uint8))
    result = bench.keep(np.zeros(7, np.uint8))
    bench.clear(keep=result)
    assert store.bytes_held == 7
    bench.keep(np.zeros(1000, np.uint8))
    assert store.bytes_held == 7
    with pytest.raises(LocalError, match="its round is over"):
        bench.view(early)


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_no_blob_is_held_after_a_round_and_its_result(protocol: str) -> None:
    group = simulate(4, protocol)
    for _ in range(2):
        results(play(group, [vector(np.ones(50_000, np.float32) * 0.01) for _ in group.peers]))
        settle(group, 5.0)
        assert [peer.driver.blobs.bytes_held for peer in group.peers] == [0] * 4


@pytest.mark.parametrize("phase", ["masked", "survivors", "unmask", "sum", "outcome"])
def test_no_blob_is_held_after_a_round_that_failed(phase: str) -> None:
    group = simulate(4)

    def stop(_machine: object) -> None:
        group.clock.call_later(0.0, lambda: group.peers[1].driver.cancel(LocalError("stop")))

    at(group.peers[1], phase, stop)
    play(group, [vector(np.ones(50_000, np.float32) * 0.01) for _ in group.peers])
    settle(group, 5.0)
    assert [peer.driver.blobs.bytes_held for peer in group.peers] == [0] * 4


def test_memory_of_a_round_is_bounded_by_three_ring_vectors() -> None:
    group, d = simulate(4, faults=Faults(latency=0.01)), 200_000
    most = 0
    for peer in group.peers:
        peer.begin(vector(np.ones(d, np.float32) * 0.01))
    while not all(peer.ended is not None for peer in group.peers):
        assert group.clock.step()
        most = max(most, max(peer.driver.blobs.bytes_held for peer in group.peers))
    assert 2 * d <= most <= 3 * 2 * (d + 1)


def test_a_second_blob_of_a_kind_is_refused_before_the_first_has_come() -> None:
    group = simulate(3)
    liar = group.peers[1]
    settle(group, 3.0)
    machine = Scripted(lambda _event: (), roster=ids(group))
    ended: list[Ended] = []
    group.peers[0].driver.begin(machine, ended.append)
    liar.session.round = RoundId(1, 1)
    link = liar.driver._links[ids(group)[0]]
    for fill in (0, 1):
        data = np.full(600_000, fill, np.uint8)
        verified = sign(liar, Masked(bytes(32), (bytes([fill]) * 32,)), bytes(32))
        link.post((verified.signed.entry, verified.signed.body), link.announce(data.data), data.data)
    settle(group, 5.0)
    (end,) = ended
    assert isinstance(end.error, RemoteError)
    assert (end.error.clause, end.error.peer) == ("EQUIVOCATION", ids(group)[1])
    assert group.peers[0].driver.blobs.bytes_held == 0


# ── the backlog ──────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=20)
@example(rounds=[3] * 7)
@example(rounds=[2, 6, 6, 6, 6, 6, 1])
@given(rounds=st.lists(st.integers(1, 6), max_size=25))
def test_at_most_four_messages_a_peer_are_kept_ahead_and_reach_their_round(rounds: list[int]) -> None:
    group = simulate(3)
    settle(group, 3.0)
    author, driver = group.peers[1], group.peers[0].driver
    for number in rounds:
        author.session.round = RoundId(1, number)
        post_raw(author, *(lambda v: (v.signed.entry, v.signed.body))(sign(author, Endorse(bytes(32)), bytes(32))))
    settle(group, 3.0)
    kept = driver.others.kept(ids(group)[1])
    latest = max(rounds, default=0)
    assert [verified.entry.round for verified in kept] == [latest] * min(rounds.count(latest), AHEAD)
    machine = Scripted(lambda _event: (), number=max(latest, 1))
    driver.begin(machine, lambda _ended: None)
    assert len(machine.events) == 1 + len(kept)


def test_older_and_other_rounds_messages_do_not_reach_a_machine() -> None:
    group = simulate(3)
    settle(group, 3.0)
    author = group.peers[1]
    machine = Scripted(lambda _event: (), number=5)
    group.peers[0].driver.begin(machine, lambda _ended: None)
    for number in (1, 4, 5, 6):
        author.session.round = RoundId(1, number)
        verified = sign(author, Endorse(bytes([number]) * 32), bytes(32))
        post_raw(author, verified.signed.entry, verified.signed.body)
    settle(group, 3.0)
    came = [event.verified.message for event in machine.events if isinstance(event, Received)]
    assert came == [Endorse(bytes([5]) * 32)]


def test_a_peer_that_left_is_known_until_it_speaks_again() -> None:
    group = simulate(3)
    settle(group, 3.0)
    driver, author = group.peers[0].driver, group.peers[1]
    author.driver.say(Leave())
    settle(group, 3.0)
    assert list(driver.others.left) == [ids(group)[1]]
    assert driver.reasons == {ids(group)[1]: "it has left the group"}
    author.session.round = RoundId(1, 1)
    verified = sign(author, Endorse(bytes(32)), bytes(32))
    post_raw(author, verified.signed.entry, verified.signed.body)
    settle(group, 3.0)
    assert not driver.others.left
    assert not driver.reasons


def test_a_peer_that_left_after_a_message_that_was_kept_stays_left_when_that_message_is_handed_on() -> None:
    group = simulate(3)
    settle(group, 3.0)
    driver, author = group.peers[0].driver, group.peers[1]
    author.session.round = RoundId(1, 2)
    verified = sign(author, Endorse(bytes(32)), bytes(32))
    post_raw(author, verified.signed.entry, verified.signed.body)
    author.driver.say(Leave())
    settle(group, 3.0)
    machine = Scripted(lambda _event: (), number=2)
    driver.begin(machine, lambda _ended: None)
    assert [event.verified.message for event in machine.events if isinstance(event, Received)] == [Endorse(bytes(32))]
    assert list(driver.others.left) == [ids(group)[1]]


@settings(max_examples=30)
@given(latest=st.lists(st.integers(0, 9), min_size=1, max_size=5), c=st.integers(1, 3))
def test_the_groups_round_is_one_that_an_honest_peer_has_reached(latest: list[int], c: int) -> None:
    group = simulate(6, protocol__c=c)
    others = Others(ids(group)[: len(latest)], c)
    for author, number in zip(group.peers, latest, strict=False):
        author.session.round = RoundId(1, number)
        others.heard(sign(author, Endorse(bytes(32)), bytes(32)), 0.0)
        others.heard(sign(author, AbortRound("LOCAL", (), ""), bytes(32)), 0.0)
    for number in range(1, 10):
        assert (others.round >= number) == (others.begun >= number) == (sum(one >= number for one in latest) > c)


# ── a large group ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_sixty_four_peers_average_small_vectors() -> None:
    group = simulate(64)
    done = results(play(group, [vector([0.01 * place / 64] * 10) for place in range(64)]))
    assert len(done[0].participants) == 64
    assert np.allclose(done[0].values[0], 0.01 * 31.5 / 64, atol=0.1 / 511)
    settle(group, 1.0)
    assert {peer.driver.blobs.bytes_held for peer in group.peers} == {0}


def test_the_next_round_waits_until_the_result_of_the_one_before_is_made() -> None:
    group, held = simulate(4), []
    peer = group.peers[0]
    ports = peer.session._need_ports()

    class Held:
        def submit(self, job: Job, tools: Tools, done: Callable[[object], None]) -> None:
            if isinstance(job, Decode):
                held.append(lambda: ports.pool.submit(job, tools, done))
            else:
                ports.pool.submit(job, tools, done)

    peer.session._ports = replace(ports, pool=Held())
    play(group, small(group), but=[0])
    settle(group, 5.0)
    with pytest.raises(LocalError, match="a round is on already"):
        peer.begin(small(group)[0])  # type: ignore[arg-type]
    held.pop()()
    assert isinstance(peer.ended, RoundResult) and peer.ended.round == RoundId(1, 1)
