"""Mixings on real sessions: the beacon drawn, a round along each axis, peers that are lost, come back, are cut off."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra import local_group
from decentra.charter.charter import Charter
from decentra.driver.drawing import TOLD_AT_ONCE
from decentra.driver.given import describe
from decentra.driver.mixing import Mixer
from decentra.driver.session import Vector
from decentra.errors import DecentraError, LocalError, Unavailable
from decentra.gossip import schedule
from decentra.gossip.beacon import NOTHING, Draw
from decentra.simulation.grid_group import SimulatedGrid
from decentra.simulation.group import Ending, SimulatedGroup, charter_for, identities
from decentra.simulation.ideal import IdealCrypto
from decentra.transport.base import Lane
from decentra.types import MixingResult, PeerId

QUIET = logging.Logger("quiet", logging.CRITICAL + 1)
READY, PHASE = 120.0, 30.0
"""Seconds of the template's deadlines."""


def on_a_grid(n: int, size: int, *, seed: int = 0, drawers: int = 5, **changes: object) -> SimulatedGrid:
    members = identities(n, seed)
    named = [f"peer-{number}" for number in range(min(n, drawers))]
    terms = {"groups__size": size, "groups__drawers": named, "groups__risk": 1.0, **changes}
    charter = charter_for(members, "group-gossip", template=None, **terms)
    return SimulatedGrid(charter, members, seed=seed, suite=IdealCrypto(seed), log=QUIET)


def brought(group: SimulatedGrid, seed: int = 0) -> list[Vector]:
    """A vector a peer: within the first range, and each another."""
    values = np.random.default_rng(seed).uniform(-0.09, 0.09, (len(group.peers), 7)).astype(np.float32)
    return [Vector([mine], describe([mine], None)) for mine in values]


def mix(group: SimulatedGrid, absent: Collection[int] = (), seed: int = 0) -> list[Ending]:
    """A mixing without those peers."""
    return group.run([None if place in absent else mine for place, mine in enumerate(brought(group, seed))])


def mean(group: SimulatedGrid, seed: int = 0) -> Any:
    return np.mean([mine.tensors[0] for mine in brought(group, seed)], axis=0, dtype=np.float64)


def exact(group: SimulatedGrid, ended: Sequence[Ending], seed: int = 0) -> list[MixingResult]:
    """The results of a mixing in which nobody was lost: the mean of all at everyone."""
    done = [one for one in ended if isinstance(one, MixingResult)]
    assert len(done) == len(group.peers), ended
    for one in done:
        np.testing.assert_allclose(one.values[0], mean(group, seed), rtol=0, atol=1e-7)
        assert one.weight == len(group.peers)
    assert len({one.round for one in done}) == 1
    return done


def line(group: SimulatedGrid, axis: int, position: int) -> list[int]:
    """The positions of the peers in a peer's group along an axis, its own first."""
    names = [peer.identity.id for peer in group.peers]
    members = group.peers[position].mixer.sessions[axis].charter.ids
    return [position, *(names.index(peer) for peer in members if peer != names[position])]


# ── nobody is lost ───────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=6, deadline=None)
@given(st.integers(9, 27), st.integers(4, 7), st.integers(0, 2**16), st.integers(1, 9), st.data())
def test_everyone_has_the_weighted_mean_of_all_and_its_weight(
    n: int, size: int, seed: int, most: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.integers(1, most), min_size=n, max_size=n))
    with on_a_grid(n, size, seed=seed, protocol__max_weight=most) as group:
        values = [mine.tensors[0] for mine in brought(group, seed)]
        results = group.average([[mine] for mine in values], weights=weights)
        truth = np.average(np.array(values, np.float64), axis=0, weights=weights)
        for one in results:
            np.testing.assert_allclose(one.values[0], truth, rtol=0, atol=1e-7)
            assert one.weight == sum(weights)
            assert len(one.rounds) == group.peers[0].mixer.grid.axes
            assert one.bytes_sent == sum(each.bytes_sent for each in one.rounds)


def test_mixings_follow_one_another_on_one_grid_drawn_by_one_beacon() -> None:
    with on_a_grid(9, 4) as group:
        before = [exact(group, mix(group, seed=seed), seed)[0].round.number for seed in range(3)]
        assert before == [1, 2, 3]
        assert len({peer.kept.beacon for peer in group.peers if peer.kept is not None}) == 1
        assert all(peer.kept is not None for peer in group.peers)
        assert len({session.charter.hash for peer in group.peers for session in peer.mixer.sessions}) == 4


def test_a_group_of_few_peers_is_one_group_and_mixes_in_one_round() -> None:
    with on_a_grid(5, 6) as group:
        results = exact(group, mix(group))
        assert all(len(one.rounds) == 1 and len(one.participants) == 5 for one in results)


def test_real_cryptography_gives_the_same() -> None:
    group = local_group(6, protocol="group-gossip", groups__size=3)
    assert isinstance(group, SimulatedGrid)
    with group:
        values = [np.full(3, 0.01 * place, np.float32) for place in range(6)]
        for one in group.average([[mine] for mine in values]):
            np.testing.assert_allclose(one.values[0], 0.025, rtol=0, atol=1e-7)
            assert one.weight == 6 and "a mean of weight 6 after 2 rounds" in str(one)


# ── somebody is lost ─────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=8, deadline=None)
@given(st.integers(9, 18), st.lists(st.tuples(st.integers(0, 8), st.floats(0.0, 0.09)), max_size=3), st.data())
def test_whoever_stops_whenever_all_others_end_with_a_mean_or_with_nobody_blamed(
    n: int, stops: list[tuple[int, float]], data: st.DataObject
) -> None:
    with on_a_grid(n, data.draw(st.integers(4, 6)), seed=n) as group:
        exact(group, mix(group))
        vectors = brought(group, 1)
        for peer, mine in zip(group.peers, vectors, strict=True):
            peer.begin(mine)
        gone = {place for place, _ in stops}
        for place, after in stops:
            group.clock.call_later(after, group.peers[place].close)
        left = [peer for place, peer in enumerate(group.peers) if place not in gone]
        assert group.clock.run_until(lambda: all(peer.ended is not None for peer in left), group.clock.now() + 7200)
        values = np.array([mine.tensors[0] for mine in vectors])
        for one in (peer.ended for peer in left):
            if isinstance(one, MixingResult):
                assert (one.values[0] >= values.min(axis=0) - 1e-7).all()
                assert (one.values[0] <= values.max(axis=0) + 1e-7).all()
                assert 3 <= one.weight <= n
            else:
                assert isinstance(one, Unavailable), repr(one)
        for place in gone:
            group.restart(place)
        for seed in range(2, 5):
            ended = mix(group, seed=seed)
            if sum(isinstance(one, MixingResult) for one in ended) == n:
                break
        exact(group, ended, seed)


def test_a_mixing_without_a_peer_is_a_mean_over_the_others_and_the_next_one_is_exact_again() -> None:
    with on_a_grid(9, 4) as group:
        exact(group, mix(group))
        ended = mix(group, absent=[3], seed=1)
        assert ended[3] is None
        done = [one for one in ended if isinstance(one, MixingResult)]
        assert len(done) == 8 and all(6 <= one.weight <= 9 for one in done)
        exact(group, mix(group, seed=2), 2)


def test_all_of_a_group_that_waited_for_a_lost_peer_come_in_time_to_their_next_one() -> None:
    with on_a_grid(16, 4) as group:
        exact(group, mix(group))
        lost, *rest = line(group, 0, 3)
        ended = mix(group, absent=[lost], seed=1)
        for one in (ended[place] for place in rest):
            assert isinstance(one, MixingResult) and one.weight >= 15
            assert READY < one.seconds < 2 * READY + PHASE + 60


def test_who_failed_weighs_nothing_says_so_and_holds_nobody_up() -> None:
    """Two of a group of four are gone, so it fails for the others; each other group lacks one of them, and goes on."""
    with on_a_grid(16, 4) as group:
        exact(group, mix(group))
        first, second, *failed = line(group, 0, 0)
        ended = mix(group, absent=[first, second], seed=1)
        for place in failed:
            error = ended[place]
            assert isinstance(error, Unavailable) and not error.spent
            assert "its group along axis 1 of 2 failed, so this peer weighs nothing in the rest of this" in str(error)
            others = line(group, 1, place)[1:]
            for one in (ended[other] for other in others):
                assert isinstance(one, MixingResult) and one.weight == 12
        assert sum(isinstance(one, MixingResult) for one in ended) == 12
        exact(group, mix(group, seed=2), 2)


def test_who_failed_along_a_later_axis_has_spent_its_update() -> None:
    with on_a_grid(16, 4) as group:
        exact(group, mix(group))
        here, *others = line(group, 1, 0)
        vectors = brought(group, 1)
        for peer, mine in zip(group.peers, vectors, strict=True):
            peer.begin(mine)
        gone = others[:2]

        def passed() -> bool:
            states = [group.peers[place].mixer._on for place in gone]
            return all(state is None or state.rounds for state in states)

        assert group.clock.run_until(passed, group.clock.now() + 600)
        for place in gone:
            group.peers[place].close()
        left = [place for place in range(16) if place not in gone]
        assert group.clock.run_until(lambda: all(group.peers[p].ended is not None for p in left), 7200)
        for place in (here, others[2]):
            error = group.peers[place].ended
            assert isinstance(error, DecentraError) and error.spent
            assert "its group along axis 2 of 2 failed" in str(error)
        assert all(isinstance(group.peers[p].ended, MixingResult) for p in left if p not in (here, others[2]))


def test_a_killed_peer_that_missed_mixings_comes_back_in_the_one_that_the_others_are_in() -> None:
    with on_a_grid(9, 4) as group:
        exact(group, mix(group))
        group.peers[3].close()
        for seed in (1, 2):
            assert all(isinstance(one, MixingResult) for one in mix(group, absent=[3], seed=seed) if one is not None)
        again = group.restart(3)
        again.begin(brought(group, 3)[3])
        assert all(isinstance(one, MixingResult) for one in mix(group, absent=[3], seed=3) if one is not None)
        if again.ended is None:  # it is out of practice, so the others need not have waited for it
            mix(group, absent=[3], seed=3)
        assert group.clock.run_until(lambda: again.ended is not None, group.clock.now() + READY)
        exact(group, [peer.ended for peer in group.peers], 3)
        assert isinstance(again.ended, MixingResult) and again.ended.round.number in (4, 5)


@pytest.mark.parametrize("begun", [False, True])
def test_an_aggregate_is_brought_to_no_later_mixing(begun: bool) -> None:
    """A peer that was held up between two axes finds its group in the next mixing, or sees it go there meanwhile."""
    with on_a_grid(9, 4) as group:
        exact(group, mix(group))
        slow, held = group.peers[3], list[Any]()
        mixer: Any = slow.mixer
        play = mixer.start

        def hold(mixing: Any) -> None:
            if mixing.rounds:
                held.append(mixing)
            else:
                play(mixing)

        mixer.start = hold
        slow.begin(brought(group, 1)[3])
        mix(group, absent=[3], seed=1)
        assert held and slow.ended is None
        if begun:
            for place, mine in enumerate(brought(group, 2)):
                if place != 3:
                    group.peers[place].begin(mine)
            session = mixer.sessions[1]
            assert group.clock.run_until(lambda: schedule.mixing_of(session.upcoming) == 2, group.clock.now() + 600)
        play(held[0])
        if not begun:
            mix(group, absent=[3], seed=2)
        assert group.clock.run_until(lambda: slow.ended is not None, group.clock.now() + 600)
        assert isinstance(slow.ended, Unavailable) and slow.ended.spent
        assert "nothing comes of mixing 2 in this peer's group; its members are in a later mixing" in str(slow.ended)
        rest = [peer for peer in group.peers if peer is not slow]
        assert group.clock.run_until(lambda: all(peer.ended is not None for peer in rest), group.clock.now() + 7200)
        assert all(isinstance(peer.ended, MixingResult) for peer in rest)
        mixer.start = play
        exact(group, mix(group, seed=3), 3)


@pytest.mark.parametrize("drawn", [False, True])
def test_an_interrupted_peer_hears_of_it_at_once_and_takes_part_in_the_next_mixing(drawn: bool) -> None:
    with on_a_grid(9, 4) as group:
        if drawn:
            exact(group, mix(group))
        for peer, mine in zip(group.peers, brought(group, 1), strict=True):
            peer.begin(mine)
        group.peers[3].mixer.cancel(LocalError("interrupted"))
        now = group.clock.now()
        assert group.clock.run_until(lambda: group.peers[3].ended is not None, now + 1)
        assert isinstance(group.peers[3].ended, LocalError)
        assert group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), 7200)
        exact(group, mix(group, seed=2), 2)


# ── the beacon ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_beacon_is_drawn_without_a_drawer_that_is_gone() -> None:
    with on_a_grid(9, 4) as group:
        lost = next(place for place, peer in enumerate(group.peers) if peer.mixer.drawing.draws.draws)
        group.peers[lost].close()
        ended = mix(group, absent=[lost])
        assert all(isinstance(one, MixingResult) for place, one in enumerate(ended) if place != lost)
        group.restart(lost)
        exact(group, mix(group, seed=1), 1)
        assert len({peer.kept.beacon for peer in group.peers if peer.kept is not None}) == 1


def test_a_drawer_that_starts_again_draws_no_second_beacon() -> None:
    with on_a_grid(9, 4) as group:
        exact(group, mix(group))
        for place in range(9):
            kept = group.peers[place].kept
            again = group.restart(place)
            assert again.kept == kept and not again.mixer.drawing.draws.draws
        exact(group, mix(group, seed=1), 1)


def test_without_a_quorum_of_drawers_nothing_leaves_and_they_are_named() -> None:
    with on_a_grid(9, 4, drawers=4) as group:
        drawers = [place for place, peer in enumerate(group.peers) if peer.mixer.drawing.draws.draws]
        for place in drawers[:2]:
            group.peers[place].close()
        for error in mix(group, absent=drawers[:2]):
            if error is not None:
                assert isinstance(error, Unavailable) and not error.spent
                assert "the beacon of epoch 1" in str(error) and "has to run; start them" in str(error)
                assert {group.peers[place].identity.id for place in drawers[:2]} <= set(error.waited_for)
        for place in drawers[:2]:
            group.restart(place)
        exact(group, mix(group, seed=1), 1)


def test_what_liars_tell_of_the_beacon_changes_nothing() -> None:
    with on_a_grid(9, 4) as group:
        outsider = next(peer for peer in group.peers if peer.identity.id not in group.peers[0].mixer.drawing._drawers)
        drawing, sender = outsider.mixer.drawing, group.charter.drawers[0].id
        forged = Draw(bytes(32), {member.id: bytes(64) for member in group.charter.drawers})
        for datagram in (b"", b"\xff" * 40, forged.pack(), NOTHING):
            drawing._heard(sender, Lane.CONTROL, b"", [memoryview(datagram)])
        drawing._heard(sender, Lane.CONTROL, b"", [])
        assert drawing.draws.known is None
        exact(group, mix(group))


def test_a_drawer_whose_disk_is_full_tells_no_word_and_says_why_and_another_start_draws() -> None:
    with on_a_grid(9, 4, drawers=5) as group:
        place = next(place for place, peer in enumerate(group.peers) if peer.mixer.drawing.draws.draws)
        peer, told = group.peers[place], list[Draw]()

        def full(draw: Draw) -> None:
            told.append(draw)
            raise LocalError("cannot write beacon.toml: No space left on device; check the folder")

        object.__setattr__(peer.mixer.drawing._site, "keep", full)
        ended = mix(group)
        mine = ended[place]
        assert isinstance(mine, LocalError) and not mine.spent and "No space left" in str(mine)
        assert len(told) == 1, "it tries once, and is silent"
        others = [other for other in group.peers if other is not peer]
        assert all(peer.identity.id not in other.kept.signatures for other in others if other.kept is not None)
        with pytest.raises(LocalError, match="No space left"):
            peer.begin(brought(group)[place])
        peer.close()
        group.restart(place)
        exact(group, mix(group, seed=1), 1)


def test_false_signatures_from_one_member_are_verified_within_its_allowance_and_others_are_heard() -> None:
    with on_a_grid(9, 4, drawers=9) as group:
        liar, victim = group.peers[0].identity.id, group.peers[1]
        drawing, checked = victim.mixer.drawing, list[PeerId]()
        check = drawing.draws._check

        def counted(peer: PeerId, signature: bytes, message: bytes) -> bool:
            checked.append(peer)
            return check(peer, signature, message)

        drawing.draws._check = counted
        for number in range(2000):
            beacon = number.to_bytes(32, "big")
            forged = Draw(beacon, {member.id: bytes(64) for member in group.charter.drawers})
            drawing._heard(liar, Lane.CONTROL, b"", [memoryview(forged.pack())])
        assert len(checked) <= TOLD_AT_ONCE
        exact(group, mix(group))
        assert drawing.draws.in_force is not None
        before = len(checked)
        for _ in range(100):
            drawing._heard(group.peers[2].identity.id, Lane.CONTROL, b"", [memoryview(forged.pack())])
        assert len(checked) == before, "the beacon is in force: nothing is verified any more"


def test_the_rounds_beacon_is_told_with_every_result_of_secagg() -> None:
    secagg, plain = local_group(4), local_group(4, protocol="allreduce")
    for group, size in ((secagg, 32), (plain, 0)):
        assert isinstance(group, SimulatedGroup)
        beacons = [one.beacon for one in group.average([[np.zeros(2, np.float32)]] * 4)]
        assert len(set(beacons)) == 1 and len(beacons[0]) == size
        again = group.average([[np.zeros(2, np.float32)]] * 4)[0].beacon
        assert (again != beacons[0]) == (size > 0)


# ── misuse ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_mixing_does_not_allow_is_refused_and_costs_no_mixing() -> None:
    with on_a_grid(9, 4) as group:
        exact(group, mix(group))
        peer = group.peers[0]
        heavy = Vector([np.zeros(3, np.float32)], describe([np.zeros(3, np.float32)], None), weight=2)
        peer.begin(heavy)
        assert isinstance(peer.ended, LocalError) and "max_weight" in str(peer.ended)
        assert exact(group, mix(group, seed=1), 1)[0].round.number == 2
        peer.begin(brought(group)[0])
        with pytest.raises(LocalError, match="a mixing is on already"):
            peer.begin(brought(group)[0])


def test_a_common_state_is_refused() -> None:
    class Nothing:
        nbytes = 0

        def digest(self) -> bytes:
            return bytes(32)

        def export(self) -> list[Any]:
            return []

        def adopt(self, data: memoryview) -> None:
            raise AssertionError

    with on_a_grid(5, 6) as group, pytest.raises(LocalError, match="has no common state"):
        group.peers[0].begin(Vector([], (), shared=Nothing()))


def test_one_group_s_charter_makes_no_mixer_and_a_grid_s_no_session() -> None:
    members = identities(4, 0)
    plain = charter_for(members, "secagg")
    site: Any = type("Nowhere", (), {"identity": members[0]})
    with pytest.raises(LocalError, match=r"no table \[groups\]"):
        Mixer(plain, site)
    terms: dict[str, object] = {"groups__size": 4, "groups__drawers": ["peer-0", "peer-1", "peer-2", "peer-3"]}
    gridded: Charter = charter_for(members, "group-gossip", template=None, **terms)
    with pytest.raises(LocalError, match=r"open the peer with decentra\.open_peer"):
        SimulatedGroup(gridded, members)


def test_every_group_of_a_mixing_has_a_session_of_its_own_and_the_places_are_the_schedules() -> None:
    with on_a_grid(11, 5) as group:
        exact(group, mix(group))
        mixer = group.peers[0].mixer
        assert group.peers[0].kept is not None
        order = schedule.places(mixer.name, group.peers[0].kept.beacon, group.charter.ids)
        for peer in group.peers:
            place = order.index(peer.identity.id)
            for axis, session in enumerate(peer.mixer.sessions):
                (mine,) = (one for one in schedule.groups(mixer.grid, axis) if place in one)
                assert session.charter.ids == tuple(sorted(order[other] for other in mine))
