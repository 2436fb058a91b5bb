"""Who takes part in a round: silence, leaving, floors, dead proposers, other models, common states, catching up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from decentra.errors import LocalError, Unavailable, Underway
from decentra.machine.effects import Abort, Effect, Send, SetTimer
from decentra.machine.events import Event, Expired
from decentra.machine.state import piece_digests
from decentra.protocols.rendezvous.machine import BRIEF, GRACE
from decentra.protocols.rendezvous.messages import Absent, Leave, Ready, Roster
from decentra.protocols.round import Round
from decentra.simulation.group import SimulatedGroup
from decentra.types import RoundId
from decentra.wire.codec import Signed
from decentra.wire.message import Verified
from helpers import (
    OTHER,
    PHASE,
    READY,
    Watch,
    at,
    blamed,
    cut_off,
    errors,
    gave_up,
    ids,
    kill,
    lie,
    mend,
    play,
    post_raw,
    proposer_of,
    results,
    scene,
    settle,
    simulate,
    small,
    vector,
    without,
)


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


def test_who_stays_away_is_waited_for_longer_only_after_twice_as_many_rounds_each_time() -> None:
    group, seconds = simulate(5), []
    for _ in range(9):
        seconds.append(results(play(group, without(group, 0)))[0].seconds)
        settle(group, 60.0)  # of local steps: half of that is waited for once the pace is known
    assert seconds[0] > READY > max(seconds[1:])
    assert [second > 25.0 for second in seconds] == [True, False, False, True, False, False, False, False, True]


def test_below_the_floor_everyone_is_told_whom_it_waited_for_and_nothing_hangs() -> None:
    group = simulate(5)  # the floor is 4
    failed = gave_up(play(group, without(group, 0, 3), patience=3 * READY + 8 * PHASE), spent=False)
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


def leave_of(group: SimulatedGroup, place: int, number: int) -> Verified:
    """A peer's signed word that it leaves a round of this number."""
    driver = group.peers[place].driver
    entry = driver.chain.sign(RoundId(group.charter.group.epoch, number), Leave.kind, driver.registry.encode(Leave()))
    return Verified(entry, Leave(), Signed(entry.packed, driver.registry.encode(Leave())))


@pytest.mark.parametrize("phase", ["ready", "deal", "masked", "outcome"])
def test_a_leave_of_a_far_later_round_ends_none_and_gets_no_honest_proposer_blamed(phase: str) -> None:
    attack = scene()

    def say(_machine: object) -> None:
        signed = leave_of(attack.group, attack.place, 10**9).signed
        post_raw(attack.group.peers[attack.place], signed.entry, signed.body)

    at(attack.liar, phase, say)
    assert len(results(play(attack.group, small(attack.group)))[0].participants) == 4
    signed = leave_of(attack.group, attack.place, 10**9).signed
    post_raw(attack.liar, signed.entry, signed.body)
    settle(attack.group, 5.0)
    for _ in range(4):  # who said so and is silent is one that was not heard, whoever proposes
        assert results(play(attack.group, without(attack.group, attack.place)))[0].dropped == (attack.name,)
    attack.accused(witnesses=())


def test_a_roster_that_cites_a_leave_of_a_later_round_is_refused() -> None:
    group = simulate(4)
    results(play(group, small(group)))
    first = proposer_of(group, 2)
    victim = (first + 1) % 4
    leave = leave_of(group, victim, 3)

    def twist(effect: Send) -> list[Send]:
        members = tuple(peer for peer in ids(group) if peer != ids(group)[victim])
        return [replace(effect, message=replace(effect.message, members=members, citations=(leave,)))]

    lie(group.peers[first], "rendezvous.roster", twist)
    for error in errors(play(group, small(group), but=[first])):
        assert blamed(error) == ("RV-4", ids(group)[first])


def test_an_old_leave_does_not_leave_out_who_is_back() -> None:
    group = simulate(4)
    results(play(group, small(group)))
    liar = proposer_of(group, 3)
    victim = (liar + 1) % 4
    group.peers[victim].session.leave()
    settle(group, 5.0)
    results(play(group, without(group, victim)))
    old = group.peers[liar].driver.others.left[ids(group)[victim]]
    base = group.peers[liar].session._machine

    class Liar(base):
        """Offers its false roster, and goes on as everybody else does."""

        def handle(self, event: Event) -> list[Effect]:
            members = tuple(peer for peer in ids(group) if peer != ids(group)[victim])
            return [
                replace(effect, message=replace(effect.message, members=members, citations=(old,)))
                if isinstance(effect, Send) and isinstance(effect.message, Roster) and effect.message.view == 0
                else effect
                for effect in super().handle(event)
            ]

    group.peers[liar].session._machine = Liar
    assert len(results(play(group, small(group)))[0].participants) == 4


def test_a_proposer_that_has_not_heard_yet_who_is_back_is_not_blamed_for_citing_its_leave() -> None:
    group = simulate(5)
    results(play(group, small(group)))
    watch, first = Watch(group), proposer_of(group, 3)
    back = (first + 1) % 5
    group.peers[back].session.leave()
    settle(group, 5.0)
    results(play(group, without(group, back)))
    group.network.faults(ids(group)[back], ids(group)[first]).latency = 2.0
    for error in errors(play(group, small(group))):
        assert isinstance(error, Unavailable)
        assert not error.spent
    assert not any(peer == ids(group)[first] for taken in watch.blames.values() for _, peer in taken)
    assert len(results(play(group, small(group)))[0].participants) == 5


def test_who_comes_back_just_after_the_others_began_is_waited_for() -> None:
    for back in range(5):
        group = simulate(5)
        group.peers[back].session.leave()
        settle(group, 5.0)
        mine = small(group)[back]
        assert mine is not None
        group.clock.call_later(GRACE / 2, lambda peer=group.peers[back], mine=mine: peer.begin(mine))
        done = results(play(group, without(group, back)))
        assert len(done[0].participants) == 5
        assert done[0].seconds < 1.0


@pytest.mark.parametrize("when", ["before", "while others wait"])
def test_where_too_many_left_to_reach_the_floor_the_round_ends_at_once_and_names_them(when: str) -> None:
    group = simulate(5)  # the floor is 4
    for place in (1, 3):
        if when == "before":
            group.peers[place].session.leave()
        else:
            group.clock.call_later(10.0, group.peers[place].session.leave)
    if when == "before":
        settle(group, 5.0)
    began = group.clock.now()
    for error in gave_up(play(group, without(group, 1, 3)), spent=False):
        assert {ids(group)[1], ids(group)[3]} <= set(error.waited_for)
    assert group.clock.now() - began < (1.0 if when == "before" else 11.0)
    assert len(results(play(group, small(group)))[0].participants) == 5


def test_who_gave_up_waiting_first_is_not_what_the_others_name() -> None:
    group = simulate(3)  # the floor is 3
    silent, first, last = 0, 1, 2
    group.clock.call_later(5.0, lambda: group.peers[last].begin(small(group)[last]))
    ended = play(group, without(group, silent, last))
    group.clock.run_until(lambda: group.peers[last].ended is not None, group.clock.now() + 10.0)
    for error in (ended[first], group.peers[last].ended):
        assert isinstance(error, Unavailable)
        assert error.waited_for == (ids(group)[silent],)


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
        ready = group.peers[first].driver.machine.rendezvous.ready[victim]
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

    def pieces(self) -> tuple[bytes, ...]:
        return piece_digests(self.export())

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
    settle(group, 2.5)  # it hears that they are at round 4 before its owner calls
    group.peers[1].begin(vectors[1])
    assert group.peers[1].session.round.number == 4
    group.clock.run_until(lambda: all(peer.ended is not None for peer in group.peers), group.clock.now() + 600)
    assert len(results([peer.ended for peer in group.peers])[0].participants) == 4


def test_a_newcomer_that_hears_of_old_rosters_first_goes_on_to_the_groups_round() -> None:
    group = simulate(4)
    first = proposer_of(group, 1)
    victim = (first + 1) % 4
    for other in ids(group):  # the others' words wait for it in their links, from round 1 on
        if other != ids(group)[victim]:
            group.network.cut(other, ids(group)[victim])
    results(play(group, [None if place == victim else vector() for place in range(4)]))  # the beginning
    results(play(group, without(group, victim)))
    for place, peer in enumerate(group.peers):
        if place != victim:
            group.network.faults(ids(group)[place], ids(group)[victim]).latency = 0.01 if place == first else 0.2
            group.network.heal(peer.identity.id, ids(group)[victim])
    group.peers[victim].begin(vector())
    settle(group, 20.0)
    assert isinstance(group.peers[victim].ended, Underway)
    assert len(results(play(group, small(group)))[0].participants) == 4


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


# ── peers in different rounds ────────────────────────────────────────────────────────────────────────────────────────


def run_ahead(group: SimulatedGroup, place: int, rounds: int) -> None:
    """Have a peer use rounds up alone, as one does that is started and stopped before the others are there."""
    for other in range(len(group.peers)):
        if other != place:
            cut_off(group, other)
    for _ in range(rounds):
        group.peers[place].begin(small(group)[place])
        settle(group, 2.0)
        group.peers[place].driver.cancel(Unavailable((), 0.0, "its owner", "start it again"))
        settle(group, 1.0)
    for other in range(len(group.peers)):
        mend(group, other)
    settle(group, 60.0)


def test_the_others_do_not_wait_for_a_peer_that_is_in_a_later_round_and_meet_it_there() -> None:
    group = simulate(4)
    results(play(group, small(group)))
    run_ahead(group, 2, 3)
    began = group.clock.now()
    group.peers[2].begin(small(group)[2])
    met = [len(results(play(group, without(group, 2)))[0].participants) for _ in range(4)]
    assert met == [3, 3, 3, 4]
    assert group.clock.now() - began < 3.0


def test_where_the_floor_needs_a_peer_of_a_later_round_the_others_go_there() -> None:
    group = simulate(4)
    results(play(group, small(group)))
    run_ahead(group, 2, 3)
    kill(group.peers[0])
    done = results(play(group, [None, *small(group)[1:]]))
    assert len(done[0].participants) == 3
    assert done[0].seconds < READY + PHASE  # the silent one is waited for once


def test_who_lies_about_its_round_leads_nobody_on_for_ever() -> None:
    group = simulate(4)
    results(play(group, small(group)))
    kill(group.peers[0])
    liar = group.peers[1]
    for number in (10**6, 10, 40, 70, 100, 130, 160):
        message = Ready(OTHER, OTHER, OTHER, OTHER, OTHER)
        entry = liar.driver.chain.sign(RoundId(1, number), Ready.kind, liar.driver.registry.encode(message))
        group.clock.call_later(0.0, partial(post_raw, liar, entry.packed, liar.driver.registry.encode(message)))
    ended = play(group, [None, None, *small(group)[2:]])
    for error in errors(ended):
        assert isinstance(error, Unavailable)
        assert not error.spent
    assert max(peer.session.round.number for peer in group.peers) < 1000
