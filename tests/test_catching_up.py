"""A common state in parts: from several holders at once, each part checked, whoever lies, stalls or stops meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra import derive
from decentra.driver.common import GroupState
from decentra.errors import LocalError, RemoteError, Unavailable
from decentra.machine.effects import Send, SetTimer
from decentra.machine.events import Blob
from decentra.machine.state import cut, piece_digests
from decentra.protocols.rendezvous.messages import State, Want
from decentra.protocols.rendezvous.state import AT_ONCE, OF_A_SOURCE, Fetch, Listed
from decentra.protocols.setting import Part
from decentra.simulation.group import SimulatedPeer, charter_for, identities
from decentra.transfer import blob_root
from decentra.transfer import piece_digests as digests_of
from decentra.transport.simulated import Faults
from decentra.types import PeerId, RoundResult
from helpers import (
    OTHER,
    PHASE,
    READY,
    Watch,
    at,
    blamed,
    change,
    cut_off,
    ids,
    kill,
    lie,
    mend,
    play,
    proposer_of,
    results,
    settle,
    simulate,
    vector,
)

MIB = 1 << 20


class Bulk:
    """A state of some MiB, exported as two arrays that end within pieces."""

    def __init__(self, fill: int, size: int) -> None:
        self.head, self.body = np.full(1_001, fill, np.uint8), np.arange(size - 1_001, dtype=np.uint32).view(np.uint8)
        self.body = self.body[: size - 1_001] + np.uint8(fill)
        self.refuses = False

    def pieces(self) -> tuple[bytes, ...]:
        return piece_digests(self.export())

    def export(self) -> list[NDArray[np.uint8]]:
        return [self.head, self.body]

    def adopt(self, data: memoryview) -> None:
        if self.refuses:
            raise LocalError("it holds NaN")
        self.head, self.body = (np.frombuffer(part, np.uint8).copy() for part in (data[:1_001], data[1_001:]))

    def moved(self) -> None:
        self.head += np.uint8(3)
        self.body += np.uint8(3)

    @property
    def nbytes(self) -> int:
        return int(self.head.nbytes + self.body.nbytes)


# ── the state itself ─────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 3 * derive.PIECE), max_size=4), st.data())
@settings(max_examples=40)
def test_pieces_and_parts_are_those_of_the_arrays_one_behind_another(sizes: list[int], data: st.DataObject) -> None:
    arrays = [np.random.default_rng(size).integers(0, 256, size, np.uint8) for size in sizes]
    whole = np.concatenate([np.empty(0, np.uint8), *arrays])
    assert piece_digests(arrays) == (digests_of(whole.data) if whole.size else ())
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))
    assert cut(arrays, start, stop).tobytes() == whole[start:stop].tobytes()


def held(fill: int, size: int = 5 * MIB + 17, **ranges: float) -> GroupState:
    state = GroupState(charter_for(identities(4, 0), "secagg").protocol)
    state.shared, state.names = Bulk(fill, size), ("x",)
    state.moved({name: bound / 8 for name, bound in ranges.items()})
    return state


@given(st.permutations(range(6)), st.integers(0, 6))
@settings(max_examples=20)
def test_parts_may_come_in_any_order_and_in_several_rounds(order: list[int], first: int) -> None:
    mine, theirs = held(1), held(2, a=0.2, b=0.3)
    state, index = theirs.digest(), theirs.export(0)
    assert index is not None and mine.digest() != state
    parts = mine.expect(index, state)
    assert parts is not None and [part.number for part in parts] == [1, 2, 3, 4, 5, 6]
    for place in order[:first]:
        bring(theirs, mine, state, parts[place])
    left = mine.expect(index, state)  # the round ended, and this is the next one
    assert left is not None and {part.number for part in left} == {parts[place].number for place in order[first:]}
    for place in order[first:]:
        bring(theirs, mine, state, parts[place])
    mine.adopt(state)
    assert mine.digest() == state
    assert mine.export(0).tobytes() == index.tobytes()  # type: ignore[union-attr]


def bring(theirs: GroupState, mine: GroupState, state: bytes, part: Any) -> None:
    data = theirs.export(part.number)
    assert data is not None
    assert part.root == blob_root(data.nbytes, digests_of(data.data))
    assert data.nbytes <= mine.room(part.number)
    mine.place(state, part, data)


@given(st.data())
@settings(max_examples=60)
def test_an_index_with_any_byte_changed_is_none_of_that_state(data: st.DataObject) -> None:
    mine, theirs = held(1, MIB), held(2, MIB, a=0.2)
    index = theirs.export(0)
    assert index is not None and index.nbytes <= mine.room(0)
    place, bits = data.draw(st.integers(0, index.size - 1)), data.draw(st.integers(1, 255))
    changed = index.copy()
    changed[place] ^= bits
    before = mine.digest()
    assert mine.expect(changed, theirs.digest()) is None
    assert mine.expect(index[:place], theirs.digest()) is None
    assert mine.digest() == before


def test_a_state_of_another_size_or_beyond_the_charters_bounds_is_refused() -> None:
    mine, larger, wild = held(1, MIB), held(2, MIB + 1), held(2, MIB)
    with pytest.raises(ValueError, match="1048577 bytes, where this peer's model has 1048576"):
        mine.expect(larger.export(0), larger.digest())  # type: ignore[arg-type]
    wild._ranges["a"] = 1e30
    with pytest.raises(ValueError, match="outside the charter's bounds"):
        mine.expect(wild.export(0), wild.digest())  # type: ignore[arg-type]


def test_there_are_no_parts_beyond_the_last() -> None:
    assert held(1).export(6) is not None
    assert held(1).export(7) is None
    alone = GroupState(charter_for(identities(4, 0), "secagg").protocol)
    assert alone.export(0) is not None and alone.export(1) is None


# ── on the way ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Coming:
    """A group in which one peer comes back with nothing, while the others hold a state that they certified."""

    def __init__(self, n: int = 5, place: int = 1, size: int = 8 * MIB - 5, faults: Faults | None = None) -> None:
        self.group = simulate(n, faults=faults)
        self.states = [Bulk(1, size) for _ in range(n)]
        results(play(self.group, self.vectors()))
        for state in self.states:
            state.moved()
        self.place = place
        self.group.restart(place)
        self.states[place] = Bulk(77, size)
        settle(self.group, 12.0)
        self.watch = Watch(self.group)
        self.wanted: list[tuple[PeerId, int]] = []
        """Whom the joiner asked, and for which part."""
        self.sources: list[dict[PeerId, int]] = []
        lie(self.joiner, "rendezvous.want", self._note)
        at(self.joiner, "deal", lambda machine: self.sources.append(dict(machine.rendezvous.adopted)))

    def _note(self, effect: Send) -> list[Send]:
        assert isinstance(effect.message, Want) and effect.to is not None
        self.wanted.append((effect.to, effect.message.part))
        return [effect]

    @property
    def joiner(self) -> SimulatedPeer:
        return self.group.peers[self.place]

    @property
    def holders(self) -> list[SimulatedPeer]:
        return [peer for peer in self.group.peers if peer is not self.joiner]

    def vectors(self, *absent: int) -> list[Any]:
        return [
            None if place in absent else vector([0.01], shared=state) for place, state in enumerate(self.states)
        ]

    def play(self, *absent: int, but: Sequence[int] = ()) -> list[Any]:
        return play(self.group, self.vectors(*absent), but=but)

    def joined(self, but: SimulatedPeer | None = None) -> None:
        """The joiner holds what the others hold, to the bit, and nobody holds on to anything, ``but`` for a liar."""
        honest = next(state for place, state in enumerate(self.states) if place != self.place)
        assert self.states[self.place].pieces() == honest.pieces()
        settle(self.group)
        assert not [peer for peer in self.group.peers if peer is not but and peer.driver.blobs.bytes_held]
        assert self.joiner.session.common._gathered is None

    def named(self) -> set[tuple[str, PeerId | None]]:
        """Whom the joiner named."""
        return set(self.watch.blames[self.joiner.identity.id])


def test_a_state_comes_from_all_that_hold_it_at_once_each_part_once() -> None:
    case = Coming()
    done = results(case.play())
    assert len(done[0].participants) == 5 and done[0].seconds < 5.0
    case.joined()
    (sources,) = case.sources
    assert sorted(number for _, number in case.wanted) == list(range(9))
    assert set(sources) == {peer.identity.id for peer in case.holders}
    assert min(sources.values()) >= MIB
    index = case.holders[0].session.common.room(0)
    assert case.states[0].nbytes < sum(sources.values()) < case.states[0].nbytes + index


def test_where_states_are_equal_nothing_is_asked_for() -> None:
    group = simulate(4)
    results(play(group, [vector([0.01], shared=Bulk(1, MIB)) for _ in range(4)]))
    kinds = {b"rendezvous.want", b"rendezvous.state"}
    assert not [1 for peer in group.peers for one in peer.journal.entries if any(kind in one.entry for kind in kinds)]


def test_few_parts_are_asked_for_at_once() -> None:
    case = Coming(n=6, size=14 * MIB)
    came = most = 0
    honest = case.joiner.driver._feed

    def feed(event: Any) -> None:
        nonlocal came, most
        came += isinstance(getattr(event, "verified", None) and event.verified.message, State)
        most = max(most, len(case.wanted) - came)
        honest(event)

    case.joiner.driver._feed = feed  # type: ignore[method-assign]
    results(case.play())
    assert OF_A_SOURCE < most <= AT_ONCE
    case.joined()


def stops_giving(peer: SimulatedPeer, after: int, what: Callable[[], object]) -> None:
    """Have a holder give so many parts, and then do something else."""
    given = 0

    def twist(effect: Send) -> list[Send]:
        nonlocal given
        given += 1
        if given <= after:
            return [effect]
        what()
        return []

    lie(peer, "rendezvous.state", twist)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_source_that_stalls_is_replaced_and_the_joiner_is_in_that_round(after: int) -> None:
    case = Coming()
    stops_giving(case.holders[0], after, lambda: None)
    done = results(case.play())
    assert len(done[0].participants) == 5
    assert PHASE / 4 <= done[0].seconds < PHASE / 2
    case.joined()
    assert case.named() == set()
    assert len(case.wanted) <= 9 + OF_A_SOURCE


@pytest.mark.parametrize("after", [0, 2])
def test_a_source_that_dies_on_the_way_costs_a_round_and_the_joiner_is_in_the_next(after: int) -> None:
    case = Coming()
    victim = case.holders[0]
    place = case.group.peers.index(victim)
    stops_giving(victim, after, lambda: case.group.clock.call_later(0.0, partial(kill, victim)))
    ended = case.play(but=[place])
    assert all(isinstance(one, Unavailable) and not one.spent for one in ended if one is not None)
    assert case.states[case.place].pieces() == case.states[4].pieces()  # the others have sent what was missing
    asked = len(case.wanted)
    done = results(case.play(place))
    assert case.joiner.identity.id in done[0].participants
    assert len(case.wanted) == asked
    assert case.named() == set()


def wrong_root(effect: Send) -> list[Send]:
    return [replace(effect, message=replace(effect.message, root=OTHER))]  # type: ignore[type-var]


def other_part(peer: SimulatedPeer) -> Callable[[Send], list[Send]]:
    """Sends sound bytes that are not those of the part."""

    def twist(effect: Send) -> list[Send]:
        ((to, blob),) = effect.blobs.items()
        data = np.full(blob.size, 9, np.uint8)
        other = peer.driver.workbench().keep(data)
        return [replace(effect, message=replace(effect.message, root=other.root), blobs={to: other})]  # type: ignore[type-var]

    return twist


def other_bytes(peer: SimulatedPeer) -> Callable[[Send], list[Send]]:
    """Announces the part, and sends other bytes."""

    def twist(effect: Send) -> list[Send]:
        ((to, blob),) = effect.blobs.items()
        store = peer.driver.blobs
        return [replace(effect, blobs={to: store.put(np.full(blob.size, 9, np.uint8), store.digests(blob))})]

    return twist


def other_state(effect: Send) -> list[Send]:
    return change(state=OTHER)(effect)  # type: ignore[return-value]


LIES: dict[str, tuple[Callable[[SimulatedPeer], Callable[[Send], Sequence[Send]]], str]] = {
    "another root": (lambda peer: wrong_root, "RV-6"),
    "another state": (lambda peer: other_state, "RV-6"),
    "another part": (other_part, "RV-6"),
    "other bytes": (other_bytes, "DIGEST"),
}


def lies_about(peer: SimulatedPeer, how: str, numbers: range) -> None:
    made, _ = LIES[how]
    twist = made(peer)
    lie(
        peer,
        "rendezvous.state",
        lambda effect: twist(effect) if effect.message.part in numbers else [effect],  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize("numbers", [range(1), range(1, 200), range(5, 200)], ids=["index", "parts", "later parts"])
@pytest.mark.parametrize("how", LIES)
def test_a_source_that_lies_about_a_part_is_named_and_costs_that_part_only(how: str, numbers: range) -> None:
    case = Coming()
    liar = case.holders[0]  # who is asked for the index
    lies_about(liar, how, numbers)
    done = results(case.play())
    assert len(done[0].participants) == 5
    case.joined(but=liar)
    forgiven = how == "other bytes" and 0 in numbers  # a link asks for its one piece again, and patience is over first
    assert case.named() == (set() if forgiven else {(LIES[how][1], liar.identity.id)})
    after_lie = [number for to, number in case.wanted if to == liar.identity.id]
    assert len(after_lie) <= 1 + (0 if 0 in numbers else 2 * OF_A_SOURCE)
    for peer in case.holders:
        assert case.watch.blames[peer.identity.id] == []  # nobody is named by hearsay


def test_where_the_only_holder_lies_the_round_ends_and_names_it() -> None:
    group = simulate(4)
    states = [Bulk(place, 2 * MIB) for place in range(4)]
    first = proposer_of(group, 1)
    lies_about(group.peers[first], "another part", range(1, 200))
    ended = play(group, [vector([0.01], shared=state) for state in states])
    errors = [one for place, one in enumerate(ended) if place != first]
    assert all(isinstance(one, RemoteError) and one.clause == "RV-6" for one in errors)
    assert ids(group)[first] in {blamed(one)[1] for one in errors}  # type: ignore[arg-type]
    assert [int(state.head[0]) for state in states] == [0, 1, 2, 3]


def test_a_beginning_that_others_cannot_use_is_laid_to_its_author() -> None:
    group = simulate(4)
    states = [Bulk(place, MIB) for place in range(4)]
    first = proposer_of(group, 1)
    for place, state in enumerate(states):
        state.refuses = place != first
    for place, error in enumerate(play(group, [vector([0.01], shared=state) for state in states])):
        if place != first:
            assert isinstance(error, RemoteError) and error.clause == "RV-6"
            assert error.peer in (None, ids(group)[first])


def test_a_certified_state_that_this_peer_alone_cannot_use_is_laid_to_nobody_else() -> None:
    case = Coming(size=MIB)
    case.states[case.place].refuses = True
    ended = case.play()
    error = ended[case.place]
    assert isinstance(error, LocalError)
    assert "can't be this peer's: it holds NaN" in str(error)
    assert case.named() == set()


def test_where_no_source_answers_the_round_ends_by_its_deadline_and_names_them() -> None:
    case = Coming()
    for peer in case.holders:
        lie(peer, "rendezvous.state", lambda effect: [] if effect.message.part else [effect])  # type: ignore[attr-defined]
    error = case.play()[case.place]
    assert isinstance(error, Unavailable)
    assert not error.spent
    assert set(error.waited_for) <= {peer.identity.id for peer in case.holders}
    assert len(error.waited_for) >= 2
    assert "'ready' phase" in str(error)


def test_what_came_in_a_round_that_failed_is_not_fetched_again() -> None:
    case = Coming()
    for peer in case.holders:
        stops_giving(peer, 1, lambda: None)
    assert isinstance(case.play()[case.place], Unavailable)
    came = 4 - 1  # of the parts that four sources gave, one was the index
    asked = {number for _, number in case.wanted}
    assert len(asked) > came
    case.wanted.clear()
    for peer in case.holders:
        honest_again(peer)
    results(case.play())
    assert len({number for _, number in case.wanted} - {0}) == 8 - came
    case.joined()


def test_when_a_source_ends_the_round_the_joiner_does_not_wait_for_its_deadline() -> None:
    case = Coming()
    victim = case.holders[0]
    gone = Unavailable((), 0.0, "its owner", "start it again")
    stops_giving(victim, 1, lambda: case.group.clock.call_later(0.0, partial(victim.driver.cancel, gone)))
    began = case.group.clock.now()
    error = case.play()[case.place]
    assert isinstance(error, Unavailable)
    assert case.group.clock.now() - began < 5.0
    honest_again(victim)
    results(case.play())
    case.joined()


def honest_again(peer: SimulatedPeer) -> None:
    """Take the last lie back."""
    peer.session._machine = peer.session._machine.__mro__[1]


class Sources:
    """A fetch of forty parts from two sources, by hand: what it asks of whom, and its timers, at a patience of 1 s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.names = (PeerId(b"a" * 32), PeerId(b"b" * 32))
        self.open: dict[PeerId, list[int]] = {one: [] for one in self.names}
        self.asked: dict[PeerId, set[int]] = {one: set() for one in self.names}
        self.timers: dict[str, float] = {}
        self.out: list[Any] = []
        roster: Any = SimpleNamespace(view=1, state=OTHER)
        common: Any = None
        self.fetch = Fetch(common, roster, self.names, None, 1.0, self.out)
        parts = tuple(Part(number, 0, 1, bytes([number]) * 32) for number in range(1, 41))
        self.fetch.computed(Listed(OTHER, self.names[0], parts))
        self.ask()

    def ask(self) -> None:
        self.fetch.ask()
        for effect in self.out:
            if isinstance(effect, SetTimer):
                self.timers[effect.name] = self.now + effect.after
            elif isinstance(effect, Send) and isinstance(effect.message, Want) and effect.to is not None:
                self.open[effect.to].append(effect.message.part)
                self.asked[effect.to].add(effect.message.part)
        self.out.clear()

    def send(self, source: PeerId, number: int) -> None:
        self.open[source].remove(number)
        root = bytes([number]) * 32
        event: Any = SimpleNamespace(verified=SimpleNamespace(sender=source), blob=Blob(number, 1, root))
        self.fetch.part_came(event, State(1, OTHER, number, root))
        self.ask()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer, due in self.timers.items() if due <= self.now]:
            del self.timers[timer]
            self.fetch.expired(timer)
        self.ask()


@given(st.lists(st.floats(0.05, 0.95), min_size=20, max_size=20))
def test_a_source_that_drips_parts_has_no_more_time_for_the_one_that_it_holds_back(pauses: list[float]) -> None:
    case = Sources()
    dripping, honest = case.names
    held = case.open[dripping][0]
    for pause in pauses:
        case.wait(pause)
        for number in list(case.open[honest]):
            case.send(honest, number)
        if others := [number for number in case.open[dripping] if number != held]:
            case.send(dripping, others[-1])
        if case.now > 2.0:
            break
    assert case.now <= 1.0 or held in case.asked[honest]


def test_a_source_that_sends_each_part_within_its_patience_is_asked_for_more() -> None:
    case = Sources()
    slow, other = case.names
    for _ in range(20):
        case.wait(0.9)
        case.send(slow, case.open[slow][0])
        case.send(other, case.open[other][0])
    assert not case.asked[slow] & case.asked[other]
    assert not any(case.open.values())


def test_what_was_not_asked_for_is_given_no_room() -> None:
    case = Coming(size=2 * MIB)
    liar = case.holders[0]
    first = True

    def twist(effect: Send) -> list[Send]:
        nonlocal first
        if not first:
            return [effect]
        first = False
        more = [
            Send(replace(effect.message, part=number), to=effect.to, blobs=effect.blobs)  # type: ignore[type-var]
            for number in range(1, 129)
        ]
        return [effect, *more]

    lie(liar, "rendezvous.state", twist)
    results(case.play())
    case.joined()
    assert case.named() == set()


def test_a_part_is_given_to_each_peer_once_however_often_it_asks() -> None:
    case = Coming(size=3 * MIB)
    holder, given = case.holders[0], []
    lie(holder, "rendezvous.state", lambda effect: given.append(effect.message.part) or [effect])  # type: ignore[attr-defined,func-returns-value]
    honest = case.joiner.session._machine

    class Greedy(honest):  # type: ignore[misc,valid-type]
        def handle(self, event: Any) -> list[Any]:
            out: list[Any] = []
            for effect in super().handle(event):
                out.append(effect)
                if isinstance(effect, Send) and isinstance(effect.message, Want):
                    out += [Send(replace(effect.message, part=part), to=effect.to) for part in (0, 1, 2, 3, 4, 128)] * 3
            return out

    case.joiner.session._machine = Greedy
    play(case.group, case.vectors(), but=[case.place])
    assert sorted(given) == [0, 1, 2, 3]


def test_a_peer_that_was_cut_off_catches_up_the_same_way() -> None:
    case = Coming(n=5)
    results(case.play())
    cut_off(case.group, case.place)
    others = results(case.play(case.place))
    assert len(others[0].participants) == 4
    for place, state in enumerate(case.states):
        if place != case.place:
            state.moved()
    mend(case.group, case.place)
    settle(case.group, 40.0)
    case.wanted.clear()
    assert len(results(case.play())[0].participants) == 5
    case.joined()
    assert len({to for to, _ in case.wanted}) == 4


CONDUCT = ("honest", "stalls", "dies", *LIES)


@given(
    n=st.integers(5, 6),
    place=st.integers(0, 4),
    bad=st.integers(0, 3),
    conduct=st.sampled_from(CONDUCT),
    after=st.integers(0, 4),
    faults=st.builds(
        Faults,
        latency=st.sampled_from([0.001, 0.05]),
        jitter=st.sampled_from([0.0, 0.1]),
        drop=st.sampled_from([0.0, 0.02]),
        duplicate=st.sampled_from([0.0, 0.1]),
        reorder=st.sampled_from([0.0, 0.1]),
    ),
    parts=st.integers(1, 7),
)
@settings(max_examples=12, deadline=None)
def test_whatever_one_source_does_on_a_bad_network_the_joiner_has_the_state_and_takes_part(
    n: int, place: int, bad: int, conduct: str, after: int, faults: Faults, parts: int
) -> None:
    case = Coming(n, place, parts * MIB - 3)
    for one in ids(case.group):
        for other in ids(case.group):
            if one != other:
                vars(case.group.network.faults(one, other)).update(vars(faults))
    source = case.holders[bad]
    where = case.group.peers.index(source)
    if conduct == "stalls":
        stops_giving(source, after, lambda: None)
    elif conduct == "dies":
        stops_giving(source, after, lambda: case.group.clock.call_later(0.0, partial(kill, source)))
    elif conduct != "honest":
        lies_about(source, conduct, range(after, 200))
    dead = False
    for _ in range(4):
        gone = [where] if dead else []
        ended = play(case.group, case.vectors(*gone), but=[where], patience=3 * READY + 8 * PHASE)
        dead = source.driver._closed
        if isinstance(ended[case.place], RoundResult):
            break
    assert isinstance(ended[case.place], RoundResult)
    honest = next(state for at_, state in enumerate(case.states) if at_ not in (case.place, where))
    assert case.states[case.place].pieces() == honest.pieces()
    assert {peer for _, peer in case.named()} <= ({source.identity.id} if conduct in LIES else set())
