"""Who takes part in a round: silence, leaving, floors, dead proposers, other models, common states, catching up."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from decentra.errors import LocalError, Unavailable
from decentra.machine.effects import Abort, Send, SetTimer
from decentra.machine.events import Expired
from decentra.protocols.rendezvous.machine import BRIEF
from decentra.protocols.rendezvous.messages import Absent, Roster
from decentra.protocols.round import Round
from decentra.simulation.group import SimulatedGroup
from helpers import (
    OTHER,
    at,
    blamed,
    cut_off,
    errors,
    ids,
    kill,
    lie,
    mend,
    play,
    proposer_of,
    results,
    settle,
    simulate,
    small,
    vector,
)

READY, PHASE = 120.0, 30.0  # the templates' deadlines


def without(group: SimulatedGroup, *absent: int) -> list:
    return [None if place in absent else mine for place, mine in enumerate(small(group))]


def rosters(group: SimulatedGroup) -> list[Roster]:
    """Every roster that somebody offered, in the order of the members."""
    codec = group.peers[0].driver.registry.codec
    return [
        Roster(*codec.decode("rendezvous.roster", signed.body))
        for peer in group.peers
        for signed in peer.journal.entries
        if b"rendezvous.roster" in signed.entry
    ]


@pytest.mark.parametrize("silent", range(5))
def test_a_silent_peer_is_left_out_after_the_ready_deadline_by_signed_absences(silent: int) -> None:
    group = simulate(5)
    others = tuple(peer for place, peer in enumerate(ids(group)) if place != silent)
    done = results(play(group, without(group, silent)))
    assert done[0].participants == others
    assert done[0].dropped == (ids(group)[silent],)
    assert READY < done[0].seconds < READY + PHASE
    (offer,) = rosters(group)
    assert offer.members == others
    assert len(offer.citations) == 2  # c + 1 statements "asked, not received"
    for peer in group.peers:
        absences = [signed for signed in peer.journal.entries if b"rendezvous.absent" in signed.entry]
        assert len(absences) == (peer.identity.id in others)


def test_who_was_left_out_costs_at_most_two_seconds_the_next_time_and_is_back_when_it_comes_back() -> None:
    group = simulate(5)
    results(play(group, without(group, 1)))
    for _ in range(2):
        brief = results(play(group, without(group, 1)))
        assert brief[0].seconds <= BRIEF + 0.5
        assert ids(group)[1] not in brief[0].participants
    assert len(results(play(group, small(group)))[0].participants) == 5


def test_who_stays_away_is_waited_for_in_full_only_after_twice_as_many_rounds_each_time() -> None:
    group = simulate(5)
    seconds = [results(play(group, without(group, 0)))[0].seconds for _ in range(9)]
    assert [second > READY for second in seconds] == [True, False, False, True, False, False, False, False, True]


def test_below_the_floor_everyone_is_told_whom_it_waited_for_and_nothing_hangs() -> None:
    group = simulate(5)  # the floor is 4
    failed = errors(play(group, without(group, 0, 3), patience=3 * READY + 8 * PHASE))
    for error in failed:
        assert isinstance(error, Unavailable)
        assert not error.spent
    assert any(set(error.waited_for) == {ids(group)[0], ids(group)[3]} for error in failed)
    assert any("start those peers" in str(error) for error in failed)
    assert len(results(play(group, small(group)))[0].participants) == 5


def test_alone_in_the_largest_group_a_peer_gives_up_in_minutes_and_says_whom_it_waited_for() -> None:
    group = simulate(64)
    session = group.peers[0].session
    begun: list[Round] = []
    base = session._machine
    session._machine = lambda *given: begun.append(base(*given)) or begun[0]
    group.peers[0].begin(small(group)[0])
    machine, waited, timers, last = begun[0], 0.0, [("ready", READY)], None
    while not isinstance(last, Abort):
        name, after = timers.pop()
        waited += after
        effects = machine.handle(Expired(name))
        timers += [(effect.name, effect.after) for effect in effects if isinstance(effect, SetTimer)]
        last = effects[-1]
    assert isinstance(last.error, Unavailable)
    assert set(last.error.waited_for) == set(ids(group)[1:])
    assert last.error.seconds == waited < 2 * READY + 8 * PHASE
    assert not last.spent


def test_a_peer_that_left_is_not_waited_for_and_is_welcome_again() -> None:
    group = simulate(5)
    results(play(group, small(group)))
    group.peers[2].session.leave()
    settle(group, 5.0)
    done = results(play(group, without(group, 2)))
    assert done[0].dropped == (ids(group)[2],)
    assert done[0].seconds < 1.0
    assert len(results(play(group, small(group)))[0].participants) == 5


def test_a_peer_that_leaves_while_others_wait_for_it_is_not_waited_for_any_longer() -> None:
    group = simulate(5)
    group.clock.call_later(10.0, group.peers[2].session.leave)
    done = results(play(group, without(group, 2)))
    assert 9.0 < done[0].seconds < 11.0


@pytest.mark.parametrize("stop", ["dead", "mute"])
def test_the_proposer_of_the_next_view_takes_over_from_one_that(stop: str) -> None:
    group = simulate(5)
    first, second = proposer_of(group, 1), proposer_of(group, 1, view=1)
    if stop == "dead":
        done = results(play(group, without(group, first)))
        assert ids(group)[first] not in done[0].participants
    else:
        lie(group.peers[first], "rendezvous.roster", lambda _effect: [])
        done = results(play(group, small(group)))
        assert len(done[0].participants) == 5
    (offer,) = rosters(group)
    assert offer.view == 1
    assert any(b"rendezvous.roster" in signed.entry for signed in group.peers[second].journal.entries)
    assert done[0].seconds < READY + PHASE


def test_two_dead_proposers_in_a_row_are_skipped_together() -> None:
    group = simulate(7)
    dead = (proposer_of(group, 1), proposer_of(group, 1, view=1))
    done = results(play(group, without(group, *dead)))
    assert len(done[0].participants) == 5
    assert done[0].seconds < READY + PHASE


def test_statements_of_absence_are_cited_once_however_many_are_absent() -> None:
    group = simulate(16, protocol__floor=10)
    absent = [place for place in range(16) if place % 4 == 1]
    results(play(group, without(group, *absent)))
    (offer,) = rosters(group)
    assert len(offer.members) == 12
    assert len(offer.citations) == 2


def test_a_statement_of_absence_about_strangers_is_not_kept() -> None:
    group = simulate(4)
    strangers = tuple(sorted(type(ids(group)[0])(bytes([fill]) * 32) for fill in range(1, 65)))
    liar = group.peers[(proposer_of(group, 1) + 1) % 4]
    kept = []

    def say(machine) -> None:
        group.clock.call_later(0.0, lambda: liar.driver.say(Absent(0, strangers)))

    at(liar, "ready", say)
    for peer in group.peers:
        at(peer, "masked", lambda machine: kept.append(dict(machine.rendezvous._absent)))
    results(play(group, small(group)))
    assert kept == [{}] * 4


# ── one model ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("deviant", range(5))
def test_a_peer_with_another_layout_is_told_so_and_the_others_go_on_without_it(deviant: int) -> None:
    group = simulate(5)
    vectors = small(group)
    vectors[deviant] = vector([0.0, 0.0])
    ended = play(group, vectors)
    error = ended[deviant]
    assert isinstance(error, LocalError)
    assert not error.spent
    assert "names, shapes or dtypes" in str(error)
    others = [str(peer) for place, peer in enumerate(ids(group)) if place != deviant]
    assert sum(name in str(error) for name in others) >= 2  # c + 1, so one of them is honest
    done = results([one for place, one in enumerate(ended) if place != deviant])
    assert done[0].dropped == (ids(group)[deviant],)
    assert done[0].seconds < 1.0
    assert not any(record.kind == "intent" for _, record in group.peers[deviant].journal.records)


def test_a_peer_with_another_layout_is_told_so_even_where_the_roster_comes_before_the_others_readiness() -> None:
    group = simulate(5)
    first = proposer_of(group, 1)
    deviant = (first + 1) % 5
    for place in range(5):
        if place not in (first, deviant):
            group.network.faults(ids(group)[place], ids(group)[deviant]).latency = 1.0
    vectors = small(group)
    vectors[deviant] = vector([0.0, 0.0])
    ended = play(group, vectors)
    assert isinstance(ended[deviant], LocalError)
    results([one for place, one in enumerate(ended) if place != deviant])


def test_a_proposer_alone_cannot_tell_a_peer_that_its_model_is_wrong() -> None:
    group = simulate(5)
    first = proposer_of(group, 1)
    victim = ids(group)[(first + 1) % 5]

    def twist(effect: Send) -> list[Send]:
        members = tuple(peer for peer in effect.message.members if peer != victim)
        ready = group.peers[first].driver._machine.rendezvous.ready[victim]
        return [replace(effect, message=replace(effect.message, layout=OTHER, members=members, citations=(ready,)))]

    lie(group.peers[first], "rendezvous.roster", twist)
    ended = play(group, small(group), but=[first])
    assert isinstance(ended[(first + 1) % 5], Unavailable)
    for place in range(5):
        if place not in (first, (first + 1) % 5):
            assert blamed(ended[place]) == ("RV-2", ids(group)[first])


def test_another_fingerprint_or_another_name_is_another_model() -> None:
    for other in (
        vector([0.0, 0.0, 0.0], [[0.0]], fingerprint=bytes(range(32))),
        vector([0.0, 0.0, 0.0], [[0.0]], names=["a", "b"]),
    ):
        group = simulate(4)
        ended = play(group, [other, *small(group)[1:]])
        assert isinstance(ended[0], LocalError)
        assert len(results(ended[1:])[0].participants) == 3


# ── one common state ─────────────────────────────────────────────────────────────────────────────────────────────────


class Parameters:
    """Parameters as training holds them: every peer's own until a round makes them equal."""

    def __init__(self, fill: float, size: int = 5) -> None:
        self.values: NDArray[np.float32] = np.full(size, fill, np.float32)

    def digest(self) -> bytes:
        return hashlib.sha256(self.values.tobytes()).digest()

    def export(self) -> list[NDArray[np.uint8]]:
        return [self.values.view(np.uint8)]

    def adopt(self, data: memoryview) -> None:
        if data.nbytes != self.nbytes:
            raise LocalError("the state has another size")
        self.values = np.frombuffer(data, np.float32).copy()

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


def sharing(states: list[Parameters]) -> list:
    return [vector([0.01], shared=state) for state in states]


def test_peers_that_begin_differently_take_the_first_proposers_state() -> None:
    group = simulate(4)
    states = [Parameters(float(place)) for place in range(4)]
    results(play(group, sharing(states)))
    first = float(proposer_of(group, 1))
    assert [state.values.tolist() for state in states] == [[first] * 5] * 4
    settle(group)
    assert [peer.driver.blobs.bytes_held for peer in group.peers] == [0] * 4


@pytest.mark.parametrize("laggard", range(4))
def test_who_lags_behind_the_certified_state_gets_it_from_one_that_has_it(laggard: int) -> None:
    group = simulate(4)
    states = [Parameters(1.0) for _ in range(4)]
    results(play(group, sharing(states)))
    for state in states:
        state.values += np.float32(0.5)  # what the certified mean did to everyone's parameters
    fresh = group.restart(laggard)  # it lost everything, and is the next round's proposer for one laggard in four
    settle(group, 10.0)
    states[laggard] = Parameters(-7.0)
    fresh.session.round = group.peers[laggard - 1].session.round
    done = results(play(group, sharing(states)))
    assert len(done[0].participants) == 4
    assert [state.values.tolist() for state in states] == [[1.5] * 5] * 4
    assert {peer.session.common.ranges(1) for peer in group.peers} == {group.peers[0].session.common.ranges(1)}


# ── catching up ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_restarted_peer_catches_up_with_the_groups_round() -> None:
    group = simulate(4)
    for _ in range(3):
        results(play(group, small(group)))
    settle(group, 10.0)
    group.restart(1)
    settle(group, 10.0)
    vectors = small(group)
    for place in (0, 2, 3):
        group.peers[place].begin(vectors[place])
    settle(group, 5.0)  # it hears that they are at round 4 before its owner calls
    group.peers[1].begin(vectors[1])
    assert group.peers[1].session.round.number == 4
    group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), group.clock.now() + 600)
    assert len(results([peer.ended for peer in group.peers])[0].participants) == 4


def test_a_peer_that_waits_in_an_old_round_goes_on_to_the_groups_by_itself() -> None:
    group = simulate(4)
    for _ in range(3):
        results(play(group, small(group)))
    settle(group, 10.0)
    group.restart(1)
    settle(group, 10.0)
    vectors = small(group)
    group.peers[1].begin(vectors[1])  # round 1 again, as far as it knows
    settle(group, 3.0)
    assert group.peers[1].session.round.number == 1
    for place in (0, 2, 3):
        group.peers[place].begin(vectors[place])
    group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), group.clock.now() + 600)
    done = results([peer.ended for peer in group.peers])
    assert done[0].round.number == 4
    assert len(done[0].participants) == 4


def test_who_comes_back_between_rounds_waits_in_the_next_one_not_in_the_last() -> None:
    group = simulate(5)
    results(play(group, without(group, 2)))
    settle(group, 30.0)
    group.peers[2].begin(vector([0.0, 0.0, 0.0], [[0.0]]))  # the others are at their local steps
    settle(group, 30.0)
    assert group.peers[2].session.round.number == 2
    results(play(group, without(group, 2)))
    assert len(results([peer.ended for peer in group.peers])[0].participants) == 5


def test_one_liar_alone_cannot_send_the_others_ahead() -> None:
    group = simulate(4)
    liar = group.peers[0]
    liar.session.round = liar.session.round._replace(number=900)
    liar.begin(vector([0.0, 0.0, 0.0], [[0.0]]))
    settle(group, 2.0)
    done = results(play(group, without(group, 0)))
    assert done[0].round.number == 1


def test_a_peer_that_is_cut_off_for_one_round_is_back_in_the_next() -> None:
    group = simulate(5)
    results(play(group, small(group)))
    cut_off(group, 3)
    lost = play(group, small(group), patience=3 * READY + 8 * PHASE)
    assert isinstance(lost[3], Unavailable)
    assert results(lost[:3] + lost[4:])[0].dropped == (ids(group)[3],)
    mend(group, 3)
    settle(group, 40.0)
    assert len(results(play(group, small(group)))[0].participants) == 5


def test_a_dead_peer_is_not_in_the_next_roster() -> None:
    group = simulate(5)
    results(play(group, small(group)))
    kill(group.peers[4])
    assert results(play(group, without(group, 4)))[0].dropped == (ids(group)[4],)
