"""Rounds in buckets with the real machines: what comes of them, with peers that lie, are away, stop and start again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import decentra
from decentra.derive import quorum
from decentra.driver.bucketing import Bucketer
from decentra.driver.common import BorrowedState
from decentra.driver.given import describe
from decentra.driver.mixing import Mixer
from decentra.driver.session import Session, Vector
from decentra.errors import DecentraError, LocalError, Unavailable
from decentra.gossip.group import bucket_floor
from decentra.groups import LocalGroup
from decentra.machine.state import SharedState
from decentra.peer.buckets import BucketPeer
from decentra.robust import aggregate
from decentra.simulation.grid_group import SimulatedGrid
from decentra.simulation.group import charter_for, identities
from decentra.simulation.stage import Held
from decentra.transport.simulated import Faults
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.entry import ZERO

Floats = NDArray[np.float32]
STEP = 2e-6
"""Rounding: of an update at 32 bits among a few, then of a bucket's mean among a few."""


def group(n: int = 9, seed: int = 0, faults: Faults | None = None, **terms: object) -> SimulatedGrid:
    members = identities(n, seed)
    return SimulatedGrid(charter_for(members, "bucketed", template=None, **terms), members, seed=seed, faults=faults)


def updates(n: int, seed: int, size: int = 6) -> Floats:
    return np.random.default_rng(seed).normal(0.0, 0.01, (n, size)).astype(np.float32)


def vector(update: Floats, **more: Any) -> Vector:
    return Vector([update], describe([update], None), **more)


def buckets_of(made: SimulatedGrid) -> tuple[tuple[int, ...], ...]:
    """The places of the peers of every bucket."""
    place = {peer.identity.id: index for index, peer in enumerate(made.peers)}
    bucketer = made.peers[0].mixer
    assert isinstance(bucketer, Bucketer)
    return tuple(tuple(place[one] for one in bucket) for bucket in bucketer.sessions[1].charter.drawn_buckets)


def expected(rows: Floats, buckets: Sequence[Sequence[int]], rule: str = "nnm+trimmed_mean", f: int = 1) -> Any:
    means = np.stack([rows[list(bucket)].mean(axis=0, dtype=np.float64) for bucket in buckets])
    return aggregate(means, rule, f).value


def play(made: SimulatedGrid, rows: Floats, away: Sequence[int] = ()) -> list[RoundResult | DecentraError | None]:
    return made.run([None if index in away else vector(row) for index, row in enumerate(rows)])


def results(ended: Sequence[RoundResult | DecentraError | None]) -> list[RoundResult]:
    assert all(isinstance(one, RoundResult) for one in ended), ended
    return [one for one in ended if isinstance(one, RoundResult)]


@pytest.mark.parametrize(("n", "terms"), [(9, {}), (11, {}), (16, {"buckets__size": 4}), (9, {"protocol__width": 16})])
def test_everybody_has_what_the_rule_gives_on_the_means_of_buckets(n: int, terms: dict[str, object]) -> None:
    with group(n, seed=n, **terms) as made:
        for number in (1, 2):
            rows = updates(n, number)
            told = results(play(made, rows))
            assert {one.values[0].tobytes() for one in told} == {told[0].values[0].tobytes()}
            buckets = buckets_of(made)
            assert np.allclose(told[0].values[0], expected(rows, buckets), atol=STEP if not terms else 1e-3 / 8)
            assert {one.round for one in told} == {RoundId(1, number)}
            assert all(one.participants == made.charter.ids and one.contributed and not one.dropped for one in told)
            assert told[0].total_weight == len(buckets) == n // made.charter.buckets.size  # type: ignore[union-attr]


def test_a_liar_moves_what_its_bucket_brings_and_no_more() -> None:
    with group(9, seed=4) as made:
        rows = updates(9, 0)
        results(play(made, rows))
        buckets = buckets_of(made)
        liar = buckets[1][2]
        honest = np.stack([rows[list(bucket)].mean(axis=0) for bucket in (buckets[0], buckets[2])])
        rows[liar] = 0.099
        value = results(play(made, rows))[0].values[0]
        assert np.allclose(value, expected(rows, buckets), atol=STEP)
        assert (honest.min(axis=0) - STEP <= value).all() and (value <= honest.max(axis=0) + STEP).all()
        assert not np.allclose(value, rows.mean(axis=0), atol=1e-3)


def test_ranges_move_alike_in_all_buckets_and_follow_the_combining_alone() -> None:
    with group(9, seed=5) as made:
        results(play(made, updates(9, 0)))
        moved = {peer.mixer.sessions[1].common.ranges(1) for peer in made.peers}
        assert len(moved) == 1 and moved != {(0.1,)}
        assert {peer.mixer.sessions[0].common.ranges(1) for peer in made.peers} == {(0.1,)}
        results(play(made, updates(9, 1)))  # in which the bucket's are those that the combining had
        assert {peer.mixer.sessions[0].common.ranges(1) for peer in made.peers} == moved


def test_what_a_bucket_agrees_on_goes_no_further_than_its_own_round() -> None:
    """A liar that spoils its bucket's rounds and then names a state in them has nobody take it over (RV-6)."""
    with group(12, seed=8, rounds__ready_deadline=20.0, rounds__phase_deadline=10.0) as made:
        states = [Held(1) for _ in range(12)]
        results(made.run([vector(row, shared=state) for row, state in zip(updates(12, 0), states, strict=True)]))
        place = buckets_of(made)[0][1]
        liar = made.peers[place]
        session = liar.mixer.sessions[0]
        assert isinstance(session.common, BorrowedState) and session.common.shared is None

        class Junk(BorrowedState):
            """Names the widest ranges, as if the group had certified them."""

            def begin(self, shared: SharedState | None, names: tuple[str, ...]) -> None:
                super().begin(shared, names)
                self._ranges = dict.fromkeys(names, 100.0)

        session.common = Junk(session.charter.protocol, liar.mixer.sessions[1].common)
        for peer in made.peers:
            peer.mixer.sessions[0].last = ZERO  # as where none of the bucket's rounds was ever certified
        for number in range(1, 7):
            ended = made.run([vector(row, shared=one) for row, one in zip(updates(12, number), states, strict=True)])
            assert len({one.digest for one in results(ended)}) == 1
            assert {bytes(state.export()[0]) for state in states} == {bytes([1]) * Held.nbytes}
            assert {peer.mixer.sessions[1].common.ranges(1)[0] < 1 for peer in made.peers} == {True}


@given(st.integers(3, 21), st.integers(1, 18))
def test_no_two_rounds_of_a_bucket_are_certified_within_one_of_the_groups(size: int, c: int) -> None:
    c = min(c, size - 2)
    least = bucket_floor(size, c)
    assert quorum(least, c) >= c + 2 and quorum(size, c) <= least <= size
    for roster in range(least, size + 1):
        assert size - (quorum(roster, c) - c) < least  # of whom has no result yet


def test_who_shares_a_bucket_with_one_that_is_gone_has_every_result_all_the_same() -> None:
    with group(12, seed=3, rounds__ready_deadline=20.0, rounds__phase_deadline=10.0) as made:
        results(play(made, updates(12, 0)))
        away = buckets_of(made)[1][0]
        for number in range(1, 7):
            ended = play(made, updates(12, number), away=[away])
            told = results([one for index, one in enumerate(ended) if index != away])
            assert len({one.digest for one in told}) == 1 and len(told[0].participants) == 9


def test_what_a_bucket_of_enough_members_loses_is_the_update_of_who_is_away() -> None:
    with group(16, seed=6, buckets__size=4, rounds__ready_deadline=20.0, rounds__phase_deadline=10.0) as made:
        results(play(made, updates(16, 0)))
        buckets = buckets_of(made)
        away = buckets[2][0]
        rows = updates(16, 1)
        ended = play(made, rows, away=[away])
        told = results([one for index, one in enumerate(ended) if index != away])
        left = [[index for index in bucket if index != away] for bucket in buckets]
        assert np.allclose(told[0].values[0], expected(rows, left), atol=STEP)
        assert told[0].dropped == (made.peers[away].identity.id,)
        back = results(play(made, updates(16, 2)))
        assert all(len(one.participants) >= 15 for one in back)


def test_a_bucket_that_fails_is_left_out_and_its_members_have_the_result_all_the_same() -> None:
    with group(12, seed=7, rounds__ready_deadline=20.0, rounds__phase_deadline=10.0) as made:
        results(play(made, updates(12, 0)))
        buckets = buckets_of(made)
        assert [len(bucket) for bucket in buckets] == [3, 3, 3, 3]
        away, rows = buckets[1][0], updates(12, 1)
        ended = play(made, rows, away=[away])
        told = results([one for index, one in enumerate(ended) if index != away])
        left = [bucket for bucket in buckets if away not in bucket]
        assert np.allclose(told[0].values[0], expected(rows, left), atol=STEP)
        assert {one.values[0].tobytes() for one in told} == {told[0].values[0].tobytes()}
        mates = [ended[index] for index in buckets[1] if index != away]
        assert all(isinstance(one, RoundResult) and not one.contributed for one in mates)
        results(play(made, updates(12, 2)))


def test_too_few_buckets_fail_the_round_and_the_next_one_has_them_back() -> None:
    with group(9, seed=8, rounds__ready_deadline=20.0, rounds__phase_deadline=10.0) as made:
        results(play(made, updates(9, 0)))
        buckets = buckets_of(made)
        away = buckets[0][1]
        ended = play(made, updates(9, 1), away=[away])
        spent = {index: one.spent for index, one in enumerate(ended) if isinstance(one, DecentraError)}
        assert set(spent) == set(range(9)) - {away}
        assert all(spent[index] == (index not in buckets[0]) for index in spent)
        for index in set(spent) - set(buckets[0]):
            assert isinstance(ended[index], Unavailable) and "certified as failed" in str(ended[index])
        results(play(made, updates(9, 2)))


def test_a_peer_that_starts_again_is_in_the_next_round() -> None:
    with group(9, seed=9, rounds__ready_deadline=20.0, rounds__phase_deadline=10.0) as made:
        results(play(made, updates(9, 0)))
        made.restart(3)
        rows = updates(9, 1)
        assert np.allclose(results(play(made, rows))[0].values[0], expected(rows, buckets_of(made)), atol=STEP)


def test_everybody_sees_every_mean_and_sends_about_as_many() -> None:
    with group(12, seed=10) as made:
        results(play(made, updates(12, 0, 100_000)))
        told = results(play(made, updates(12, 1, 100_000)))
        sent = [one.bytes_sent / 400_000 for one in told]
        # in the mean 2·(s−1)/s and the challenge's (c+1)/s of secagg, and m − 1 = 3 means; a few hundred small messages
        assert 4 / 3 + 3 < float(np.mean(sent)) < 4 / 3 + 2 / 3 + 3 + 0.5


def test_joining_leaves_everybody_with_one_common_state_whatever_each_began_with() -> None:
    with group(9, seed=11) as made:
        states = [Held(place // 3 if place < 8 else 7) for place in range(9)]
        told = results(made.run([Vector([], (), shared=state) for state in states]))
        assert len({bytes(state.export()[0]) for state in states}) == 1
        assert len({one.digest for one in told}) == 1
        rows = updates(9, 0)
        told = results(made.run([vector(row, shared=state) for row, state in zip(rows, states, strict=True)]))
        assert np.allclose(told[0].values[0], expected(rows, buckets_of(made)), atol=STEP)


def test_a_peer_that_took_the_state_over_states_no_mean_of_an_update_to_another() -> None:
    with group(12, seed=12) as made:
        states = [Held(1) for _ in range(12)]
        results(made.run([vector(row, shared=state) for row, state in zip(updates(12, 0), states, strict=True)]))
        stale = buckets_of(made)[2]
        for place in stale:
            states[place] = Held(2)
        rows = updates(12, 1)
        told = results(made.run([vector(row, shared=state) for row, state in zip(rows, states, strict=True)]))
        left = [bucket for bucket in buckets_of(made) if bucket != stale]
        assert np.allclose(told[0].values[0], expected(rows, left), atol=STEP)
        assert [one.contributed for one in told] == [place not in stale for place in range(12)]
        assert len({bytes(state.export()[0]) for state in states}) == 1


def test_what_a_round_in_buckets_does_not_take_is_refused_in_words() -> None:
    made = group(9)
    with made:
        peer = made.peers[0]
        with pytest.raises(LocalError, match="can't begin ahead of its update"):
            peer.begin(Vector(None, describe([updates(1, 0)[0]], None)))
        with pytest.raises(LocalError, match=r"open_peer|in buckets"):
            Session(peer.identity, made.charter, boot=1, random=lambda size: bytes(size))
    plain: Any = type("Nowhere", (), {"identity": identities(4, 0)[0]})
    with pytest.raises(LocalError, match=r"no table \[buckets\]"):
        Bucketer(charter_for(identities(4, 0), "secagg"), plain)
    with pytest.raises(LocalError, match=r"no table \[groups\]"):
        Mixer(made.charter, type("Here", (), {"identity": identities(9, 0)[0]}))  # type: ignore[arg-type]


@pytest.mark.slow
def test_nine_real_peers_in_three_buckets_have_what_the_rule_gives() -> None:
    with decentra.local_group(9, protocol="bucketed", transport="zeromq") as made:
        assert isinstance(made, LocalGroup)
        for number in (1, 2):
            rows = updates(9, number, 5000)
            told = made.average([[row] for row in rows])
            assert {one.values[0].tobytes() for one in told} == {told[0].values[0].tobytes()}
            assert told[0].round == RoundId(1, number) and len(told[0].participants) == 9
        index = {peer: place for place, peer in enumerate(made.charter.ids)}
        peer = made.peers[0]
        assert isinstance(peer, BucketPeer)
        buckets: tuple[tuple[PeerId, ...], ...] = peer.buckets
        drawn = [[index[one] for one in each] for each in buckets]
        assert np.allclose(told[0].values[0], expected(rows, drawn), atol=STEP)
        transcripts = {path.name.partition("-")[0] for path in made.peers[0].transcript.iterdir()}
        assert len(transcripts) == 3
