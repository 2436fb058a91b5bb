"""Links over a network that drops, repeats, delays, reorders and cuts; and against a peer that lies."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra import memory
from decentra.errors import LocalError, RemoteError, Unavailable
from decentra.transfer import (
    Announcement,
    Arrived,
    Completed,
    Corrupt,
    Delivered,
    Elsewhere,
    Event,
    Handed,
    Holds,
    Link,
    Rejected,
    Restarted,
    Whispered,
    blob_root,
    piece_digests,
)
from decentra.transfer.link import ACK_PAUSE, MOST_CORRUPT, WINDOW_PIECES
from decentra.transport.simulated import Faults, Network
from decentra.transport.virtual import EventHeap
from decentra.types import EpochName, PeerId
from decentra.wire.frame import CHARTER_LIMIT, ENTRY_LIMIT, PIECE_BYTES, Frame, FrameKind, Lane, parse

IDS = (PeerId(b"a" * 32), PeerId(b"b" * 32))
MIB = 1 << 20
TICK = 0.25


class End:
    """One end of a link over a simulated network, with an owner that accepts what it is offered."""

    def __init__(self, network: Network, me: int, incarnation: int, accepts: bool = True) -> None:
        self.heap = network.clock
        self.me, self.peer = IDS[me], IDS[1 - me]
        self.accepts = accepts
        self.alive = True
        self.events: list[Event] = []
        self.blobs: dict[int, memoryview] = {}
        self.flying = self.most_flying = 0
        self.alter: Callable[[bytes, list[memoryview]], list[memoryview]] = lambda header, parts: parts
        self.transport = network.transport(self.me, self._receive, self._on_link)
        self.link = Link(self.peer, incarnation, lambda *message: self.transport.send(self.peer, *message))
        self.transport.dial(self.peer)
        self._tick()

    def _tick(self) -> None:
        if self.alive:
            self.link.tick(self.heap.now())
            self.heap.call_later(TICK, self._tick)

    def _on_link(self, peer: PeerId, up: bool, reason: str) -> None:
        if up:
            self.link.connected()
        else:
            self.link.disconnected()

    def _receive(self, peer: PeerId, lane: Lane, header: bytes, parts: Sequence[memoryview]) -> None:
        for event in self.link.receive(lane, header, self.alter(header, list(parts))):
            self.events.append(event)
            if isinstance(event, Completed):
                self.blobs[event.transfer] = event.data
            if isinstance(event, Arrived) and event.announcement is not None and self.accepts:
                assert self.link.accept(event.announcement, limit=64 * MIB)

    def stop(self) -> None:
        self.alive = False
        self.transport.close()

    def arrived(self) -> list[tuple[bytes, ...]]:
        return [event.parts for event in self.events if isinstance(event, Arrived)]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def post_blob(self, data: memoryview, part: bytes = b"blob") -> Announcement:
        announcement = self.link.announce(data)
        self.link.post([part], announcement, data)
        return announcement


def pair(seed: int = 0, faults: Faults | None = None) -> tuple[EventHeap, Network, End, End]:
    heap = EventHeap()
    network = Network(heap, seed, faults)
    return heap, network, End(network, 0, 11), End(network, 1, 22)


def noise(size: int, seed: int = 1) -> memoryview:
    return memoryview(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))


# datagrams: once, now, or never


def test_a_datagram_comes_through_an_open_way_and_is_not_kept_for_a_closed_one() -> None:
    heap, _, alice, bob = pair()
    alice.link.whisper(b"before they met")
    heap.run_until(lambda: False, 5.0)
    alice.link.whisper(b"hello")
    heap.run_until(lambda: False, 10.0)
    alice.link.disconnected()
    alice.link.whisper(b"to nobody")
    alice.link.connected()
    heap.run_until(lambda: False, 20.0)
    assert bob.of(Whispered) == [Whispered(b"hello")]
    assert alice.link.idle


@given(st.integers(0, 2**32), st.floats(0.0, 0.5))
@settings(max_examples=20, deadline=None)
def test_datagrams_may_be_lost_and_disturb_nothing_else(seed: int, drop: float) -> None:
    heap, _, alice, bob = pair(seed, Faults(latency=0.05, drop=drop))
    heap.run_until(lambda: False, 5.0)
    for number in range(50):
        heap.call_later(0.1 * number, lambda number=number: alice.link.whisper(b"%d" % number))
        heap.call_later(0.1 * number, lambda number=number: alice.link.post([b"%d" % number]))
    heap.run_until(lambda: len(bob.arrived()) == 50, 2000.0)
    assert bob.arrived() == [(b"%d" % number,) for number in range(50)]
    heard = [event.data for event in bob.of(Whispered) if isinstance(event, Whispered)]
    assert set(heard) <= {b"%d" % number for number in range(50)}


# the promise: exactly once, in order, whatever the network does

CHANCE = st.floats(0.0, 0.3)
FAULTS = st.builds(
    Faults, latency=st.floats(0.0, 0.2), jitter=st.floats(0.0, 0.2), drop=CHANCE, duplicate=CHANCE, reorder=CHANCE,
    hold=st.floats(0.0, 5.0),
)  # fmt: skip
PLAN = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.floats(0.0, 10.0),
        st.lists(st.integers(0, 5000), min_size=1, max_size=3),
        st.none() | st.sampled_from([0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * MIB + 17]),
    ),
    max_size=25,
)
CUTS = st.lists(st.tuples(st.sampled_from([0, 1]), st.floats(0.0, 15.0), st.floats(0.0, 5.0)), max_size=5)


@given(st.integers(0, 2**32), FAULTS, PLAN, CUTS)
@settings(max_examples=40, deadline=None)
def test_everything_posted_arrives_exactly_once_in_order_and_whole(
    seed: int,
    faults: Faults,
    plan: list[tuple[int, float, list[int], int | None]],
    cuts: list[tuple[int, float, float]],
) -> None:
    heap, network, *ends = pair(seed, faults)
    rng = random.Random(seed)
    posted: tuple[list[tuple[bytes, ...]], ...] = ([], [])
    blobs: tuple[dict[int, memoryview], ...] = ({}, {})

    def post(who: int, sizes: list[int], blob: int | None) -> None:
        parts = [rng.randbytes(size) for size in sizes]
        posted[who].append(tuple(parts))
        if blob is None:
            ends[who].link.post(parts)
        else:
            data = noise(blob, seed=len(posted[who]))
            announcement = ends[who].link.announce(data)
            ends[who].link.post(parts, announcement, data)
            blobs[who][announcement.transfer] = data

    for who, at, sizes, blob in plan:
        heap.call_later(at, lambda who=who, sizes=sizes, blob=blob: post(who, sizes, blob))
    for who, at, lasts in cuts:
        heap.call_later(at, lambda who=who: network.cut(IDS[who], IDS[1 - who]))
        heap.call_later(at + lasts, lambda who=who: network.heal(IDS[who], IDS[1 - who]))
    heap.run_until(lambda: False, 20.0)
    assert heap.run_until(lambda: ends[0].link.idle and ends[1].link.idle, 3000.0), "it never came to rest"
    for who in (0, 1):
        assert ends[1 - who].arrived() == posted[who]
        assert ends[1 - who].blobs == blobs[who]
        assert len(ends[1 - who].of(Completed)) == len(blobs[who])
        assert sorted(event.transfer for event in ends[who].of(Delivered)) == sorted(blobs[who])
        assert not ends[who].of(Corrupt) + ends[who].of(Rejected) + ends[who].of(Restarted)


@given(st.integers(0, 2**32), st.floats(0.0, 0.7))
@settings(max_examples=20, deadline=None)
def test_a_transport_that_often_says_no_only_delays(seed: int, refusal: float) -> None:
    heap, _, a, b = pair(seed)
    rng = random.Random(seed)
    for end in (a, b):
        end.link._send = lambda *message, end=end: rng.random() >= refusal and end.transport.send(end.peer, *message)
    data = noise(2 * MIB)
    for i in range(50):
        a.link.post([b"%d" % i])
    announcement = a.post_blob(data)
    assert heap.run_until(lambda: a.link.idle and b.link.idle, 3000.0)
    assert b.arrived() == [(b"%d" % i,) for i in range(50)] + [(b"blob",)]
    assert b.blobs == {announcement.transfer: data}


def test_a_transfer_resumes_where_the_connection_broke() -> None:
    heap, network, a, b = pair(faults=Faults(latency=0.05))
    a.post_blob(noise(32 * MIB))
    assert heap.run_until(lambda: a.transport.counters.bytes_sent > 20 * MIB, 60.0)
    network.break_once(*IDS)
    assert heap.run_until(lambda: bool(b.blobs), 60.0)
    assert a.transport.counters.bytes_sent < 32 * MIB + (WINDOW_PIECES + 1) * PIECE_BYTES


def test_an_undisturbed_transfer_sends_every_byte_once() -> None:
    heap, _, a, b = pair()
    a.post_blob(noise(8 * MIB))
    assert heap.run_until(lambda: a.link.idle and b.link.idle, 60.0)
    assert a.transport.counters.bytes_sent < 8 * MIB + 64 * 1024
    assert a.transport.counters.largest_frame == PIECE_BYTES
    assert heap.now() < 2.0, "nothing waited for a timer"


def test_no_more_than_the_window_is_in_flight() -> None:
    heap, _, a, b = pair()
    heap.run_until(lambda: False, 1.0)
    sent = []
    a.link._send = lambda lane, header, parts: sent.append(lane) or True  # nothing comes back any more
    b.accepts = True
    announcement = a.post_blob(noise(32 * MIB))
    credit = Frame(FrameKind.CREDIT, 0, 22, 11, bytes(32), 0, announcement.transfer, 0, 0, 0)
    a.link.receive(Lane.CONTROL, credit.pack(), [])
    assert sent.count(Lane.BULK) == WINDOW_PIECES
    assert sent.count(Lane.CONTROL) == 1


def test_a_greeting_that_came_too_early_is_answered_as_soon_as_the_way_opens() -> None:
    heap, network, a, b = pair(faults=Faults(latency=0.01))
    network.cut(IDS[1], IDS[0])
    assert heap.run_until(lambda: a.link._up, 1.0)
    b.link.post([b"b"])
    network.heal(IDS[1], IDS[0])
    assert heap.run_until(lambda: b.link._up, 5.0)
    start = heap.now()
    assert heap.run_until(lambda: a.arrived() == [(b"b",)], 10.0)
    assert heap.now() - start < 0.1


# restarts


def test_a_restarted_peer_gets_what_waits_and_what_it_had_begun_is_given_back() -> None:
    heap, network, a, b = pair()
    b.accepts = False
    lost = a.post_blob(noise(MIB), b"taken by the first")
    assert heap.run_until(lambda: b.arrived() == [(b"taken by the first",)], 10.0)
    heap.run_until(lambda: False, heap.now() + 1.0)
    b.stop()
    kept = a.post_blob(noise(MIB, 2), b"for the second")
    again = End(network, 1, 33)
    assert heap.run_until(lambda: a.link.idle and again.link.idle and bool(again.blobs), 60.0)
    assert again.arrived() == [(b"for the second",)]
    assert again.blobs == {kept.transfer: noise(MIB, 2)}
    assert a.events == [Restarted(), Rejected(lost.transfer), Delivered(kept.transfer)]
    again.link.post([b"hello from the second"])
    assert heap.run_until(lambda: a.arrived() == [(b"hello from the second",)], heap.now() + 10.0)


def test_frames_of_an_earlier_process_are_not_heard() -> None:
    _, alice, bob = hand_joined()
    bob.hello(source=33)
    assert bob.last(FrameKind.WELCOME).target == 33
    assert bob.entry(1, source=22) == []
    assert bob.hello(source=22) == []
    assert bob.entry(1, source=33) == [Arrived((b"entry",), None)]
    assert alice.receive(*bob.frame(FrameKind.ENTRY, [b"x"], number=2, source=33, target=99)) == []


# the owner's side


def test_a_full_queue_is_unavailable_and_names_the_peer() -> None:
    link = Link(IDS[1], 11, lambda *_: True, most_entries=3)
    link.tick(5.0)
    for _ in range(3):
        link.post([b"x"])
    link.tick(47.0)
    with pytest.raises(Unavailable, match=r"42\.0 s for room in the send queue from 62626262") as caught:
        link.post([b"x"])
    assert caught.value.waited_for == (IDS[1],)
    big = Link(IDS[1], 11, lambda *_: True, most_bytes=2 * ENTRY_LIMIT)
    big.post([bytes(ENTRY_LIMIT)])
    big.post([bytes(ENTRY_LIMIT)])
    with pytest.raises(Unavailable):
        big.post([b"x"])


def test_what_an_entry_cannot_be_is_my_mistake() -> None:
    link = Link(IDS[1], 11, lambda *_: True)
    data = noise(10)
    announcement = link.announce(data)
    for parts in ([], [b""] * 8, [bytes(ENTRY_LIMIT + 1)]):
        with pytest.raises(LocalError, match="as a blob"):
            link.post(parts)
    foreign = Announcement(5, 10, (bytes(32),))
    for wrong in ((announcement, None), (None, data), (announcement, noise(11)), (foreign, data)):
        with pytest.raises(LocalError):
            link.post([b"x"], *wrong)
    link.post([b"x"], announcement, data)
    with pytest.raises(LocalError, match="posted already"):
        link.post([b"x"], announcement, data)
    for incarnation, session in ((0, bytes(32)), (1 << 64, bytes(32)), (1, b"")):
        with pytest.raises(ValueError):
            Link(IDS[1], incarnation, lambda *_: True, session=session)


def test_a_rejected_blob_is_not_sent_and_its_sender_is_told() -> None:
    heap, _, a, b = pair(faults=Faults(drop=0.3))
    b.accepts = False
    announcement = a.post_blob(noise(4 * MIB))
    assert heap.run_until(lambda: len(b.arrived()) == 1, 100.0)
    b.link.reject(announcement.transfer)
    b.link.reject(announcement.transfer)
    assert not b.link.accept(announcement, 64 * MIB)
    assert heap.run_until(lambda: a.link.idle and b.link.idle, 100.0)
    assert a.events == [Rejected(announcement.transfer)]
    assert a.transport.counters.bytes_sent < 64 * 1024


@given(st.floats(0.0, 60.0), st.integers(0, 1 << 16))
@settings(max_examples=20)
def test_an_offer_stands_until_it_is_answered(after: float, seed: int) -> None:
    heap, _, a, b = pair(seed, Faults(drop=0.2, reorder=0.2))
    b.accepts = False
    data = noise(2 * MIB + 5)
    announcement = a.post_blob(data)
    assert heap.run_until(lambda: len(b.arrived()) == 1, 100.0)
    heap.call_later(after, lambda: b.link.accept(announcement, 64 * MIB))
    assert heap.run_until(lambda: bool(a.of(Delivered)), 1000.0)
    assert b.blobs[announcement.transfer] == data
    assert a.transport.counters.bytes_sent < 2 * MIB + 4 * WINDOW_PIECES * PIECE_BYTES


@given(data=st.data(), seed=st.integers(0, 1 << 16))
@settings(max_examples=20)
def test_one_blob_from_two_peers_is_gathered_in_one_buffer(data: st.DataObject, seed: int) -> None:
    """Whoever of the two is first, spoils pieces or stops: what completes is what was announced, in the same memory."""
    blob = noise(5 * PIECE_BYTES + 9, seed)
    heap, ends = EventHeap(), []
    for place in range(2):
        network = Network(heap, seed + place, Faults(drop=0.1, jitter=data.draw(st.floats(0.0, 1.0))))
        ends.append((End(network, 0, 11), End(network, 1, 22, accepts=False)))
    announced = [a.post_blob(blob) for a, _ in ends]
    assert heap.run_until(lambda: all(b.arrived() for _, b in ends), 100.0)
    (a, b), (_, other) = ends
    assert b.link.accept(announced[0], 64 * MIB)
    buffer = b.link.gathered(announced[0].transfer)
    assert buffer is not None
    with pytest.raises(LocalError, match="can't be gathered"):
        other.link.accept(announced[1], 64 * MIB, into=buffer[1:])
    assert other.link.accept(announced[1], 64 * MIB, into=buffer)
    if data.draw(st.booleans()):
        heap.call_later(data.draw(st.floats(0.0, 0.5)), a.stop)
    else:
        spoilt = data.draw(st.integers(1, 3))

        def alter(header: bytes, parts: list[memoryview]) -> list[memoryview]:
            nonlocal spoilt
            if header[1] == FrameKind.PIECE and spoilt:
                spoilt -= 1
                return [memoryview(bytes(parts[0].nbytes))]
            return parts

        b.alter = alter
    assert heap.run_until(lambda: bool(other.blobs), 1000.0)
    assert other.blobs[announced[1].transfer] == blob == buffer
    for completed in b.blobs.values():
        assert completed == blob
    assert b.link.gathered(announced[0].transfer) is None or not b.blobs


def test_a_blob_above_the_limit_is_refused_before_anything_is_allocated() -> None:
    heap, _, a, b = pair()
    b.accepts = False
    announcement = a.post_blob(noise(2 * MIB))
    assert heap.run_until(lambda: len(b.arrived()) == 1, 10.0)
    with pytest.raises(RemoteError, match="2097152 bytes where 1048576 are allowed"):
        b.link.accept(announcement, MIB)
    assert heap.run_until(lambda: a.events == [Rejected(announcement.transfer)], 10.0)


def test_a_withdrawn_blob_is_let_go() -> None:
    heap, _, a, b = pair()
    announcement = a.post_blob(noise(32 * MIB))
    assert heap.run_until(lambda: a.transport.counters.bytes_sent > 9 * MIB, 10.0)
    a.link.withdraw(announcement.transfer)
    assert not b.link.idle
    b.link.reject(announcement.transfer)
    assert heap.run_until(lambda: a.link.idle and b.link.idle, 20.0)
    assert a.events == [] and b.blobs == {}


def test_wakeup_tells_when_a_tick_matters() -> None:
    link = Link(IDS[1], 11, lambda *_: True, stall=2.0)
    assert link.wakeup is None
    link.tick(10.0)
    link.connected()
    assert link.wakeup == 12.0
    alice, _, bob = hand_joined()
    assert alice.wakeup is None
    alice.post([b"x"])
    assert alice.wakeup == 2.0
    bob.send(FrameKind.ACK, number=2)
    assert alice.wakeup is None and alice.idle


def test_memory_is_one_buffer_a_transfer_at_the_receiver_and_none_at_the_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The buffer has pages of its own, which tracemalloc does not see: it is counted where it is asked for."""
    heap, _, a, b = pair()
    data, asked, zeros = noise(24 * MIB), list[int](), memory.zeros
    monkeypatch.setattr(memory, "zeros", lambda count, kind: (asked.append(count), zeros(count, kind))[1])
    tracemalloc.start()
    a.post_blob(data)
    assert heap.run_until(lambda: b.link._receiving != {}, 10.0)
    assert heap.run_until(lambda: a.link.idle and b.link.idle, 60.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert b.blobs[a.link._first_transfer] == data
    assert asked == [24 * MIB]
    assert peak < MIB


def test_an_announcement_alone_costs_no_more_than_its_own_size() -> None:
    _, _, bob = hand_joined()
    digests = (bytes(32),) * 16384
    part = Announcement(7, 16384 * PIECE_BYTES, digests).pack()
    tracemalloc.start()
    (event,) = bob.send(FrameKind.ENTRY_BLOB, [part, b"four gigabytes"], number=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(event, Arrived) and event.announcement is not None and event.announcement.size == 4 << 30
    assert peak < 4 * len(part)


# blobs


@given(st.integers(0, 3 * PIECE_BYTES), st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_an_announcement_survives_the_wire_and_its_root_names_the_blob(size: int, transfer: int) -> None:
    data = noise(size)
    announcement = Announcement(transfer, size, piece_digests(data))
    assert Announcement.parse(memoryview(announcement.pack())) == announcement
    assert len(announcement.pack()) == announcement.packed_size
    assert announcement.root == blob_root(size, piece_digests(data)) != blob_root(size + 1, piece_digests(data))
    pieces = [bytes(data[start : start + PIECE_BYTES]) for start in range(0, size, PIECE_BYTES)] or [b""]
    assert announcement.digests == tuple(hashlib.sha256(piece).digest() for piece in pieces)


def test_digests_are_those_of_the_bytes_whatever_the_array_is() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert piece_digests(memoryview(array)) == piece_digests(memoryview(array.tobytes()))
    assert piece_digests(memoryview(np.empty((0, 4)))) == piece_digests(memoryview(b""))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_announcement(data: bytes) -> None:
    with pytest.raises(ValueError):
        Announcement.parse(memoryview(data + b"x" * (16 + 32 - len(data) if len(data) == 48 else 0)))


# a peer that lies


class Liar:
    """The other end, by hand: it says what it likes in the right incarnations."""

    def __init__(self) -> None:
        self.heard: list[tuple[Lane, bytes]] = []
        self.link: Link | None = None

    def take(self, lane: Lane, header: bytes, parts: Sequence[bytes | bytearray | memoryview]) -> bool:
        self.heard.append((lane, header))
        return True

    def last(self, kind: FrameKind) -> Frame:
        frames = [parse(lane, header, []) for lane, header in self.heard if header[1] == kind]
        return frames[-1]

    def frame(
        self, kind: FrameKind, parts: Sequence[bytes] = (), number: int = 0, offset: int = 0, bitmap: int = 0,
        source: int = 22, target: int = 11,
    ) -> tuple[Lane, bytes, list[memoryview]]:  # fmt: skip
        frame = Frame(kind, len(parts), source, target, bytes(32), 0, number, offset, bitmap, sum(map(len, parts)))
        lane = Lane.BULK if kind is FrameKind.PIECE else Lane.CONTROL
        return lane, frame.pack(), [memoryview(part) for part in parts]

    def send(self, kind: FrameKind, parts: Sequence[bytes] = (), **fields: int) -> list[Event]:
        assert self.link is not None
        return self.link.receive(*self.frame(kind, parts, **fields))

    def hello(self, source: int) -> list[Event]:
        return self.send(FrameKind.HELLO, number=1, source=source)

    def entry(self, number: int, source: int = 22) -> list[Event]:
        return self.send(FrameKind.ENTRY, [b"entry"], number=number, source=source)


def hand_joined() -> tuple[Link, Link, Liar]:
    liar = Liar()
    link = liar.link = Link(IDS[1], 11, liar.take)
    link.connected()
    assert liar.hello(source=22) == []
    assert liar.send(FrameKind.WELCOME, number=1) == []
    return link, link, liar


def offered(liar: Liar, data: bytes, transfer: int = 7, entry: int = 1) -> Announcement:
    announcement = Announcement(transfer, len(data), piece_digests(memoryview(data)))
    came = liar.send(FrameKind.ENTRY_BLOB, [announcement.pack(), b"x"], number=entry)
    assert came == [Arrived((b"x",), announcement)]
    return announcement


WORD = st.sampled_from([0, 1, 2, 7, 8, PIECE_BYTES, 11 << 32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)

PARTS = st.lists(st.binary(max_size=60), max_size=4)


@given(
    st.lists(
        st.tuples(st.sampled_from(FrameKind), PARTS, WORD, WORD, WORD, st.booleans()),
        max_size=30,
    )
)
def test_whatever_a_peer_sends_raises_remote_errors_only(
    frames: list[tuple[FrameKind, list[bytes], int, int, int, bool]],
) -> None:
    link, _, liar = hand_joined()
    link.accept(offered(liar, bytes(3 * PIECE_BYTES)), MIB)
    mine = noise(2 * PIECE_BYTES)
    link.post([b"mine"], link.announce(mine), mine)
    for kind, parts, number, offset, bitmap, bulk in frames:
        _, header, views = liar.frame(kind, parts, number=number, offset=offset, bitmap=bitmap)
        try:
            link.receive(Lane(bulk), header, views)
        except RemoteError as error:
            assert error.peer == IDS[1] and error.clause in {"SCHEMA", "DIGEST"}


@given(st.binary(max_size=300), st.lists(st.binary(max_size=50), max_size=9))
def test_arbitrary_bytes_are_a_broken_schema(header: bytes, parts: list[bytes]) -> None:
    link, _, _ = hand_joined()
    with pytest.raises(RemoteError, match="SCHEMA"):
        link.receive(Lane.CONTROL, header, [memoryview(part) for part in parts])


@pytest.mark.parametrize(
    ("kind", "parts", "fields", "message"),
    [
        (FrameKind.PIECE, [b"x"], {"number": 99}, "not accepted"),
        (FrameKind.PIECE, [b"x"], {"number": 7}, "not accepted"),
        (FrameKind.ACK, [], {"number": 5}, "sent were those below 2"),
        (FrameKind.CREDIT, [], {"number": 12345}, "never announced"),
        (FrameKind.STATE, [], {"number": 11 << 32, "offset": 1}, "never sent"),
        (FrameKind.CREDIT, [], {"number": 11 << 32, "bitmap": 1}, "never sent"),
        (FrameKind.REJECT, [], {"number": 1}, "never announced"),
        (FrameKind.ENTRY, [b"x"], {"number": 1000}, "beyond the window"),
        (FrameKind.HOLDS, [bytes(63)], {"number": 1}, "not by 63 bytes"),
        (FrameKind.CHARTER, [bytes(CHARTER_LIMIT + 1), b""], {"number": 1}, "a charter of 65537 bytes"),
        (FrameKind.ENTRY_BLOB, [b"x", b"y"], {"number": 2}, "announcement of 1 bytes"),
        (FrameKind.ENTRY_BLOB, [Announcement(7, 1, (bytes(32),)).pack(), b"y"], {"number": 2}, "announced twice"),
    ],
)
def test_each_lie_is_named(kind: FrameKind, parts: list[bytes], fields: dict[str, int], message: str) -> None:
    link, _, liar = hand_joined()
    offered(liar, bytes(10))
    mine = noise(10)
    link.post([b"mine"], link.announce(mine), mine)
    with pytest.raises(RemoteError, match=message):
        liar.send(kind, parts, **fields)
    assert liar.entry(2) == [Arrived((b"entry",), None)], "the link itself stays whole"


@pytest.mark.parametrize(
    ("offset", "size", "message"),
    [(4 * PIECE_BYTES, 1, "of a blob of"), (0, 5, "of a blob of"), (2**63, 1, "of a blob of"), (1, 5, "multiple")],
)
def test_a_piece_that_lies_outside_its_blob_is_refused(offset: int, size: int, message: str) -> None:
    link, _, liar = hand_joined()
    link.accept(offered(liar, bytes(3 * PIECE_BYTES)), MIB)
    with pytest.raises(RemoteError, match=message):
        liar.send(FrameKind.PIECE, [bytes(size)], number=7, offset=offset)


def test_frames_of_another_session_or_version_are_refused_by_name() -> None:
    link, _, liar = hand_joined()
    lane, header, _ = liar.frame(FrameKind.ACK, number=1)
    with pytest.raises(RemoteError, match="install the same release"):
        link.receive(lane, b"\x02" + header[1:], [])
    other = Frame(FrameKind.ACK, 0, 22, 11, b"s" * 32, 0, 1, 0, 0, 0).pack()
    with pytest.raises(RemoteError, match="another session than that of epoch 0"):
        link.receive(lane, other, [])
    greeting = Frame(FrameKind.HELLO, 0, 22, 0, b"s" * 32, 0, 1, 7, 0xABCDEF01 << 32, 0).pack()
    assert link.receive(lane, greeting, []) == [Elsewhere(EpochName(7, bytes.fromhex("abcdef0100000000")))]
    said = r"its frames are of epoch 7 \(charter abcdef01\), and this peer is in epoch 0 \(charter 00000000\)"
    with pytest.raises(RemoteError, match=said):
        link.receive(lane, other, [])
    assert liar.entry(1) == [Arrived((b"entry",), None)], "the link itself stays whole"


def test_a_greeting_names_the_epoch_that_its_session_is() -> None:
    liar = Liar()
    link = Link(IDS[1], 11, liar.take, epoch=EpochName(3, bytes(range(32))))
    link.connected()
    liar.link = link
    liar.hello(source=22)
    for kind in (FrameKind.HELLO, FrameKind.WELCOME):
        assert liar.last(kind).epoch == EpochName(3, bytes(range(8)))
        assert liar.last(kind).epoch.is_same(EpochName(3, bytes(range(32))))


def test_what_one_epoch_tells_another_needs_no_common_session_and_no_greeting() -> None:
    sent: list[tuple[Lane, bytes, list[bytes]]] = []

    def take(lane: Lane, header: bytes, parts: Sequence[bytes | bytearray | memoryview]) -> bool:
        sent.append((lane, header, [bytes(part) for part in parts]))
        return True

    link, other = Link(IDS[1], 11, take, session=b"a" * 32), Link(IDS[0], 22, lambda *_: True, session=b"b" * 32)
    link.tell(EpochName(4, b"c" * 32), 9, b"o" * 32)
    assert not sent, "there is no way yet"
    link.connected()
    sent.clear()
    link.tell(EpochName(4, b"c" * 32), 9, b"o" * 32)
    link.hand(b"charter", b"addresses", 4)
    heard = [other.receive(lane, header, [memoryview(part) for part in parts]) for lane, header, parts in sent]
    assert heard == [
        [Holds(EpochName(4, b"c" * 32), b"a" * 32, 9, b"o" * 32)],
        [Handed(b"charter", b"addresses")],
    ]
    with pytest.raises(LocalError, match="too large to be handed to peers"):
        link.hand(bytes(CHARTER_LIMIT + 1), b"", 4)


def test_a_flipped_piece_is_dropped_reported_and_asked_for_again() -> None:
    heap, _, a, b = pair()
    flips = 2

    def alter(header: bytes, parts: list[memoryview]) -> list[memoryview]:
        nonlocal flips
        if header[1] == FrameKind.PIECE and flips:
            flips -= 1
            spoilt = bytearray(parts[0])
            spoilt[5] ^= 1
            return [memoryview(spoilt)]
        return parts

    b.alter = alter
    data = noise(4 * MIB)
    announcement = a.post_blob(data)
    assert heap.run_until(lambda: a.link.idle and b.link.idle, 60.0)
    assert b.blobs == {announcement.transfer: data}
    assert b.of(Corrupt) == [Corrupt(announcement.transfer, 0), Corrupt(announcement.transfer, PIECE_BYTES)]


def test_a_sender_whose_pieces_stay_wrong_is_blamed_and_its_blob_given_up() -> None:
    link, _, liar = hand_joined()
    link.accept(offered(liar, bytes(10)), MIB)
    for _ in range(MOST_CORRUPT):
        assert liar.send(FrameKind.PIECE, [b"not it at all"[:10]], number=7) == [Corrupt(7, 0)]
    with pytest.raises(RemoteError, match="DIGEST"):
        liar.send(FrameKind.PIECE, [b"not it at all"[:10]], number=7)
    link.tick(ACK_PAUSE)
    assert link.idle
    assert liar.last(FrameKind.REJECT).number == 7
    assert liar.send(FrameKind.PIECE, [bytes(10)], number=7) == []


def test_a_receiver_cannot_make_a_sender_repeat_itself_for_nothing() -> None:
    link, _, liar = hand_joined()
    data = noise(8 * PIECE_BYTES)
    announcement = link.announce(data)
    link.post([b"x"], announcement, data)
    liar.send(FrameKind.CREDIT, number=announcement.transfer)
    for _ in range(10):
        liar.send(FrameKind.STATE, number=announcement.transfer)
        liar.send(FrameKind.CREDIT, number=announcement.transfer)
    assert sum(lane is Lane.BULK for lane, _ in liar.heard) == 8
    link.tick(2.0)
    assert liar.last(FrameKind.ASK).number == announcement.transfer
    for _ in range(10):
        liar.send(FrameKind.STATE, number=announcement.transfer)
    assert sum(lane is Lane.BULK for lane, _ in liar.heard) == 16


def test_entries_held_back_are_bounded() -> None:
    link, _, liar = hand_joined()
    for number in range(2, 60):
        liar.send(FrameKind.ENTRY, [bytes(ENTRY_LIMIT)], number=number)
    assert link._inbox._bytes <= 4 * MIB
    assert liar.last(FrameKind.ACK).number == 1
    assert len(liar.entry(1)) == 5
    assert liar.last(FrameKind.ACK).number == 6
