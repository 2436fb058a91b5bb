"""How long a round waits for the slowest: the charter's whole deadline at first, then what rounds took lately."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from decentra.driver.pace import KNOWN, LEAST, OWN, TIMES, Pace
from decentra.simulation.group import Ending, SimulatedGroup
from decentra.types import RoundResult
from helpers import READY, ids, results, settle, simulate, small, without

STEPS = 40.0
"""Virtual seconds of local steps between two rounds of those that are not slow."""


def train(group: SimulatedGroup, slower: Sequence[float]) -> list[Ending]:
    """A round that every peer begins after its local steps, ``slower`` seconds more than the quickest's."""
    settle(group, STEPS + 1.0)
    for peer, vector, seconds in zip(group.peers, small(group), slower, strict=True):
        peer.ended = None
        group.clock.call_later(seconds, lambda peer=peer, vector=vector: peer.begin(vector))
    assert group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), group.clock.now() + 600.0)
    return [peer.ended for peer in group.peers]


TIMES_OF_A_ROUND = st.tuples(st.floats(0, 100), st.floats(0, 300), st.lists(st.floats(0, 300), max_size=8))


@given(st.lists(TIMES_OF_A_ROUND, max_size=12))
def test_whatever_others_do_they_hold_a_round_up_no_longer_than_twice_one_s_own_steps(
    rounds: list[tuple[float, float, list[float]]],
) -> None:
    pace, now, steps = Pace(3, READY), 0.0, []
    for count, (local, lasts, late) in enumerate(rounds):
        assert pace.patience == READY or count >= KNOWN
        for waits, spreads in ((pace.patience, pace._ready), (pace.lateness, pace._given)):
            assert LEAST <= waits <= READY
            if count >= KNOWN and len(spreads) >= KNOWN:
                assert waits <= max(LEAST, OWN * max(steps[1:]) + 1e-6)
        steps.append(local)
        now += local
        pace.note(now, now + lasts, [now + one for one in late], given=[now + one for one in late])
        now += lasts


def test_a_peer_that_dies_is_waited_for_in_full_only_until_the_pace_is_known() -> None:
    group = simulate(5)
    for _ in range(KNOWN):
        train(group, [0.0] * 5)
    settle(group, STEPS)
    waited = results(group.run(without(group, 2)))[0]
    assert ids(group)[2] in waited.dropped
    assert LEAST <= waited.seconds <= STEPS  # half of what a round with its local steps takes, and the round itself


def test_before_a_pace_is_known_a_silent_peer_has_the_charter_s_deadline() -> None:
    group = simulate(5)
    train(group, [0.0] * 5)
    settle(group, STEPS)
    assert results(group.run(without(group, 2)))[0].seconds > READY


def test_a_peer_that_trains_at_half_the_speed_of_the_others_is_in_every_sum() -> None:
    group = simulate(5)
    for _ in range(2 * KNOWN):
        done = results(train(group, [0.0, 0.0, 0.0, 0.0, STEPS]))
        assert len(done[0].participants) == 5


def test_a_peer_that_once_takes_much_longer_is_left_out_once_and_keeps_its_update() -> None:
    group = simulate(5)
    for _ in range(KNOWN):
        train(group, [0.0] * 5)
    settle(group, STEPS)
    assert results(group.run(without(group, 4)))[0].dropped == (ids(group)[4],)
    settle(group, STEPS / 2)
    group.peers[4].begin(small(group)[4])  # it comes with the update of the round that it missed, and waits
    settle(group, STEPS / 2)
    done = results(group.run([*small(group)[:4], None]))
    assert len(done[0].participants) == 5
    settle(group, 5.0)
    assert isinstance(group.peers[4].ended, RoundResult)
    assert group.peers[4].ended.digest == done[0].digest


def test_lateness_that_a_round_still_saw_is_waited_for_in_the_next() -> None:
    pace = Pace(3, READY)
    for began in (100.0, 200.0, 300.0, 400.0):
        pace.note(began, began + 50.0, [began + 1.0, began + 2.0, began + 12.0])
    assert pace.patience == TIMES * (12.0 - 2.0)
