"""Rounds that begin ahead of their updates: the same bits as ever, whoever is late or stops in its local steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.driver.pace import KNOWN
from decentra.driver.session import Vector
from decentra.errors import LocalError
from decentra.machine.effects import Effect, Send
from decentra.machine.events import Event, Received, Start
from decentra.machine.state import piece_digests
from decentra.protocols.rendezvous.messages import Later
from decentra.protocols.slices import Slices
from decentra.simulation.group import Ending, SimulatedGroup
from decentra.transport.simulated import Faults
from decentra.types import RoundResult
from helpers import PHASE, READY, at, gave_up, ids, kill, play, results, running, settle, simulate, small, vector

SCATTERING = {"secagg": "masked", "allreduce": "slices", "mesh": "updates"}
PROTOCOLS = tuple(SCATTERING)
STEPS = 40.0
"""Virtual seconds of local steps."""


def begin(group: SimulatedGroup, vectors: Sequence[Vector | None], ahead: Sequence[int] | None = None) -> None:
    """Begin a round at every peer with a vector: ahead of it, or, where a peer is not among those, with it."""
    for place, (peer, mine) in enumerate(zip(group.peers, vectors, strict=True)):
        if mine is not None:
            peer.begin(replace(mine, tensors=None) if ahead is None or place in ahead else mine)


def finish(group: SimulatedGroup, but: Sequence[int] = (), patience: float = 600.0) -> list[Ending]:
    """Let time pass until the round has ended for all but these."""
    awaited = [peer for place, peer in enumerate(group.peers) if place not in but]
    assert group.clock.run_until(lambda: all(peer.ended is not None for peer in awaited), group.clock.now() + patience)
    return [None if place in but else peer.ended for place, peer in enumerate(group.peers)]


def train(
    group: SimulatedGroup, vectors: Sequence[Vector], seconds: Mapping[int, float], patience: float = 600.0
) -> list[Ending]:
    """A round that all begin ahead of local steps of so many seconds; who has none given never gets to their end."""
    begin(group, vectors)
    for place, after in seconds.items():
        group.clock.call_later(after, partial(group.peers[place].supply, vectors[place]))
    return finish(group, [place for place in range(len(group.peers)) if place not in seconds], patience)


def phases(group: SimulatedGroup) -> set[str]:
    return {running(peer).phase for peer in group.peers}


def values(done: Sequence[RoundResult]) -> list[bytes]:
    return [value.tobytes() for value in done[0].values]


def drawn(group: SimulatedGroup, seed: int) -> list[Vector]:
    rng = np.random.default_rng(seed)
    return [vector(rng.uniform(-0.09, 0.09, 37), rng.uniform(-0.09, 0.09, (2, 3))) for _ in group.peers]


LATE = st.floats(0.0, STEPS)


@settings(max_examples=12)
@given(
    protocol=st.sampled_from(PROTOCOLS),
    n=st.integers(3, 7),
    seed=st.integers(0, 1000),
    faults=st.builds(Faults, latency=st.floats(0.0, 0.1), jitter=st.floats(0.0, 0.2), drop=st.floats(0.0, 0.03)),
    data=st.data(),
)
def test_rounds_ahead_give_the_bits_of_rounds_with_everything_at_hand(
    protocol: str, n: int, seed: int, faults: Faults, data: st.DataObject
) -> None:
    """Also in mixed groups, of which some peers begin with their updates once these are there."""
    plain, ahead = (simulate(n, protocol, seed=seed, faults=faults) for _ in range(2))
    for count in range(2):
        given_ = drawn(plain, seed + count)
        steps = data.draw(st.lists(LATE, min_size=n, max_size=n))
        first = data.draw(st.sets(st.sampled_from(range(n))))
        begin(ahead, [one if place in first else None for place, one in enumerate(given_)])
        for place, (peer, after) in enumerate(zip(ahead.peers, steps, strict=True)):
            peer.ended = None
            act = peer.supply if place in first else peer.begin
            ahead.clock.call_later(after, partial(act, given_[place]))
        got, expected = results(finish(ahead)), results(play(plain, given_))
        assert got[0].participants == expected[0].participants == ids(plain)
        assert values(got) == values(expected)


@settings(max_examples=12)
@given(
    protocol=st.sampled_from(PROTOCOLS),
    n=st.integers(4, 7),
    seed=st.integers(0, 1000),
    steps=st.lists(LATE, min_size=7, max_size=7),
    data=st.data(),
)
def test_a_peer_that_stops_in_its_local_steps_is_dropped_and_the_sum_is_that_of_the_others(
    protocol: str, n: int, seed: int, steps: list[float], data: st.DataObject
) -> None:
    dies, dead = data.draw(LATE), data.draw(st.integers(0, n - 1))
    plain, ahead = (simulate(n, protocol, seed=seed) for _ in range(2))
    given_ = drawn(plain, seed)
    at(plain.peers[dead], SCATTERING[protocol], lambda machine: setattr(machine, "encode", lambda *_: None))
    ahead.clock.call_later(1.0 + dies, lambda: kill(ahead.peers[dead]))
    expected = results(play(plain, given_, but=[dead]))
    done = results(train(ahead, given_, {place: 1.0 + steps[place] for place in range(n) if place != dead}))
    assert done[0].dropped == expected[0].dropped == (ids(ahead)[dead],)
    assert values(done) == values(expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_small_phases_are_done_before_the_update_is_there(protocol: str) -> None:
    plain, ahead = simulate(5, protocol), simulate(5, protocol)
    results(play(plain, small(plain)))
    whole = [peer.driver.tally.read() for peer in plain.peers]
    begin(ahead, small(ahead))
    settle(ahead, 5.0)
    assert phases(ahead) == {SCATTERING[protocol]}
    early = [peer.driver.tally.read() for peer in ahead.peers]
    says, proposes = (4, 2) if protocol == "secagg" else (3, 1)  # ready, later, (deal,) endorse; roster (, context)
    assert sorted(counts.signed for counts in early) == [says] * 4 + [says + proposes]
    settle(ahead, STEPS)
    assert [counts.signed for counts in early] == [peer.driver.tally.read().signed for peer in ahead.peers]
    for peer, one in zip(ahead.peers, small(ahead), strict=True):
        assert one is not None
        peer.supply(one)
    done = results(finish(ahead))
    assert all(one.seconds < 1.0 for one in done)  # the local steps are not the round's time
    total = [peer.driver.tally.read() for peer in ahead.peers]
    for all_, then, once in zip(total, early, whole, strict=True):
        assert all_.signed == once.signed + 1  # that it comes later
        assert (all_ - then).signed == once.signed + 1 - then.signed


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_slow_peer_is_waited_for_and_named(protocol: str) -> None:
    group = simulate(5, protocol)
    slow, given_ = 3, drawn(group, 1)
    begin(group, given_)
    settle(group, 5.0)
    for place in range(5):
        if place != slow:
            group.peers[place].supply(given_[place])
    settle(group, PHASE)  # twice what slices have otherwise
    assert [peer.ended for peer in group.peers] == [None] * 5
    for place, peer in enumerate(group.peers):
        assert place == slow or peer.driver.awaited == (ids(group)[slow],)
    settle(group, READY / 2)
    group.peers[slow].supply(given_[slow])
    assert len(results(finish(group))[0].participants) == 5


def test_once_the_pace_is_known_a_peer_that_dies_in_its_steps_costs_half_of_them_and_the_next_round_nothing() -> None:
    group = simulate(5)
    for count in range(KNOWN + 1):
        results(train(group, drawn(group, count), dict.fromkeys(range(5), STEPS)))
    begin(group, drawn(group, 9))
    settle(group, STEPS)
    kill(group.peers[2])
    for place, peer in enumerate(group.peers):
        if place != 2:
            peer.supply(drawn(group, 9)[place])
    done = results(finish(group, but=[2]))
    assert done[0].dropped == (ids(group)[2],)
    assert STEPS / 2 < done[0].seconds < STEPS / 2 + PHASE
    given_ = drawn(group, 10)
    begin(group, [None if place == 2 else one for place, one in enumerate(given_)])
    settle(group, STEPS)
    assert {running(peer).phase for peer in group.peers if peer is not group.peers[2]} == {"masked"}
    for place, peer in enumerate(group.peers):
        if place != 2:
            peer.supply(given_[place])
    assert results(finish(group, but=[2]))[0].seconds < 1.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_is_gone_on_without_keeps_its_update_and_brings_it_to_the_next_round(protocol: str) -> None:
    group = simulate(5, protocol)
    slow, given_ = 1, drawn(group, 3)
    begin(group, given_)
    settle(group, 5.0)
    quick = [peer for place, peer in enumerate(group.peers) if place != slow]
    for place, peer in enumerate(group.peers):
        if place != slow:
            peer.supply(given_[place])
    done = results(finish(group, but=[slow]))
    assert done[0].dropped == (ids(group)[slow],)
    (failed,) = gave_up([group.peers[slow].ended], spent=False)  # told at once, in its local steps
    assert "still to come" in str(failed)
    assert not any(record.kind == "intent" for _, record in group.peers[slow].journal.records)
    group.peers[slow].begin(given_[slow])
    for peer in quick:
        peer.begin(given_[group.peers.index(peer)])
    assert len(results(finish(group))[0].participants) == 5


def test_without_too_many_updates_nothing_is_certified_and_who_gave_none_has_spent_none() -> None:
    group = simulate(5)  # t = 4
    given_ = drawn(group, 4)
    begin(group, given_)
    settle(group, 5.0)
    for place in (0, 1, 2):
        group.peers[place].supply(given_[place])
    for place in (3, 4):
        kill(group.peers[place])
    lost = finish(group, but=[3, 4], patience=READY + 12 * PHASE)
    gave_up(lost[:3], spent=True, on=ids(group)[3:])


@pytest.mark.parametrize("ends", ["cancel", "leave"])
@pytest.mark.parametrize("masked", [False, True])
def test_who_ends_its_part_in_its_local_steps_is_dropped_and_the_others_go_on(ends: str, masked: bool) -> None:
    group = simulate(5)
    given_ = drawn(group, 5)
    begin(group, given_)
    settle(group, 5.0)
    if masked:
        group.peers[0].supply(given_[0])
        settle(group, 2.0)
    stopped = group.peers[4]
    stopped.driver.cancel(LocalError("its owner gave it up"))
    if ends == "leave":
        stopped.session.leave()
    settle(group, 2.0)
    assert isinstance(stopped.ended, LocalError)
    assert not stopped.ended.spent
    for place in range(0 if not masked else 1, 4):
        group.peers[place].supply(given_[place])
    done = results(finish(group, but=[4]))
    assert done[0].dropped == (ids(group)[4],)
    assert all(one.seconds < 5.0 for one in done)  # nobody waited for it


class Parameters:
    """A shared state of four numbers, which takes down that it was replaced."""

    def __init__(self, fill: int) -> None:
        self.bytes = np.full(4, fill, np.uint8)
        self.adopted = 0
        self.nbytes = 4

    def pieces(self) -> tuple[bytes, ...]:
        return piece_digests(self.export())

    def export(self) -> list[NDArray[np.uint8]]:
        return [self.bytes]

    def adopt(self, data: memoryview) -> None:
        self.adopted += 1
        self.bytes[:] = np.frombuffer(data, np.uint8)


def test_no_common_state_is_replaced_under_the_local_steps() -> None:
    group = simulate(5)
    states = [Parameters(7 if place == 2 else 1) for place in range(5)]
    given_ = [replace(one, shared=state) for one, state in zip(drawn(group, 6), states, strict=True)]
    results(play(group, given_))  # all hold one state
    states[2].bytes[:], before = 9, states[2].adopted
    begin(group, given_)
    settle(group, 5.0 + PHASE)
    assert states[2].adopted == before
    failed = gave_up([peer.ended for peer in group.peers], spent=False)
    assert any("common state" in str(error) for error in failed)
    assert results(play(group, given_))[0].participants == ids(group)
    assert states[2].adopted == before + 1
    assert {state.bytes.tobytes() for state in states} == {states[0].bytes.tobytes()}


def test_in_a_mixed_group_who_comes_after_its_steps_has_the_time_that_it_has_in_any_round() -> None:
    group = simulate(5)
    given_ = drawn(group, 7)
    begin(group, [None if place == 0 else one for place, one in enumerate(given_)])
    settle(group, 2 * READY)  # of local steps, in which nobody is called absent
    assert phases_of(group, 1, 2, 3, 4) == {"ready"}
    for place in (1, 2, 3, 4):
        group.peers[place].supply(given_[place])
    settle(group, READY / 2)
    group.peers[0].begin(given_[0])
    assert len(results(finish(group))[0].participants) == 5


def test_who_begins_with_its_update_waits_for_the_local_steps_of_the_others() -> None:
    group = simulate(5)
    given_ = drawn(group, 8)
    begin(group, given_, ahead=[1])
    settle(group, READY / 2)
    assert group.peers[0].driver.awaited == (ids(group)[1],)
    group.peers[1].supply(given_[1])
    assert len(results(finish(group))[0].participants) == 5


def test_a_peer_that_calls_itself_late_and_gives_nothing_costs_one_wait_and_then_only_brief_ones() -> None:
    group, seconds = simulate(5), []
    base: Any = group.peers[4].session._machine

    class Dawdler(base):  # type: ignore[misc]
        def handle(self, event: Event) -> list[Effect]:
            effects: list[Effect] = super().handle(event)
            return [Send(Later()), *effects] if isinstance(event, Start) else effects

        def encode(self, masks: object = ()) -> None: ...

        def went_on(self, timer: str) -> bool:
            return True

    group.peers[4].session._machine = Dawdler
    for count in range(3):
        seconds.append(results(play(group, drawn(group, count), but=[4]))[0].seconds)
        group.peers[4].driver.cancel(LocalError("its owner begins another"))
        settle(group, 5.0)
    assert seconds[0] > READY
    assert max(seconds[1:]) < PHASE


def test_an_update_that_nobody_asked_for_or_of_a_wrong_weight_is_refused() -> None:
    group = simulate(3)
    peer, (mine, *_) = group.peers[0], drawn(group, 0)
    assert mine.tensors is not None
    with pytest.raises(LocalError, match="no round waits for an update"):
        peer.session.supply(mine.tensors)
    begin(group, drawn(group, 0))
    settle(group, 5.0)
    with pytest.raises(LocalError, match="weight"):
        peer.session.supply(mine.tensors, weight=0)
    for one, given_ in zip(group.peers, drawn(group, 0), strict=True):
        one.supply(given_)
    with pytest.raises(LocalError, match="no round waits for an update"):
        peer.session.supply(mine.tensors)
    results(finish(group))


def phases_of(group: SimulatedGroup, *places: int) -> set[str]:
    return {running(group.peers[place]).phase for place in places}


def test_a_word_of_local_steps_that_comes_when_others_have_masked_stretches_nothing() -> None:
    """A liar gives no slices, and calls itself late once the others wait for them; two more are down."""
    group = simulate(7, protocol__c=2)
    base: Any = group.peers[6].session._machine

    class Liar(base):  # type: ignore[misc]
        said = False

        def handle(self, event: Event) -> list[Effect]:
            effects: list[Effect] = super().handle(event)
            if not self.said and isinstance(event, Received) and isinstance(event.verified.message, Slices):
                self.said = True
                return [*effects, Send(Later())]
            return effects

        def encode(self, masks: object = ()) -> None: ...

        def went_on(self, timer: str) -> bool:
            return True

    group.peers[6].session._machine = Liar
    vectors = [None if place < 2 else mine for place, mine in enumerate(drawn(group, 1))]
    ended = play(group, vectors, but=[6], patience=READY + 12 * PHASE)
    assert all(isinstance(ended[place], RoundResult) for place in range(2, 6))
