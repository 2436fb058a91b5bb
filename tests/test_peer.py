"""Peers on the network, in this process: real ZeroMQ and CURVE over loopback, on ports that the system gives."""

from __future__ import annotations

import asyncio
import socket
import threading
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import decentra
from decentra import LocalError, RemoteError, RoundResult, Unavailable
from decentra.audit.transcript import read
from decentra.crypto.keys import Identity, verify
from decentra.driver.given import describe
from decentra.groups import LocalGroup, held_ports
from decentra.peer import runtime
from decentra.peer.runtime import Peer
from decentra.simulation.group import charter_for
from decentra.transport.zeromq import ZeroMQTransport
from decentra.types import PeerId
from decentra.wire.entry import ZERO, Entry, parse
from decentra.wire.frame import Frame, FrameKind, Lane
from starting import DEADLINE, Group, all_at_once, until

Tensors = list[NDArray[np.float32]]
MakeGroup = Callable[..., Group]

IMPATIENT = {"rounds__ready_deadline": 1.5, "rounds__phase_deadline": 3.0}
"""For rounds that somebody is to be missed in."""


def update(seed: int, shapes: tuple[tuple[int, ...], ...] = ((3, 2), (), (0, 4), (7,))) -> Tensors:
    generator = np.random.default_rng(seed)
    return [generator.uniform(-0.09, 0.09, shape).astype(np.float32) for shape in shapes]


def bits(result: RoundResult) -> list[bytes]:
    return [value.tobytes() for value in result.values]


def average(group: Group, peers: list[Peer], updates: list[Tensors]) -> list[Any]:
    return all_at_once([partial(peer.average, tensors) for peer, tensors in zip(peers, updates, strict=True)])


# Rounds.


def test_a_result_that_its_caller_has_let_go_of_is_held_by_nobody(make_group: MakeGroup) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    results = average(group, peers, [update(peer) for peer in range(3)])
    held = [weakref.ref(value) for result in results for value in result.values]
    del results
    for peer in peers:
        until(peer, lambda: not any(one() is not None for one in held))  # it was 38 MiB of a round's memory at 10M


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
@pytest.mark.parametrize("width", [16, 32])
def test_all_peers_get_the_mean_and_the_same_bits_in_every_round(protocol: str, width: int) -> None:
    fixed: dict[str, Any] = {"protocol__width": width, "protocol__range_bounds": [0.1, 0.1]}
    group = decentra.local_group(4, protocol=protocol, rule="mean", transport="zeromq", **fixed)
    assert isinstance(group, LocalGroup)
    quantum = 0.1 / ((2 ** (width - 1) - 1) // 4)
    with group:
        for number in (1, 2, 3):
            updates = [update(10 * number + peer) for peer in range(4)]
            results = group.average(updates)
            assert len({tuple(bits(result)) for result in results}) == 1
            assert len({result.digest for result in results}) == 1
            for index, mean in enumerate(results[0].values):
                wanted = np.mean([tensors[index] for tensors in updates], axis=0, dtype=np.float64)
                assert mean.shape == wanted.shape and mean.dtype == np.float32
                np.testing.assert_allclose(mean, wanted, rtol=0, atol=quantum + 1e-8)
            assert [result.round.number for result in results] == [number] * 4
            assert all(result.participants == tuple(peer.id for peer in group.peers) for result in results)
            assert all(result.dropped == () and result.total_weight == 4 for result in results)
            assert all(result.bytes_sent > 0 and result.bytes_received > 0 and result.seconds > 0 for result in results)


def test_a_round_gives_the_weighted_mean() -> None:
    group = decentra.local_group(3, transport="zeromq", protocol__width=32, protocol__max_weight=100)
    assert isinstance(group, LocalGroup)

    @settings(max_examples=5)
    @given(st.lists(st.integers(1, 100), min_size=3, max_size=3), st.integers(0, 2**32 - 1))
    def holds(weights: list[int], seed: int) -> None:
        updates = [update(seed + peer, ((5,),)) for peer in range(3)]
        results = group.average(updates, weights=weights)
        wanted = np.average([tensors[0] for tensors in updates], axis=0, weights=weights)
        np.testing.assert_allclose(results[0].values[0], wanted, rtol=0, atol=1e-6)
        assert {result.total_weight for result in results} == {sum(weights)}
        assert len({tuple(bits(result)) for result in results}) == 1

    with group:
        holds()


def test_close_gives_ports_threads_and_folders_back() -> None:
    before = set(threading.enumerate())
    group = decentra.local_group(3, transport="zeromq")
    assert isinstance(group, LocalGroup)
    group.average([update(peer) for peer in range(3)])
    ports = [int(peer.endpoint.rpartition(":")[2]) for peer in group.peers]
    folders = [peer.folder.path for peer in group.peers]
    closings = []
    for peer in group.peers:
        closings.append(peer.close())
        assert peer.close() == closings[-1]
    group.close()
    assert set(threading.enumerate()) == before
    assert not any(folder.exists() for folder in folders)
    for port in ports:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended linger; no listener
            listener.bind(("127.0.0.1", port))
            listener.listen()
    assert all(closing.rounds == 1 and closing.failed == 0 for closing in closings)
    assert all(closing.bytes_sent > 0 and closing.seconds > 0 for closing in closings)


def test_a_held_port_is_nobody_elses_and_can_be_listened_on_by_number() -> None:
    with held_ports(3) as ports, socket.socket() as listener:
        assert len(set(ports)) == 3
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", ports[0]))  # without SO_REUSEADDR, as a system's own choice is
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", ports[0]))
        listener.listen()


def test_who_leaves_is_not_waited_for(make_group: MakeGroup) -> None:
    group = make_group(4)  # with the template's deadlines of minutes, which nobody may wait for here
    peers = [group.peer(index) for index in range(4)]
    average(group, peers, [update(peer) for peer in range(4)])
    gone = peers.pop(1)
    gone.close()
    results = average(group, peers, [update(peer) for peer in range(3)])
    assert [result.dropped for result in results if isinstance(result, RoundResult)] == [(gone.id,)] * 3


def test_who_leaves_at_once_is_not_waited_for_either(make_group: MakeGroup) -> None:
    group = make_group(4)
    peers = [group.peer(index) for index in range(4)]
    peers.pop(3).close()  # before it has met anybody, most likely
    results = average(group, peers, [update(peer) for peer in range(3)])
    assert [len(result.participants) for result in results] == [3, 3, 3]


def test_a_peer_that_comes_back_takes_part_again_in_a_later_round(make_group: MakeGroup) -> None:
    group = make_group(4)
    peers = [group.peer(index) for index in range(4)]
    average(group, peers, [update(peer) for peer in range(4)])
    peers[2].close()
    others = [*peers[:2], peers[3]]
    three = average(group, others, [update(peer) for peer in range(3)])
    peers[2] = group.peer(2)

    def again(peer: Peer) -> RoundResult:
        until(peer, lambda: peers[2].id not in peer._session.driver.others.left)  # it was heard of, so it is waited for
        return peer.average(update(0))

    def back() -> RoundResult:
        try:
            return peers[2].average(update(0))
        except Unavailable as error:  # the word of the round that it missed was still on its way to it
            assert "the next round is open to this peer" in str(error)
            return peers[2].average(update(0))

    four = all_at_once([back, *(partial(again, peer) for peer in others)])
    assert not [error for error in (*three, *four) if isinstance(error, BaseException)]
    assert [len(result.participants) for result in (*three, *four)] == [3, 3, 3, 4, 4, 4, 4]
    assert {result.round.number for result in four} == {3}
    boots = [entry.boot for entry in chain(peers[2])]
    assert sorted(set(boots)) == [1, 2] and boots == sorted(boots)


def chain(peer: Peer) -> list[Entry]:
    """The entries of a peer's transcript, once its links and signatures are found to hold; closes the peer."""
    public = peer.charter.member(peer.id).ed25519
    entries = [parse(signed.entry) for signed in read(peer.close().transcript)]
    head, boot = ZERO, 0
    for entry in entries:
        head, boot = (head, boot) if entry.boot == boot else (ZERO, entry.boot)
        assert entry.author == peer.id and entry.prev == head
        assert verify(public, entry.signature, entry.signed_bytes)
        head = entry.hash
    return entries


def test_a_transcript_is_one_signed_chain_that_ends_where_the_last_result_says(make_group: MakeGroup) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    results = average(group, peers, [update(peer) for peer in range(3)])
    for peer, result in zip(peers, results, strict=True):
        entries = chain(peer)
        assert result.transcript_head in [entry.hash for entry in entries]
        kinds = [entry.kind for entry in entries]
        assert kinds[0] == "rendezvous.ready" and kinds[-1] == "rendezvous.leave"
        assert {"secagg.deal", "secagg.masked", "secagg.unmask", "secagg.sum"} <= set(kinds)


# An own mistake: nothing is sent, or the round ends at once for all, and the next one goes on.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_with_nan_or_inf_is_refused_and_the_others_are_told_who(make_group: MakeGroup, bad: float) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    updates = [update(peer, ((4,),)) for peer in range(3)]
    updates[1][0][2] = bad
    ended = average(group, peers, updates)
    assert isinstance(ended[1], LocalError) and not ended[1].spent
    assert "NaN or infinity" in str(ended[1])
    for index in (0, 2):
        assert isinstance(ended[index], RemoteError | Unavailable)
        assert str(peers[1].id) in str(ended[index])
    results = average(group, peers, [update(peer) for peer in range(3)])
    assert all(isinstance(result, RoundResult) for result in results)


@pytest.mark.parametrize(
    ("tensors", "options", "sentence"),
    [
        (update(0), {"weight": 9}, "the weight 9 is not between 1 and 8"),
        (update(0), {"weight": 0}, "the weight 0 is not between 1 and 8"),
        (update(0, ((2,), (2,))), {"names": ["a", "a"]}, "two tensors of the vector have one name"),
        (update(0, ((2,), (2,))), {"names": ["a"]}, "give one name a tensor"),
        ([np.zeros(3)], {}, "convert it with .astype('float32')"),
        (update(0, ((1001,),)), {}, "the charter allows 1000"),
    ],
)
def test_what_the_charter_does_not_allow_is_refused_before_anything_is_sent(
    make_group: MakeGroup, tensors: Tensors, options: dict[str, Any], sentence: str
) -> None:
    group = make_group(3, protocol__max_weight=8, model__max_parameters=1000)
    peer = group.peer(0)
    with pytest.raises(LocalError) as caught:
        peer.average(tensors, **options)
    assert sentence in str(caught.value) and not caught.value.spent
    assert not chain(peer)[:-1]  # it signed nothing but its leave


def test_a_refused_weight_does_not_make_a_local_group_wait() -> None:
    group = decentra.local_group(3, transport="zeromq")  # the others would wait for two minutes
    assert isinstance(group, LocalGroup)
    with group:
        with pytest.raises(LocalError, match=r"weights\[1\] is 5 and must be .* 1 to 1"):
            group.average([update(peer) for peer in range(3)], weights=[1, 5, 1])
        assert len(group.average([update(peer) for peer in range(3)])) == 3


def test_a_peer_says_for_whom_it_waits_once_until_that_changes(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks, look = SimpleQueue[str](), Peer._look
    monkeypatch.setattr(runtime, "LOOK_SECONDS", 0.01)

    def counted(peer: Peer, *more: Any) -> None:
        look(peer, *more)
        if peer is peers[0]:
            looks.put("looked")

    monkeypatch.setattr(Peer, "_look", counted)
    caplog.set_level("INFO", "decentra")
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    first = threading.Thread(target=peers[0].average, args=[update(0)])
    first.start()
    for _ in range(20):
        looks.get(timeout=DEADLINE)
    assert [record.getMessage() for record in caplog.records] == ["waiting for peer-1, peer-2 (round 1.1)"]
    second = threading.Thread(target=peers[1].average, args=[update(1)])
    second.start()
    while "waiting for peer-2 (round 1.1)" not in caplog.messages:
        looks.get(timeout=DEADLINE)
    peers[2].average(update(2))
    first.join(DEADLINE)
    second.join(DEADLINE)


def test_a_second_round_at_once_is_refused_and_the_first_goes_on(make_group: MakeGroup) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    first = threading.Thread(target=lambda: ended.append(peers[0].average(update(0))))
    ended: list[RoundResult] = []
    first.start()
    until(peers[0], lambda: peers[0]._session.driver.busy)
    with pytest.raises(LocalError, match="a round is on already"):
        peers[0].average(update(0))
    average(group, peers[1:], [update(1), update(2)])
    first.join(DEADLINE)
    assert len(ended) == 1 and len(ended[0].participants) == 3


def test_a_closed_peer_says_so(make_group: MakeGroup) -> None:
    peer = make_group(3).peer(0)
    peer.close()
    with pytest.raises(LocalError, match="this peer is closed; join again"):
        peer.average(update(0))


def test_closing_ends_a_call_that_waits_in_another_thread(make_group: MakeGroup) -> None:
    peer = make_group(3).peer(0)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            peer.average(update(0))
        except LocalError as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(peer, lambda: peer._session.driver.busy)
    peer.close()
    waiting.join(DEADLINE)
    assert not waiting.is_alive() and len(ended) == 1


def test_an_interrupted_call_ends_the_round_for_all_and_the_next_one_goes_on(make_group: MakeGroup) -> None:
    group = make_group(3, **IMPATIENT)
    peers = [group.peer(index) for index in range(3)]

    def interrupt() -> None:
        until(peers[0], lambda: peers[0]._session.driver.busy)
        peers[0].interrupt()

    ended = all_at_once([partial(peers[0].average, update(0)), partial(peers[1].average, update(1)), interrupt])
    assert isinstance(ended[0], LocalError) and "its owner interrupted it" in str(ended[0])
    assert isinstance(ended[1], Unavailable)
    results = average(group, peers, [update(peer) for peer in range(3)])
    assert [len(result.participants) for result in results] == [3, 3, 3]


# A wrong folder.


def test_a_typo_in_the_charter_is_named_with_the_nearest_right_key(make_group: MakeGroup) -> None:
    group = make_group(3)
    path = group.folders[0].charter
    path.write_text(path.read_text().replace("phase_deadline", "phase_dedline"))
    with pytest.raises(LocalError, match=r"phase_dedline.*did you mean.*phase_deadline"):
        group.peer(0)


def test_an_occupied_port_is_named_and_nothing_stays_open(make_group: MakeGroup) -> None:
    group = make_group(3)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", group.ports[0]))
        other.listen()
        with pytest.raises(LocalError, match=f"{group.ports[0]} is occupied: stop the process that has it, or choose"):
            group.peer(0)
    group.peer(0)  # the journal was let go of too


def test_a_name_that_is_no_member_of_the_charter_is_refused(make_group: MakeGroup) -> None:
    group = make_group(3)
    config = group.folders[0].config
    config.write_text(config.read_text().replace("peer-1 =", "peer-7 ="))
    with pytest.raises(LocalError, match=r"'peer-7' in \[peers\] is no member"):
        group.peer(0)


def test_keys_that_are_not_the_charters_are_refused(make_group: MakeGroup) -> None:
    group = make_group(3)
    folder = group.folders[0]
    folder.identity.unlink()
    Identity.generate().save(folder.identity)
    with pytest.raises(LocalError, match="charter"):
        group.peer(0)


# Others that are not who, or not where, the charter and the folder say.

def stranger(group: Group, index: int) -> Group:
    """The same group for a peer with other keys at the address of ``index``: its charter is signed by its members."""
    members = [*group.identities[:index], *group.identities[index + 1 :], Identity.generate()]
    folder = group.folders[index]
    charter = charter_for(members, "secagg", template=None, **IMPATIENT)
    folder.identity.unlink()
    members[-1].save(folder.identity)
    addresses = [port for place, port in enumerate(group.ports) if place != index]
    lines = [f'peer-{place} = "tcp://127.0.0.1:{port}"' for place, port in enumerate(addresses)]
    own = f'[peer]\nname = "peer-{len(members) - 1}"\nbind = "tcp://127.0.0.1:{group.ports[index]}"\n'
    folder.config.write_text(own + "[peers]\n" + "\n".join(lines) + "\n")
    group.use_charter(index, charter)
    return group


def test_a_peer_whose_keys_are_not_in_the_others_charter_is_kept_out_and_told_so(make_group: MakeGroup) -> None:
    group = stranger(make_group(4, **IMPATIENT), 3)
    peers = [group.peer(index) for index in range(4)]
    ended = average(group, peers, [update(peer) for peer in range(4)])
    for result in ended[:3]:
        assert isinstance(result, RoundResult) and result.dropped == (group.identities[3].id,)
    assert isinstance(ended[3], Unavailable)
    assert set(ended[3].waited_for) == {identity.id for identity in group.identities[:3]}
    for identity in group.identities[:3]:
        assert f"{identity.id}: " in str(ended[3])
    assert "refused" in str(ended[3])


def test_a_peer_under_another_charter_is_told_to_compare(make_group: MakeGroup) -> None:
    group = make_group(3, **IMPATIENT)
    group.use_charter(2, charter_for(group.identities, "secagg", template=None, training__steps=7, **IMPATIENT))
    peers = [group.peer(index) for index in range(3)]
    ended = average(group, peers, [update(peer) for peer in range(3)])
    for index, error in enumerate(ended):
        assert isinstance(error, Unavailable)
        others = {peers[2].id} if index != 2 else {peers[0].id, peers[1].id}
        assert set(error.waited_for) == others
        assert "it speaks for epoch 1 (charter " in str(error)
        assert ": compare its charter with yours" in str(error)


def test_a_peer_that_speaks_another_version_is_named_with_both_versions(make_group: MakeGroup) -> None:
    group = make_group(3, **IMPATIENT)
    peers = [group.peer(index) for index in range(2)]
    frame = bytearray(Frame(FrameKind.HELLO, 0, 1, 0, bytes(32), 0, 0, 0, 0, 0).pack())
    frame[0] = 9
    with Greeter(group, 2, bytes(frame)):
        ended = average(group, peers, [update(peer) for peer in range(2)])
    for error in ended:
        assert isinstance(error, Unavailable)
        assert error.waited_for == (group.identities[2].id,)
        assert f"{group.identities[2].id}: it speaks frame version 9, this peer speaks 1" in str(error)


class Greeter:
    """A process at a member's place, with its keys, that greets everyone over and over in a way of its own."""

    def __init__(self, group: Group, index: int, greeting: bytes) -> None:
        self._group, self._index, self._greeting = group, index, greeting
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10.0)

    async def _open(self) -> None:
        group, identity = self._group, self._group.identities[self._index]
        others = {one.id: f"tcp://127.0.0.1:{port}" for one, port in zip(group.identities, group.ports, strict=True)}
        self._transport = ZeroMQTransport(
            self._loop,
            identity.id,
            identity.curve_secret,
            {member.id: member.curve for member in group.charter.members},
            others.pop(identity.id),
            others,
            lambda *received: None,
            lambda peer, up, reason: None,
        )
        for peer in others:
            self._transport.dial(peer)
            self._greet(peer)

    def _greet(self, peer: PeerId) -> None:
        self._transport.send(peer, Lane.CONTROL, self._greeting, [])
        self._loop.call_later(0.1, self._greet, peer)

    def __exit__(self, *ignored: object) -> None:
        self._loop.call_soon_threadsafe(self._transport.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def test_a_peer_that_cannot_be_reached_is_named_with_the_reason_and_how_long_it_took(make_group: MakeGroup) -> None:
    group = make_group(3, **IMPATIENT)
    peers = [group.peer(index) for index in range(2)]
    ended = average(group, peers, [update(peer) for peer in range(2)])
    missing = group.identities[2].id
    for error in ended:
        assert isinstance(error, Unavailable) and not error.spent
        assert error.waited_for == (missing,)
        assert str(missing) in str(error) and "start those peers" in str(error)
        assert f"({missing}: nobody answers at its address: is it running" in str(error)
    # who gave up first waited in full; the other may have ended on its word
    assert max(error.seconds for error in ended if isinstance(error, Unavailable)) >= 2.0


def test_a_model_of_another_shape_is_its_owners_mistake_and_the_others_go_on(make_group: MakeGroup) -> None:
    group = make_group(4)
    peers = [group.peer(index) for index in range(4)]
    ended = average(group, peers, [update(0), update(1), update(2, ((5, 5),)), update(3)])
    assert isinstance(ended[2], LocalError)
    assert "tensor names, shapes or dtypes are not those of" in str(ended[2])
    for index in (0, 1, 3):
        assert isinstance(ended[index], RoundResult) and ended[index].dropped == (peers[2].id,)


# The journal.


def test_a_journal_that_cannot_be_written_silences_the_peer_and_says_so(make_group: MakeGroup) -> None:
    group = make_group(4, **IMPATIENT)
    peers = [group.peer(index) for index in range(4)]
    average(group, peers, [update(peer) for peer in range(4)])
    fill_disk(peers[0])
    ended = average(group, peers, [update(peer) for peer in range(4)])
    assert isinstance(ended[0], LocalError)
    for words in ("journal.db can't be written (database or disk is full)", "nothing more is sent", "free the disk"):
        assert words in str(ended[0])
    sent = peers[0].bytes_sent
    with pytest.raises(LocalError, match="nothing more is sent"):
        peers[0].average(update(0))
    closing = peers[0].close()
    assert closing.bytes_sent == sent
    assert {entry.round for entry in chain(peers[0])} <= {1, 2}
    for result in ended[1:]:
        assert isinstance(result, Unavailable | RoundResult)
        if isinstance(result, Unavailable):
            assert peers[0].id in result.waited_for
    later = average(group, peers[1:], [update(peer) for peer in range(3)])
    assert [result.dropped for result in later if isinstance(result, RoundResult)] == [(peers[0].id,)] * 3


def fill_disk(peer: Peer) -> None:
    """SQLite finds no further page, as on a full disk."""
    pages = peer._journal._database.execute("PRAGMA page_count").fetchone()[0]
    peer._journal._database.execute(f"PRAGMA max_page_count = {pages}")


def test_a_journal_that_is_none_is_refused_at_the_start(make_group: MakeGroup) -> None:
    group = make_group(3)
    group.folders[0].journal.write_bytes(b"not a database" * 100)
    with pytest.raises(LocalError, match=r"journal.db can't be used .*check the disk"):
        group.peer(0)


def test_a_transcript_that_cannot_be_written_is_said_and_the_peer_is_closed_all_the_same(make_group: MakeGroup) -> None:
    group = make_group(3)
    peer = group.peer(0)
    peer.folder.transcripts.write_text("a file in the folder's place")
    with pytest.raises(LocalError, match=r"transcript .* can't be written .*the journal still has all of it"):
        peer.close()
    assert peer.close().rounds == 0


# Defects must not hang.


def test_a_defect_on_the_io_thread_ends_the_call_and_is_logged(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    peer = make_group(3).peer(0)

    def break_down(*ignored: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(peer._session, "begin", break_down)
    with pytest.raises(LocalError, match=r"this peer has a defect .*planted.*; please report it"):
        peer.average(update(0))
    assert "planted" in caplog.text


def test_a_job_that_breaks_down_ends_the_call(make_group: MakeGroup) -> None:
    class Broken(list[NDArray[np.float32]]):
        def __getitem__(self, index: object) -> NoReturn:
            raise ZeroDivisionError("planted")

        def __iter__(self) -> NoReturn:
            raise ZeroDivisionError("planted")

    group = make_group(3, **IMPATIENT)
    peers = [group.peer(index) for index in range(3)]
    good = update(0, ((3,),))
    broken = Broken(good)
    specs = describe(good, None)
    calls = [partial(peer.average, good) for peer in peers[1:]]
    ended = all_at_once([partial(peers[0].average, broken, specs=specs), *calls])
    assert isinstance(ended[0], LocalError) and "planted" in str(ended[0])
    assert all(isinstance(error, Unavailable | RemoteError) for error in ended[1:])
