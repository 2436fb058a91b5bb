"""Rounds begun ahead of their updates on the network: prepared, given up, begun anew, and through ``decentra.join``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import decentra
from decentra import LocalError
from decentra.driver.given import describe
from decentra.peer.prepared import Prepared
from decentra.peer.runtime import Peer
from starting import Group, all_at_once, until
from test_join import SMALL, H, Learner
from test_peer import IMPATIENT, MakeGroup, bits, update


def prepared(peers: list[Peer]) -> list[Prepared]:
    specs = describe(update(0), None)
    return [peer.prepare(specs) for peer in peers]


def phase(peer: Peer) -> str:
    return str(getattr(peer._session.driver.machine, "phase", ""))


def average(calls: list[Callable[..., Any]]) -> list[Any]:
    return all_at_once([partial(call, update(place)) for place, call in enumerate(calls)])


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_a_prepared_round_waits_before_its_masks_and_gives_the_mean(make_group: MakeGroup, protocol: str) -> None:
    group = make_group(4, protocol)
    peers = [group.peer(index) for index in range(4)]
    scattering = {"secagg": "masked", "allreduce": "slices", "mesh": "updates"}[protocol]
    for _ in range(2):
        begun = prepared(peers)
        for peer in peers:
            until(peer, lambda peer=peer: phase(peer) == scattering)
        sent = [peer.counts.signed for peer in peers]
        results = average([one.average for one in begun])
        assert [bits(one) for one in results] == [bits(results[0])] * 4
        assert len(results[0].participants) == 4
        assert [peer.counts.signed for peer in peers] > sent


def test_peers_that_prepare_and_peers_that_do_not_are_in_one_round(make_group: MakeGroup) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    first, second = prepared(peers[:2])
    results = average([first.average, second.average, peers[2].average])
    assert len(results[0].participants) == 3


def test_what_was_prepared_in_vain_begins_anew_with_the_update(make_group: MakeGroup) -> None:
    group = make_group(3, **IMPATIENT)
    peers = [group.peer(index) for index in range(3)]
    begun = prepared(peers)
    until(peers[0], lambda: bool(peers[0]._session.driver.machine))
    peers[0].interrupt()
    for peer, one in zip(peers, begun, strict=True):
        until(peer, one.future.done)  # with one of three gone, nothing comes of it for the others
    results = average([one.average for one in begun])
    assert len(results[0].participants) == 3
    assert bits(results[0]) == bits(results[2])


def test_a_round_that_was_given_up_makes_room_for_another(make_group: MakeGroup) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    begun = prepared(peers)
    until(peers[0], lambda: phase(peers[0]) == "masked")
    with pytest.raises(LocalError, match="a round is on already"):
        peers[0].average(update(0))
    for one in begun:
        one.cancel()
        one.cancel()
    results = average([peer.average for peer in peers])
    assert len(results[0].participants) == 3


def test_closing_ends_what_was_prepared_and_its_average_says_so(make_group: MakeGroup) -> None:
    group = make_group(3)
    peers = [group.peer(index) for index in range(3)]
    begun = prepared(peers)
    until(peers[0], lambda: phase(peers[0]) == "masked")
    for peer in peers:
        peer.close()
    begun[0].cancel()
    with pytest.raises(LocalError, match="this peer is closed"):
        begun[0].average(update(0))
    with pytest.raises(LocalError, match="this peer is closed"):
        prepared(peers)


def test_an_update_of_other_shapes_than_were_prepared_is_refused_and_not_spent(make_group: MakeGroup) -> None:
    group = make_group(3, **IMPATIENT)
    peers = [group.peer(index) for index in range(3)]
    begun = prepared(peers)
    until(peers[0], lambda: phase(peers[0]) == "masked")
    with pytest.raises(LocalError) as refused:
        begun[0].average(update(0, ((5,),)))
    assert not refused.value.spent
    for one in begun[1:]:
        one.cancel()


def train(group: Group, index: int, rounds: int, ahead: bool) -> tuple[list[str], Any]:
    learner = Learner(index)
    with decentra.join(learner.model, learner.optimizer, group.folders[index].path, ahead=ahead) as peer:
        hashes = [learner.digest()]
        for step in range(rounds * H):
            learner.step()
            if (step + 1) % H == 0:
                hashes.append(learner.digest())
        summary = peer.close()
    return hashes, summary


@pytest.mark.parametrize("ahead", [(True, True, True, True), (True, False, True, False)])
def test_peers_that_train_ahead_hold_the_same_bits_after_every_round(
    make_group: MakeGroup, ahead: tuple[bool, ...]
) -> None:
    group = make_group(4, **SMALL)
    ended = all_at_once([partial(train, group, index, 3, chosen) for index, chosen in enumerate(ahead)])
    assert not [one for one in ended if isinstance(one, BaseException)]
    for hashes, summary in ended:
        assert hashes == ended[0][0]
        assert len(set(hashes)) == 4
        assert (summary.rounds, summary.failed) == (3, 0)
