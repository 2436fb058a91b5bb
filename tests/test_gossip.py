"""Membership as a driver carries it: datagrams over links, timers, and what rounds make of it."""

from __future__ import annotations

import pytest

from decentra.crypto.hashing import digest
from decentra.errors import LocalError
from decentra.gossip.messages import Ping, pack
from decentra.protocols.rendezvous.machine import BRIEF
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.transport.simulated import Faults
from decentra.types import PeerId
from helpers import READY, Watch, cut_off, ids, kill, lie, mend, play, results, settle, simulate, small, without

DETECTED = 60.0
"""Virtual seconds after which who stopped is known to be down: a probe of it, and the longest suspicion."""


def attended(n: int, faults: Faults | None = None, **changes: object) -> SimulatedGroup:
    """A group whose peers take part in the membership, once everybody has heard of everybody."""
    group = simulate(n, faults=faults, **changes)
    for peer in group.peers:
        attend(peer)
    settle(group, 90.0 if faults else 20.0)
    return group


def attend(peer: SimulatedPeer, failures: list[LocalError] | None = None) -> None:
    seed = digest("test", peer.identity.id + bytes([peer.boot]))
    peer.session.attend(seed, (failures if failures is not None else []).append)


def sees(peer: SimulatedPeer) -> dict[PeerId, str]:
    """How a peer sees the others."""
    gossip = peer.driver.gossip
    assert gossip is not None
    return {one.peer: one.status for one in gossip.snapshot() if one.peer != peer.identity.id}


@pytest.mark.parametrize("faults", [None, Faults(latency=0.05, jitter=0.1, drop=0.1)], ids=["calm", "lossy"])
def test_everybody_hears_of_everybody_and_nobody_is_wronged(faults: Faults | None) -> None:
    group = attended(5, faults)
    for peer in group.peers:
        assert set(sees(peer).values()) <= {"up", "suspected"}
        assert peer.driver.gossip is not None and not peer.driver.gossip.away


def test_who_stops_is_down_for_all_and_its_next_process_is_up_again() -> None:
    group = attended(5)
    kill(group.peers[1])
    settle(group, DETECTED)
    gone = ids(group)[1]
    assert all(sees(peer)[gone] == "down" for place, peer in enumerate(group.peers) if place != 1)
    attend(group.restart(1))
    settle(group, 30.0)
    assert all(set(sees(peer).values()) == {"up"} for peer in group.peers)


def test_a_round_waits_but_briefly_for_who_is_down_though_no_pace_is_known() -> None:
    group = attended(5)
    kill(group.peers[3])
    settle(group, DETECTED)
    done = results(play(group, without(group, 3)))
    assert done[0].dropped == (ids(group)[3],)
    assert done[0].seconds < BRIEF + 1.0 < READY


def test_who_trains_and_has_not_begun_its_round_is_up_and_is_waited_for() -> None:
    group = attended(4)
    vectors = small(group)
    for place in range(3):
        group.peers[place].begin(vectors[place])  # type: ignore[arg-type]
    settle(group, 60.0)
    assert all(set(sees(peer).values()) == {"up"} for peer in group.peers)
    assert all(group.peers[place].ended is None for place in range(3))
    group.peers[3].begin(vectors[3])  # type: ignore[arg-type]
    settle(group, 10.0)
    assert len(results([peer.ended for peer in group.peers])[0].participants) == 4


def test_who_was_cut_off_and_comes_back_is_up_for_all() -> None:
    group = attended(5)
    cut_off(group, 2)
    settle(group, DETECTED)
    others = [peer for place, peer in enumerate(group.peers) if place != 2]
    assert {sees(peer)[ids(group)[2]] for peer in others} == {"down"}
    mend(group, 2)
    settle(group, DETECTED)
    assert all(set(sees(peer).values()) == {"up"} for peer in group.peers)
    assert len(results(play(group, small(group)))[0].participants) == 5


def test_who_leaves_says_so() -> None:
    group = attended(4)
    group.peers[0].session.leave()
    settle(group, 10.0)
    assert {sees(peer)[ids(group)[0]] for peer in group.peers[1:]} == {"left"}


@pytest.mark.parametrize("rubbish", [b"", b"\xff", b"\0\0\0", bytes(4000), pack(Ping(1, PeerId(bytes(32)), ()))])
def test_a_datagram_that_breaks_a_clause_is_taken_down_and_ends_no_round(rubbish: bytes) -> None:
    group = attended(4)
    watch = Watch(group)

    def also_rubbish(effect: object) -> list[object]:
        group.peers[0].driver._links[ids(group)[1]].whisper(rubbish)
        return [effect]

    lie(group.peers[0], "secagg.deal", also_rubbish)  # type: ignore[arg-type]
    done = results(play(group, small(group)))
    assert len(done[0].participants) == 4
    named = {peer for _, peer in watch.blames[ids(group)[1]]}
    assert named <= {ids(group)[0]}
    assert ids(group)[0] in group.peers[1].driver.reasons


def test_a_key_that_two_processes_sign_with_silences_the_one_that_hears_of_it() -> None:
    group, failures = attended(4), list[LocalError]()
    clone = SimulatedPeer(group, group.peers[0].identity, 7)  # it takes over the ways, as a copy of the machine would
    attend(clone, failures)
    settle(group, 30.0)
    group.restart(0)  # the first process comes back with a boot that is behind
    attend(group.peers[0], failures)
    settle(group, DETECTED)
    assert any("another process signs with this peer's key" in str(error) for error in failures)


def test_membership_is_the_same_for_the_same_seed() -> None:
    def run() -> list[tuple[object, ...]]:
        group = attended(5, Faults(latency=0.02, jitter=0.05, drop=0.05))
        kill(group.peers[4])
        settle(group, 30.0)
        return [peer.driver.gossip.snapshot() for peer in group.peers[:4] if peer.driver.gossip is not None]

    assert run() == run()


def test_what_membership_says_is_logged_by_name_of_status(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="decentra"):
        group = attended(4)
        kill(group.peers[1])
        settle(group, DETECTED)
    assert any("is down" in record.message and str(ids(group)[1]) in record.message for record in caplog.records)
