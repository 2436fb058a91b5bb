"""Members that go on breaking clauses: each is cut for a while, the log stays short, and no honest peer is."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.driver.conduct import CUT_FIRST, CUT_MOST, FORGIVEN_AFTER, MOST_FAULTS, Conduct
from decentra.simulation.group import SimulatedGroup
from decentra.transport.simulated import Faults
from decentra.types import PeerId
from helpers import Watch, ids, play, post_raw, results, settle, simulate, small, without

LIAR, VICTIM = PeerId(b"l" * 32), PeerId(b"v" * 32)


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_so_many_faults_cut_a_peer_and_no_fewer() -> None:
    conduct = Conduct([LIAR, VICTIM])
    assert [conduct.exhausted(LIAR, 1.0) for _ in range(MOST_FAULTS)] == [None] * (MOST_FAULTS - 1) + [CUT_FIRST]
    assert conduct.cut == {LIAR}


@given(st.lists(st.floats(FORGIVEN_AFTER, 60.0), max_size=200))
def test_who_breaks_a_clause_no_more_often_than_is_forgiven_is_never_cut(pauses: list[float]) -> None:
    conduct, now = Conduct([LIAR]), 0.0
    for pause in pauses:
        now += pause
        assert conduct.exhausted(LIAR, now) is None


@given(st.lists(st.floats(0.0, 2.0), min_size=20 * MOST_FAULTS, max_size=20 * MOST_FAULTS))
def test_who_goes_on_is_cut_for_longer_and_longer_up_to_a_bound(pauses: list[float]) -> None:
    conduct, now, cuts, since = Conduct([LIAR]), 0.0, [], 0
    for pause in pauses:
        now, since = now + pause, since + 1
        seconds = conduct.exhausted(LIAR, now)
        assert seconds is not None or since < 2 * MOST_FAULTS
        if seconds is not None:
            cuts.append(seconds)
            since = 0
            conduct.cut.discard(LIAR)
    assert cuts == [min(CUT_FIRST * 2**count, CUT_MOST) for count in range(len(cuts))] and cuts[-1] == CUT_MOST


# ── on the simulated network ─────────────────────────────────────────────────────────────────────────────────────────


def attacked(times: int) -> SimulatedGroup:
    """A group after a round, whose third peer then sends everybody what is no entry, so many times."""
    group = simulate(4)
    results(play(group, small(group)))
    for _ in range(times):
        post_raw(group.peers[2], b"no entry", b"no body")
        settle(group, 1.5)
    return group


def cut_by(group: SimulatedGroup) -> list[set[PeerId]]:
    return [peer.driver.conduct.cut for peer in group.peers]


def test_a_member_that_sends_bad_messages_for_ever_is_cut_said_so_a_few_times_and_nobody_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "decentra"):
        group = attacked(3 * MOST_FAULTS)
    liar = ids(group)[2]
    assert cut_by(group) == [{liar}, {liar}, set(), {liar}]
    said = [record for record in caplog.records if str(liar) in record.getMessage()]
    assert len([record for record in said if "is cut for 30 s" in record.getMessage()]) == 3
    assert len(said) <= 3 * 7  # of each honest peer: the 1st, 2nd, 4th, … and the cut
    done = results(play(group, without(group, 2)))
    assert done[0].dropped == (liar,) and done[0].seconds < group.charter.rounds.ready_deadline / 2
    assert "this peer cut it for 30 s" in group.peers[0].driver.reasons[liar]


def test_who_was_cut_and_behaves_again_is_let_in_again() -> None:
    group = attacked(MOST_FAULTS + 2)
    settle(group, 2 * CUT_FIRST)
    assert cut_by(group) == [set()] * 4
    for _ in range(3):
        done = results(play(group, small(group)))
    assert len(done[0].participants) == 4


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(0.0, 0.2), st.floats(0.0, 0.3), st.floats(0.0, 0.3))
def test_a_network_that_loses_repeats_and_reorders_gets_no_honest_peer_cut_or_blamed(
    seed: int, drop: float, duplicate: float, reorder: float
) -> None:
    group = simulate(4, seed=seed, faults=Faults(0.01, 0.02, drop, duplicate, reorder))
    watch = Watch(group)
    for _ in range(2):
        play(group, small(group))
        group.network.break_once(*ids(group)[:2])
    assert cut_by(group) == [set()] * 4 and not any(watch.blames.values())
