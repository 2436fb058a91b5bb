"""Attackers on raw sockets: what each costs, how soon it is cut, and that honest peers are served meanwhile.

The attacked is a transport in a process of its own, so its memory can be measured; ``benches/attackers.py`` prints all
figures, here the bounds hold. Frames that are malformed are in ``test_transport``, what a network does in
``test_relay``.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic

import numpy as np
import pytest
import zmq

from attacking import (
    GREETING,
    SILENT,
    Attacked,
    Keys,
    allow_files,
    dealer,
    ended,
    flood,
    sealed,
    served,
    socket_to,
    strangers,
)
from decentra.driver.conduct import MOST_FAULTS
from decentra.transport.base import REFUSED, Lane
from decentra.transport.dialler import common_options
from decentra.types import RoundResult
from relay import Relay
from starting import Group, all_at_once
from test_transport import ZeroMQWorld, zeromq

pytestmark = pytest.mark.slow

__all__ = ["zeromq"]

MIB = 1024 * 1024
STRANGER = 64 * 1024
"""Bytes that a connection of nobody may cost."""
SERVED = 3.0
"""Seconds in which an honest peer is served."""
MEMBER, CUT = 64 * MIB, 3 * 2.0
"""Bytes that a member may cost, and seconds until one that floods is cut: 2 where the attacked has a core to itself
(``benches/attackers.py``), and it shares two here with the attacker and whatever else runs."""

LONG_COMMAND = b"\x06"


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys("abcdefghx")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[Attacked]:
    made = Attacked(tmp_path_factory.mktemp("attacked"), keys, members="abcdefgh")
    yield made
    made.close()


@pytest.fixture
def attacked(process: Attacked, keys: Keys) -> Attacked:
    """The one process that all tests here attack, each as another member, since who misbehaved stays cut."""
    served(process, keys)
    process.reset()
    return process


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


@pytest.mark.parametrize(
    "first",
    [b"", GREETING, GREETING + LONG_COMMAND + MIB.to_bytes(8, "big"), GREETING + b"\x04\xc8\x05HELLO" + bytes(194)],
    ids=["silent", "greets", "announces a mebibyte", "says a false hello"],
)
def test_beside_1500_strangers_an_honest_peer_is_served_and_each_costs_little(
    attacked: Attacked, keys: Keys, first: bytes
) -> None:
    assert allow_files(4 * SILENT) >= 2 * SILENT, "run the tests under ulimit -n 6000"
    with contextlib.ExitStack() as stack:
        for one in strangers(attacked.port, SILENT, first):
            stack.enter_context(one)
        assert served(attacked, keys) < SERVED
        assert attacked.most() - attacked.before < SILENT * STRANGER


def test_strangers_that_send_a_mebibyte_each_are_cut_before_it_adds_up(attacked: Attacked, keys: Keys) -> None:
    almost = GREETING + LONG_COMMAND + MIB.to_bytes(8, "big") + bytes(MIB - 1)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", attacked.port)))
            with contextlib.suppress(ConnectionError):
                one.sendall(almost)
        assert served(attacked, keys) < SERVED
        assert ended(one) < CUT
    assert attacked.most() - attacked.before < 100 * MIB


def test_a_stranger_with_keys_of_its_own_is_not_heard_and_costs_little(
    attacked: Attacked, keys: Keys, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    for _ in range(100):
        dealer(keys, "x", attacked.endpoint, context).send(sealed(b"hello from nobody"))
    assert served(attacked, keys) < SERVED
    assert attacked.most() - attacked.before < 100 * STRANGER
    assert [fact for fact in attacked.told if fact.get("header") == "hello from nobody"] == []
    context.destroy(0)


@pytest.mark.parametrize(
    ("letter", "message"),
    [("c", [sealed(b"flood")]), ("d", [sealed(b"", lane=Lane.BULK)]), ("e", [sealed(b"flood", bytes(1000))])],
    ids=["entries", "pieces", "kilobytes"],
)
def test_a_member_that_floods_is_cut_within_two_seconds_and_costs_little(
    attacked: Attacked, keys: Keys, context: zmq.Context[zmq.Socket[bytes]], letter: str, message: list[bytes]
) -> None:
    with contextlib.closing(dealer(keys, letter, attacked.endpoint, context)) as attacker:
        assert flood(attacker, message, attacked, letter) < CUT
    assert attacked.most() - attacked.before < MEMBER
    assert "many more messages" in attacked.last("link")["reason"]
    assert served(attacked, keys) < SERVED


def test_a_member_that_sends_bad_messages_for_ever_is_cut_and_refused_by_name_and_rounds_go_on(
    make_group: Callable[..., Group], context: zmq.Context[zmq.Socket[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    group = make_group(4, rounds__ready_deadline=4.0, protocol__initial_range=4.0)
    liar, peers = group.identities[3], [group.peer(index) for index in range(3)]
    victim = peers[0].id
    server = group.charter.member(victim).curve
    with contextlib.closing(socket_to(peers[0].endpoint, server, liar.curve_public, liar.curve_secret, context)) as own:
        monitor = own.get_monitor_socket(zmq.Event.HANDSHAKE_FAILED_AUTH)
        sent = 0
        while liar.id not in peers[0]._call(lambda: set(peers[0]._session.driver.conduct.cut), CUT):
            own.send(sealed(b"hello nonsense"))  # and no faster than it is looked at
            sent += 1
            assert sent < 100 * MOST_FAULTS
        assert sent >= MOST_FAULTS
        assert monitor.poll(1000 * int(CUT)), "it may come back"
        own.disable_monitor()
        monitor.close()
    said = [record.getMessage() for record in caplog.records if str(liar.id) in record.getMessage()]
    assert len([line for line in said if "is cut for 30 s" in line]) == 1
    assert len([line for line in said if "broke SCHEMA" in line]) <= MOST_FAULTS.bit_length()
    done = all_at_once([partial(peer.average, [np.full(5, index, np.float32)]) for index, peer in enumerate(peers)])
    for result in done:
        assert isinstance(result, RoundResult), repr(result)
        assert set(result.participants) == {peer.id for peer in peers}
        assert result.values[0][0] == pytest.approx(1.0, abs=1e-2)


def test_a_message_that_never_ends_costs_little_and_is_cut(
    attacked: Attacked, keys: Keys, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    relay = Relay([0, attacked.port])
    try:
        endpoint = f"tcp://127.0.0.1:{relay.port(0, 1)}"
        with contextlib.closing(dealer(keys, "f", endpoint, context)) as attacker:
            cut = attacker.get_monitor_socket(zmq.Event.DISCONNECTED)
            attacker.send(sealed(b"hello before"))
            attacked.wait_for("heard", peer="f")
            began = monotonic()
            attacker.send_multipart([sealed(b"hello bomb"), *[bytes(MIB)] * 80], copy=False)
            attacked.wait_for("link", peer="f", up=False)
            assert monotonic() - began < CUT
            assert cut.poll(int(1000 * CUT))  # libzmq aborts where a socket is closed while it still sends frames
            attacker.disable_monitor()
            cut.close()
        assert attacked.most() - attacked.before < MEMBER + 8 * MIB
        assert served(attacked, keys) < SERVED
    finally:
        relay.close()


@pytest.mark.parametrize(("letter", "size"), [("b", 60_000), ("h", MIB)], ids=["small frames", "large frames"])
def test_a_member_that_is_dialled_and_answers_without_end_costs_little_and_is_cut(
    attacked: Attacked, keys: Keys, context: zmq.Context[zmq.Socket[bytes]], letter: str, size: int
) -> None:
    with contextlib.closing(context.socket(zmq.ROUTER)) as dialled:
        common_options(dialled)
        dialled.setsockopt(zmq.CURVE_SERVER, 1)
        dialled.setsockopt(zmq.CURVE_SECRETKEY, keys.secret[letter])
        cut = dialled.get_monitor_socket(zmq.Event.DISCONNECTED)
        port = dialled.bind_to_random_port("tcp://127.0.0.1")
        attacked.say(f"dial {letter} tcp://127.0.0.1:{port}")
        attacked.wait_for("link", peer=letter, up=True)
        began = monotonic()
        dialled.send_multipart([dialled.recv_multipart()[0], *[bytes(size)] * (192 * MIB // size)])
        attacked.wait_for("link", peer=letter, up=False)
        assert monotonic() - began < CUT
        assert cut.poll(int(1000 * CUT))  # libzmq aborts where a socket is closed while it still sends frames
        dialled.disable_monitor()
        cut.close()
    assert attacked.most() - attacked.before < MEMBER
    assert served(attacked, keys) < SERVED


def test_a_revoked_members_open_session_is_cut_at_once_and_nobody_elses(zeromq: ZeroMQWorld) -> None:
    a, b = zeromq.pair()
    c = zeromq.node("c")
    c.transport.dial(b.id)
    zeromq.until(lambda: c.up(b.id))
    for one in (a, c):
        one.transport.send(b.id, Lane.CONTROL, b"before", [])
    zeromq.until(lambda: len(b.got) == 2)
    began = monotonic()
    b.transport.revoke(c.id)
    c.transport.send(b.id, Lane.CONTROL, b"revoked", [])
    zeromq.until(lambda: REFUSED in c.reasons(b.id))
    assert monotonic() - began < SERVED
    a.transport.send(b.id, Lane.CONTROL, b"after", [])
    zeromq.until(lambda: b.headers()[-1] == b"after")
    assert b.headers() == [b"before", b"before", b"after"]
    assert not a.reasons(b.id), "the honest peer's connection was never broken"


def test_recorded_bytes_of_a_member_say_nothing_a_second_time(
    attacked: Attacked, keys: Keys, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    relay = Relay([0, attacked.port])
    try:
        relay.record((0, 1))
        with contextlib.closing(dealer(keys, "g", f"tcp://127.0.0.1:{relay.port(0, 1)}", context)) as member:
            member.send(sealed(b"hello once"))
            attacked.wait_for("heard", peer="g", header="hello once")
        recorded = relay.recorded((0, 1))
    finally:
        relay.close()
    assert b"INITIATE" in recorded and b"MESSAGE" in recorded
    with socket.create_connection(("127.0.0.1", attacked.port)) as replay:
        replay.sendall(recorded)
        assert ended(replay) < CUT
    assert served(attacked, keys) < SERVED
    assert [fact["header"] for fact in attacked.told if fact["event"] == "heard"].count("hello once") == 1


def test_who_reads_nothing_costs_its_neighbour_a_bounded_sum(zeromq: ZeroMQWorld) -> None:
    relay = Relay([0, int(zeromq.endpoints["b"].rpartition(":")[2])])
    try:
        a, b = zeromq.node("a"), zeromq.node("b")
        a.transport.learn(b.id, f"tcp://127.0.0.1:{relay.port(0, 1)}")
        a.transport.dial(b.id)
        zeromq.until(lambda: a.up(b.id))
        relay.cut([(0, 1)])
        piece, taken = bytes(256 * 1024), 0
        while a.transport.send(b.id, Lane.BULK, b"", [piece]):
            taken += 1
            zeromq.until(lambda: True)
            assert taken * len(piece) < MEMBER
        zeromq.until(lambda: not a.up(b.id))  # and it is noticed: it does not answer heartbeats
    finally:
        relay.close()
