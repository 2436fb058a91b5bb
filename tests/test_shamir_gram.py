"""shamir-gram from end to end in simulation: the rule's exact result on updates that nobody sees, or no result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import decentra
from decentra import derive
from decentra.charter.policy import Policy
from decentra.crypto.keys import Identity
from decentra.crypto.shares.field61 import PRIME
from decentra.crypto.shares.quanta import MAX_RADIUS
from decentra.driver.session import Vector
from decentra.errors import DecentraError, Unavailable
from decentra.machine.effects import Compute, Send, Tools
from decentra.protocols.agreed import Named, counted
from decentra.protocols.ballots import LOST
from decentra.protocols.shamir_gram.held import derive_held
from decentra.protocols.shamir_gram.jobs import DealUpdate, rounded
from decentra.protocols.shamir_gram.messages import Beacon, Check, Deal, Gram, Holding, Part, Shown, Slice, Told
from decentra.protocols.shamir_gram.terms import Terms, slots
from decentra.protocols.shamir_gram.transitions import TRANSITIONS
from decentra.protocols.shamir_gram.verdicts import UNDECIDED, Checked, Geometry
from decentra.robust import shared
from decentra.simulation.group import SimulatedGroup, SimulatedPeer, charter_for, identities
from decentra.transport.simulated import Faults
from decentra.types import PeerId, RoundResult
from decentra.wire.codec import Malformed, pack
from decentra.wire.entry import parse
from helpers import (
    OTHER,
    PHASE,
    Watch,
    also,
    at,
    change,
    errors,
    ids,
    kill,
    lie,
    on_topic,
    play,
    proposer_of,
    results,
    settle,
    sign,
    simulate,
    vector,
)

SIZES = [(4, 1), (5, 1), (7, 2), (10, 3), (16, 2)]
"""At 3c + 1, at 4c + 1, and packed."""

EDGES = [(4, 1), (5, 1), (7, 2), (9, 2)]
NAMES = [(5, 1), (9, 2)]
SEES = [(4, 1), (7, 2)]


class Group:
    """A simulated group of n, what each of it encoded and was given, and the weights that it certified.

    ``far`` peers have updates far from all others.
    """

    def __init__(self, n: int, c: int, *, d: int = 6, far: int = 0, seed: int = 0, **changes: object) -> None:
        faults = changes.pop("faults", None)
        assert faults is None or isinstance(faults, Faults)
        self.sim: SimulatedGroup = simulate(n, "shamir-gram", seed=seed, faults=faults, protocol__c=c, **changes)
        self.n, self.c, self.d = n, c, d
        self.watch = Watch(self.sim)
        self.geometries: dict[PeerId, Geometry] = {}
        rng = np.random.default_rng(seed)
        common = rng.uniform(-0.05, 0.05, d)
        self.updates = [common + rng.uniform(-0.002, 0.002, d) for _ in range(n)]
        for place in range(far):
            self.updates[place] = np.where(np.arange(d) % 2, 0.09, -0.09) * (1 + rng.uniform(-0.05, 0.05, d))
        for peer in self.sim.peers:
            at(peer, "outcome", self._note)

    def _note(self, machine: Any) -> None:
        self.geometries[machine.setting.me] = machine.geometry

    @property
    def vectors(self) -> list[Vector | None]:
        return [vector(update) for update in self.updates]

    @property
    def ids(self) -> tuple[PeerId, ...]:
        return ids(self.sim)

    def play(self, but: Collection[int] = (), absent: Collection[int] = ()) -> list[Any]:
        given_ = [None if place in absent else one for place, one in enumerate(self.vectors)]
        return play(self.sim, given_, but=but)

    def quanta(self, peer: PeerId, number: int = 1) -> list[int]:
        return [int(value) for value in self.watch.encoded[peer, number].view(np.int32)[:-1]]

    def exact(self, done: Sequence[RoundResult], number: int = 1) -> Geometry:
        """Every result is the certified weights' sum of what was encoded, to the integer."""
        found = {one.pack() for one in self.geometries.values()}
        assert len(found) == 1
        geometry = Geometry.unpack(found.pop())
        assert done[0].participants == geometry.dealers and done[0].total_weight == len(geometry.dealers)
        rows = [self.quanta(peer, number) for peer in geometry.dealers]
        k, total = len(rows), sum(geometry.weights)
        expected = [
            round(Fraction(k * sum(w * x for w, x in zip(geometry.weights, column, strict=True)), total))
            for column in (zip(*rows, strict=True) if self.d else ())
        ]
        totals = [one for (_, of), one in self.watch.totals.items() if of == number]
        assert len(totals) >= len(done)
        for one in totals:
            assert one.view(np.int32).tolist() == [*expected, k]
        return geometry

    def weights(self, peers: Sequence[PeerId], rule: str, f: int) -> tuple[int, ...]:
        """The rule's weights on exact inner products of what was encoded."""
        rows = [self.quanta(peer) for peer in peers]
        gram = [[8 * sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
        return shared.weigh(gram, rule, f, self.c)

    def accused(
        self, liars: Collection[int], clauses: Collection[str], witnesses: Collection[int] | None = None
    ) -> None:
        """Witnesses named every liar under one of the clauses; nobody honest was named by anybody honest."""
        honest = [place for place in range(self.n) if place not in liars]
        for place in honest:
            blames = {one for one in self.watch.blames[self.ids[place]] if one[1] is not None}
            assert blames <= {(clause, self.ids[liar]) for clause in clauses for liar in liars}, blames
            if witnesses is None or place in witnesses:
                assert {peer for _, peer in blames} == {self.ids[liar] for liar in liars}, f"{place}: {blames}"


def made_of(peer: SimulatedPeer, **methods: Callable[..., Any]) -> None:
    """Have a peer's machine do something else in some of its methods; each is given the honest one first."""
    base: Any = peer.session._machine

    def bound(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, *args: method(self, getattr(super(made, self), name), *args)

    made: Any = type("Liar", (base,), {name: bound(name, method) for name, method in methods.items()})
    peer.session._machine = made


# ── the result ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    size=st.sampled_from(SIZES),
    rule=st.sampled_from(["multi_krum", "nnm+multi_krum"]),
    d=st.integers(0, 19),
    seed=st.integers(0, 1 << 20),
    far=st.booleans(),
)
@settings(max_examples=15)
def test_everybody_gets_the_rule_s_exact_result_on_what_was_encoded(
    size: tuple[int, int], rule: str, d: int, seed: int, far: bool
) -> None:
    n, c = size
    group = Group(n, c, d=d, far=c if far and d else 0, seed=seed, protocol__rule=rule)
    done = results(group.play())
    geometry = group.exact(done)
    assert geometry.dealers == group.ids and not geometry.proved and geometry.holders == group.ids
    if far and d:
        assert geometry.weights == group.weights(group.ids, rule, c)  # the choice on exact inner products
        assert [weight > 0 for weight in geometry.weights] == [False] * c + [True] * (n - c)
    settle(group.sim)
    assert [peer.driver.blobs.bytes_held for peer in group.sim.peers] == [0] * n


@pytest.mark.parametrize("rule", shared.shared_rules())
def test_every_rule_that_a_charter_may_name_gives_all_peers_the_same_bytes(rule: str) -> None:
    group = Group(5, 1, far=1, protocol__rule=rule)
    done = results(group.play())
    geometry = group.exact(done)
    assert geometry.weights[0] == 0
    assert np.all(np.abs(done[0].values[0] - np.mean(group.updates[1:], axis=0)) < 0.01)


@pytest.mark.parametrize(("n", "c"), [(16, 5), (32, 10)])
def test_larger_groups_average(n: int, c: int) -> None:
    group = Group(n, c, d=50, far=c)
    geometry = group.exact(results(group.play()))
    assert geometry.weights[:c] == (0,) * c
    assert slots(n, c) == 1 and slots(32, 3) == 10


def test_a_group_over_zeromq_averages() -> None:
    rng = np.random.default_rng(0)
    updates = [[rng.uniform(-0.05, 0.05, (3, 4)).astype(np.float32)] for _ in range(4)]
    with decentra.local_group(4, protocol="shamir-gram", transport="zeromq") as group:
        for _ in range(2):
            done = group.average(updates)
            assert len({one.digest for one in done}) == len({one.values[0].tobytes() for one in done}) == 1
            assert len(done[0].participants) == 4 and len(done[0].beacon) == 32


def test_ranges_follow_and_a_second_round_is_exact_too() -> None:
    group = Group(4, 1)
    results(group.play())
    group.exact(results(group.play()), 2)


def test_no_message_tells_an_update_and_shares_of_c_peers_are_uniform() -> None:
    """Where all updates are zero, everything else alike: no blob that a peer receives holds a run of zeros."""
    group = Group(4, 1, d=200)
    group.updates = [np.zeros(200) for _ in range(4)]
    blobs: list[NDArray[np.uint8]] = []
    for peer in group.sim.peers:
        made_of(peer, taken_in=lambda machine, then, dealer, value, peer=peer: (
            blobs.append(peer.driver.blobs.view(machine.got(Deal.kind)[dealer].blob).copy()),
            then(dealer, value),
        ))
    results(group.play())
    assert len(blobs) == 12
    for blob in blobs:
        words = blob[: blob.size // 8 * 8].view(np.uint64)
        assert len(set(words.tolist())) == words.size and np.all(words != 0)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(n=st.integers(4, 48), data=st.data(), d=st.integers(0, 1 << 34))
def test_what_encoding_gives_is_no_longer_than_the_radius_and_a_result_fits_a_coordinate(
    n: int, data: st.DataObject, d: int
) -> None:
    c = data.draw(st.integers(1, (n - 1) // 3))
    terms = Terms(n, c, d)
    assert terms.limit >= 1 and terms.limit**2 * d <= MAX_RADIUS**2
    assert n * terms.limit < 1 << 31 and terms.encoded_for >= n
    assert terms.sharing.slots == 1 or terms.sharing.names_liars
    assert terms.fewest_holders <= n and terms.fewest_dealers <= n


def test_entries_of_pairs_are_numbered_as_they_are_told() -> None:
    terms = Terms(7, 2, 3)
    pairs = [(i, j) for i in range(7) for j in range(i, 7)]
    assert [terms.entry(*pair) for pair in pairs] == list(range(terms.pairs))


@given(
    st.lists(st.integers(-(1 << 44), 1 << 44), max_size=5),
    st.integers(1, 48),
    st.integers(1, 1 << 16),
    st.integers(1, 99),
)
def test_a_sum_is_rounded_half_to_even_and_cut_to_what_encoding_gives(
    total: list[int], k: int, weight: int, most: int
) -> None:
    out = rounded(np.array(total, np.int64), k, weight, most * k).view(np.int32).tolist()
    assert out == [*(max(-most * k, min(most * k, round(Fraction(k * one, weight)))) for one in total), k]


# ── which charters are sound ─────────────────────────────────────────────────────────────────────────────────────────


@cache
def members(n: int) -> tuple[Identity, ...]:
    return identities(n, 0)


@given(
    n=st.integers(3, 20),
    c=st.integers(1, 7),
    floor=st.one_of(st.none(), st.integers(3, 20)),
    rule=st.sampled_from([*shared.shared_rules(), "krum", "median", "mean", "smea", "fltrust", "geometric_median"]),
)
def test_in_every_roster_of_a_sound_charter_lies_are_seen_and_the_rule_fits_whatever_survives(
    n: int, c: int, floor: int | None, rule: str
) -> None:
    changes: dict[str, object] = {} if floor is None else {"protocol__floor": floor}
    charter = charter_for(members(n), "shamir-gram", protocol__c=c, protocol__rule=rule, **changes)
    fits = 3 * c + 1 <= n and (floor is None or max(3 * c + 1, derive.quorum(n, c)) <= floor <= n)
    assert bool(Policy(charter).problems) is not (fits and rule in shared.shared_rules())
    if Policy(charter).problems:
        return
    for roster in range(charter.roster_floor, n + 1):
        terms = Terms(roster, c, 1)
        for counted_ in range(terms.fewest_dealers, roster + 1):
            assert shared.misfit(rule, counted_, c, c) is None


@pytest.mark.parametrize(
    ("n", "changes", "words"),
    [
        (7, {"rule": "krum", "c": 2}, "choose nnm+krum or nnm+multi_krum"),
        (4, {"rule": "geometric_median"}, "choose nnm+geometric_median or nnm+multi_krum"),
        (4, {"rule": "median"}, "looks at single coordinates"),
        (4, {"rule": "nnm+trimmed_mean"}, "looks at single coordinates"),
        (4, {"rule": "mean"}, "choose secagg"),
        (4, {"c": 2}, "lower c to 1 or add 3"),
        (9, {"c": 3}, "lower c to 2 or add 1"),
        (10, {"c": 2, "floor": 6}, "raise floor"),
        (4, {"width": 16}, "set width to 32"),
        (4, {"max_weight": 2}, "set max_weight to 1"),
        (4, {"challenges": 1}, "every slice is tried; leave it out"),
        (4, {"backup": True}, "leave it out"),
        (49, {"c": 1}, "at most 48 members"),
    ],
)
def test_what_is_unsound_on_shares_is_refused_with_the_nearest_sound_choice(
    n: int, changes: dict[str, object], words: str
) -> None:
    charter = charter_for(members(n), "shamir-gram", **{f"protocol__{key}": value for key, value in changes.items()})
    problems = Policy(charter).problems
    assert any(words in problem for problem in problems), problems


# ── whose deal counts ────────────────────────────────────────────────────────────────────────────────────────────────

PEERS = tuple(PeerId(bytes([place]) * 32) for place in range(13))


def hash_of(peer: PeerId) -> bytes:
    return peer[:1] * 31 + b"h"


@st.composite
def views(draw: st.DrawFn) -> tuple[int, int, dict[PeerId, Named], set[PeerId]]:
    """Holdings of n ≥ 4c + 1 peers of which up to c lie: honest ones name all honest dealers, and liars as it comes."""
    n, c = draw(st.sampled_from([(5, 1), (6, 1), (9, 2), (13, 3)]))
    peers, liars = PEERS[:n], set(draw(st.lists(st.sampled_from(PEERS[:n]), max_size=c, unique=True)))
    held: dict[PeerId, Named] = {}
    for peer in peers:
        lied = draw(st.dictionaries(st.sampled_from(peers), st.sampled_from([OTHER, *map(hash_of, peers)])))
        honest = {one: hash_of(one) for one in peers if one not in liars}
        if peer not in liars:
            held[peer] = honest | {one: said for one, said in lied.items() if one in liars}
        elif draw(st.booleans()):
            held[peer] = {**lied, peer: hash_of(peer)}
    return n, c, held, liars


@given(views())
def test_from_4c_plus_1_on_no_c_liars_keep_a_round_from_its_survivors(
    view: tuple[int, int, dict[PeerId, Named], set[PeerId]],
) -> None:
    n, c, held, liars = view
    terms = Terms(n, c, 1)
    given_ = derive_held(PEERS[:n], c, (terms.fewest_dealers, terms.fewest_holders), held)
    assert given_ is not None
    named = counted(held.values(), c)
    for dealer, hashed in given_.updates.items():
        assert named[dealer] == (hashed,)
        assert all(held[holder][dealer] == hashed for holder in given_.witnesses)
    assert len(given_.members) >= n - c - len(liars) and len(given_.witnesses) >= terms.fewest_holders
    if not liars:
        assert given_.members == given_.witnesses == PEERS[:n]


LISTS = st.lists(st.lists(st.binary(max_size=33), max_size=2).map(tuple), max_size=5).map(tuple)


@given(st.binary(max_size=80) | LISTS.map(pack))
def test_what_is_no_value_of_a_vote_is_malformed_and_nothing_else(raw: bytes) -> None:
    for kind in (Checked, Geometry):
        try:
            read = kind.unpack(raw)
        except Malformed:
            continue
        assert read.pack() == raw


# ── liars ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def completes(group: Group, liars: Collection[int], *clauses: str, out: bool | None = None) -> Geometry:
    """The round completes for all honest peers with an exact result; all of them name every liar."""
    done = results(group.play(but=liars))
    assert len(done) == group.n - len(liars)
    geometry = group.exact(done)
    names = {group.ids[place] for place in liars}
    assert {peer for peer in group.ids if peer not in names} <= set(geometry.dealers)
    if out is not None:
        assert names.isdisjoint(geometry.dealers) is out
    group.accused(liars, clauses)
    return geometry


def fails(group: Group, liars: Collection[int], words: str, *, spent: bool = True) -> None:
    """The round fails for all honest peers, in one way, and nobody honest is named."""
    for error in errors(group.play(but=liars)):
        assert isinstance(error, Unavailable), repr(error)
        assert words in str(error) and error.spent is spent
    for place in range(group.n):
        if place not in liars:
            assert {peer for _, peer in group.watch.blames[group.ids[place]]} <= {None, *(group.ids[i] for i in liars)}


def spoiled(peer: SimulatedPeer, blob: Any, word: int) -> Any:
    """A blob in which one word is another element."""
    data = peer.driver.blobs.view(blob).copy()
    words = data[: data.size // 8 * 8].view(np.uint64)
    words[word] = (words[word] + np.uint64(5)) % np.uint64(PRIME)
    return peer.driver.workbench().keep(data)


def deals(peer: SimulatedPeer, receivers: Callable[[int, int], Collection[int]], word: int) -> None:
    """Have a dealer deal some receivers something else; ``receivers`` is given n and its position."""

    def dealt(machine: Any, then: Callable[..., None], value: Any) -> None:
        chosen = receivers(machine.n, machine.position)
        blobs = tuple(
            spoiled(peer, blob, word) if place in chosen else blob for place, blob in enumerate(value.blobs)
        )
        then(replace(value, blobs=blobs))

    made_of(peer, dealt=dealt)


def explicit(n: int, position: int) -> list[int]:
    """The first receiver behind those that are dealt keys: of c = 1 one is, of c = 2 two are."""
    return [(position + 3) % n]


@pytest.mark.parametrize("word", [0, -1, 2], ids=["vector", "zero's blind", "inside"])
@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_dealer_of_bad_shares_is_out_by_what_its_receiver_shows(n: int, c: int, word: int) -> None:
    group = Group(n, c)
    deals(group.sim.peers[1], explicit, word)
    if word == -1 and (n, c) in SEES:
        # A sharing of zero is left out where it can't be told who lied, and its dealer stays.
        done = results(group.play(but=[1]))
        assert len(group.exact(done).dealers) == n
        assert not any(group.watch.blames.values())
        return
    completes(group, [1], "SG-6", out=True)
    shown = [one for peer in group.sim.peers for one in peer.journal.entries if parse(one.entry).kind == Shown.kind]
    assert shown


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_dealer_of_no_polynomial_at_all_is_out(n: int, c: int) -> None:
    group = Group(n, c)
    deals(group.sim.peers[0], lambda n, position: [p for p in range(n) if p not in (position, (position + 1) % n)], 1)
    completes(group, [0], "SG-6", out=True)


@pytest.mark.parametrize(("n", "c"), NAMES)
def test_c_liars_of_each_their_own_kind_are_named(n: int, c: int) -> None:
    group = Group(n, c, far=0)
    deals(group.sim.peers[0], explicit, 0)
    if c > 1:
        lie(group.sim.peers[2], Gram.kind, twisted("word"))
    completes(group, range(0, 2 * c, 2), "SG-6", "SG-8", out=True)


@pytest.mark.parametrize("how", ["no blob", "nothing"])
@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_dealer_that_skips_a_receiver_is_left_out_or_fails_the_round_unspent(n: int, c: int, how: str) -> None:
    group, place = Group(n, c), 1
    peer, skipped = group.sim.peers[place], group.ids[3]
    honest = peer.driver._post_to

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind != Deal.kind or target != skipped:
            honest(target, verified, blob)
        elif how == "no blob":
            honest(target, verified, None)

    peer.driver._post_to = post  # type: ignore[method-assign]
    if (n, c) == (4, 1):  # 2c + 2 updates are 4 of 4
        fails(group, [place], "every update may go again", spent=False)
        return
    done = results(group.play(but=[place]))
    assert done[0].participants == tuple(one for one in group.ids if one != group.ids[place])
    group.exact(done)
    group.accused([place], ["SG-2"], witnesses=[3] if how == "no blob" else [])


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_receiver_that_denies_what_it_was_dealt_costs_one_of_the_two_and_lays_nothing_bare(n: int, c: int) -> None:
    group = Group(n, c)
    denied = group.ids[0]

    def denies(effect: Send) -> list[Send]:
        held = tuple(one for one in effect.message.held if one[0] != denied)  # type: ignore[attr-defined]
        return [replace(effect, message=replace(effect.message, held=held))]

    lie(group.sim.peers[2], Holding.kind, denies)
    if (n, c) == (4, 1):
        fails(group, [2], "every update may go again", spent=False)
        return
    done = results(group.play(but=[2]))
    group.exact(done)
    assert len(done[0].participants) >= n - 1
    group.accused([2], [], witnesses=[])
    assert not any(parse(one.entry).kind == Shown.kind for peer in group.sim.peers for one in peer.journal.entries)
    for place in (1, 3):
        assert ("SG-3", None) in group.watch.blames[group.ids[place]]  # one of the two lied, and all say so


@pytest.mark.parametrize(("n", "c"), NAMES)
def test_a_receiver_that_denies_everybody_is_no_holder_and_keeps_nobody_out(n: int, c: int) -> None:
    group = Group(n, c)

    def denies(effect: Send) -> list[Send]:
        own = tuple(one for one in effect.message.held if one[0] == group.ids[2])  # type: ignore[attr-defined]
        return [replace(effect, message=replace(effect.message, held=own))]

    lie(group.sim.peers[2], Holding.kind, denies)
    done = results(group.play(but=[2]))
    assert done[0].participants == group.ids
    assert group.ids[2] not in group.exact(done).holders


def twisted(field: str, places: Sequence[int] = (0,)) -> Callable[[Send], Sequence[Send]]:
    """Sends another element at some places of a message's field."""

    def twist(effect: Send) -> list[Send]:
        data = bytearray(getattr(effect.message, field))
        for place in places:
            value = (int.from_bytes(data[8 * place : 8 * place + 8], "little") + 3) % PRIME
            data[8 * place : 8 * place + 8] = value.to_bytes(8, "little")
        return [replace(effect, message=replace(effect.message, **{field: bytes(data)}))]

    return twist


@pytest.mark.parametrize("field", ["degrees", "zeros"])
@pytest.mark.parametrize(("n", "c"), NAMES)
def test_a_holder_of_a_wrong_check_that_shows_nothing_is_no_holder_and_it_or_its_dealer_is_said_to_lie(
    n: int, c: int, field: str
) -> None:
    group = Group(n, c)
    lie(group.sim.peers[1], Check.kind, twisted(field))
    done = results(group.play(but=[1]))
    assert len(done) == n - 1 and group.ids[1] not in group.exact(done).holders
    for place in range(n):
        if place != 1:
            assert set(group.watch.blames[group.ids[place]]) == {("SG-6", None)}  # what it holds may be on its way


@pytest.mark.parametrize(("n", "c"), NAMES)
def test_a_holder_of_wrong_checks_of_more_dealers_than_may_lie_is_named(n: int, c: int) -> None:
    group = Group(n, c)
    lie(group.sim.peers[1], Check.kind, twisted("degrees", range(c + 1)))
    assert group.ids[1] not in completes(group, [1], "SG-6").holders


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_holder_of_a_wrong_check_that_shows_its_share_is_proved_at_any_n(n: int, c: int) -> None:
    group = Group(n, c)

    def tell(machine: Any, then: Callable[..., None], value: Any) -> None:
        then(replace(value, degrees=((value.degrees[0] + 1) % PRIME, *value.degrees[1:])))

    made_of(group.sim.peers[1], tell_check=tell)
    completes(group, [1], "SG-6", out=True)


@pytest.mark.parametrize(("n", "c"), SEES)
def test_at_3c_plus_1_a_wrong_check_that_is_not_defended_fails_the_round(n: int, c: int) -> None:
    group = Group(n, c)
    lie(group.sim.peers[1], Check.kind, twisted("degrees"))
    fails(group, [1], "certified as undecided")


@pytest.mark.parametrize(("n", "c"), SEES)
def test_at_3c_plus_1_wrong_checks_of_all_sharings_of_zero_fail_the_round(n: int, c: int) -> None:
    group = Group(n, c)

    def tell(machine: Any, then: Callable[..., None], value: Any) -> None:
        then(replace(value, zeros=tuple((zero + 1) % PRIME for zero in value.zeros)))

    made_of(group.sim.peers[1], tell_check=tell)
    fails(group, [1], "certified as undecided")


@pytest.mark.parametrize(("n", "c"), NAMES)
def test_a_false_word_of_the_products_is_named_and_changes_nothing(n: int, c: int) -> None:
    group = Group(n, c)
    lie(group.sim.peers[1], Gram.kind, twisted("word", (2,)))
    geometry = completes(group, [1], "SG-8", out=True)
    assert group.ids[1] not in geometry.holders


@pytest.mark.parametrize(("n", "c"), SEES)
def test_at_3c_plus_1_a_false_word_of_the_products_fails_the_round_undecided_who(n: int, c: int) -> None:
    group = Group(n, c)
    lie(group.sim.peers[1], Gram.kind, twisted("word", (2,)))
    fails(group, [1], "certified as undecided")
    assert not any(who for name, blames in group.watch.blames.items() for _, who in blames if name != group.ids[1])


def parts(peer: SimulatedPeer) -> None:
    def send(machine: Any, then: Callable[..., None], value: Any) -> None:
        then(replace(value, slices=tuple(spoiled(peer, blob, 0) if blob.size else blob for blob in value.slices)))

    made_of(peer, _send_parts=send)


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_wrong_part_is_corrected_and_named_by_who_got_it(n: int, c: int) -> None:
    group = Group(n, c, d=20)
    parts(group.sim.peers[1])
    done = results(group.play(but=[1]))  # its own slice, opened with its own false part, is right too
    group.exact(done)
    group.accused([1], ["SG-9"])


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_wrong_slice_is_named_by_all_and_the_round_is_lost(n: int, c: int) -> None:
    group = Group(n, c, d=20)
    peer = group.sim.peers[1]
    made_of(peer, _publish=lambda machine, then, value: then(replace(value, values=spoiled(peer, value.values, 0))))
    fails(group, [1], "certified as lost")
    group.accused([1], ["SG-10"])


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_two_faces_of_a_slice_give_no_result_or_one_and_the_same(n: int, c: int) -> None:
    group = Group(n, c, d=20)
    peer, made = group.sim.peers[1], dict[str, Any]()
    honest = peer.driver._post_to

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind == Slice.kind and target == group.ids[3]:
            if not made:
                made["blob"] = spoiled(peer, blob, 0)
                message = replace(verified.message, root=made["blob"].root)
                made["said"] = sign(peer, message, verified.entry.after)
            peer.driver.blobs.lend(made["blob"])
            honest(target, made["said"], made["blob"])
            return
        honest(target, verified, blob)

    peer.driver._post_to = post  # type: ignore[method-assign]
    ended = group.play(but=[1])
    done = [one for one in ended if isinstance(one, RoundResult)]
    if done:
        group.exact(done)
    for place, one in enumerate(ended):
        assert place == 1 or isinstance(one, RoundResult | DecentraError)


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_who_tells_falsely_of_its_share_of_the_sum_is_named_and_changes_nothing(n: int, c: int) -> None:
    group = Group(n, c, d=20)
    lie(group.sim.peers[1], Told.kind, twisted("values"))
    completes(group, [1], "SG-11", out=False)


class DealQuanta(DealUpdate):
    """Deals these integers in place of an update's."""

    chosen: NDArray[np.int64]

    def quanta(self, tools: Tools) -> tuple[NDArray[np.int64], int]:
        return self.chosen, super().quanta(tools)[1]


def dealing(peer: SimulatedPeer, chosen: Sequence[int]) -> None:
    """Have a peer deal a vector that no encoding gives."""

    def mask(machine: Any, then: Callable[..., None], masks: Any) -> None:
        then(masks)
        effect = machine.out.pop()
        assert isinstance(effect, Compute)
        job = DealQuanta(**{name: getattr(effect.job, name) for name in DealUpdate.__dataclass_fields__})
        object.__setattr__(job, "chosen", np.array(chosen, np.int64))
        machine.out.append(replace(effect, job=job))

    made_of(peer, mask=mask)


@pytest.mark.parametrize("chosen", [[1 << 31, 0, 0, 0, 0, 0], [1 << 30] * 6, [0, 0, -(1 << 40), 0, 0, 0]])
@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_vector_that_wraps_around_is_implausible_and_named(n: int, c: int, chosen: list[int]) -> None:
    group = Group(n, c)
    dealing(group.sim.peers[2], chosen)
    completes(group, [2], "SG-8", out=True)


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_vector_that_wraps_around_where_all_others_have_nothing_gives_no_result(n: int, c: int) -> None:
    """Its square is 2 mod p, and its products with all others 0: it looks nearest to all of them."""
    group = Group(n, c)
    group.updates = [np.array([1e-9 * (place + 1), 0, 0, 0, 0, 0]) for place in range(n)]
    dealing(group.sim.peers[2], [0, 0, 0, 0, 0, 1 << 31])
    ended = group.play(but=[2])
    for one in ended:
        if isinstance(one, RoundResult):
            assert np.all(np.abs(one.values[0]) < 1e-6)  # it was out, or had no weight
        elif one is not None:
            assert isinstance(one, Unavailable) and "certified as lost" in str(one)
    assert any(isinstance(one, Unavailable) for one in ended)


@pytest.mark.parametrize(("n", "c"), EDGES)
def test_a_long_vector_within_the_bound_moves_no_coordinate_out_of_its_range(n: int, c: int) -> None:
    group = Group(n, c, protocol__rule="multi_krum")
    dealing(group.sim.peers[2], [MAX_RADIUS, 0, 0, 0, 0, 0])
    done = [one for one in group.play(but=[2]) if one is not None]
    value = results(done)[0].values[0]
    assert np.all(np.abs(value - np.mean([group.updates[i] for i in range(n) if i != 2], axis=0)) < 0.01)


@pytest.mark.parametrize(
    ("kind", "twist", "clauses"),
    [
        (Deal.kind, change(context=OTHER), ("SG-1",)),
        (Deal.kind, change(sealed=()), ("SG-2",)),
        (Deal.kind, change(sealed=(b"x" * 60,) * 5), ("SG-2",)),
        (Deal.kind, also(lambda deal: replace(deal, beacon_hash=OTHER)), ("EQUIVOCATION",)),
        (Holding.kind, change(context=OTHER), ("SG-3",)),
        (Beacon.kind, change(certificate=OTHER), ("SG-4",)),
        (Beacon.kind, change(shares=()), ("SG-4",)),
        (Check.kind, change(certificate=OTHER), ("SG-5",)),
        (Check.kind, change(degrees=b"short"), ("SG-5",)),
        (Check.kind, change(zeros=b"\xff" * 40), ("SG-5",)),
        (Check.kind, also(lambda check: replace(check, degrees=check.zeros)), ("EQUIVOCATION",)),
        (Gram.kind, change(word=b""), ("SG-7",)),
        (Gram.kind, change(certificate=OTHER), ("SG-7",)),
        (Gram.kind, also(lambda gram: replace(gram, word=bytes(len(gram.word)))), ("EQUIVOCATION",)),
        (Part.kind, change(roots=()), ("SG-9",)),
        (Part.kind, change(certificate=OTHER), ("SG-9",)),
        (Told.kind, change(values=b""), ("SG-11",)),
        (Told.kind, change(certificate=OTHER), ("SG-11",)),
    ],
)
def test_a_broken_message_is_named_by_all_and_the_round_completes_without_it(
    kind: str, twist: Any, clauses: tuple[str, ...]
) -> None:
    group = Group(5, 1, d=20)
    lie(group.sim.peers[1], kind, twist)
    completes(group, [1], *clauses)


@pytest.mark.parametrize("twist", [change(root=OTHER), change(certificate=OTHER)], ids=["root", "certificate"])
def test_a_broken_slice_is_named_by_all_and_the_round_is_lost(twist: Any) -> None:
    group = Group(5, 1, d=20)
    lie(group.sim.peers[1], Slice.kind, twist)
    fails(group, [1], "certified as lost")
    group.accused([1], ["SG-10"])


def few(effect: Send) -> list[Send]:
    return [replace(effect, message=replace(effect.message, shown=effect.message.shown[:3]))]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("topic", "twist", "clause"),
    [
        ("survivors", change(value=b"fail"), "CE-2"),
        ("checked", change(shown=(), value=OTHER), None),
        ("checked", change(value=UNDECIDED), None),
        ("geometry", change(value=OTHER), "SG-8"),
        ("geometry", change(value=UNDECIDED), None),
        ("geometry", few, "SG-8"),
        ("outcome", change(value=OTHER), "SG-12"),
        ("outcome", change(shown=()), "SG-12"),
        ("outcome", change(value=LOST, shown=()), None),
    ],
)
@pytest.mark.parametrize("n", [4, 5])
def test_a_value_that_what_is_shown_does_not_give_costs_its_view(
    n: int, topic: str, twist: Any, clause: str | None
) -> None:
    group = Group(n, 1, d=20)
    place = proposer_of(group.sim, 1)
    lie(group.sim.peers[place], "certify.propose", on_topic(topic, twist))
    done = results(group.play(but=[place]))
    group.exact(done)
    honest = [one for one in range(n) if one != place]
    group.accused([place], [] if clause is None else [clause], witnesses=[] if clause is None else honest)


# ── silence, stops, restarts ─────────────────────────────────────────────────────────────────────────────────────────

PHASES = [after for after in TRANSITIONS.values() if after != "done"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("n", "c"), [(4, 1), (5, 1)])
def test_a_peer_that_stops_in_any_phase_ends_the_round_for_nobody_wrongly(n: int, c: int, phase: str) -> None:
    """From 4c + 1 on the others have a result wherever nothing is missing that only the dead one had."""
    group = Group(n, c, d=20)
    dead = group.sim.peers[1]
    at(dead, phase, lambda _machine: kill(dead))
    ended = group.play(but=[1])
    done = [one for one in ended if isinstance(one, RoundResult)]
    assert len(done) in (0, n - 1)
    if done:
        group.exact(results(done))
    group.accused([1], [], witnesses=[])
    if n == 5:
        assert bool(done) is (phase not in ("context", "geometry", "combine")), [str(one) for one in ended]
        results(group.play(absent=[1]))


@pytest.mark.parametrize("phase", ["deal", "beacon", "gram", "combine"])
def test_a_peer_that_starts_again_abandons_its_round_and_is_in_the_next(phase: str) -> None:
    group = Group(5, 1, d=20)
    first = group.sim.peers[1]
    at(first, phase, lambda _machine: kill(first))
    group.play(but=[1])
    group.sim.restart(1)
    settle(group.sim)
    done = results(group.play())
    assert done[0].participants == group.ids


def test_a_peer_away_from_the_start_is_left_out_of_the_roster() -> None:
    group = Group(5, 1)
    done = results(group.play(absent=[1]))
    assert done[0].dropped == (group.ids[1],) and len(done) == 4
    group.exact(done)


@pytest.mark.parametrize("kind", [Holding.kind, Beacon.kind, Check.kind, Gram.kind, Part.kind, Told.kind])
def test_one_silent_holder_of_4c_plus_1_costs_time_and_no_more(kind: str) -> None:
    group = Group(5, 1, d=20)
    lie(group.sim.peers[1], kind, lambda _effect: [])
    began = group.sim.clock.now()
    done = results(group.play(but=[1]))
    group.exact(done)
    assert group.sim.clock.now() - began < 2 * PHASE
    group.accused([1], [], witnesses=[])


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_loses_and_repeats_changes_nothing(seed: int) -> None:
    group = Group(4, 1, seed=seed, faults=Faults(drop=0.05, duplicate=0.05))
    group.exact(results(group.play()))
