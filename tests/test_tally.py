"""The driver's counters: what is counted adds up, jobs are counted once, and small phases apart from bulk work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra.driver.blobs import BlobStore, Workbench
from decentra.driver.tally import BULK, ELSEWHERE, SMALL, Counts, Tally
from decentra.groups import LocalGroup
from decentra.machine.effects import Compute, Effect, Finish, Tools
from decentra.machine.events import Computed, Event, Start
from decentra.protocols.secagg.messages import Endorse
from decentra.simulation.group import SimulatedGroup, charter_for, identities
from decentra.transport.base import Lane
from decentra.types import RoundId
from helpers import ids, play, post_raw, results, settle, sign, simulate, vector
from test_driver import Scripted

SECOND = 10**9


class Hands:
    """A clock of CPU time that moves when a test says."""

    def __init__(self) -> None:
        self.time = 0

    def __call__(self) -> int:
        return self.time

    def work(self, seconds: int) -> None:
        self.time += seconds * SECOND


@dataclass
class Toil:
    """Job: takes its time, and touches a blob or does not."""

    hands: Hands
    seconds: int
    touches: Callable[[Tools], object] = lambda tools: None
    fails: bool = False

    def run(self, tools: Tools) -> object:
        self.hands.work(self.seconds)
        if self.fails:
            raise ValueError("no")
        return self.touches(tools)


def keeps(tools: Tools) -> object:
    return tools.keep(np.zeros(8, np.uint8))


STEPS = st.lists(st.tuples(st.sampled_from((ELSEWHERE, SMALL, BULK)), st.integers(0, 9)), max_size=20)


@given(STEPS)
def test_the_time_of_each_kind_of_work_adds_up(steps: list[tuple[int, int]]) -> None:
    hands = Hands()
    tally = Tally(hands)
    for work, seconds in steps:
        tally.turn(work)
        hands.work(seconds)
    tally.turn(ELSEWHERE)
    counts = tally.read()
    assert counts.small == sum(seconds for work, seconds in steps if work == SMALL)
    assert counts.bulk == sum(seconds for work, seconds in steps if work == BULK)


@given(st.recursive(st.integers(1, 5), lambda inner: st.tuples(st.sampled_from((SMALL, BULK)), st.lists(inner))))
def test_work_within_other_work_is_counted_as_its_own_and_once(plan: Any) -> None:
    hands, expected = Hands(), {ELSEWHERE: 0, SMALL: 0, BULK: 0}
    tally = Tally(hands)

    def act(plan: Any, work: int) -> None:
        if isinstance(plan, int):
            hands.work(plan)
            expected[work] += plan
            return
        with tally.at(plan[0]):
            for part in plan[1]:
                act(part, plan[0])

    act(plan, ELSEWHERE)
    assert tally.read() == Counts(small=expected[SMALL], bulk=expected[BULK])


def test_a_tally_without_a_clock_counts_messages_alone() -> None:
    tally = Tally(None)
    with tally.at(SMALL):
        tally.signed += 1
        Workbench(BlobStore(), bytes, tally=tally).run(Toil(Hands(), 5, keeps))
    assert tally.read() == Counts(signed=1)


def test_the_difference_of_two_counts_is_what_came_between() -> None:
    earlier, later = Counts(1, 2, 3.0, 4.0), Counts(2, 4, 6.0, 13.0)
    assert later - earlier == Counts(1, 2, 3.0, 9.0)
    assert (later - earlier).share == 0.25
    assert later - later == Counts()
    assert Counts().share == 0.0


@pytest.mark.parametrize(
    ("touches", "bulk"),
    [(lambda tools: None, False), (keeps, True), (lambda tools: tools.view(keeps(tools)), True)],
    ids=["no blob", "makes one", "reads one"],
)
def test_a_job_is_bulk_where_it_touches_a_blob(touches: Callable[[Tools], object], bulk: bool) -> None:
    hands = Hands()
    tally = Tally(hands)
    bench = Workbench(BlobStore(), bytes, tally=tally)
    bench.run(Toil(hands, 3, keeps))  # what an earlier job did says nothing of this one
    before = tally.read()
    bench.run(Toil(hands, 5, touches))
    assert tally.read() - before == (Counts(bulk=5.0) if bulk else Counts(small=5.0))


def test_a_job_that_fails_is_counted_too() -> None:
    hands = Hands()
    tally = Tally(hands)
    with pytest.raises(ValueError, match="no"):
        Workbench(BlobStore(), bytes, tally=tally).run(Toil(hands, 2, fails=True))
    assert tally.read() == Counts(small=2.0)


def test_a_job_that_the_pool_runs_in_place_is_counted_once_and_its_value_is_a_small_matter() -> None:
    group, hands = simulate(3), Hands()
    driver = group.peers[0].driver
    driver.tally = Tally(hands)

    def answer(event: Event) -> list[Effect]:
        hands.work(1)
        if isinstance(event, Start):
            return [Compute("job", Toil(hands, 10, keeps))]
        return [Finish(None)] if isinstance(event, Computed) else []

    driver.begin(Scripted(answer), lambda _ended: None)
    assert not driver.busy
    assert driver.tally.read() == Counts(small=2.0, bulk=10.0)


def test_what_comes_on_the_bulk_lane_is_bulk_and_what_breaks_a_clause_is_small_and_over() -> None:
    group, hands = simulate(3), Hands()
    settle(group, 3.0)
    driver, peer = group.peers[0].driver, ids(group)[1]
    driver.tally = Tally(hands)
    link = driver._links[peer]
    honest = link.receive

    def slow(*given: Any) -> Any:
        hands.work(1)
        return honest(*given)

    link.receive = slow  # type: ignore[method-assign]
    driver.on_receive(peer, Lane.BULK, b"", ())  # no frame: SCHEMA
    assert driver.tally.read() == Counts(bulk=1.0)
    driver.on_receive(peer, Lane.CONTROL, b"", ())
    hands.work(100)
    driver.on_receive(peer, Lane.CONTROL, b"", ())
    assert driver.tally.read() == Counts(small=2.0, bulk=1.0)


def read(group: SimulatedGroup) -> list[Counts]:
    return [peer.driver.tally.read() for peer in group.peers]


def test_a_round_counts_every_message_at_each_who_got_it_and_an_idle_group_counts_none() -> None:
    group = simulate(4)
    settle(group, 3.0)
    before = read(group)
    assert before == [Counts(small=one.small, bulk=one.bulk) for one in before]
    results(play(group, [vector([0.01] * 100)] * 4))
    settle(group, 3.0)
    counts = [later - earlier for later, earlier in zip(read(group), before, strict=True)]
    signed = sum(one.signed for one in counts)
    assert 0 < signed <= sum(one.verified for one in counts) <= 3 * signed
    assert all(one.small > 0 and one.bulk > 0 for one in counts)
    between = read(group)
    settle(group, 3.0)
    assert [(one.signed, one.verified) for one in read(group)] == [(one.signed, one.verified) for one in between]


def test_a_message_is_counted_once_it_is_verified_and_not_where_it_is_refused() -> None:
    group = simulate(3)
    settle(group, 3.0)
    author, driver = group.peers[1], group.peers[0].driver
    before = driver.tally.read().verified
    author.session.round = RoundId(1, 1)
    verified = sign(author, Endorse(bytes(32)), bytes(32))
    post_raw(author, verified.signed.entry, verified.signed.body)
    post_raw(author, verified.signed.entry, b"\x90")
    settle(group, 3.0)
    assert driver.tally.read().verified == before + 1


def test_a_peer_that_starts_again_counts_from_nothing() -> None:
    group = simulate(3)
    results(play(group, [vector([0.01] * 9)] * 3))
    assert group.restart(0).driver.tally.read().signed == 0


def test_a_real_peer_s_counters_can_be_read_while_it_runs() -> None:
    members = identities(3, 0)
    with LocalGroup(charter_for(members, "secagg"), members) as group:
        before = [peer.counts for peer in group.peers]
        group.average([[np.full(1000, 0.01, np.float32)]] * 3)
        counts = [peer.counts - earlier for peer, earlier in zip(group.peers, before, strict=True)]
    assert all(one.signed > 0 and one.verified > 0 and one.small > 0 and one.bulk > 0 for one in counts)
