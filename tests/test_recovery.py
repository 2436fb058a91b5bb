"""Rounds that lose peers: crashes before any effect, any peers, and what must hold of every round all the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.derive import quorum
from decentra.driver.given import describe
from decentra.driver.session import Vector
from decentra.errors import DecentraError, LocalError, Unavailable, Underway
from decentra.machine.effects import Effect, Finish
from decentra.machine.state import piece_digests
from decentra.protocols.setting import Outcome
from decentra.simulation.group import SimulatedGroup, SimulatedPeer, charter_for, identities
from decentra.transport.base import Lane
from decentra.types import RoundResult
from helpers import settle

SHAPES = ((3, 5), (4,))


class Rounds:
    """A simulated group whose peers can be made to stop before a given effect, and whose encoded updates are seen."""

    def __init__(self, n: int, c: int, protocol: str, seed: int) -> None:
        members = identities(n, seed)
        charter = charter_for(members, protocol, protocol__c=c, protocol__width=32, protocol__rule="mean")
        self.group = SimulatedGroup(charter, members, seed=seed)
        self.encoded: dict[int, NDArray[np.uint32]] = {}
        self.totals: dict[int, NDArray[np.uint32]] = {}
        self.dead: set[int] = set()
        rng = np.random.default_rng(seed)
        self.updates = [[rng.normal(0, 0.03, shape).astype(np.float32) for shape in SHAPES] for _ in range(n)]

    def watch(self, index: int, stop_before: int | None) -> None:
        """See what a peer encodes and certifies; and stop it before its n-th effect, if asked."""
        peer = self.group.peers[index]
        driver, carried = peer.driver, 0
        carry_out = driver._carry_out
        driver._witness = lambda round_id, vector: self.encoded.__setitem__(index, vector.copy())

        def counted(effect: Effect) -> None:
            nonlocal carried
            if stop_before is not None and carried >= stop_before and index not in self.dead:
                self.dead.add(index)
                driver.close()
                peer.ended = LocalError("stopped by the test")
                return
            carried += 1
            if isinstance(effect, Finish) and isinstance(effect.result, Outcome):
                self.totals[index] = driver.blobs.view(effect.result.total).view(np.uint32).copy()
            carry_out(effect)

        driver._carry_out = counted  # type: ignore[method-assign]

    def run(self) -> dict[int, RoundResult | DecentraError]:
        """One round among those who are alive."""
        vectors = [
            None if index in self.dead else Vector(list(update), describe(update, None))
            for index, update in enumerate(self.updates)
        ]
        ended = self.group.run(vectors)
        return {index: one for index, one in enumerate(ended) if one is not None and index not in self.dead}


def check(rounds: Rounds, ended: dict[int, RoundResult | DecentraError]) -> None:
    """What holds of every round: one result, exactly the survivors' sum, and every failure named."""
    results = {index: one for index, one in ended.items() if isinstance(one, RoundResult)}
    assert len({one.digest for one in results.values()}) <= 1
    for index, one in results.items():
        members = [rounds.group.charter.ids.index(peer) for peer in one.participants]
        expected = np.zeros_like(rounds.encoded[members[0]])
        for member in members:
            expected += rounds.encoded[member]
        np.testing.assert_array_equal(rounds.totals[index], expected)
        assert one.total_weight == len(members)
        assert len(members) - rounds.group.charter.protocol.c >= 2  # never a sum over fewer than two honest peers
    for one in ended.values():
        assert isinstance(one, RoundResult | Unavailable), one
    for peer in rounds.group.peers:
        acts = [(number, record.kind, record.topic) for number, record in peer.journal.records]
        assert len(acts) == len(set(acts)), "a one-time act was done twice"


SIZES = [(4, 1), (5, 1), (7, 2)]


@given(st.data())
@settings(max_examples=30)
def test_stops_anywhere_never_change_a_sum_and_the_group_goes_on(data: st.DataObject) -> None:
    n, c = data.draw(st.sampled_from(SIZES), label="n, c")
    protocol = data.draw(st.sampled_from(["secagg", "secagg", "allreduce", "mesh"]), label="protocol")
    rounds = Rounds(n, c, protocol, data.draw(st.integers(0, 2**20), label="seed"))
    spare = n - quorum(n, c)
    victims = data.draw(st.lists(st.integers(0, n - 1), max_size=spare, unique=True), label="who stops")
    for index in range(n):
        before = data.draw(st.integers(0, 60), label=f"{index} stops before") if index in victims else None
        rounds.watch(index, before)
    check(rounds, rounds.run())
    after = rounds.run()
    check(rounds, after)
    enough = n - len(victims) >= rounds.group.charter.roster_floor
    if enough and rounds.dead == set(victims):  # nobody stops any more: a group is left that completes its rounds
        final = rounds.run()
        check(rounds, final)
        assert all(isinstance(one, RoundResult) for one in final.values())


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_a_peer_that_stops_while_slices_travel_is_left_out_and_the_round_completes(protocol: str) -> None:
    rounds = Rounds(4, 1, protocol, 7)
    scattering = {"secagg": "masked", "allreduce": "slices", "mesh": "updates"}[protocol]
    victim = rounds.group.peers[2]
    feed = victim.driver._feed

    def until_scattering(event: object) -> None:
        feed(event)  # type: ignore[arg-type]
        machine = victim.driver.machine
        if machine is not None and getattr(machine, "phase", "") == scattering and 2 not in rounds.dead:
            rounds.dead.add(2)
            victim.driver.close()
            victim.ended = LocalError("stopped by the test")

    for index in range(4):
        rounds.watch(index, None)
    victim.driver._feed = until_scattering  # type: ignore[method-assign,assignment]
    ended = rounds.run()
    check(rounds, ended)
    assert [len(one.participants) for one in ended.values() if isinstance(one, RoundResult)] == [3, 3, 3]


def test_an_owner_that_stops_after_the_certificate_loses_the_round_and_all_say_so() -> None:
    rounds = Rounds(4, 1, "secagg", 3)
    victim = rounds.group.peers[1]
    feed = victim.driver._feed

    def until_unmask(event: object) -> None:
        feed(event)  # type: ignore[arg-type]
        machine = victim.driver.machine
        if machine is not None and getattr(machine, "phase", "") == "unmask" and 1 not in rounds.dead:
            rounds.dead.add(1)
            victim.driver.close()
            victim.ended = LocalError("stopped by the test")

    for index in range(4):
        rounds.watch(index, None)
    victim.driver._feed = until_unmask  # type: ignore[method-assign,assignment]
    ended = rounds.run()
    assert len(ended) == 3
    for error in ended.values():
        assert isinstance(error, Unavailable) and error.waited_for == (victim.identity.id,) and error.spent
        assert "lost" in str(error)
    after = rounds.run()
    check(rounds, after)
    assert all(isinstance(one, RoundResult) for one in after.values())




class Parameters:
    """A caller's common state: four numbers."""

    nbytes = 16

    def __init__(self, value: float) -> None:
        self.values = np.full(4, value, np.float32)

    def pieces(self) -> tuple[bytes, ...]:
        return piece_digests(self.export())

    def export(self) -> list[NDArray[np.uint8]]:
        return [self.values.view(np.uint8)]

    def adopt(self, data: memoryview) -> None:
        self.values[:] = np.frombuffer(data, np.float32)


def test_a_peer_that_comes_back_takes_the_state_that_others_certified_and_takes_part_again() -> None:
    members = identities(4, 1)
    group = SimulatedGroup(charter_for(members, "secagg", protocol__width=32), members, seed=5)
    states = [Parameters(index) for index in range(4)]

    def vector(index: int, size: int) -> Vector:
        tensors = [np.full(size, 0.01 * index, np.float32)] if size else []
        return Vector(tensors, describe(tensors, None), shared=states[index], fingerprint=b"f" * 32)

    def round_of(who: list[int], size: int = 5) -> list[RoundResult]:
        ended = group.run([vector(index, size) if index in who else None for index in range(4)])
        results = [one for one in ended if isinstance(one, RoundResult)]
        assert len(results) == len(who), ended
        for index, one in zip(who, results, strict=True):
            if size:
                states[index].values += one.values[0][:4]
        return results

    everybody, others = [0, 1, 2, 3], [0, 1, 3]
    round_of(everybody, size=0)
    assert len({state.pieces() for state in states}) == 1
    round_of(everybody)
    group.peers[2].driver.close()
    round_of(others)
    round_of(others)

    back = SimulatedPeer(group, members[2], boot=2)
    group.peers = (*group.peers[:2], back, group.peers[3])
    states[2] = Parameters(77.0)
    back.begin(vector(2, 0))
    for _ in range(3):  # it waits for the next round's readinesses, which tell it that there is no beginning to join
        if back.ended is None:
            settle(group, 12.0)  # of training, in which the others find the way to it again
            round_of(others)
    assert isinstance(back.ended, Underway)
    results = round_of(everybody)
    assert {one.participants for one in results} == {group.charter.ids}
    assert len({state.pieces() for state in states}) == 1


def without_pieces(send: Callable[..., bool], lane: Lane, header: bytes, parts: object) -> bool:
    """A way that carries entries and loses every piece of a blob."""
    return True if lane is Lane.BULK else send(lane, header, parts)


def test_vectors_that_reach_too_few_are_certified_as_failed_and_go_back_whole() -> None:
    """Two peers whose parts do not reach one owner each leave three survivors where t is four (SA-4, SA-6)."""
    members = identities(5, 3)
    group = SimulatedGroup(charter_for(members, "secagg", protocol__width=32), members, seed=3)
    for source, target in ((0, 1), (2, 3)):
        link = group.peers[source].driver._links[group.peers[target].identity.id]
        link._send = partial(without_pieces, link._send)
    residuals = [[np.array([0.5, 0.0, -0.25], np.float32)] for _ in range(5)]
    before = [one[0].copy() for one in residuals]
    vectors = []
    for residual in residuals:
        tensors = [np.array([0.3, 0.01, -0.3], np.float32)]
        vectors.append(Vector(tensors, describe(tensors, None), residual=residual))
    ended = group.run(vectors)
    for error, residual, was in zip(ended, residuals, before, strict=True):
        assert isinstance(error, Unavailable) and not error.spent and "failed" in str(error), error
        np.testing.assert_array_equal(residual[0], was)
