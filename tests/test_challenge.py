"""The beacon, the slices that it picks, and what becomes of an owner, a verifier or a dealer that lies about them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra import derive
from decentra.machine.effects import Effect, Finish
from decentra.machine.events import Blob, Event
from decentra.protocols.secagg.challenge import read_verdict
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.wire.codec import Malformed, pack
from helpers import (
    OTHER,
    Scene,
    Watch,
    change,
    ids,
    lie,
    on_topic,
    play,
    results,
    scene,
    simulate,
    vector,
)


def sums_falsely(peer: SimulatedPeer, at: int = 0) -> None:
    """Have an owner add one quantum to a coordinate of every sum that it publishes, under a root that fits."""
    base: Any = peer.session._machine

    class Liar(base):  # type: ignore[misc]
        def publish_sum(self, position: int, total: Blob) -> None:
            driver = peer.driver
            data = driver.blobs.view(total).view("<u2").copy()
            if len(data) > at + 1:  # never the weight, which bounds give away
                data[at] += np.uint16(1)
            assert driver.running is not None
            super().publish_sum(position, driver.running.bench.keep(data))

    peer.session._machine = Liar


def all_picked(n: int = 4, **changes: object) -> Scene:
    return scene(n, protocol__challenges=n, **changes)


def vectors(group: SimulatedGroup, size: int = 40) -> Any:
    """Long enough that no slice is empty."""
    return [vector(np.full(size, 0.001 * place, np.float32)) for place in range(len(group.peers))]


def machines(group: SimulatedGroup) -> dict[int, Any]:
    """Every machine that hands a result out, by its peer's place."""
    seen: dict[int, Any] = {}
    for place, peer in enumerate(group.peers):
        base: Any = peer.session._machine

        class Seen(base):  # type: ignore[misc]
            here = place

            def handle(self, event: Event) -> list[Effect]:
                effects: list[Effect] = super().handle(event)
                if any(isinstance(effect, Finish) for effect in effects):
                    seen[self.here] = self
                return effects

        peer.session._machine = Seen
    return seen


# ── the honest path ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "c", "count"), [(3, 1, 1), (4, 1, 0), (4, 1, 4), (7, 2, 2)])
def test_all_peers_challenge_the_same_slices_by_peers_that_do_not_own_them(n: int, c: int, count: int) -> None:
    group = simulate(n, protocol__c=c, protocol__challenges=count)
    seen, watch = machines(group), Watch(group)
    done = results(play(group, vectors(group)))
    watch.exact(1, done)
    assert len(seen) == n
    picked = [(machine._challenge.slices, machine._challenge.verifiers) for machine in seen.values()]
    assert all(one == picked[0] for one in picked)
    slices, verifiers = picked[0]
    assert len(slices) == count
    for position in slices:
        assert len(set(verifiers[position])) == c + 1
        assert seen[0].owners[position] not in verifiers[position]


def test_another_round_challenges_others() -> None:
    group = simulate(4)
    picked = set()
    for _ in range(12):
        seen = machines(group)
        results(play(group, vectors(group)))
        picked.add((seen[0]._challenge.slices, tuple(seen[0]._challenge.verifiers.values())))
    assert len(picked) > 2


# ── an owner that lies ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("proposes", [False, True])
@pytest.mark.parametrize(("n", "c"), [(4, 1), (7, 2)])
def test_a_wrong_sum_is_repaired_at_every_peer_and_its_owner_named(n: int, c: int, proposes: bool) -> None:
    attack = all_picked(n, protocol__c=c, proposes=proposes)
    sums_falsely(attack.liar)
    attack.survived("SA-8", dropped=False, vectors=vectors(attack.group))


@settings(max_examples=15)
@given(st.integers(0, 3), st.integers(0, 8), st.integers(4, 40))
def test_whatever_coordinate_an_owner_falsifies_the_certified_sum_is_exact(place: int, at: int, size: int) -> None:
    attack = all_picked()
    attack.place = place
    attack.watch = Watch(attack.group)
    sums_falsely(attack.liar, at)
    done = results(play(attack.group, vectors(attack.group, size), but=[place]))
    attack.watch.exact(2, done)


def test_a_repaired_round_and_the_next_have_one_outcome_at_all_honest_peers() -> None:
    attack = all_picked()
    sums_falsely(attack.liar)
    first = attack.survived("SA-8", dropped=False, vectors=vectors(attack.group))
    group = attack.group
    given = [None if place == attack.place else mine for place, mine in enumerate(vectors(group))]
    after = results(play(group, given))
    assert len({done.digest for done in first}) == len({done.digest for done in after}) == 1
    attack.watch.exact(3, after)


def test_two_owners_that_lie_are_both_repaired() -> None:
    group = simulate(7, protocol__c=2, protocol__challenges=7)
    for place in (1, 4):
        sums_falsely(group.peers[place])
    watch = Watch(group)
    done = results(play(group, vectors(group), but=[1, 4]))
    assert len(done) == 5
    watch.exact(1, done)
    named = {blamed for place in (0, 2, 3, 5, 6) for blamed in watch.blames[ids(group)[place]]}
    assert named == {("SA-8", ids(group)[1]), ("SA-8", ids(group)[4])}


def test_a_lie_about_a_slice_that_is_not_picked_goes_through_alike_everywhere() -> None:
    """What the challenge does not cover: the sum is wrong, signed by its owner, and the same for all."""
    attack = scene(protocol__challenges=0)
    sums_falsely(attack.liar)
    done = results(play(attack.group, vectors(attack.group), but=[attack.place]))
    assert len(done) == 3
    with pytest.raises(AssertionError):
        attack.watch.exact(2, done)


# ── others that lie ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_accuses_an_honest_owner_is_named_and_nothing_changes() -> None:
    attack = all_picked()
    lie(attack.liar, "secagg.checked", change(root=OTHER))
    attack.survived("SA-13", dropped=False, vectors=vectors(attack.group), witnesses=())
    # The verdict needs t of four: one honest peer may end its round before every part of the dispute is here.
    assert sum(bool(attack.watch.blames[name]) for name in attack.others) >= 2


def test_who_accuses_an_owner_that_lies_of_another_lie_is_named_too() -> None:
    group = simulate(7, protocol__c=2, protocol__challenges=7)
    owner, accuser = ids(group)[1], ids(group)[4]
    sums_falsely(group.peers[1])
    lie(group.peers[4], "secagg.checked", change(root=OTHER))
    watch = Watch(group)
    watch.exact(1, results(play(group, vectors(group), but=[1, 4])))
    blames = [set(watch.blames[ids(group)[place]]) for place in (0, 2, 3, 5, 6)]
    assert all({("SA-8", owner)} <= one <= {("SA-8", owner), ("SA-13", accuser)} for one in blames)
    # The verdict needs t of seven: one honest peer may end its round before every part of the second dispute is here.
    assert sum(("SA-13", accuser) in one for one in blames) >= 4


def test_who_keeps_its_parts_back_costs_time_and_nothing_else() -> None:
    attack = all_picked()
    lie(attack.liar, "secagg.part", lambda _effect: [])
    began = attack.group.clock.now()
    attack.survived(dropped=False, vectors=vectors(attack.group), witnesses=())
    assert attack.group.clock.now() - began < 120.0


def test_a_part_that_is_not_the_one_that_was_signed() -> None:
    attack = all_picked()
    lie(attack.liar, "secagg.part", change(root=OTHER))
    attack.survived("SA-10", dropped=False, vectors=vectors(attack.group), witnesses=())
    assert any(attack.watch.blames[peer] for peer in attack.others)


def test_a_report_on_a_slice_that_the_beacon_did_not_give() -> None:
    attack = scene(7, protocol__c=2, protocol__challenges=7)
    lie(attack.liar, "secagg.checked", change(slice=63))
    attack.survived("EQUIVOCATION", dropped=False, vectors=vectors(attack.group), witnesses=())


def test_a_verdict_that_no_parts_give_is_not_voted_for() -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "certify.propose", on_topic("verdict", change(value=pack(((0, OTHER),)))))
    # the next view has another proposer; the liar proposed a slice that was picked, or one that was not
    attack.survived("SA-13", dropped=False, vectors=vectors(attack.group), witnesses=())


@pytest.mark.parametrize("value", [b"", b"fail", pack(()), pack(((0, b"short"),)), pack(((1, OTHER), (0, OTHER)))])
def test_a_verdict_that_is_none(value: bytes) -> None:
    with pytest.raises(Malformed):
        read_verdict(value)
    attack = scene(proposes=True)
    lie(attack.liar, "certify.propose", on_topic("verdict", change(value=value)))
    attack.survived("SA-13", dropped=False, vectors=vectors(attack.group))


def test_with_the_parts_of_an_accomplice_kept_back_a_false_sum_stands_and_all_agree_on_it() -> None:
    """The limit that the spec names: no proof, no repair. The accomplice could have sent that vector itself."""
    group = simulate(7, protocol__c=2, protocol__challenges=7)
    sums_falsely(group.peers[1])
    lie(group.peers[4], "secagg.part", lambda _effect: [])
    done = results(play(group, vectors(group), but=[1, 4]))
    assert len(done) == 5  # and they are equal: results() holds them against each other


# ── the beacon ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fields", [{"context": OTHER}, {"outcome": OTHER}, {"shares": ()}], ids=["context", "outcome", "no shares"]
)
def test_shares_of_the_beacon_that_are_none_of_this_outcome(fields: dict[str, object]) -> None:
    attack = scene()
    lie(attack.liar, "secagg.beacon", change(**fields))
    attack.survived("SA-12", dropped=False)


def test_a_false_share_of_the_beacon() -> None:
    attack = scene()
    lie(
        attack.liar,
        "secagg.beacon",
        lambda effect: change(shares=tuple((peer, OTHER) for peer, _ in effect.message.shares))(effect),  # type: ignore[attr-defined]
    )
    attack.survived("SA-12", dropped=False)


def test_who_deals_its_part_of_the_beacon_badly_is_named_by_all_and_stops_nothing() -> None:
    attack = scene()
    lie(attack.liar, "secagg.deal", change(beacon_hash=OTHER))
    seen = machines(attack.group)
    attack.survived("SA-1", dropped=False)
    honest = [machine for place, machine in seen.items() if place != attack.place]
    assert len(honest) == 3
    assert len({machine._challenge.slices for machine in honest}) == 1


@given(st.integers(3, 16), st.binary(min_size=32, max_size=32), st.integers(0, 16))
def test_slices_are_drawn_without_repetition(n: int, beacon: bytes, count: int) -> None:
    drawn = derive.challenged_slices(beacon, n, count)
    assert len(drawn) == len(set(drawn)) == min(n, count)
    assert set(drawn) <= set(range(n))


def test_every_slice_and_every_pair_of_verifiers_is_drawn_in_some_round() -> None:
    group = simulate(4)
    members = ids(group)
    beacons = [derive.beacon(bytes(32), (bytes([number]) * 32,)) for number in range(200)]
    assert {derive.challenged_slices(beacon, 4, 1) for beacon in beacons} == {(0,), (1,), (2,), (3,)}
    pairs: Collection[frozenset[Any]] = {frozenset(derive.verifiers(beacon, 0, members[1:], 2)) for beacon in beacons}
    assert len(pairs) == 3
