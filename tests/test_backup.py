"""``backup = true``: a slice survives an owner that stops after the survivors are certified."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.errors import DecentraError, Unavailable
from decentra.machine.effects import Send
from decentra.machine.events import Blob
from decentra.protocols.rendezvous.messages import AbortRound
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.types import PeerId, RoundResult
from decentra.wire.message import Verified
from helpers import (
    OTHER,
    Watch,
    at,
    change,
    cut_off,
    errors,
    ids,
    kill,
    lie,
    play,
    proposer_of,
    results,
    scene,
    simulate,
    small,
    vector,
)

PHASE = 30.0
BOTH = pytest.mark.parametrize("protocol", ["secagg", "allreduce"])


@BOTH
def test_an_honest_round_is_the_same_with_backups(protocol: str) -> None:
    group = simulate(4, protocol, protocol__backup=True)
    watch = Watch(group)
    done = results(play(group, small(group)))
    watch.exact(1, done)
    assert done[0].dropped == ()
    assert done[0].seconds < 1.0


@pytest.mark.parametrize("stop", [kill, cut_off], ids=["killed", "cut off"])
@pytest.mark.parametrize("who", range(4))
@BOTH
def test_an_owner_that_stops_before_it_sums_is_stood_in_for(protocol: str, who: int, stop: object) -> None:
    group = simulate(4, protocol, protocol__backup=True)
    watch = Watch(group)
    first = "unmask" if protocol == "secagg" else "sum"
    victim = group.peers[who]
    at(victim, first, lambda _machine: kill(victim) if stop is kill else cut_off(group, who))
    given = [vector([0.001 * place] * 40) for place in range(4)]
    began = group.clock.now()
    done = results(play(group, given, but=[who]))
    assert len(done) == 3
    assert ids(group)[who] in done[0].participants  # its update was certified, so it is in the sum
    watch.exact(1, done)
    assert group.clock.now() - began < 2 * PHASE
    assert not any(watch.blames.values())


def test_without_backups_the_same_stop_loses_the_round() -> None:
    group = simulate(4)
    at(group.peers[1], "unmask", lambda _machine: kill(group.peers[1]))
    for error in errors(play(group, small(group), but=[1])):
        assert isinstance(error, Unavailable) and "lost" in str(error)


def test_an_owner_that_is_not_in_the_sum_is_stood_in_for_without_backups() -> None:
    """All parts of its slice are with those who sent them: its own is not needed."""
    group = simulate(7, protocol__c=2)
    watch = Watch(group)
    outsider = (proposer_of(group, 1) + 2) % 7
    name = ids(group)[outsider]

    def omit(effect: object) -> list[object]:
        message = effect.message  # type: ignore[attr-defined]
        held = tuple((peer, hashed) for peer, hashed in message.held if peer != name)
        return [replace(effect, message=replace(message, held=held))]  # type: ignore[type-var]

    lie(group.peers[(outsider + 1) % 7], "secagg.holding", omit)  # type: ignore[arg-type]
    at(group.peers[outsider], "unmask", lambda _machine: kill(group.peers[outsider]))
    liar = (outsider + 1) % 7
    done = results(play(group, small(group), but=[outsider, liar]))
    assert name not in done[0].participants
    watch.exact(1, done)


@pytest.mark.parametrize("other", [3, 5])
def test_where_a_second_stop_keeps_a_part_from_who_would_stand_in_nobody_waits_a_phase_for_it(other: int) -> None:
    """The second one's part of the first's slice is nowhere but with the two: the spare can't sum it either."""
    group = simulate(7, protocol__c=2, protocol__backup=True)

    def strike(victim: SimulatedPeer) -> None:
        kill(victim)
        group.clock.call_later(2.0, lambda: start_again(victim))

    def start_again(victim: SimulatedPeer) -> None:
        back = SimulatedPeer(group, victim.identity, boot=2)
        back.session.begin(vector([0.01, 0.0, 0.0], [[0.0]]), back._end, least=2)

    for who in (1, other):
        at(group.peers[who], "unmask", lambda _machine, who=who: strike(group.peers[who]))
    began = group.clock.now()
    for error in errors(play(group, small(group), but=[1, other])):
        assert isinstance(error, Unavailable) and "certified as lost" in str(error)
    assert group.clock.now() - began < PHASE  # half a phase's time for parts that may be on their way, and a vote


@pytest.mark.parametrize("n", [4, 7])
def test_a_false_proposal_and_a_stop_of_one_owner_lose_no_round_that_all_others_can_end(n: int) -> None:
    """It is the first proposer and names the right outcome, but shows no sums; then it says that it stops."""
    group = simulate(n, protocol__backup=True)
    first = proposer_of(group, 1)

    def twist(effect: object) -> list[object]:
        if effect.message.topic != "outcome":  # type: ignore[attr-defined]
            return [effect]
        shown = replace(effect.message, shown=())  # type: ignore[attr-defined]
        stops = Send(AbortRound("LOCAL", (ids(group)[first],), "it stops"))
        return [replace(effect, message=shown), stops]  # type: ignore[type-var]

    lie(group.peers[first], "certify.propose", twist)  # type: ignore[arg-type]
    began = group.clock.now()
    assert len(results(play(group, small(group), but=[first]))) == n - 1
    assert group.clock.now() - began < PHASE


@settings(max_examples=25)
@given(st.integers(0, 6), st.sampled_from(["masked", "survivors", "unmask", "sum", "outcome", "beacon", "verdict"]))
def test_one_stop_at_any_phase_after_masking_costs_no_round(who: int, phase: str) -> None:
    group = simulate(7, protocol__c=2, protocol__backup=True)
    watch = Watch(group)
    at(group.peers[who], phase, lambda _machine: group.clock.call_later(0.003, lambda: kill(group.peers[who])))
    ended = play(group, [vector([0.001 * place] * 40) for place in range(7)], but=[who])
    failed = [one for one in ended if isinstance(one, DecentraError)]
    assert not failed
    watch.exact(1, results(ended))
    assert not any(blame for peer, blame in watch.blames.items() if peer != ids(group)[who])


def test_the_next_peer_lets_no_vector_in_whose_own_part_it_lacks() -> None:
    attack = scene(protocol__backup=True)
    lie(attack.liar, "secagg.again", lambda _effect: [])
    attack.survived(dropped=True, witnesses=())


def test_a_peer_that_is_left_out_hears_so_and_gets_back_what_clipping_had_cut() -> None:
    group = simulate(7, protocol__c=2, protocol__backup=True)
    lie(group.peers[3], "secagg.again", lambda _effect: [])
    given_ = small(group, 1.0)  # beyond the range: most of it is cut
    kept = [np.full(3, 0.5, np.float32), np.zeros((1, 1), np.float32)]
    for place, one in enumerate(given_):
        assert one is not None
        residual = [array.copy() for array in kept]
        given_[place] = replace(one, residual=residual)
    done = results(play(group, given_))
    assert [one.contributed for one in done] == [place != 3 for place in range(7)]
    for place, one in enumerate(given_):
        assert one is not None and one.residual is not None
        same = all(np.array_equal(now, was) for now, was in zip(one.residual, kept, strict=True))
        assert same == (place == 3)


def test_a_backup_that_is_not_what_was_signed() -> None:
    attack = scene(protocol__backup=True)
    lie(attack.liar, "secagg.again", change(root=OTHER))
    attack.survived("SA-10", dropped=True, witnesses=())


def dies_telling(group: SimulatedGroup, who: int, told: Collection[PeerId]) -> None:
    """Have an owner's process end when its sum has left for some of the others and for no more."""
    victim = group.peers[who]
    driver, summed = victim.driver, []
    honest = driver._post_to

    def post(target: PeerId, verified: Verified, blob: Blob | None) -> None:
        is_sum = verified.entry.kind.endswith(".sum")
        if is_sum and not summed:
            group.clock.call_later(0.5, lambda: kill(victim))  # what left has come by then
        summed.extend([target] if is_sum else [])
        if target in told if is_sum else not summed:
            honest(target, verified, blob)

    driver._post_to = post  # type: ignore[method-assign]


@settings(max_examples=12)
@given(data=st.data())
@pytest.mark.parametrize("backup", [False, True])
def test_a_sum_that_reached_some_before_its_owner_died_ends_the_round_alike_for_all(
    backup: bool, data: st.DataObject
) -> None:
    group = simulate(7, protocol__c=2, protocol__backup=backup)
    who = data.draw(st.integers(0, 6), label="who")
    others = [peer for place, peer in enumerate(ids(group)) if place != who]
    told = data.draw(st.lists(st.sampled_from(others), unique=True, min_size=1, max_size=6), label="told")
    dies_telling(group, who, told)
    ended = [one for place, one in enumerate(play(group, small(group), but=[who])) if place != who]
    spare = ids(group)[(who + 1) % 7]
    if len(told) >= 5 or (backup and spare in told):
        done = [one for one in ended if isinstance(one, RoundResult)]
        assert len(done) >= 5 and len({one.digest for one in done}) == 1
        if backup and spare in told and len(told) < 5:
            assert len(done) == 6  # its votes need the spare, which stands in for the dead owner
        assert all("the others have it" in str(one) for one in ended if not isinstance(one, RoundResult))
    else:
        assert all(isinstance(one, Unavailable) and one.spent for one in ended)
        assert all("certified as lost" in str(one) for one in ended)
