"""Two halves that each think themselves the group: they find out when they meet, and at most one goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentra import derive
from decentra.charter import Charter
from decentra.charter.amend import amended, judge
from decentra.driver.division import weigh
from decentra.driver.ports import Ports
from decentra.driver.session import Session
from decentra.driver.succession import Successor
from decentra.errors import Amended, LocalError, RemoteError
from decentra.gossip.halves import REMEMBERED, Halves, Split, Verdict, of_epochs, of_outcomes
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.simulation.ports import InlinePool, MemoryJournal, SeededRandom
from decentra.types import EpochName, PeerId
from decentra.wire.frame import ADDRESSES_LIMIT
from helpers import errors, ids, play, results, settle, simulate, small

MIRRORED: dict[Verdict, Verdict] = {"here": "there", "there": "here"}


def peer(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


# ── which goes on ────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def halves(draw: st.DrawFn) -> tuple[frozenset[PeerId], frozenset[PeerId], int, int]:
    """Members heard on either side, their number, and c: more than c stand on both sides."""
    members = draw(st.integers(3, 64))
    c = draw(st.integers(1, members - 2))
    sides = draw(st.lists(st.sampled_from("ht-"), min_size=members, max_size=members))
    here, there = (frozenset(peer(at) for at, side in enumerate(sides) if side == which) for which in "ht")
    return here, there, members, c


@given(halves())
def test_at_most_one_half_goes_on_and_both_say_the_same(
    case: tuple[frozenset[PeerId], frozenset[PeerId], int, int],
) -> None:
    here, there, members, c = case
    if len(here) > c and len(there) > c:
        mine, theirs = of_outcomes(here, there, members, c), of_outcomes(there, here, members, c)
        assert theirs == MIRRORED.get(mine, mine) and mine != "one"


@given(halves())
def test_c_members_that_lie_stop_nobody_and_lead_nobody_away(
    case: tuple[frozenset[PeerId], frozenset[PeerId], int, int],
) -> None:
    here, there, members, c = case
    if len(there) <= c:
        assert of_outcomes(here, there, members, c) == "one"


@given(halves(), st.data())
def test_who_is_heard_later_never_turns_a_verdict(
    case: tuple[frozenset[PeerId], frozenset[PeerId], int, int], data: st.DataObject
) -> None:
    here, there, members, c = case
    verdict = of_outcomes(here, there, members, c)
    unheard = sorted({peer(at) for at in range(members)} - here - there)
    more = data.draw(st.lists(st.sampled_from(unheard), unique=True)) if unheard else []
    split = data.draw(st.integers(0, len(more)))
    later = of_outcomes(here | set(more[:split]), there | set(more[split:]), members, c)
    if verdict in ("here", "there", "neither"):
        assert later == verdict
    elif verdict == "open":
        assert later != "one"


@given(halves())
def test_the_half_that_goes_on_is_a_quorum_of_the_charter(
    case: tuple[frozenset[PeerId], frozenset[PeerId], int, int],
) -> None:
    here, there, members, c = case
    verdict = of_outcomes(here, there, members, c)
    if verdict in ("here", "there"):
        assert len(here if verdict == "here" else there) >= derive.quorum(members, c)


hashes = st.binary(min_size=32, max_size=32)


@given(st.lists(hashes, min_size=1, max_size=8, unique=True), st.data())
def test_of_two_epochs_of_one_lineage_the_later_goes_on(lineage: list[bytes], data: st.DataObject) -> None:
    first, second = (data.draw(st.integers(0, len(lineage) - 1)) for _ in range(2))
    here, there = EpochName(first + 1, lineage[first]), EpochName(second + 1, lineage[second])
    expected = "one" if first == second else "here" if first > second else "there"
    assert of_epochs(here, there, lineage) == expected
    assert of_epochs(there, here, lineage) == MIRRORED.get(expected, expected)


def test_of_two_charters_that_do_not_come_from_one_another_neither_goes_on() -> None:
    lineage = [b"a" * 32, b"b" * 32]
    mine = EpochName(2, lineage[1])
    assert of_epochs(mine, EpochName(2, b"x" * 32), lineage) == "neither"
    assert of_epochs(mine, EpochName(1, b"x" * 32), lineage) == "neither"
    assert of_epochs(mine, EpochName(3, b"x" * 32), lineage) == "open", "its charter may be on its way"


# ── what is heard ────────────────────────────────────────────────────────────────────────────────────────────────────

SEVEN = tuple(peer(number) for number in range(7))


def heard(c: int, said: dict[int, tuple[int, bytes]], own: Sequence[tuple[int, bytes]]) -> Split:
    machine = Halves(SEVEN[0], SEVEN, c)
    for number, outcome in own:
        machine.certified(number, outcome)
    for place, (number, outcome) in said.items():
        machine.heard(SEVEN[place], number, outcome)
    return machine.split


X, Y = b"x" * 32, b"y" * 32


def test_who_is_only_behind_or_ahead_is_no_other_half() -> None:
    said = {1: (3, X), 2: (9, Y), 3: (0, bytes(32)), 4: (2, Y)}
    assert heard(1, said, [(3, X), (4, X)]) == Split("one")
    assert heard(1, {}, []) == Split("one")


def test_two_outcomes_of_one_round_are_two_halves_with_names() -> None:
    split = heard(1, {1: (4, X), 2: (4, X), 3: (3, X), 4: (4, X), 5: (4, Y), 6: (4, Y)}, [(3, X), (4, X)])
    assert split == Split("here", 4, SEVEN[:5], SEVEN[5:])
    split = heard(1, dict.fromkeys(range(2, 7), (4, Y)), [(4, X)])
    assert split == Split("there", 4, SEVEN[:1], SEVEN[2:])
    split = heard(1, {1: (4, X), 2: (4, X), 3: (4, X), 4: (4, Y), 5: (4, Y), 6: (4, Y)}, [(4, X)])
    assert split.verdict == "neither"
    assert heard(1, {1: (4, Y), 2: (4, Y)}, [(4, X)]).verdict == "open"


def test_strangers_and_itself_have_no_word_and_what_is_remembered_is_bounded() -> None:
    machine = Halves(SEVEN[0], SEVEN, 1)
    for number in range(1, 2 * REMEMBERED):
        machine.certified(number, X)
    for one in (peer(90), peer(91), SEVEN[0]):
        machine.heard(one, 2 * REMEMBERED - 1, Y)
    assert machine.split == Split("one") and len(machine._own) == REMEMBERED
    assert machine.last == (2 * REMEMBERED - 1, X)
    machine.forget()
    assert machine.last == (0, bytes(32))


def test_every_division_is_told_in_one_sentence_with_names() -> None:
    epoch = EpochName(2, b"e" * 32)
    assert weigh(epoch, 1, SEVEN[1:2], Split("one")).says == "", "one liar is nobody's half"
    ahead = weigh(epoch, 1, SEVEN[1:3], Split("one"))
    assert ahead.verdict == "there" and "01010101, 02020202" in ahead.says
    assert "this peer is in epoch 2 (charter 65656565)" in ahead.says
    for verdict in ("here", "there", "open", "neither"):
        told = weigh(epoch, 1, (), Split(verdict, 4, SEVEN[:3], SEVEN[3:]))
        assert told.verdict == verdict and "of round 4" in told.says and "\n" not in told.says
        assert "00000000, 01010101, 02020202 and 03030303" in told.says


# ── as peers on a network live through it ────────────────────────────────────────────────────────────────────────────


class Kept:
    """Charters in memory (``driver.succession.Charters``)."""

    def __init__(self, chain: Sequence[Charter], told: Callable[[Charter], None]) -> None:
        self.chain, self._told = [*chain], told

    @property
    def lineage(self) -> tuple[bytes, ...]:
        return tuple(one.hash for one in self.chain)

    @property
    def newest(self) -> EpochName:
        return EpochName(self.chain[-1].group.epoch, self.chain[-1].hash)

    def after(self, charter: bytes) -> Successor | None:
        if charter not in self.lineage[:-1]:
            return None
        found = self.chain[self.lineage.index(charter) + 1]
        return Successor(found.to_toml().encode(), b"", found.group.epoch)

    def take(self, peer: PeerId, charter: bytes, addresses: bytes) -> bool:
        new = Charter.parse(charter.decode())
        if new.hash in self.lineage:
            return False
        if problems := judge(self.chain[-1], new):
            raise RemoteError(peer, "CHARTER", "; ".join(problems))
        self.chain.append(new)
        self._told(new)
        return True


class Life:
    """A simulated group whose peers keep charters, and can go over to later ones."""

    def __init__(self, n: int, **changes: object) -> None:
        self.group = simulate(n, "allreduce", **changes)
        self.kept: list[Kept] = []
        for place, one in enumerate(self.group.peers):
            self.kept.append(Kept([self.group.charter], self._tell(place)))
            one.session.succeed(self.kept[place])

    def _tell(self, place: int) -> Callable[[Charter], None]:
        def told(charter: Charter) -> None:
            error = Amended((), 0.0, "this round", f"the group begins epoch {charter.group.epoch}")
            self.group.peers[place].driver.give_way(error)

        return told

    def go_over(self, place: int) -> None:
        """As the runtime does: leave the one session, and begin the next."""
        one, kept = self.group.peers[place], self.kept[place]
        before = one.session
        one.session.leave()
        one.driver.close()
        random = SeededRandom(self.group.seed, one.identity.id + kept.newest.charter)
        one.session = Session(one.identity, kept.chain[-1], boot=1, random=random)
        one.session.follow(before)
        driver, one.journal = one.session.driver, MemoryJournal()
        transport = self.group.network.transport(one.identity.id, driver.on_receive, driver.on_link)
        one.session.open(Ports(self.group.clock, transport, one.journal, InlinePool()))
        one.session.succeed(kept)

    def part(self, first: Sequence[int], second: Sequence[int], cut: bool = True) -> None:
        act = self.group.network.cut if cut else self.group.network.heal
        for a in first:
            for b in second:
                act(ids(self.group)[a], ids(self.group)[b])
                act(ids(self.group)[b], ids(self.group)[a])

    def amend(self, signers: Sequence[int], **changes: Any) -> Charter:
        new = amended(self.kept[signers[0]].chain[-1], **changes)
        for place in signers:
            new = new.sign(self.group.peers[place].identity)
        return new


def begin(life: Life, *places: int) -> list[Any]:
    """A round at some peers; every ending, or the LocalError of a peer that begins none."""
    vectors, refused = small(life.group), {}
    for place in places:
        try:
            life.group.peers[place].begin(vectors[place])  # type: ignore[arg-type]
        except LocalError as error:
            refused[place] = error
    going = [life.group.peers[place] for place in places if place not in refused]
    clock = life.group.clock
    assert clock.run_until(lambda: all(one.ended is not None for one in going), clock.now() + 3600)
    return [refused.get(place, life.group.peers[place].ended) for place in places]


QUICK = {"rounds__ready_deadline": 20.0, "rounds__phase_deadline": 10.0}
FIVE, TWO = (0, 1, 2, 3, 4), (5, 6)


def test_a_half_that_the_group_went_on_without_takes_its_charter_and_its_state_when_they_meet() -> None:
    life = Life(7, protocol__c=2, **QUICK)
    results(begin(life, *FIVE, *TWO))
    life.part(FIVE, TWO)
    new = life.amend(FIVE)
    life.kept[0].chain.append(new)
    assert life.group.peers[0].driver.succession is not None
    life.group.peers[0].driver.succession.announce()
    settle(life.group, 5.0)
    assert all(life.kept[place].newest.charter == new.hash for place in FIVE)
    for place in FIVE:
        life.go_over(place)
    settle(life.group, 5.0)
    apart = results(begin(life, *FIVE))
    errors(begin(life, *TWO))
    life.part(FIVE, TWO, cut=False)
    settle(life.group, 40.0)
    assert all(life.kept[place].newest.charter == new.hash for place in TWO)
    for refused in begin(life, *TWO):
        assert isinstance(refused, LocalError)
        assert "the group has gone on in a later epoch" in str(refused) and "epoch 1 (charter" in str(refused)
    for place in TWO:
        life.go_over(place)
    settle(life.group, 40.0)
    together = results(begin(life, *FIVE, *TWO))
    assert len(together[0].participants) == 7 and together[0].round.epoch == 2
    assert together[0].round.number > apart[0].round.number
    assert {one.session.last for one in life.group.peers} == {together[0].digest}


@pytest.mark.parametrize("size", [ADDRESSES_LIMIT, ADDRESSES_LIMIT + 1])
def test_a_charter_travels_without_addresses_that_are_too_large(size: int) -> None:
    class Full(Kept):
        def after(self, charter: bytes) -> Successor | None:
            found = super().after(charter)
            return None if found is None else found._replace(addresses=bytes(size))

    life = Life(4)
    life.kept[0].__class__ = Full
    handed, take = list[int](), life.kept[1].take

    def told(peer: PeerId, charter: bytes, addresses: bytes) -> bool:
        handed.append(len(addresses))
        return take(peer, charter, addresses)

    life.kept[1].take = told  # type: ignore[method-assign]
    new = life.amend((0, 1, 2, 3))
    life.kept[0].chain.append(new)
    assert life.group.peers[0].driver.succession is not None
    life.group.peers[0].driver.succession.announce()
    settle(life.group, 5.0)
    assert all(kept.newest.charter == new.hash for kept in life.kept)
    assert handed[0] == (size if size <= ADDRESSES_LIMIT else 0)


def test_liars_claiming_a_later_epoch_stop_nobody() -> None:
    life = Life(7, protocol__c=2, **QUICK)
    forged = life.amend((5, 6))
    for place in (5, 6):
        life.kept[place].chain.append(forged)
        succession = life.group.peers[place].driver.succession
        assert succession is not None
        succession.announce()
    settle(life.group, 20.0)
    assert all(len(life.kept[place].chain) == 1 for place in FIVE)
    done = results(begin(life, *FIVE, *TWO))
    assert done[0].round.epoch == 1


def remembers(one: SimulatedPeer, number: int, outcome: bytes) -> None:
    """As if a peer's process had lived through another round of that number: a machine image that was run twice."""
    one.session.halves.certified(number, outcome)
    one.session.last = outcome


def meet(life: Life, first: Sequence[int], second: Sequence[int]) -> None:
    life.part(first, second)
    settle(life.group, 5.0)
    life.part(first, second, cut=False)
    settle(life.group, 40.0)


def test_a_quorum_goes_on_and_the_other_half_takes_over_its_state(caplog: pytest.LogCaptureFixture) -> None:
    life = Life(7, protocol__c=1, **QUICK)
    first = results(begin(life, *FIVE, *TWO))
    for place in TWO:
        remembers(life.group.peers[place], first[0].round.number, b"another" + bytes(25))
    meet(life, FIVE, TWO)
    for place in FIVE:
        assert life.group.peers[place].session.division.verdict == "here"
    told = life.group.peers[5].session.division
    assert told.verdict == "there" and str(ids(life.group)[0]) in told.says
    with caplog.at_level(logging.WARNING, "decentra"):
        done = results(begin(life, *FIVE, *TWO))
    said = [record.getMessage() for record in caplog.records if "two halves" in record.getMessage()]
    assert len(said) == 2 and all("this peer's stops and takes over its state" in line for line in said)
    assert len(done[0].participants) == 7
    assert {one.session.division.verdict for one in life.group.peers} == {"one"}


def test_neither_goes_on_where_neither_is_a_quorum() -> None:
    life = Life(7, protocol__c=1, **QUICK)
    first = results(begin(life, *FIVE, *TWO))
    for place in (4, 5, 6):
        remembers(life.group.peers[place], first[0].round.number, b"another" + bytes(25))
    meet(life, (0, 1, 2, 3), (4, 5, 6))
    for refused in begin(life, *FIVE, *TWO):
        assert isinstance(refused, LocalError) and "neither is a quorum" in str(refused)


def test_liars_about_outcomes_stop_nobody() -> None:
    life = Life(7, protocol__c=2, **QUICK)
    first = results(begin(life, *FIVE, *TWO))
    for place in TWO:
        life.group.peers[place].session.halves.certified(first[0].round.number, b"another" + bytes(25))
    meet(life, FIVE, TWO)
    assert {life.group.peers[place].session.division.verdict for place in FIVE} == {"one"}
    results(begin(life, *FIVE))


def test_peers_that_keep_no_charters_play_as_ever() -> None:
    group: SimulatedGroup = simulate(4)
    assert group.peers[0].driver.succession is None
    results(play(group, small(group)))
