"""One contract, held by every transport; then what only ZeroMQ or only the simulation promises."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from attacking import sealed
from decentra.errors import LocalError, Unavailable
from decentra.transport import dialler, simulated
from decentra.transport import guard as guard_module
from decentra.transport import zeromq as zeromq_module
from decentra.transport.answers import ROOM, TOO_MUCH
from decentra.transport.base import BULK_QUEUE, CONTROL_QUEUE, REFUSED, SILENT, UNREACHABLE, Counters, Lane, Transport
from decentra.transport.dialler import Route, common_options
from decentra.transport.envelope import seal, unseal
from decentra.transport.guard import (
    CROWD,
    FLOOD,
    FLOOD_BYTES,
    FLOOD_TIME,
    GREETS,
    GREETS_AT_ONCE,
    MOST_CONNECTIONS,
    ORDINARY,
    STRANGER_LIMIT,
    STRANGERS_LIMIT,
    TOTAL_LIMIT,
    UNREAD_LIMIT,
    Guard,
)
from decentra.transport.knock import knock
from decentra.transport.probe import Answer, probe
from decentra.transport.simulated import Faults, Network
from decentra.transport.virtual import EventHeap
from decentra.transport.zeromq import ZeroMQTransport, raise_file_limit, require_libsodium
from decentra.types import PeerId
from decentra.wire.door import Question
from decentra.wire.frame import FRAME_LIMIT, HEADER_BYTES, LAYOUTS, PIECE_BYTES, Frame, FrameKind, parse

PATIENCE = 10.0
"""Seconds (virtual ones in the simulation) that a test waits for an event before it fails."""


def name(letter: str) -> PeerId:
    return PeerId(letter.encode() * 32)


@dataclass
class Node:
    """A peer and what it was told."""

    id: PeerId
    got: list[tuple[PeerId, Lane, bytes, list[bytes]]] = field(default_factory=list)
    links: list[tuple[PeerId, bool, str]] = field(default_factory=list)
    transport: Transport = None  # set right after construction

    def up(self, peer: PeerId) -> bool:
        told = [up for other, up, _ in self.links if other == peer]
        return bool(told) and told[-1]

    def reasons(self, peer: PeerId) -> list[str]:
        return [reason for other, up, reason in self.links if other == peer and not up]

    def headers(self, lane: Lane | None = None) -> list[bytes]:
        return [header for _, at, header, _ in self.got if lane in (None, at)]


class World:
    """Peers a, b, c, … who know one another unless a test says otherwise."""

    def node(self, letter: str, knows: str = "abc") -> Node:
        raise NotImplementedError

    def until(self, predicate: Callable[[], bool], seconds: float = PATIENCE) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def pause_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have pauses between tries grow beyond every test's patience."""
        raise NotImplementedError

    def lose_patience(self) -> None:
        """Let time pass until the pauses are that long."""

    def pair(self) -> tuple[Node, Node]:
        """Two peers, connected both ways."""
        a, b = self.node("a"), self.node("b")
        a.transport.dial(b.id)
        b.transport.dial(a.id)
        self.until(lambda: a.up(b.id) and b.up(a.id))
        return a, b


class SimulatedWorld(World):
    def __init__(self) -> None:
        self.heap = EventHeap()
        self.network = Network(self.heap, seed=7)

    def node(self, letter: str, knows: str = "abc") -> Node:
        node = Node(name(letter))

        def receive(peer: PeerId, lane: Lane, header: bytes, parts: Sequence[memoryview]) -> None:
            node.got.append((peer, lane, header, [bytes(part) for part in parts]))

        node.transport = self.network.transport(
            node.id, receive, lambda *told: node.links.append(told), [name(other) for other in knows]
        )
        return node

    def until(self, predicate: Callable[[], bool], seconds: float = PATIENCE) -> None:
        assert self.heap.run_until(predicate, self.heap.now() + seconds), "it did not come about in virtual time"

    def pause_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(simulated, "REDIAL_LOST", 100 * PATIENCE)

    def lose_patience(self) -> None:
        self.heap.run_until(None, 20 * PATIENCE)  # a try is due at 255 s at the latest, and the next far later

    def close(self) -> None:
        pass


class ZeroMQWorld(World):
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.changed = asyncio.Event()
        self.keys = {letter: curve_keys() for letter in "abcx"}
        self.held = {letter: bound_socket() for letter in "abc"}
        self.endpoints = {letter: f"tcp://127.0.0.1:{port_of(held)}" for letter, held in self.held.items()}
        self.opened: list[ZeroMQTransport] = []
        self.problems: list[dict[str, object]] = []
        self.loop.set_exception_handler(lambda _, problem: self.problems.append(problem))

    def release(self, letter: str) -> None:
        """Give up the port that was kept for a peer; until then nobody else can be given it by the system."""
        if letter in self.held:
            self.held.pop(letter).close()

    def members(self, knows: str) -> dict[PeerId, bytes]:
        return {name(letter): self.keys[letter][0] for letter in knows}

    def node(
        self,
        letter: str,
        knows: str = "abc",
        keys: tuple[bytes, bytes] | None = None,
        members: dict[PeerId, bytes] | None = None,
    ) -> Node:
        node = Node(name(letter))

        def receive(peer: PeerId, lane: Lane, header: bytes, parts: Sequence[memoryview]) -> None:
            node.got.append((peer, lane, header, [bytes(part) for part in parts]))
            self.changed.set()

        def link(peer: PeerId, up: bool, reason: str) -> None:
            node.links.append((peer, up, reason))
            self.changed.set()

        self.release(letter)
        transport = ZeroMQTransport(
            self.loop,
            node.id,
            (keys or self.keys[letter])[1],
            self.members(knows) if members is None else members,
            self.endpoints[letter],
            {name(other): endpoint for other, endpoint in self.endpoints.items()},
            receive,
            link,
        )
        self.opened.append(transport)
        node.transport = transport
        return node

    def until(self, predicate: Callable[[], bool], seconds: float = PATIENCE) -> None:
        async def wait() -> None:
            async with asyncio.timeout(seconds):
                while not predicate():
                    self.changed.clear()
                    await self.changed.wait()

        self.loop.run_until_complete(wait())

    def pause_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dialler, "RECONNECT_MS", 100_000 * int(PATIENCE))
        monkeypatch.setattr(dialler, "RECONNECT_MOST_MS", 0)
        monkeypatch.setattr(dialler, "HURRY_AFTER", 0.0)

    def raw(self, letter: str, to: str, keys: tuple[bytes, bytes] | None = None) -> zmq.Socket[bytes]:
        """A DEALER of our own making, as an attacker with a member's key would have."""
        public, secret = keys or self.keys[letter]
        dealer = zmq.Context.instance().socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, self.keys[to][0])
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, public)
        dealer.setsockopt(zmq.CURVE_SECRETKEY, secret)
        dealer.connect(self.endpoints[to])
        return dealer

    def close(self) -> None:
        for transport in self.opened:
            transport.close()
        for letter in "abc":
            self.release(letter)
        problems = list(self.problems)
        for task in (tasks := asyncio.all_tasks(self.loop)):
            task.cancel()
        self.loop.run_until_complete(wait_for_all(tasks))
        self.loop.close()
        assert not problems


def curve_keys() -> tuple[bytes, bytes]:
    public, secret = zmq.curve_keypair()
    return z85.decode(public), z85.decode(secret)


async def wait_for_all(tasks: set[asyncio.Task[object]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def bound_socket() -> socket.socket:
    """A port of the system's choice, taken but not listened on: whoever connects is turned away."""
    taker = socket.socket()
    taker.bind(("127.0.0.1", 0))
    return taker


def port_of(taker: socket.socket) -> int:
    return int(taker.getsockname()[1])


@pytest.fixture(params=[SimulatedWorld, ZeroMQWorld], ids=["simulated", "zeromq"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def zeromq() -> Iterator[ZeroMQWorld]:
    made = ZeroMQWorld()
    yield made
    made.close()


# the contract


def test_a_message_arrives_whole_on_its_lane_with_the_authenticated_sender(world: World) -> None:
    a, b = world.pair()
    piece = np.arange(PIECE_BYTES, dtype=np.uint8)
    assert a.transport.send(b.id, Lane.CONTROL, b"small", [b"one", bytearray(b"two"), memoryview(b"")])
    assert a.transport.send(b.id, Lane.BULK, b"large", [piece.data])
    world.until(lambda: len(b.got) == 2)
    assert sorted(b.got, key=lambda message: message[1]) == [
        (a.id, Lane.CONTROL, b"small", [b"one", b"two", b""]),
        (a.id, Lane.BULK, b"large", [piece.tobytes()]),
    ]


def test_order_is_kept_within_a_lane(world: World) -> None:
    a, b = world.pair()
    for i in range(200):
        assert a.transport.send(b.id, Lane.CONTROL, b"%d" % i, [])
    for i in range(BULK_QUEUE // 2):
        assert a.transport.send(b.id, Lane.BULK, b"%d" % i, [bytes(PIECE_BYTES)])
    world.until(lambda: len(b.got) == 200 + BULK_QUEUE // 2)
    assert b.headers(Lane.CONTROL) == [b"%d" % i for i in range(200)]
    assert b.headers(Lane.BULK) == [b"%d" % i for i in range(BULK_QUEUE // 2)]


def test_what_is_sent_before_the_link_is_up_arrives_once_it_is(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.transport.dial(b.id)
    assert a.transport.send(b.id, Lane.CONTROL, b"early", [])
    world.until(lambda: b.headers() == [b"early"])


def test_a_full_queue_says_no_and_leaves_the_other_lane_alone(world: World) -> None:
    a = world.node("a")
    a.transport.dial(name("b"))  # nobody there
    taken = 0
    while a.transport.send(name("b"), Lane.BULK, b"", [b""]):
        taken += 1
        assert taken <= BULK_QUEUE
    assert taken == BULK_QUEUE
    assert sum(a.transport.send(name("b"), Lane.CONTROL, b"", []) for _ in range(CONTROL_QUEUE + 5)) == CONTROL_QUEUE


def test_a_peer_that_was_not_dialled_cannot_be_sent_to(world: World) -> None:
    a = world.node("a")
    assert not a.transport.send(name("b"), Lane.CONTROL, b"", [])


def test_dialling_someone_outside_the_charter_is_my_mistake(world: World) -> None:
    a = world.node("a", knows="ab")
    with pytest.raises(LocalError, match="charter"):
        a.transport.dial(name("c"))


def test_oversized_messages_are_my_mistake(world: World) -> None:
    a, b = world.pair()
    large = bytes(FRAME_LIMIT)
    for header, buffers in ((b"", [large + b"1"]), (b"", [large, b"1"]), (b"", [b""] * 8), (bytes(2000), [])):
        with pytest.raises(ValueError, match="at most"):
            a.transport.send(b.id, Lane.CONTROL, header, buffers)
    assert a.transport.send(b.id, Lane.CONTROL, b"", [bytes(FRAME_LIMIT), *[b""] * 6])
    world.until(lambda: [len(part) for part in b.got[-1][3]] == [FRAME_LIMIT, 0, 0, 0, 0, 0, 0] if b.got else False)


def test_someone_whom_the_other_side_does_not_know_is_refused_and_told_why(world: World) -> None:
    a, b = world.node("a"), world.node("b", knows="bc")
    a.transport.dial(b.id)
    a.transport.send(b.id, Lane.CONTROL, b"let me in", [])
    world.until(lambda: REFUSED in a.reasons(b.id))
    assert not a.up(b.id)
    assert b.got == []


def test_nobody_at_the_address_is_told(world: World) -> None:
    a = world.node("a")
    a.transport.dial(name("b"))
    world.until(lambda: UNREACHABLE in a.reasons(name("b")))


def test_a_peer_that_comes_late_is_reached(world: World) -> None:
    a = world.node("a")
    a.transport.dial(name("b"))
    world.until(lambda: UNREACHABLE in a.reasons(name("b")))
    b = world.node("b")
    world.until(lambda: a.up(b.id))


def test_a_restarted_peer_is_reached_again(world: World) -> None:
    a, b = world.pair()
    b.transport.close()
    world.until(lambda: not a.up(b.id))
    again = world.node("b")
    again.transport.dial(a.id)
    world.until(lambda: a.up(b.id) and again.up(a.id))
    assert a.transport.send(b.id, Lane.CONTROL, b"welcome back", [])
    world.until(lambda: again.headers() == [b"welcome back"])


def test_when_the_way_to_a_neighbour_opens_the_broken_ways_to_others_are_tried_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a partition nobody waits to the end of a pause that grew while it lasted."""
    world.pause_long(monkeypatch)
    a = world.node("a")
    for letter in "bc":
        a.transport.dial(name(letter))
    world.until(lambda: all(UNREACHABLE in a.reasons(name(letter)) for letter in "bc"))
    world.lose_patience()
    b, c = world.node("b"), world.node("c")
    c.transport.dial(a.id)
    world.until(lambda: a.up(c.id) and a.up(b.id))


def test_a_closed_peer_is_neither_sent_to_nor_heard_until_it_is_dialled_again(world: World) -> None:
    a, b = world.pair()
    b.transport.send(a.id, Lane.CONTROL, b"before", [])
    b.transport.send(a.id, Lane.BULK, b"before", [])
    world.until(lambda: a.headers() == [b"before"] * 2)
    a.transport.close_peer(b.id)
    assert not a.transport.send(b.id, Lane.CONTROL, b"", [])
    world.until(lambda: not b.up(a.id))
    b.transport.send(a.id, Lane.CONTROL, b"while closed", [])
    world.until(lambda: REFUSED in b.reasons(a.id))
    a.transport.dial(b.id)
    world.until(lambda: a.up(b.id) and b.up(a.id))
    b.transport.send(a.id, Lane.CONTROL, b"after", [])
    world.until(lambda: a.headers() == [b"before", b"before", b"after"])


def test_counters_tell_headers_and_parts_and_the_largest_frame(world: World) -> None:
    a, b = world.pair()
    a.transport.send(b.id, Lane.CONTROL, b"12345", [bytes(10), bytes(300)])
    a.transport.send(b.id, Lane.CONTROL, b"123", [])
    world.until(lambda: len(b.got) == 2)
    assert a.transport.counters == Counters(bytes_sent=318, bytes_received=0, largest_frame=300)
    assert b.transport.counters == Counters(bytes_sent=0, bytes_received=318, largest_frame=300)


def test_a_callback_that_raises_does_not_deafen_the_transport(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.pair()
    heard: list[bytes] = []

    def receive(peer: PeerId, lane: Lane, header: bytes, parts: Sequence[memoryview]) -> None:
        heard.append(header)
        zeromq.changed.set()
        if header == b"1":
            raise LocalError("the owner's own mistake")

    b.transport._on_receive = receive
    for i in range(3):
        a.transport.send(b.id, Lane.CONTROL, b"%d" % i, [])
    zeromq.until(lambda: heard == [b"0", b"1", b"2"])
    assert len(zeromq.problems) == 1
    zeromq.problems.clear()


# ZeroMQ: wrong keys, occupied ports, strangers and members that misbehave


def test_a_key_that_differs_from_the_charters_is_refused(zeromq: ZeroMQWorld) -> None:
    stranger = curve_keys()
    a, b = zeromq.node("a", keys=stranger, members=zeromq.members("bc")), zeromq.node("b")
    a.transport.dial(b.id)
    zeromq.until(lambda: a.reasons(b.id) == [REFUSED])
    assert b.got == []


def test_a_server_with_another_key_than_the_charters_is_refused(zeromq: ZeroMQWorld) -> None:
    zeromq.node("b", keys=zeromq.keys["x"], members=zeromq.members("ac"))
    a = zeromq.node("a")
    a.transport.dial(name("b"))
    zeromq.until(lambda: a.reasons(name("b")) == [REFUSED])


def test_my_own_key_must_be_the_charters(zeromq: ZeroMQWorld) -> None:
    with pytest.raises(LocalError, match="not the one your charter lists"):
        zeromq.node("a", keys=curve_keys())


def test_malformed_and_shared_keys_are_named(zeromq: ZeroMQWorld) -> None:
    with pytest.raises(LocalError, match="31 bytes instead of 32"):
        zeromq.node("a", members={name("b"): bytes(31)})
    with pytest.raises(LocalError, match="one CURVE key"):
        zeromq.node("a", members={name("b"): zeromq.keys["b"][0], name("c"): zeromq.keys["b"][0]})


def test_an_occupied_port_says_what_to_do(zeromq: ZeroMQWorld) -> None:
    with contextlib.closing(zeromq.held.pop("a")) as taker:
        taker.listen()
        with pytest.raises(LocalError, match=r"occupied: stop the process .* or choose another `bind`"):
            zeromq.node("a")
    zeromq.node("a")  # nothing of the failed try is left behind


def test_whatever_goes_wrong_at_the_start_the_port_is_free_again(
    zeromq: ZeroMQWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = len(zeromq.loop._selector.get_map())
    for part, fails in (("Doorkeeper", 1), ("Guard", 1), ("Pump", 1), ("Pump", 2)):
        honest, made = getattr(zeromq_module, part), []

        def planted(*given: object, honest: type = honest, made: list[object] = made, fails: int = fails) -> object:
            made.append(given)
            if len(made) == fails:
                raise ZeroDivisionError("planted")
            return honest(*given)

        with monkeypatch.context() as patch:
            patch.setattr(zeromq_module, part, planted)
            with pytest.raises(ZeroDivisionError, match="planted") as caught:
                zeromq.node("a")
        with socket.create_server(("127.0.0.1", int(zeromq.endpoints["a"].rpartition(":")[2]))):
            assert caught.tb  # whoever keeps the error keeps the half-made transport as well
        assert len(zeromq.loop._selector.get_map()) == readers
    a, b = zeromq.pair()
    assert a.up(b.id)


@pytest.mark.parametrize("bind", ["tcp://198.51.100.1:0", "tcp://nonsense", "carrier://pigeon:1"])
def test_an_address_that_is_not_this_machines_is_named(zeromq: ZeroMQWorld, bind: str) -> None:
    zeromq.endpoints["a"] = bind
    with pytest.raises(LocalError, match="cannot listen at"):
        zeromq.node("a")


def test_a_neighbours_bad_address_is_named(zeromq: ZeroMQWorld) -> None:
    zeromq.endpoints["b"] = "nonsense"
    a = zeromq.node("a")
    with pytest.raises(LocalError, match="no address for peer"):
        a.transport.dial(name("b"))
    a.transport._addresses.clear()
    with pytest.raises(LocalError, match="no address is known"):
        a.transport.dial(name("b"))
    zeromq.endpoints["b"] = "tcp://127.0.0.1:0"
    b = zeromq.node("b")
    a.transport.learn(b.id, b.transport.endpoint)
    a.transport.dial(b.id)
    zeromq.until(lambda: a.up(b.id))


def test_the_system_may_choose_the_port_and_ipv6_works(zeromq: ZeroMQWorld) -> None:
    zeromq.endpoints["b"] = "tcp://[::1]:0"
    b = zeromq.node("b")
    a = zeromq.node("a")
    a.transport.learn(b.id, b.transport.endpoint)
    a.transport.dial(b.id)
    zeromq.until(lambda: a.up(b.id))


def test_something_else_on_the_port_is_told_from_a_refusal(zeromq: ZeroMQWorld) -> None:
    with contextlib.closing(zeromq.held.pop("b")) as listener:
        listener.listen()
        a = zeromq.node("a")
        a.transport.dial(name("b"))
        zeromq.until(lambda: a.reasons(name("b")) == [SILENT])


def test_a_member_that_sends_a_message_of_nine_frames_is_cut_and_not_heard(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.pair()
    with contextlib.closing(zeromq.raw("c", to="b")) as attacker:
        attacker.send(sealed(b"hello"))
        zeromq.until(lambda: b.headers() == [b"hello"])
        attacker.send_multipart([sealed(b"bomb")] + [b""] * 8)
        zeromq.until(lambda: bool(b.links) and b.links[-1][0] == name("c"))
        assert "9 frames" in b.links[-1][2]
        a.transport.send(b.id, Lane.CONTROL, b"still here", [])
        zeromq.until(lambda: b.headers() == [b"hello", b"still here"])


@pytest.mark.parametrize(
    "message",
    [[b"", b""], [b"\x00"], [b"\x02lane"], [sealed(bytes(1025))], [sealed(b"", *[b""] * 8)], [b"\x00"] * 1000],
)
def test_a_member_that_sends_what_no_release_sends_is_cut(zeromq: ZeroMQWorld, message: list[bytes]) -> None:
    b = zeromq.node("b")
    with contextlib.closing(zeromq.raw("c", to="b")) as attacker:
        attacker.send_multipart(message)
        zeromq.until(lambda: [(peer, up) for peer, up, _ in b.links] == [(name("c"), False)])
        assert b.got == []


def test_a_message_that_never_ends_is_cut_before_it_fills_the_memory(zeromq: ZeroMQWorld) -> None:
    b = zeromq.node("b")
    relay = zeromq.loop.run_until_complete(start_stalling_relay(zeromq.endpoints["b"], UNREAD_LIMIT + 8 * FRAME_LIMIT))
    zeromq.endpoints["b"] = f"tcp://127.0.0.1:{relay.sockets[0].getsockname()[1]}"
    with contextlib.closing(zeromq.raw("c", to="b")) as attacker:
        attacker.send(sealed(b"hello"))
        zeromq.until(lambda: b.headers() == [b"hello"])
        attacker.send_multipart([sealed(b"bomb")] + [bytes(FRAME_LIMIT)] * (UNREAD_LIMIT // FRAME_LIMIT + 16))
        zeromq.until(lambda: bool(b.links))
    assert (b.links[0][0], b.links[0][1]) == (name("c"), False)
    assert "never end" in b.links[0][2]
    end_relay(zeromq, relay)


def test_a_member_may_have_four_connections_and_its_oldest_goes_when_a_fifth_speaks(zeromq: ZeroMQWorld) -> None:
    b = zeromq.node("b")
    assert isinstance(b.transport, ZeroMQTransport)
    guard = b.transport._guard
    with contextlib.ExitStack() as stack:
        for count in range(1, 3 * MOST_CONNECTIONS):
            attacker = stack.enter_context(contextlib.closing(zeromq.raw("c", to="b")))
            attacker.send(sealed(b"hello"))
            zeromq.until(lambda count=count: len(b.got) == count)
            known = [one for one in guard._connections.values() if one.peer == name("c")]
            assert len(known) == min(count, MOST_CONNECTIONS)


def test_a_neighbour_says_whose_its_connections_are_before_it_has_anything_to_say(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.node("a"), zeromq.node("b")
    assert isinstance(b.transport, ZeroMQTransport)
    guard = b.transport._guard
    read, greeted = guard.read, list[PeerId]()

    def watched(fd: int, peer: PeerId, size: int, now: float) -> None:
        read(fd, peer, size, now)
        greeted.append(peer)
        zeromq.changed.set()

    guard.read = watched  # type: ignore[method-assign]
    a.transport.dial(b.id)
    zeromq.until(lambda: len(greeted) == 2)  # one a lane
    assert greeted == [a.id] * 2
    assert [one.peer for one in guard._connections.values()] == [a.id] * 2
    assert b.got == []


def guarded(monkeypatch: pytest.MonkeyPatch, arrived: dict[int, int]) -> Guard:
    """A guard of connections on which these many bytes have arrived."""
    made = Guard(1)
    monkeypatch.setattr(guard_module, "arrived", lambda fd: arrived.get(fd, 0))
    monkeypatch.setattr(made, "cut", lambda fd: made.closed(fd))
    for fd in arrived:
        made.opened(fd, float(fd))
    return made


def test_of_a_members_connections_the_oldest_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarded(monkeypatch, dict.fromkeys(range(MOST_CONNECTIONS + 2), 0))
    guard.read(0, name("b"), 0, 0.0)
    for fd in range(1, MOST_CONNECTIONS + 2):
        guard.read(fd, name("a"), 0, float(fd))
    assert sorted(guard._connections) == [0, *range(2, MOST_CONNECTIONS + 2)]


def test_what_a_member_costs_counts_over_all_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    third = UNREAD_LIMIT // 3 + 4096
    guard = guarded(monkeypatch, dict.fromkeys(range(6), third))
    for fd in range(6):
        guard.read(fd, name("a" if fd < 3 else "bcx"[fd - 3]), 0, 10.0)
    assert guard.over(10.0) == ([], [name("a")])


@pytest.mark.parametrize("size", [STRANGER_LIMIT + 4096, 0])
def test_who_has_not_greeted_gets_little_room_and_not_for_long(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    guard = guarded(monkeypatch, {7: size, 8: size})
    guard.read(8, name("a"), 0, 8.0)
    for _ in range(GREETS_AT_ONCE if size else GREETS):
        assert guard.over(8.0) == ([], [])
    assert guard.over(8.0) == ([7], [])


def test_a_message_that_never_ends_of_who_has_not_greeted_is_cut_at_the_first_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = guarded(monkeypatch, {7: UNREAD_LIMIT + 4096})
    assert guard.over(7.0) == ([7], [])


@given(
    seconds=st.floats(FLOOD_TIME, 5.0),
    control=st.tuples(st.integers(0, 9000), st.integers(0, 1 << 20)),
    pieces=st.integers(0, 20_000),
)
@settings(max_examples=30)
def test_a_flood_is_more_messages_or_bytes_of_entries_than_any_round_has_and_pieces_never_are(
    seconds: float, control: tuple[int, int], pieces: int
) -> None:
    guard = Guard(1)
    guard.flooding(0.0)
    count, size = control
    for _ in range(count):
        guard.said(name("a"), Lane.CONTROL, size)
    for _ in range(pieces):
        guard.said(name("b"), Lane.BULK, PIECE_BYTES + 130)
    assert guard.flooding(FLOOD_TIME / 2) == []  # too early to tell
    many = count - count * size // PIECE_BYTES > FLOOD * seconds or count * size > FLOOD_BYTES[Lane.CONTROL] * seconds
    assert guard.flooding(seconds) == ([name("a")] if many else [])
    assert guard.flooding(10.0) == []  # counted anew


def test_a_crowd_of_strangers_with_large_frames_is_cut_at_a_look_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarded(monkeypatch, dict.fromkeys(range(CROWD), STRANGERS_LIMIT // CROWD + 65_536))
    assert guard.crowded()
    assert guard.over(0.0, early=True) == (list(range(CROWD)), [])
    assert not guard.crowded()
    few = guarded(monkeypatch, {7: STRANGER_LIMIT + 4096})
    for _ in range(GREETS):
        assert few.over(7.0, early=True) == ([], [])  # takes nothing from its time to greet


@given(sizes=st.lists(st.integers(0, UNREAD_LIMIT - 4096), max_size=63), strangers=st.lists(st.integers(0, 10**8)))
def test_all_connections_together_cost_a_bounded_sum_and_who_takes_most_goes_first(
    sizes: list[int], strangers: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        arrived = dict(enumerate([*sizes, *strangers]))
        guard = guarded(monkeypatch, arrived)
        peers = [PeerId(bytes([fd]) * 32) for fd in range(len(sizes))]
        for fd, peer in enumerate(peers):
            guard.read(fd, peer, 0, 1e3)
        cut, costly = guard.over(0.0)
        kept = {peer: arrived[fd] for fd, peer in enumerate(peers) if peer not in costly}
        left = sum(kept.values()) + sum(arrived[fd] for fd in range(len(sizes), len(arrived)) if fd not in cut)
        assert left <= TOTAL_LIMIT or max(kept.values(), default=0) <= ORDINARY
        assert all(arrived[peers.index(peer)] > ORDINARY for peer in costly)
        most_kept = max(kept.values(), default=0)
        assert all(arrived[peers.index(peer)] >= most_kept for peer in costly)


async def start_stalling_relay(endpoint: str, most: float = inf, back: float = inf) -> asyncio.Server:
    """Passes on no more than `most` bytes to the server and `back` from it, as a sender that never finishes would."""
    host, port = endpoint.removeprefix("tcp://").split(":")

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, most: float) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 20):
                if most > 0:
                    target.write(data)
                    await target.drain()
                most -= len(data)

    async def serve(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        onward_source, onward_target = await asyncio.open_connection(host, int(port))
        async with contextlib.AsyncExitStack() as stack:
            for writer in (target, onward_target):
                stack.callback(writer.close)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(copy(source, onward_target, most), copy(onward_source, target, back))

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def end_relay(zeromq: ZeroMQWorld, relay: asyncio.Server) -> None:
    """Close a relay with what it still passes on, which a closed server does not wait for."""
    relay.close()
    serving = [task for task in asyncio.all_tasks(zeromq.loop) if "stalling_relay.<locals>.serve" in repr(task)]
    for task in serving:
        task.cancel()
    zeromq.loop.run_until_complete(asyncio.gather(*serving, return_exceptions=True))


def test_a_member_is_who_its_key_says_whatever_routing_id_it_claims(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.pair()
    a.transport.send(b.id, Lane.CONTROL, b"from a", [])
    zeromq.until(lambda: len(b.got) == 1)
    with contextlib.closing(zmq.Context.instance().socket(zmq.DEALER)) as attacker:
        attacker.setsockopt(zmq.LINGER, 0)
        attacker.setsockopt(zmq.ROUTING_ID, a.id)
        attacker.setsockopt(zmq.CURVE_SERVERKEY, zeromq.keys["b"][0])
        attacker.setsockopt(zmq.CURVE_PUBLICKEY, zeromq.keys["c"][0])
        attacker.setsockopt(zmq.CURVE_SECRETKEY, zeromq.keys["c"][1])
        attacker.connect(zeromq.endpoints["b"])
        attacker.send(sealed(b"I am a", bytes(a.id)))
        zeromq.until(lambda: len(b.got) == 2)
    assert b.got[1][0] == name("c")


def test_a_socket_without_curve_is_not_heard(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.node("a"), zeromq.node("b")
    with contextlib.closing(zmq.Context.instance().socket(zmq.DEALER)) as attacker:
        attacker.setsockopt(zmq.LINGER, 0)
        attacker.connect(zeromq.endpoints["b"])
        attacker.send(sealed(b"in the clear"))
        a.transport.dial(b.id)
        a.transport.send(b.id, Lane.CONTROL, b"under CURVE", [])
        zeromq.until(lambda: bool(b.got))
    assert b.headers() == [b"under CURVE"]


def test_who_is_taken_off_the_list_is_cut_and_who_is_put_on_gets_in(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.pair()
    c = zeromq.node("c")
    a.transport.send(b.id, Lane.CONTROL, b"one", [])
    zeromq.until(lambda: b.headers() == [b"one"])
    b.transport.allow(zeromq.members("bc"))
    zeromq.until(lambda: REFUSED in a.reasons(b.id))
    assert not b.transport.send(a.id, Lane.CONTROL, b"", [])
    c.transport.dial(b.id)
    c.transport.send(b.id, Lane.CONTROL, b"two", [])
    zeromq.until(lambda: b.headers() == [b"one", b"two"])
    b.transport.allow(zeromq.members("abc"))
    zeromq.until(lambda: a.up(b.id))


def test_an_honest_peer_is_served_within_three_seconds_beside_silent_strangers(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.node("a"), zeromq.node("b")
    address = ("127.0.0.1", int(zeromq.endpoints["b"].rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(contextlib.closing(socket.create_connection(address)))
        a.transport.dial(b.id)
        a.transport.send(b.id, Lane.CONTROL, b"hello", [])
        zeromq.until(lambda: b.headers() == [b"hello"], seconds=3.0)


def impostor(zeromq: ZeroMQWorld) -> zmq.Socket[bytes]:
    """Who answers at b's address under b's key, and is no decentra."""
    server = zmq.Context.instance().socket(zmq.ROUTER)
    common_options(server)
    server.setsockopt(zmq.CURVE_SERVER, 1)
    server.setsockopt(zmq.CURVE_SECRETKEY, zeromq.keys["b"][1])
    zeromq.release("b")
    server.bind(zeromq.endpoints["b"])
    return server


@contextlib.contextmanager
def never_ending_answers(zeromq: ZeroMQWorld) -> Iterator[None]:
    """At b's address, the first message is answered with one of many small frames, whose last never comes."""
    with contextlib.closing(impostor(zeromq)) as server:
        relay = zeromq.loop.run_until_complete(start_stalling_relay(zeromq.endpoints["b"], back=4 * ROOM))
        zeromq.endpoints["b"] = f"tcp://127.0.0.1:{relay.sockets[0].getsockname()[1]}"

        def answer() -> None:
            assert server.poll(int(PATIENCE * 1000))
            server.send_multipart([server.recv_multipart()[0], *[bytes(ROOM // 8)] * 64])

        answered = zeromq.loop.run_in_executor(None, answer)
        try:
            yield
        finally:
            end_relay(zeromq, relay)
            zeromq.loop.run_until_complete(answered)
            zeromq.loop.run_until_complete(zeromq.loop.shutdown_default_executor())


def test_who_is_dialled_and_answers_without_end_is_cut_before_it_fills_the_memory(zeromq: ZeroMQWorld) -> None:
    with never_ending_answers(zeromq):
        a = zeromq.node("a")
        a.transport.dial(name("b"))
        zeromq.until(lambda: bool(a.reasons(name("b"))))
        assert a.reasons(name("b"))[0] == TOO_MUCH


def asked(zeromq: ZeroMQWorld, question: Callable[[Route], object]) -> asyncio.Future[object]:
    """What b was asked by who is not a peer, and waits."""
    route = Route(zeromq.endpoints["b"], zeromq.keys["b"][0], *zeromq.keys["a"])
    made = zeromq.loop.run_in_executor(None, question, route)
    made.add_done_callback(lambda _: zeromq.changed.set())
    zeromq.until(made.done)
    return made


def test_who_knocks_and_is_answered_without_end_goes_away(zeromq: ZeroMQWorld) -> None:
    with never_ending_answers(zeromq):
        failed = asked(zeromq, lambda route: knock(name("b"), route, Question())).exception()
        assert isinstance(failed, Unavailable) and TOO_MUCH in str(failed)


def test_who_asks_for_the_time_and_is_answered_without_end_goes_away(zeromq: ZeroMQWorld) -> None:
    with never_ending_answers(zeromq):
        found: Any = asked(zeromq, partial(probe, patience=2 * PATIENCE)).result()
        assert (found.answer, found.skew) == (Answer.WELCOME, None)


def test_a_neighbour_that_talks_back_on_our_sending_connection_is_dropped(zeromq: ZeroMQWorld) -> None:
    a = zeromq.node("a")
    with contextlib.closing(impostor(zeromq)) as server:
        a.transport.dial(name("b"))
        assert a.transport.send(name("b"), Lane.CONTROL, b"hello", [])
        zeromq.until(lambda: a.up(name("b")))
        assert server.poll(int(PATIENCE * 1000))
        server.send_multipart([server.recv_multipart()[0], b"back"])
        zeromq.until(lambda: not a.up(name("b")))
    assert "only this peer may send" in a.reasons(name("b"))[-1]


def test_a_libzmq_without_curve_or_libsodium_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_libsodium()
    monkeypatch.setattr(zeromq_module.Path, "read_text", lambda _: "libzmq.so libc.so")
    with pytest.raises(LocalError, match="without libsodium"):
        require_libsodium()
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    with pytest.raises(LocalError, match="no CURVE"):
        require_libsodium()


@pytest.mark.parametrize(("hard", "reach", "said"), [(10_000, 4096, 0), (2048, 2048, 1)])
def test_the_file_limit_is_raised_or_its_lowness_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hard: int, reach: int, said: int
) -> None:
    limits = [(1024, hard)]
    monkeypatch.setattr(zeromq_module.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(zeromq_module.resource, "setrlimit", lambda _, limit: limits.append(limit))
    raise_file_limit()
    assert limits[-1] == (reach, hard)
    assert len(caplog.records) == said


def test_closing_twice_is_the_same_as_once_and_frees_the_port(zeromq: ZeroMQWorld) -> None:
    a, _ = zeromq.pair()
    a.transport.close()
    a.transport.close()
    zeromq.node("a")


# the simulation: faults and determinism

CHANCE = st.floats(0.0, 0.5)


def trace(seed: int, faults: Faults) -> list[tuple[float, bytes]]:
    heap = EventHeap()
    network = Network(heap, seed, faults)
    seen: list[tuple[float, bytes]] = []
    a = network.transport(name("a"), lambda *_: None, lambda *_: None)
    network.transport(name("b"), lambda _, __, header, ___: seen.append((heap.now(), header)), lambda *_: None)
    a.dial(name("b"))
    for i in range(50):
        a.send(name("b"), Lane.CONTROL, b"%d" % i, [])
    assert heap.run_until()
    return seen


@given(st.integers(0, 1000), CHANCE, CHANCE, CHANCE)
@settings(max_examples=30)
def test_a_seed_gives_the_same_trace_every_time(seed: int, drop: float, duplicate: float, reorder: float) -> None:
    faults = Faults(drop=drop, duplicate=duplicate, reorder=reorder, jitter=0.01)
    assert trace(seed, faults) == trace(seed, faults)


def test_each_fault_does_what_it_says() -> None:
    plain = [header for _, header in trace(1, Faults(jitter=0.1))]
    assert plain == [b"%d" % i for i in range(50)]
    assert trace(1, Faults(drop=1.0)) == []
    assert len(trace(1, Faults(duplicate=1.0))) == 100
    assert sorted(held := [header for _, header in trace(1, Faults(reorder=0.5))]) == sorted(plain) and held != plain
    assert trace(1, Faults(latency=3.0))[0][0] == pytest.approx(6.0 + 3.0)


def test_one_direction_can_be_cut_and_what_flew_on_it_is_lost() -> None:
    world = SimulatedWorld()
    a, b = world.pair()
    a.transport.send(b.id, Lane.CONTROL, b"lost", [])
    b.transport.send(a.id, Lane.CONTROL, b"kept", [])
    world.network.cut(a.id, b.id)
    assert not a.up(b.id) and b.up(a.id)
    world.until(lambda: a.headers() == [b"kept"])
    world.network.heal(a.id, b.id)
    world.until(lambda: a.up(b.id))
    a.transport.send(b.id, Lane.CONTROL, b"new", [])
    world.until(lambda: b.headers() == [b"new"])


def test_the_heap_stops_at_its_deadline_and_forgets_what_was_cancelled() -> None:
    heap = EventHeap()
    seen: list[str] = []
    heap.call_later(1.0, lambda: seen.append("never")).cancel()
    heap.call_later(2.0, lambda: seen.append("late"))
    assert not heap.run_until(lambda: bool(seen), deadline=1.5)
    assert (heap.now(), seen) == (1.5, [])
    assert heap.run_until() and seen == ["late"]
    assert not heap.run_until(lambda: False)


# the frame header

WORD = st.integers(0, 2**64 - 1)


SESSION = st.binary(min_size=32, max_size=32)


@given(st.sampled_from(FrameKind), st.lists(WORD, min_size=5, max_size=5), SESSION, st.data())
def test_a_header_survives_the_wire(kind: FrameKind, words: list[int], session: bytes, data: st.DataObject) -> None:
    source, target, number, offset, bitmap = words
    layout = LAYOUTS[kind]
    sizes = data.draw(st.lists(st.integers(0, layout.limit // 8), min_size=layout.least, max_size=layout.most))
    offset -= offset % PIECE_BYTES
    frame = Frame(kind, len(sizes), source or 1, target, session, 3, number, offset, bitmap, sum(sizes))
    assert len(frame.pack()) == HEADER_BYTES
    assert parse(layout.lane, frame.pack(), sizes) == frame


@given(st.sampled_from(Lane), st.binary(max_size=50), st.lists(st.binary(max_size=50), max_size=7))
def test_a_message_survives_its_envelope(lane: Lane, header: bytes, parts: list[bytes]) -> None:
    frame = seal(lane, header, parts, [len(header), *map(len, parts)])
    assert unseal(memoryview(frame)) == (lane, header, parts)
    for broken in (frame[:-1], frame + b"x"):
        with pytest.raises(ValueError, match="it sent a message"):
            unseal(memoryview(broken))


@given(st.sampled_from(Lane), st.binary(max_size=2 * HEADER_BYTES), st.lists(st.integers(0, 2**70), max_size=10))
def test_arbitrary_bytes_are_refused_with_a_value_error(lane: Lane, header: bytes, sizes: list[int]) -> None:
    with pytest.raises(ValueError):
        parse(lane, header, sizes)


@pytest.mark.parametrize(
    ("at", "byte", "message"),
    [(0, 2, "install the same release"), (1, 99, "unknown"), (2, 3, "parts"), (-1, 9, "bytes")],
)
def test_a_header_that_lies_is_refused_by_name(at: int, byte: int, message: str) -> None:
    good = Frame(FrameKind.ENTRY, 2, 1, 1, bytes(32), 0, 1, 0, 0, 7).pack()
    assert parse(Lane.CONTROL, good, [3, 4]).size == 7
    bad = bytearray(good)
    bad[at] = byte
    with pytest.raises(ValueError, match=message):
        parse(Lane.CONTROL, bytes(bad), [3, 4])
    with pytest.raises(ValueError, match="bulk lane"):
        parse(Lane.BULK, good, [3, 4])


def test_a_field_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Frame(FrameKind.ACK, 0, 2**64, 0, bytes(32), 0, 0, 0, 0, 0).pack()
    with pytest.raises(ValueError, match="32 bytes"):
        Frame(FrameKind.ACK, 0, 1, 0, b"", 0, 0, 0, 0, 0).pack()
