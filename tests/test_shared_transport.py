"""One transport for several sessions: each has its own frames, connections are everybody's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from decentra.crypto.hashing import digest
from decentra.errors import LocalError
from decentra.transport.base import CUT, Buffer, Lane
from decentra.transport.shared import MOST_EARLY, Part, SharedTransport
from decentra.transport.simulated import Network
from decentra.transport.virtual import EventHeap
from decentra.types import PeerId
from decentra.wire.frame import Frame, FrameKind

ALICE, BOB = PeerId(digest("alice")), PeerId(digest("bob"))
RED, BLUE = digest("red"), digest("blue")


def frame(session: bytes, kind: FrameKind = FrameKind.HELLO, size: int = 0) -> bytes:
    return Frame(kind, int(size > 0), 1, 0, session, 0, 0, 0, 0, size).pack()


class End:
    """A peer with a shared transport, and what its sessions saw."""

    def __init__(self, network: Network, me: PeerId) -> None:
        self.shared = SharedTransport()
        self.shared.carry(network.transport(me, self.shared.on_receive, self.shared.on_link))
        self.seen: list[tuple[bytes, int]] = []
        self.links: list[tuple[bytes, bool, str]] = []

    def open(self, session: bytes) -> Part:
        def receive(peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
            self.seen.append((session, header[1]))

        return self.shared.part(session, receive, lambda peer, up, why: self.links.append((session, up, why)))


@pytest.fixture
def ends() -> tuple[EventHeap, End, End]:
    clock = EventHeap()
    network = Network(clock, 0)
    return clock, End(network, ALICE), End(network, BOB)


def settle(clock: EventHeap) -> None:
    until = clock.now() + 1
    clock.run_until(lambda: clock.now() >= until, until)


def test_a_frame_goes_to_the_session_that_it_names(ends: tuple[EventHeap, End, End]) -> None:
    clock, alice, bob = ends
    parts = [alice.open(session) for session in (RED, BLUE)]
    for session in (RED, BLUE):
        bob.open(session).dial(ALICE)
    for part in parts:
        part.dial(BOB)
    settle(clock)
    data: list[Buffer] = [b"abc"]
    assert parts[1].send(BOB, Lane.CONTROL, frame(BLUE, FrameKind.DATAGRAM, 3), data)
    settle(clock)
    assert bob.seen == [(BLUE, FrameKind.DATAGRAM)]
    sizes = [part.counters.bytes_sent for part in parts]
    assert sizes[0] == 0 < sizes[1], "each session counts its own"


def test_a_session_that_dials_later_hears_that_the_way_is_open(ends: tuple[EventHeap, End, End]) -> None:
    clock, alice, bob = ends
    bob.open(RED)
    alice.open(RED).dial(BOB)
    settle(clock)
    assert alice.links == [(RED, True, "connected")]
    alice.open(BLUE).dial(BOB)
    assert alice.links[1:] == [(BLUE, True, "connected")]


def test_a_greeting_for_a_session_that_is_not_open_yet_waits_for_it(ends: tuple[EventHeap, End, End]) -> None:
    clock, alice, bob = ends
    early = alice.open(RED)
    early.dial(BOB)
    settle(clock)
    early.send(BOB, Lane.CONTROL, frame(RED), [])
    early.send(BOB, Lane.CONTROL, frame(BLUE, FrameKind.DATAGRAM, 1), [b"x"])
    settle(clock)
    assert bob.seen == []
    for session in (RED, BLUE):
        bob.open(session).dial(ALICE)
    assert bob.seen == [(RED, FrameKind.HELLO)], "anything but a greeting is repeated by its sender, or lost"


def test_greetings_for_sessions_that_never_open_are_bounded(ends: tuple[EventHeap, End, End]) -> None:
    clock, alice, bob = ends
    sender = alice.open(RED)
    sender.dial(BOB)
    settle(clock)
    for number in range(10 * MOST_EARLY):
        sender.send(BOB, Lane.CONTROL, frame(digest("session", number)), [])
    settle(clock)
    assert len(bob.shared._early[ALICE]) == MOST_EARLY
    bob.shared.on_receive(ALICE, Lane.CONTROL, b"no header", ())
    assert bob.seen == []


def test_who_hangs_up_for_one_session_breaks_the_way_for_the_others_which_opens_anew(
    ends: tuple[EventHeap, End, End],
) -> None:
    clock, alice, bob = ends
    bob.open(RED)
    red, blue = alice.open(RED), alice.open(BLUE)
    red.dial(BOB)
    blue.dial(BOB)
    settle(clock)
    alice.links.clear()
    red.close_peer(BOB)
    assert alice.links == [(BLUE, False, CUT)], "its own will is no news to a session"
    assert not red.send(BOB, Lane.CONTROL, frame(RED), [])
    settle(clock)
    assert alice.links[1:] == [(BLUE, True, "connected")]


def test_a_session_that_ended_hears_no_more_and_the_others_go_on(ends: tuple[EventHeap, End, End]) -> None:
    clock, alice, bob = ends
    red, blue = bob.open(RED), bob.open(BLUE)
    sender = alice.open(RED)
    sender.dial(BOB)
    red.dial(ALICE)
    blue.dial(ALICE)
    settle(clock)
    red.close()
    for session in (RED, BLUE):
        sender.send(BOB, Lane.CONTROL, frame(session, FrameKind.DATAGRAM, 1), [b"x"])
    settle(clock)
    assert bob.seen == [(BLUE, FrameKind.DATAGRAM)]


def test_one_session_is_not_opened_twice() -> None:
    shared = End(Network(EventHeap(), 0), ALICE)
    shared.open(RED)
    with pytest.raises(LocalError, match="opened twice"):
        shared.open(RED)
