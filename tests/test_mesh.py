"""mesh from end to end in simulation: one exact rule on one certified set, whatever up to c peers send to whom."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from decentra.audit.rules import survivors
from decentra.charter.policy import Policy
from decentra.crypto.keys import Identity
from decentra.crypto.ring import Ring, decode
from decentra.driver.blobs import BlobStore, Workbench
from decentra.driver.session import Vector
from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Send
from decentra.machine.events import Received
from decentra.protocols.aggregate import Aggregate, Aggregated
from decentra.protocols.agreed import Agreed, derive_agreed
from decentra.protocols.ballots import LOST
from decentra.protocols.mesh.holdings import holdings
from decentra.protocols.mesh.messages import Holding, Relay, Result, Update
from decentra.robust import catalogue
from decentra.simulation.group import SimulatedGroup, SimulatedPeer, charter_for, identities
from decentra.types import PeerId, RoundResult
from decentra.wire.codec import Malformed, Signed, pack
from decentra.wire.entry import ZERO, Entry, parse
from decentra.wire.message import Verified
from helpers import (
    OTHER,
    PHASE,
    Scene,
    Watch,
    also,
    at,
    change,
    errors,
    ids,
    kill,
    lie,
    most_held,
    on_topic,
    play,
    proposer_of,
    results,
    running,
    scene,
    settle,
    sign,
    simulate,
    small,
    vector,
)

SIZES = [(3, 1), (4, 1), (5, 1), (6, 2), (7, 2), (10, 3)]

# ── the result ───────────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand(rows: Sequence[Sequence[int]], rule: str, f: int) -> list[int]:
    """n times the aggregate in fractions, rounded half to even; of rules that look at a coordinate by itself."""
    n, out = len(rows), []
    for column in zip(*rows, strict=True):
        ordered = sorted(column)
        match rule:
            case "mean":
                kept = ordered
            case "median":
                kept = ordered[(n - 1) // 2 : n // 2 + 1]
            case _:
                kept = ordered[f : n - f]
        out.append(round(Fraction(n * sum(kept), len(kept))))
    return out


@given(
    size=st.sampled_from(SIZES),
    rule=st.sampled_from(["mean", "median", "trimmed_mean"]),
    width=st.sampled_from([16, 32]),
    d=st.integers(0, 7),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=25)
def test_everybody_gets_the_rule_s_exact_result_on_what_was_encoded(
    size: tuple[int, int], rule: str, width: int, d: int, seed: int
) -> None:
    (n, c), rng = size, np.random.default_rng(seed)
    group = simulate(n, "mesh", seed=seed, protocol__c=c, protocol__rule=rule, protocol__width=width)
    watch = Watch(group)
    done = results(play(group, [vector(rng.uniform(-0.12, 0.12, d)) for _ in range(n)]))
    assert done[0].participants == ids(group)
    rows = [watch.encoded[peer, 1].view(Ring(width).signed).tolist() for peer in ids(group)]
    expected = [*by_hand([row[:-1] for row in rows], rule, c), n]
    for total in watch.totals.values():
        assert total.view(Ring(width).signed).tolist() == expected
    total = np.array(expected, Ring(width).signed).view(Ring(width).dtype)
    (mean,), _ = decode(total, [0.1], [(d,)], ring=Ring(width), n=n, survivors=n, max_weight=1)
    assert all(one.values[0].tobytes() == mean.tobytes() for one in done)
    settle(group)
    assert [peer.driver.blobs.bytes_held for peer in group.peers] == [0] * n


@pytest.mark.parametrize("rule", catalogue.exact_rules())
def test_every_rule_that_a_charter_may_name_gives_all_peers_the_same_bytes(rule: str) -> None:
    n = 12 if rule == "bulyan" else 4  # of 12 at least 7 count, and it needs 4f + 3
    with decentra.local_group(n, protocol="mesh", rule=rule, protocol__floor=n) as group:
        rng = np.random.default_rng(n)
        honest = [rng.normal(0.02, 0.005, 20).astype(np.float32) for _ in range(n)]
        done = group.average([[one] for one in honest])
        assert len({one.digest for one in done}) == len({one.values[0].tobytes() for one in done}) == 1
        assert np.all(np.abs(done[0].values[0] - 0.02) < 0.02)


def test_a_robust_rule_needs_a_protocol_that_shows_updates_and_is_told_so() -> None:
    with pytest.raises(LocalError, match='or name = "mesh" where all members may see all updates'):
        decentra.local_group(4, rule="median")


# ── which charters are sound ─────────────────────────────────────────────────────────────────────────────────────────


@cache
def members(n: int) -> tuple[Identity, ...]:
    return identities(n, 0)


@given(
    n=st.integers(3, 24),
    c=st.integers(1, 8),
    floor=st.one_of(st.none(), st.integers(3, 24)),
    rule=st.sampled_from([*catalogue.exact_rules(), "smea", "fltrust", "sign_majority"]),
)
def test_in_every_roster_of_a_sound_charter_t_is_above_2c_and_the_rule_fits_whatever_survives(
    n: int, c: int, floor: int | None, rule: str
) -> None:
    changes: dict[str, object] = {} if floor is None else {"protocol__floor": floor}
    charter = charter_for(members(n), "mesh", protocol__c=c, protocol__rule=rule, **changes)
    if Policy(charter).problems:
        return
    assert rule in catalogue.exact_rules()
    for roster in range(charter.roster_floor, n + 1):
        t = derive.quorum(roster, c)
        assert 2 * c + 1 <= t <= roster
        for counted in range(t, roster + 1):
            for refused in range(c + 1):
                assert counted > t or catalogue.check(rule, counted - refused, c - refused) is None
            assert catalogue.check(rule, counted, c) is None


# ── what holdings give ───────────────────────────────────────────────────────────────────────────────────────────────

PEERS = tuple(PeerId(bytes([place]) * 32) for place in range(7))
CONTEXT = b"c" * 32


def signed(author: PeerId, held: dict[PeerId, bytes]) -> Verified:
    entry = Entry(ZERO, 1, 1, author, 1, 1, ZERO, Holding.kind, ZERO, b"", ZERO, b"")
    return Verified(entry, Holding(CONTEXT, tuple(sorted(held.items()))), Signed(b"", b""))


def hash_of(peer: PeerId) -> bytes:
    return peer[:1] * 31 + b"h"


@st.composite
def views(draw: st.DrawFn) -> tuple[int, int, list[Verified], set[PeerId]]:
    """Holdings of n peers of which up to c lie: honest ones name each honest peer, and liars as it comes."""
    n, c = draw(st.sampled_from([(4, 1), (7, 2)]))
    peers, liars = PEERS[:n], set(draw(st.lists(st.sampled_from(PEERS[:n]), max_size=c, unique=True)))
    anything = st.dictionaries(st.sampled_from(peers), st.sampled_from([OTHER, b"x" * 32, *map(hash_of, peers)]))
    shown = []
    for peer in peers:
        lied = draw(anything)
        if peer in liars:
            held = {**lied, peer: draw(st.sampled_from([OTHER, hash_of(peer)]))}
        else:
            honest = {one: hash_of(one) for one in peers if one not in liars}
            held = honest | {one: said for one, said in lied.items() if one in liars}
        shown.append(signed(peer, held))
    count = draw(st.integers(derive.quorum(n, c), n))
    return n, c, draw(st.permutations(shown))[:count], liars


@given(views())
def test_who_reached_every_honest_peer_is_in_whatever_liars_hold(
    given_: tuple[int, int, list[Verified], set[PeerId]],
) -> None:
    n, c, shown, liars = given_
    t = derive.quorum(n, c)
    agreed = derive_agreed(PEERS[:n], PEERS[:n], t, t, c, holdings(shown, PEERS[:n], CONTEXT))
    honest = [peer for peer in PEERS[:n] if peer not in liars]
    assert agreed is not None
    assert {peer: hash_of(peer) for peer in honest}.items() <= agreed.updates.items()
    assert agreed.witnesses == tuple(sorted({one.sender for one in shown}))
    assert Agreed.unpack(agreed.pack()) == agreed


@given(views(), st.data())
def test_the_auditor_derives_what_machines_derive(
    given_: tuple[int, int, list[Verified], set[PeerId]], data: st.DataObject
) -> None:
    n, c, shown, _ = given_
    some = data.draw(st.lists(st.sampled_from(shown)))
    least = data.draw(st.integers(1, n))
    held: dict[PeerId, Any] = {}
    for one in some:
        held.setdefault(one.sender, one.message.held)  # type: ignore[attr-defined]
    agreed = derive_agreed(PEERS[:n], PEERS[:n], least, least, c, holdings(some, PEERS[:n], CONTEXT))
    echoed = survivors._echoed(PEERS[:n], PEERS[:n], least, least, c, held)
    assert echoed == (None if agreed is None else agreed.pack())


LISTS = st.lists(st.lists(st.binary(max_size=33), max_size=2).map(tuple), max_size=4).map(tuple)


@given(st.binary(max_size=80) | LISTS.map(pack))
def test_what_is_no_set_of_survivors_is_malformed_and_nothing_else(raw: bytes) -> None:
    try:
        read = Agreed.unpack(raw)
    except Malformed:
        return
    assert read.pack() == raw and len(read.updates) == len(set(read.members))


# ── the rule's job ───────────────────────────────────────────────────────────────────────────────────────────────────


def aggregated(rows: Sequence[Sequence[int]], rule: str = "trimmed_mean", f: int = 1) -> tuple[Aggregated, list[int]]:
    bench = Workbench(BlobStore(), lambda count: bytes(count))
    blobs = tuple((PEERS[place], bench.keep(np.array(row, np.int32))) for place, row in enumerate(rows))
    done = Aggregate(blobs[::-1], rule, f, 32, 1000).run(bench)
    total = [] if done.result is None else bench.view(done.result.total).view(np.int32).tolist()
    return done, total


@pytest.mark.parametrize("bad", [[1001, 0, 1], [0, -1001, 1], [-(2**31), 0, 1], [5, 5, 0], [5, 5, 2], [5, 5, -1]])
def test_a_row_that_no_encoding_gives_is_left_out_and_one_liar_is_counted_less(bad: list[int]) -> None:
    done, total = aggregated([[10, -3, 1], bad, [20, 5, 1], [33, 1, 1]])
    assert done.refused == (PEERS[1],) and done.used == (PEERS[0], PEERS[2], PEERS[3])
    assert total == [63, 3, 3]  # with f = 0 a trimmed mean is the mean


def test_rows_at_the_largest_that_encoding_gives_count_and_none_at_all_give_no_result() -> None:
    assert aggregated([[1000, -1000, 1]] * 3)[1] == [3000, -3000, 3]
    assert aggregated([[1]] * 4)[1] == [4]  # an empty vector, as when peers join
    done, total = aggregated([[1001, 1], [0, 2]])
    assert (done.result, done.used, total) == (None, (), [])


# ── attackers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def contribute(group: SimulatedGroup, place: int, rows: dict[PeerId, NDArray[Any]]) -> None:
    """Have a peer sign and send such rows in place of its update, each to its own receivers. Its own machine
    goes on as if the first were its update."""
    peer = group.peers[place]
    driver, honest = peer.driver, peer.driver._post

    def post(verified: Verified, effect: Send) -> None:
        if verified.entry.kind != Update.kind:
            honest(verified, effect)
            return
        made: dict[bytes, tuple[Verified, Any]] = {}
        for target, row in rows.items():
            if row.tobytes() not in made:
                blob = driver.workbench().keep(row)
                message: Any = replace(verified.message, root=blob.root)  # type: ignore[call-arg]
                made[row.tobytes()] = sign(peer, message, verified.entry.after), blob
            lied, blob = made[row.tobytes()]
            driver.blobs.lend(blob)
            driver._post_to(target, lied, blob)
        lied, running(peer)._mine = next(iter(made.values()))
        driver._feed(Received(lied))
        driver._durable()

    driver._post = post  # type: ignore[method-assign]


def row(group: SimulatedGroup, values: Sequence[int], weight: int = 1) -> NDArray[Any]:
    return np.array([*values, weight], f"<i{group.charter.protocol.width // 8}")


@pytest.mark.parametrize("rule", ["trimmed_mean", "nnm+trimmed_mean", "median", "multi_krum", "geometric_median"])
@pytest.mark.parametrize(("n", "c"), [(4, 1), (7, 2)])
def test_huge_vectors_do_not_move_the_result_out_of_the_honest_ones(n: int, c: int, rule: str) -> None:
    group = simulate(n, "mesh", protocol__c=c, protocol__rule=rule)
    updates = [[9e9, -9e9, 9e9] if place < c else [0.02, 0.01 + 0.0001 * place, 0.0] for place in range(n)]
    (value,) = results(play(group, [vector(one) for one in updates]))[0].values
    assert np.all(value >= np.array([0.0199, 0.0099, -1e-4])) and np.all(value <= np.array([0.0201, 0.0108, 1e-4]))
    moved = simulate(n, "mesh", protocol__c=c, protocol__rule="mean")
    (mean,) = results(play(moved, [vector(one) for one in updates]))[0].values
    assert mean[0] > 0.03  # the same lie, within the range that clips it, moves a mean


@pytest.mark.parametrize("values", [[2**31 - 1, 0, 0, 0], [0, 0, 0, -(2**31)]])
def test_a_row_beyond_what_encoding_gives_is_refused_by_name_and_the_rest_counts(values: list[int]) -> None:
    attack = scene(4, "mesh", protocol__rule="mean")
    liar, group = attack.place, attack.group
    lied = dict.fromkeys(attack.others, row(group, values))
    contribute(group, liar, lied)
    done = results(play(group, small(group), but=[liar]))
    assert done[0].participants == attack.others and done[0].total_weight == 3
    attack.watch.exact(2, done)
    attack.accused("ME-5", witnesses=attack.others)


def test_a_row_of_another_weight_is_refused_by_name() -> None:
    attack = scene(5, "mesh")
    contribute(attack.group, attack.place, dict.fromkeys(attack.others, row(attack.group, [0] * 4, weight=2)))
    done = results(play(attack.group, small(attack.group), but=[attack.place]))
    assert done[0].participants == attack.others
    attack.accused("ME-5", witnesses=attack.others)


@pytest.mark.parametrize(("n", "c", "split"), [(4, 1, 1), (4, 1, 2), (7, 2, 1), (7, 2, 3)])
def test_different_updates_to_different_peers_end_in_evidence_and_equal_results(n: int, c: int, split: int) -> None:
    """To so many one update, and to the others another: one of them is certified and relayed, or neither is."""
    attack = scene(n, "mesh", protocol__c=c)
    group, others = attack.group, attack.others
    first, second = row(group, [1, 2, 3, 4]), row(group, [5, 6, 7, 8])
    contribute(group, attack.place, {peer: first if place < split else second for place, peer in enumerate(others)})
    ended = play(group, small(group), but=[attack.place])
    done = results(ended)
    assert len(done) == n - 1
    assert set(others) <= set(done[0].participants)
    clauses = {clause for name in others for clause, who in attack.watch.blames[name] if who == attack.name}
    assert "ME-1" in clauses and clauses <= {"ME-1", "ME-3"}  # it holds what it did not send to them
    for name in others:
        assert {who for _, who in attack.watch.blames[name]} <= {attack.name, None}
        assert attack.watch.blames[name]  # two words that can't both be true, at the least


def withhold(group: SimulatedGroup, place: int, kept_from: Collection[PeerId]) -> None:
    peer = group.peers[place]
    honest = peer.driver._post_to

    def post(target: PeerId, verified: Verified, blob: Any) -> None:
        if verified.entry.kind != Update.kind or target not in kept_from:
            honest(target, verified, blob)

    peer.driver._post_to = post  # type: ignore[method-assign]


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(("n", "c", "without"), [(4, 1, 1), (7, 2, 1), (7, 2, 3)])
def test_an_update_that_reached_only_some_is_relayed_to_the_others(n: int, c: int, without: int, dies: bool) -> None:
    attack = scene(n, "mesh", protocol__c=c, protocol__rule="mean")
    group = attack.group
    withhold(group, attack.place, attack.others[:without])
    if dies:
        at(attack.liar, "survivors", lambda machine: kill(attack.liar))
    began = group.clock.now()
    done = results(play(group, small(group), but=[attack.place]))
    assert group.clock.now() - began < PHASE
    assert len(done) == n - 1 and done[0].participants == ids(group)
    attack.watch.exact(2, done)
    assert not any(attack.watch.blames[name] for name in attack.others)
    relayed = [one for peer in group.peers for one in peer.journal.entries if parse(one.entry).kind == Relay.kind]
    assert without <= len(relayed) <= without * (c + 1)  # c + 1 of those that hold it, and no more
    results(play(group, [None if place == attack.place else one for place, one in enumerate(small(group))]))
    settle(group)  # what lasts for who may still need it, goes when the next round ends
    assert [p.driver.blobs.bytes_held for p in group.peers if p is not attack.liar] == [0] * (n - 1)


def test_an_update_that_too_few_have_is_left_out_and_freed() -> None:
    group = simulate(7, "mesh", protocol__c=2)
    results(play(group, small(group)))
    withhold(group, 2, [peer for place, peer in enumerate(ids(group)) if place not in (2, 5)])
    ended = play(group, small(group))
    done = [one for one in ended if isinstance(one, RoundResult)]
    assert len(done) == 7 and done[0].dropped == (ids(group)[2],)
    assert [one.contributed for one in done] == [place != 2 for place in range(7)]


def bring(peer: SimulatedPeer, victim: PeerId, author: PeerId, cited: Verified, row: NDArray[Any]) -> None:
    """Relay an update to a peer, whether or not it needs it."""
    relayed = sign(peer, Relay(running(peer).context, author, cited), ZERO)
    peer.driver._post_to(victim, relayed, peer.driver.workbench().keep(row))


@pytest.mark.parametrize(("n", "c"), [(4, 1), (7, 2), (10, 3)])
def test_c_liars_that_withhold_and_relay_have_nobody_keep_more_than_n_vectors(n: int, c: int) -> None:
    """They keep their updates from one peer, and before it can know which are certified relay everybody's to it: of
    honest peers those that there are, and of each other some that each makes up."""
    attack = Scene(group := simulate(n, "mesh", protocol__c=c, protocol__rule="mean"), 0)
    results(play(group, small(group)))
    names, liars, size = ids(group), group.peers[:c], 20_000
    victim = names[-1]

    def relay(liar: SimulatedPeer) -> None:
        for author in names[c:]:
            cited = running(liar).got(Update.kind)[author].verified
            bring(liar, victim, author, cited, attack.watch.encoded[author, 2])
        for place, author in enumerate(liars):
            made_up = row(group, [c * group.peers.index(liar) + place] * size)
            root = liar.driver.workbench().keep(made_up).root
            bring(liar, victim, names[place], sign(author, Update(running(liar).context, root), ZERO), made_up)

    for place, liar in enumerate(liars):
        withhold(group, place, [victim])
        at(liar, "survivors", lambda _machine, liar=liar: relay(liar))
    seen = most_held(attack, victim)
    done = results(play(group, [vector(np.full(size, 0.001 * place, np.float32)) for place in range(n)], but=range(c)))
    assert done[0].participants == names
    attack.watch.exact(2, done)
    whole = (size + 1) * group.charter.protocol.width // 8
    assert n * whole <= max(seen) <= (n + 1) * whole  # every update, and what the rule gives


@pytest.mark.parametrize(("n", "c", "most"), [(4, 1, 2), (7, 2, 4), (10, 3, 6)])
def test_who_says_that_it_holds_nothing_is_sent_each_update_by_c_plus_n_less_t_at_most(
    n: int, c: int, most: int
) -> None:
    """While the vote on the outcome drags on, so that whoever may come in to help has done so."""
    group = simulate(n, "mesh", protocol__c=c, protocol__rule="mean")
    results(play(group, small(group)))
    attack, began = Scene(group, 1), group.clock.now()
    lie(attack.liar, Result.kind, lambda _effect: [])
    lie(attack.liar, Holding.kind, lambda effect: [replace(effect, message=alone(effect.message))])
    for peer in group.peers:
        lie(
            peer,
            "certify.propose",
            on_topic("outcome", lambda effect: [effect] if group.clock.now() > began + 0.6 * PHASE else []),
        )

    def alone(message: Any) -> Holding:
        return replace(message, held=tuple(one for one in message.held if one[0] == attack.name))

    done = results(play(group, small(group), but=[attack.place]))
    assert group.clock.now() > began + 0.6 * PHASE
    attack.watch.exact(2, done)
    senders: dict[PeerId, set[PeerId]] = {name: set() for name in attack.others}
    for peer in group.peers:
        for one in peer.journal.entries:
            entry = parse(one.entry)
            if entry.kind == Relay.kind and entry.receiver == attack.name:
                _, author, _ = peer.driver.registry.codec.decode(Relay.kind, one.body)
                senders[author].add(entry.author)
    assert {min(len(of), c + 1) for of in senders.values()} == {c + 1}
    assert max(map(len, senders.values())) == most


@given(seed=st.integers(0, 1 << 16), late=st.floats(0.0, 5.0), silent=st.booleans())
@settings(max_examples=20)
def test_a_relay_that_comes_before_its_certificate_is_not_lost(seed: int, late: float, silent: bool) -> None:
    """A peer that lacks a dead peer's update hears of votes late; of two relays one may never be sent whole."""
    group = simulate(7, "mesh", seed=seed, protocol__c=2, protocol__rule="mean")
    results(play(group, small(group)))
    attack, author, liar, late_one = Scene(group, 1), group.peers[1], group.peers[0], group.peers[6]
    withhold(group, 1, [late_one.identity.id])
    at(author, "survivors", lambda _machine: kill(author))
    honest = late_one.driver._hand_on

    def hand_on(verified: Verified) -> None:
        if verified.entry.kind.startswith("certify."):
            group.clock.call_later(late, lambda: honest(verified))
        else:
            honest(verified)

    late_one.driver._hand_on = hand_on  # type: ignore[method-assign]
    if silent:
        stall(liar)
    certified: list[float] = []
    at(group.peers[3], "aggregate", lambda _machine: certified.append(group.clock.now()))
    done = results(play(group, small(group), but=[1]))
    assert len(done) == 6
    assert group.clock.now() - certified[0] < (0.51 if silent else 0.01) * PHASE + 2 * late
    attack.watch.exact(2, done)


def stall(peer: SimulatedPeer) -> None:
    """Have a peer offer what it relays, and send none of it."""
    honest = peer.driver._post_to

    def post(target: PeerId, verified: Verified, blob: Any) -> None:
        honest(target, verified, blob)
        if verified.entry.kind == Relay.kind:
            for link in peer.driver._links.values():
                for number in list(link._sending):  # type: ignore[attr-defined]
                    link.withdraw(number)

    peer.driver._post_to = post  # type: ignore[method-assign]


def invented(effect: Send) -> list[Send]:
    held = tuple((peer, OTHER if hashed else hashed) for peer, hashed in effect.message.held)  # type: ignore[attr-defined]
    own = dict(effect.message.held)  # type: ignore[attr-defined]
    mixed = tuple((peer, own[peer] if place % 2 else hashed) for place, (peer, hashed) in enumerate(held))
    return [replace(effect, message=replace(effect.message, held=mixed))]


@pytest.mark.parametrize("twist", [invented, change(held=())], ids=["other hashes", "nothing"])
def test_invented_holdings_change_nothing(twist: Any) -> None:
    attack = scene(7, "mesh", protocol__c=2, protocol__rule="mean")
    lie(attack.liar, Holding.kind, twist)
    done = results(play(attack.group, small(attack.group), but=[attack.place]))
    assert done[0].participants == ids(attack.group)  # its own update counts too: whoever has it says so
    attack.watch.exact(2, done)
    for name in attack.others:
        assert {who for _, who in attack.watch.blames[name]} <= {attack.name, None}


def stranger(effect: Send) -> list[Send]:
    held = (*effect.message.held, (PeerId(b"\xff" * 32), OTHER))  # type: ignore[attr-defined]
    return [replace(effect, message=replace(effect.message, held=held))]


@pytest.mark.parametrize(
    ("kind", "twist", "clauses"),
    [
        (Update.kind, change(root=OTHER), ("ME-2",)),
        (Update.kind, change(context=OTHER), ("ME-1",)),
        (Update.kind, also(lambda update: replace(update, root=OTHER)), ("EQUIVOCATION",)),
        (Holding.kind, change(context=OTHER), ("ME-3",)),
        (Holding.kind, stranger, ("ME-3",)),
        (Result.kind, change(root=OTHER), ("ME-6",)),
        (Result.kind, change(weight=3), ("ME-6",)),
        (Result.kind, change(survivors=OTHER), ("ME-6",)),
        (Result.kind, change(context=OTHER), ("ME-6",)),
        (Result.kind, also(lambda result: replace(result, root=OTHER)), ("EQUIVOCATION",)),
    ],
)
def test_a_broken_message_is_named_by_all_and_the_round_completes(
    kind: str, twist: Any, clauses: tuple[str, ...]
) -> None:
    attack = scene(4, "mesh", protocol__rule="mean")
    lie(attack.liar, kind, twist)
    attack.survived(*clauses)


def relays(attack: Any, make: Any) -> Any:
    """Relay something beside the first result."""

    def twist(effect: Send) -> list[Send]:
        machine = attack.liar.driver.machine
        return [effect, Send(make(machine), to=attack.others[0], after=effect.after)]

    return twist


@pytest.mark.parametrize("what", ["no update", "another's", "not certified"])
def test_a_relay_of_what_is_not_certified_is_named_by_who_got_it(what: str) -> None:
    attack = scene(4, "mesh", protocol__rule="mean")
    author = attack.others[1]

    def make(machine: Any) -> Relay:
        updates = machine.got(Update.kind)
        if what == "no update":
            cited = machine.got(Holding.kind)[author].verified
        elif what == "another's":
            cited = updates[attack.others[2]].verified
        else:
            cited = sign(attack.liar, Update(machine.context, OTHER), ZERO)
            return Relay(machine.context, attack.name, cited)
        return Relay(machine.context, author, cited)

    lie(attack.liar, Result.kind, relays(attack, make))
    clause = "ME-1" if what == "not certified" else "ME-4"  # it signed two updates, and showed the second itself
    attack.survived(clause, witnesses=attack.others[:1])


def few(effect: Send) -> list[Send]:
    return [replace(effect, message=replace(effect.message, shown=effect.message.shown[:1]))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("twist", [change(value=OTHER), change(shown=()), few], ids=["value", "none", "one"])
def test_an_outcome_that_no_c_plus_1_results_give_costs_its_view(twist: Any) -> None:
    group = simulate(4, "mesh", protocol__rule="mean")
    results(play(group, small(group)))
    attack = Scene(group, proposer_of(group, 2))
    lie(attack.liar, "certify.propose", on_topic("outcome", twist))
    attack.survived("ME-7")


def test_survivors_that_the_holdings_do_not_give_cost_their_view() -> None:
    group = simulate(4, "mesh", protocol__rule="mean")
    results(play(group, small(group)))
    attack = Scene(group, proposer_of(group, 2))
    lie(attack.liar, "certify.propose", on_topic("survivors", change(value=b"fail")))
    attack.survived("CE-2")


def test_lost_is_not_voted_for_by_who_has_every_update() -> None:
    group = simulate(4, "mesh", protocol__rule="mean")
    results(play(group, small(group)))
    attack = Scene(group, proposer_of(group, 2))
    lie(attack.liar, "certify.propose", on_topic("outcome", change(value=LOST, shown=())))
    done = results(play(group, small(group), but=[attack.place]))
    attack.watch.exact(2, done)


# ── silence and stops ────────────────────────────────────────────────────────────────────────────────────────────────


def test_c_silent_peers_change_nothing_for_the_others() -> None:
    group = simulate(7, "mesh", protocol__c=2, protocol__rule="mean")
    results(play(group, small(group)))
    watch = Watch(group)
    for place in (1, 4):
        at(group.peers[place], "updates", lambda _machine, peer=group.peers[place]: kill(peer))
    done = results(play(group, small(group), but=[1, 4]))
    assert len(done) == 5 and set(done[0].dropped) == {ids(group)[1], ids(group)[4]}
    watch.exact(2, done)
    assert not any(watch.blames.values())


def test_who_lacks_an_update_for_good_votes_for_what_others_signed_and_takes_the_result_over_next() -> None:
    """A peer that nobody relays to: it can't have the result, and does not hold the others up."""
    group = simulate(4, "mesh", protocol__rule="mean")
    results(play(group, small(group)))
    lacks, author = ids(group)[3], 1
    withhold(group, author, [lacks])
    for peer in group.peers:
        lie(peer, Relay.kind, lambda _effect: [])
    at(group.peers[author], "survivors", lambda _machine: kill(group.peers[author]))
    ended = play(group, small(group), but=[author])
    done = [one for one in ended if isinstance(one, RoundResult)]
    assert len(done) == 2 and len({one.digest for one in done}) == 1
    assert "takes it over in the next round" in str(ended[3])


def test_two_peers_that_lack_what_a_dead_one_took_along_end_the_round_as_lost() -> None:
    """Its update is certified on the word of liars that do not pass it on."""
    group = simulate(4, "mesh", protocol__rule="mean")
    results(play(group, small(group)))
    author, liar = 1, group.peers[2]
    withhold(group, author, [ids(group)[0], ids(group)[3]])
    lie(liar, Relay.kind, lambda _effect: [])
    for place in (1, 2):
        at(group.peers[place], "aggregate", lambda _machine, peer=group.peers[place]: kill(peer))
    ended = errors(play(group, small(group), but=[1, 2]))
    assert all(one.spent for one in ended)


def test_a_peer_whose_arithmetic_differs_is_named_and_refuses_what_is_certified() -> None:
    group = simulate(4, "mesh", protocol__rule="mean")
    results(play(group, small(group)))
    broken: SimulatedPeer = group.peers[2]
    watch, base = Watch(group), broken.session._machine

    class Differs(base):  # type: ignore[misc, valid-type]
        def aggregated(self, value: Aggregated) -> None:
            assert value.result is not None
            wrong = broken.driver.workbench().keep(np.zeros(5, np.int32))
            super().aggregated(replace(value, result=replace(value.result, total=wrong)))

    broken.session._machine = Differs
    ended = play(group, small(group))
    assert len([one for one in ended if isinstance(one, RoundResult)]) == 3
    mine = ended[2]
    assert isinstance(mine, RemoteError) and mine.clause == "ME-7" and mine.peer is None
    for place in (0, 1, 3):
        assert watch.blames[ids(group)[place]] == [("ME-6", ids(group)[2])]


def test_a_second_round_follows_the_range_of_the_first_under_a_robust_rule() -> None:
    group = simulate(5, "mesh")
    given_: list[Vector | None] = [vector([0.001, 9.0 if place == 4 else 0.001]) for place in range(5)]
    first = results(play(group, given_))[0]
    assert np.allclose(first.values[0], 0.001, atol=1e-5)
    assert {peer.session.common.ranges(1) for peer in group.peers} == {(0.05,)}  # the liar moves no range either
