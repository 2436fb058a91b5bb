"""bucketed: who sends what to whom, what statements and holdings give, and the combining of the buckets' means from end
to end in simulation, whatever up to c peers say of them; and what the auditor makes of each course."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra import derive
from decentra.audit import Report, Verdict
from decentra.audit.auditor import Auditor
from decentra.audit.ground import Ground
from decentra.audit.record import Record, Round
from decentra.audit.rules import bucketed as rules
from decentra.audit.rules import survivors
from decentra.crypto.hashing import digest
from decentra.crypto.ring import Ring
from decentra.driver.session import Vector
from decentra.errors import RemoteError, Unavailable
from decentra.gossip.group import combining_charter
from decentra.machine.effects import Compute, Send
from decentra.protocols.aggregate import Aggregated
from decentra.protocols.agreed import Agreed, derive_agreed
from decentra.protocols.ballots import LOST
from decentra.protocols.bucketed.buckets import Buckets, contradicted, read_holding, sound_mean, stated
from decentra.protocols.bucketed.messages import Holding, Mean, Relay, Result
from decentra.protocols.jobs import Encode
from decentra.robust import catalogue, exact
from decentra.simulation.group import SimulatedGroup, charter_for, identities
from decentra.types import PeerId, RoundResult
from decentra.wire.codec import Signed
from decentra.wire.entry import ZERO, Entry, parse
from decentra.wire.message import Verified
from helpers import (
    OTHER,
    PHASE,
    Scene,
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
    running,
    settle,
    sign,
    vector,
)

CONTEXT = b"c" * 32
BEACON = b"\xbe" * 32

# ── who is where, and sends to whom ──────────────────────────────────────────────────────────────────────────────────


@st.composite
def dealt(draw: st.DrawFn) -> Buckets:
    """Buckets as a beacon deals them, with a c_b that their sizes allow."""
    n, size = draw(st.integers(3, 64)), draw(st.integers(3, 12))
    peers = [PeerId(bytes([place]) * 32) for place in range(n)]
    buckets = derive.buckets(draw(st.binary(min_size=32, max_size=32)), peers, size)
    return Buckets(buckets, draw(st.integers(1, max(1, min(map(len, buckets)) - 2))))


@given(dealt())
def test_everybody_has_each_other_bucket_s_mean_once_and_members_share_the_sending(buckets: Buckets) -> None:
    peers = [peer for bucket in buckets.members for peer in bucket]
    sent = {peer: buckets.receivers(peer) for peer in peers}
    for bucket in buckets.members:
        came = Counter(receiver for sender in bucket for receiver in sent[sender])
        assert came == {peer: 1 for peer in peers if peer not in bucket}
        loads = [len(sent[sender]) for sender in bucket]
        assert max(loads) - min(loads) <= len(buckets.members) - 1
        assert max(loads) <= (len(buckets.members) - 1) * -(-max(map(len, buckets.members)) // len(bucket))


@given(dealt())
def test_a_bucket_goes_by_its_first_member_and_is_found_by_every_one(buckets: Buckets) -> None:
    assert len(set(buckets.names)) == len(buckets.members)
    for name, bucket in zip(buckets.names, buckets.members, strict=True):
        assert name == min(bucket) and buckets.named(name) == bucket
        assert all(buckets.of(peer) == bucket for peer in bucket)
        assert all(buckets.named(peer) == () for peer in bucket[1:])
    assert buckets.named(PeerId(b"\xff" * 32)) == ()


# ── what statements and holdings give ────────────────────────────────────────────────────────────────────────────────


def said(author: PeerId, message: Mean | Holding) -> Verified:
    """A message as if its author had signed it; its body's hash follows from what it says."""
    hashed = digest("body", repr(message))
    entry = Entry(ZERO, 1, 1, author, 1, 1, ZERO, message.kind, ZERO, b"", hashed, b"")
    return Verified(entry, message, Signed(b"", b""))


def mean_of(bucket: Sequence[PeerId], root: bytes = b"r" * 32) -> Mean:
    return Mean(CONTEXT, tuple(bucket), root)


NONE = Mean(CONTEXT, (), ZERO)
EVERYBODY = tuple(PeerId(bytes([place]) * 32) for place in range(20))


@given(st.lists(st.sampled_from(EVERYBODY[:7])), st.sampled_from([ZERO, OTHER]), st.integers(1, 3))
def test_a_statement_is_of_c_plus_2_of_its_bucket_or_of_nobody_and_the_auditor_says_the_same(
    members: list[PeerId], root: bytes, c: int
) -> None:
    bucket = EVERYBODY[:5]
    sound = sound_mean(Mean(CONTEXT, tuple(members), root), bucket, c)
    if members:
        distinct = len(set(members)) == len(members)
        assert sound == (distinct and len(members) >= c + 2 and set(members) <= set(bucket))
    else:
        assert sound == (root == ZERO)
    round_: Any = SimpleNamespace(ground=SimpleNamespace(charter=SimpleNamespace(bucket_corrupt=c)))
    record: Any = {"members": tuple(members)}
    assert rules._is_stated(round_, record, bucket) == (sound and bool(members))


@st.composite
def statements(draw: st.DrawFn) -> tuple[Buckets, dict[PeerId, Verified], set[PeerId]]:
    """What members state: up to c of a bucket what they like, the others their bucket's mean or that they have none."""
    buckets = draw(dealt())
    means: dict[PeerId, Verified] = {}
    lying: set[PeerId] = set()
    for bucket in buckets.members:
        liars = draw(st.lists(st.sampled_from(bucket), max_size=buckets.c, unique=True))
        lying.update(liars)
        for peer in bucket:
            if peer in liars:
                message = draw(st.sampled_from([mean_of(bucket), mean_of(bucket, OTHER), mean_of(bucket[1:]), NONE]))
            else:
                message = draw(st.sampled_from([mean_of(bucket), mean_of(bucket), NONE]))
            if draw(st.booleans()) or peer not in liars:
                means[peer] = said(peer, message)
    return buckets, means, lying


@given(statements())
def test_what_is_stated_is_what_an_honest_member_states_and_never_that_there_is_none(
    given_: tuple[Buckets, dict[PeerId, Verified], set[PeerId]],
) -> None:
    buckets, means, lying = given_
    found = stated(means, buckets)
    for bucket in buckets.members:
        honest = {means[peer].body_hash for peer in bucket if peer not in lying and means[peer].message != NONE}
        have = sum(peer not in lying and means[peer].message != NONE for peer in bucket)
        assert found.get(bucket[0]) in (*honest, None)
        assert have <= buckets.c or bucket[0] in found
    named = contradicted(means, buckets, buckets.c)
    assert set(named) <= lying
    for peer in named:
        assert means[peer].body_hash != found[buckets.of(peer)[0]] and means[peer].message != NONE


def test_more_than_c_of_a_bucket_are_not_outvoted_where_more_of_all_may_lie() -> None:
    """Two of four state another mean. With c_b = 1 either pair is too many for a bucket; nobody is named by that."""
    bucket = EVERYBODY[:4]
    buckets = Buckets((bucket, EVERYBODY[4:8]), 1)
    means = {peer: said(peer, mean_of(bucket, OTHER if peer in bucket[:2] else ZERO)) for peer in bucket}
    assert contradicted(means, buckets, 2) == ()
    assert contradicted({**means, bucket[1]: said(bucket[1], mean_of(bucket, ZERO))}, buckets, 2) == bucket[:1]


@st.composite
def views(draw: st.DrawFn) -> tuple[Buckets, int, list[Verified], dict[PeerId, bytes], set[PeerId]]:
    """Holdings of n peers of which up to c lie; honest ones name each bucket's statement but for those that only some
    of them counted; and of which bucket all of them did."""
    n, c, size = draw(st.sampled_from([(9, 1, 3), (12, 1, 4), (20, 2, 4)]))
    peers = EVERYBODY[:n]
    buckets = Buckets(derive.buckets(BEACON, peers, size), c)
    liars = set(draw(st.lists(st.sampled_from(peers), max_size=c, unique=True)))
    true = {name: digest("true", name) for name in buckets.names}
    full = {name: one for name, one in true.items() if draw(st.integers(0, 4))}
    shown = []
    for peer in peers:
        lied = draw(st.dictionaries(st.sampled_from(buckets.names), st.sampled_from([OTHER, *true.values()])))
        some = {name: true[name] for name in lied}
        held = lied if peer in liars else {**some, **full}
        whole = tuple(sorted(draw(st.lists(st.sampled_from(sorted(held)), unique=True)))) if held else ()
        shown.append(said(peer, Holding(CONTEXT, tuple(sorted(held.items())), whole)))
    count = draw(st.integers(derive.quorum(n, c), n))
    return buckets, n, draw(st.permutations(shown))[:count], full, liars


@given(views())
def test_a_mean_that_all_honest_peers_know_counts_and_one_that_only_liars_name_does_not(
    given_: tuple[Buckets, int, list[Verified], dict[PeerId, bytes], set[PeerId]],
) -> None:
    buckets, n, shown, full, _ = given_
    c, roster = buckets.c, EVERYBODY[:n]
    held = {one.sender: read_holding(one, CONTEXT, buckets) or {} for one in shown}
    least, t = 2 * c + 1, derive.quorum(n, c)
    agreed = derive_agreed(buckets.names, roster, t, least, c, held)
    true = {name: digest("true", name) for name in buckets.names}
    if agreed is None:
        assert len(full) < least
        return
    assert full.items() <= agreed.updates.items() <= true.items()
    assert list(agreed.members) == [name for name in buckets.names if name in agreed.members]
    assert agreed.witnesses == tuple(sorted(one.sender for one in shown))
    assert Agreed.unpack(agreed.pack()) == agreed


@given(views(), st.data())
def test_the_auditor_derives_what_machines_derive(
    given_: tuple[Buckets, int, list[Verified], dict[PeerId, bytes], set[PeerId]], data: st.DataObject
) -> None:
    buckets, n, shown, _, _ = given_
    some = data.draw(st.lists(st.sampled_from(shown)))
    t, least = data.draw(st.integers(1, n)), data.draw(st.integers(1, len(buckets.names)))
    held: dict[PeerId, Any] = {}
    for one in some:
        held.setdefault(one.sender, one.message.stated)  # type: ignore[attr-defined]
    named = {peer: dict(pairs) for peer, pairs in held.items()}
    agreed = derive_agreed(buckets.names, EVERYBODY[:n], t, least, buckets.c, named)
    given = survivors._echoed(buckets.names, EVERYBODY[:n], t, least, buckets.c, held)
    assert given == (None if agreed is None else agreed.pack())


@cache
def nine() -> Ground:
    return Ground.of(combining().charter)


@given(
    st.dictionaries(st.sampled_from(EVERYBODY[:9]), st.just(OTHER), max_size=4),
    st.lists(st.sampled_from(EVERYBODY[:9]), max_size=4),
)
def test_a_holding_names_buckets_and_as_whole_what_it_names_and_the_auditor_says_the_same(
    named: dict[PeerId, bytes], whole: list[PeerId]
) -> None:
    ground = nine()
    peers, buckets = ground.members, Buckets(ground.charter.drawn_buckets, 1)
    swap = dict(zip(EVERYBODY[:9], peers, strict=True))
    pairs = tuple(sorted((swap[peer], one) for peer, one in named.items()))
    message = Holding(CONTEXT, pairs, tuple(swap[peer] for peer in whole))
    read = read_holding(said(peers[0], message), CONTEXT, buckets)
    sound = {swap[peer] for peer in named} <= set(buckets.names) and set(whole) <= set(named)
    assert (read is not None) == sound
    assert read is None or read == dict(message.stated)
    assert read_holding(said(peers[0], message), OTHER, buckets) is None
    assert read_holding(said(peers[0], NONE), CONTEXT, buckets) is None
    fields = {"stated": message.stated, "whole": message.whole}
    record = Record(said(peers[0], message).entry, b"", fields)
    assert survivors.is_of_buckets(Round(ground, 1, []), record) == sound


# ── the combining, from end to end ───────────────────────────────────────────────────────────────────────────────────


def combining(n: int = 9, seed: int = 0, **changes: object) -> SimulatedGroup:
    """A group at its combining, as it is derived from a signed charter and a beacon."""
    members = identities(n, seed)
    parent = charter_for(members, "bucketed", **changes)
    return SimulatedGroup(combining_charter(parent, parent.hash, BEACON), members, seed=seed)


def bucket_number(group: SimulatedGroup, peer: PeerId) -> int:
    return next(place for place, bucket in enumerate(group.charter.drawn_buckets) if peer in bucket)


def means(group: SimulatedGroup, lost: Sequence[int] = (), lacking: Sequence[int] = ()) -> list[Vector | None]:
    """What each brings: its bucket's mean; nothing in a bucket that is lost, nor at a place that lacks it."""
    brought: list[Vector | None] = []
    for place, peer in enumerate(ids(group)):
        which = bucket_number(group, peer)
        mean = vector([0.01 * (which + 1), -0.02 * which, 0.001, 0.0])
        have = which not in lost and place not in lacking
        brought.append(replace(mean, summed=group.charter.drawn_buckets[which] if have else ()))
    return brought


def report(group: SimulatedGroup) -> Report:
    """What an auditor says of all that was signed."""
    auditor = Auditor(grounds=[Ground.of(group.charter)])
    try:
        auditor.add([signed for peer in group.peers for signed in peer.journal.entries])
        return auditor.judge()
    finally:
        auditor.close()


def clean(group: SimulatedGroup) -> None:
    told = report(group)
    assert told.verdict is Verdict.CLEAN, (told.violations, told.missing)


def expected(rows: Sequence[NDArray[Any]], rule: str, c: int) -> list[int]:
    return [*exact.aggregate([row[:-1] for row in rows], rule, c).tolist(), len(rows)]


class Combined(Scene):
    """A group after an honest combining, and one of its peers, which is going to attack the second."""

    def rows(self, number: int) -> list[NDArray[Any]]:
        """Each bucket's mean, as its honest members encoded it alike, in the order of the first members' ids."""
        found = []
        for bucket in sorted(self.group.charter.drawn_buckets):
            encoded = [self.watch.encoded[peer, number] for peer in bucket if (peer, number) in self.watch.encoded]
            encoded = [row for peer, row in zip(bucket, encoded, strict=False) if peer != self.name] or encoded
            assert len({row.tobytes() for row in encoded}) == 1
            found.append(encoded[0].view(np.dtype(f"<i{self.group.charter.protocol.width // 8}")))
        return found

    def named(self, *clauses: str, witnesses: Sequence[PeerId] | None = None) -> list[RoundResult]:
        """The round of the attack, which completes at every honest peer with what the rule gives on all means; the
        witnesses name the liar, and so does the auditor, each under one of these clauses, and nobody else."""
        done = results(play(self.group, means(self.group), but=[self.place]))
        assert len(done) == len(self.others)
        terms = self.group.charter.protocol
        signed = np.dtype(f"<i{terms.width // 8}")
        for (_, number), total in self.watch.totals.items():
            if number == 2:
                assert total.view(signed).tolist() == expected(self.rows(2), terms.rule, terms.c)
        self.accused(*clauses, witnesses=self.others if witnesses is None else witnesses)
        settle(self.group)
        assert [p.driver.blobs.bytes_held for p in self.group.peers if p is not self.liar] == [0] * len(self.others)
        assert {one.who for one in report(self.group).violations} <= {self.name}
        return done

    def found(self, *clauses: str) -> None:
        """The auditor finds the liar under each of these clauses and no other."""
        assert {(one.clause, one.who) for one in report(self.group).violations} == {(one, self.name) for one in clauses}


def attack(place: int = 4, **changes: object) -> Combined:
    group = combining(protocol__rule="median", **changes)
    results(play(group, means(group)))
    return Combined(group, place)


@given(
    st.sampled_from([(9, 1, 3), (11, 1, 3), (12, 1, 4), (20, 2, 4)]),
    st.sampled_from(["median", "trimmed_mean", "nnm+trimmed_mean", "krum"]),
    st.sampled_from([16, 32]),
    st.integers(0, 1 << 20),
)
@settings(max_examples=8)
def test_everybody_gets_the_rule_s_exact_result_on_the_buckets_means(
    size: tuple[int, int, int], rule: str, width: int, seed: int
) -> None:
    n, c, least = size
    group = combining(n, seed, protocol__c=c, protocol__rule=rule, protocol__width=width, buckets__size=least)
    scene = Combined(group, 0)
    rng = np.random.default_rng(seed)
    of_bucket = [rng.uniform(-0.12, 0.12, seed % 6) for _ in group.charter.drawn_buckets]
    buckets = group.charter.drawn_buckets
    brought = [
        replace(vector(of_bucket[bucket_number(group, peer)]), summed=buckets[bucket_number(group, peer)])
        for peer in ids(group)
    ]
    done = results(play(group, brought))
    assert done[0].participants == ids(group) and done[0].total_weight == len(buckets)
    totals = {total.tobytes() for total in scene.watch.totals.values()}
    assert len(totals) == 1
    total = np.frombuffer(totals.pop(), Ring(width).signed)
    assert total.tolist() == expected(scene.rows(1), rule, c)
    limit = Ring(width).limit(len(buckets))
    assert all(np.abs(row[:-1]).max(initial=0) <= limit for row in scene.rows(1))
    settle(group)
    assert [peer.driver.blobs.bytes_held for peer in group.peers] == [0] * n
    clean(group)


@pytest.mark.parametrize("rule", [rule for rule in catalogue.exact_rules() if rule not in ("mean", "bulyan")])
def test_every_rule_that_a_charter_may_name_gives_all_peers_the_same_bytes(rule: str) -> None:
    """Not the mean, which is none; nor bulyan, which needs 4f + 3 where 2c + 1 may be left."""
    group = combining(protocol__rule=rule)
    done = results(play(group, means(group)))
    assert len({one.values[0].tobytes() for one in done}) == 1


def test_members_of_a_bucket_round_by_coins_that_follow_from_the_context() -> None:
    group = combining(seed=3)
    coins: dict[PeerId, Any] = {}
    for peer in group.peers:
        carried = peer.driver._carry_out

        def carry(effect: Any, peer: Any = peer, carried: Any = carried) -> None:
            if isinstance(effect, Compute) and isinstance(effect.job, Encode):
                coins[peer.identity.id] = (effect.job.coins, effect.job.n, running(peer).context)
            carried(effect)

        peer.driver._carry_out = carry  # type: ignore[method-assign]
    results(play(group, means(group)))
    ((key, count, context),) = set(coins.values())
    assert key == digest("bucket-rounding", context) and count == 3 and len(coins) == 9


# ── attackers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def own_bucket(scene: Combined) -> tuple[PeerId, ...]:
    return scene.group.charter.drawn_buckets[bucket_number(scene.group, scene.name)]


def another(scene: Combined, spare: int = 0) -> PeerId:
    """A peer of a bucket that the liar is not in."""
    return [peer for peer in scene.others if peer not in own_bucket(scene)][spare]


def test_an_honest_round_is_clean_to_the_auditor_and_nobody_is_named() -> None:
    scene = attack()
    done = results(play(scene.group, means(scene.group)))
    assert done[0].participants == ids(scene.group) and not any(scene.watch.blames.values())
    clean(scene.group)


@pytest.mark.parametrize("what", ["too few", "of others", "twice", "a root of nobody", "another root", "context"])
def test_a_false_statement_is_named_by_all_and_found_and_the_bucket_s_mean_counts_all_the_same(what: str) -> None:
    scene = attack()
    bucket = own_bucket(scene)
    twist = {
        "too few": change(members=bucket[:2]),
        "of others": change(members=tuple(sorted((*bucket[1:], another(scene))))),
        "twice": change(members=(*bucket[:2], bucket[1])),
        "a root of nobody": change(members=(), root=OTHER),
        "another root": change(root=OTHER),
        "context": change(context=OTHER),
    }[what]
    lie(scene.liar, Mean.kind, twist)
    clause = "BU-1" if what == "context" else "BU-2"
    beside = ("BU-3",) if what == "another root" else ()  # to whom its bytes went, which are its bucket's
    scene.named(clause, *beside)
    scene.found(clause)


def test_two_statements_are_evidence_for_all_and_found() -> None:
    scene = attack()
    lie(scene.liar, Mean.kind, also(lambda mean: Mean(mean.context, (), ZERO)))
    scene.named("EQUIVOCATION")
    scene.found("BU-1")


def sends(scene: Combined, row: NDArray[Any], state: bool) -> None:
    """The liar sends such bytes for its bucket's mean; and states their root, if it is to."""
    driver, honest = scene.liar.driver, scene.liar.driver._post

    def post(verified: Verified, effect: Send) -> None:
        if verified.entry.kind == Mean.kind and effect.blobs:
            blob = driver.workbench().keep(row)
            if state:
                message = replace(verified.message, root=blob.root)  # type: ignore[call-arg]
                verified = sign(scene.liar, message, verified.entry.after)
            effect = replace(effect, blobs=dict.fromkeys(effect.blobs, blob))
        honest(verified, effect)

    driver._post = post  # type: ignore[method-assign]


def test_other_bytes_than_were_stated_are_not_taken_and_the_mean_comes_from_others() -> None:
    scene = attack()
    sends(scene, np.array([7, 7, 7, 7, 1], np.int32), state=False)
    scene.named("BU-3", witnesses=())
    assert not report(scene.group).violations  # bytes are in no log
    assert sum(parse(one.entry).kind == Relay.kind for peer in scene.group.peers for one in peer.journal.entries) >= 2


def test_bytes_of_another_length_are_named_by_who_got_them() -> None:
    scene = attack()
    receivers = Buckets(scene.group.charter.drawn_buckets, 1).receivers(scene.name)
    sends(scene, np.array([7, 7, 1], np.int32), state=True)
    scene.named("BU-2", "BU-3")
    assert all(("BU-3", scene.name) in scene.watch.blames[name] for name in receivers)


@pytest.mark.parametrize("what", ["no bucket", "whole and not stated", "other hashes", "nothing", "other context"])
def test_a_false_holding_moves_no_mean_in_or_out(what: str) -> None:
    scene = attack()
    names = tuple(bucket[0] for bucket in scene.group.charter.drawn_buckets)
    stranger = PeerId(b"\xff" * 32)
    twist = {
        "no bucket": change(stated=((stranger, OTHER),), whole=()),
        "whole and not stated": change(stated=(), whole=names[:1]),
        "other hashes": change(stated=tuple((name, OTHER) for name in sorted(names)), whole=()),
        "nothing": change(stated=(), whole=()),
        "other context": change(context=OTHER),
    }[what]
    lie(scene.liar, Holding.kind, twist)
    done = results(play(scene.group, means(scene.group), but=[scene.place]))
    assert done[0].participants == ids(scene.group) and done[0].total_weight == 3
    for name in scene.others:
        # a hash that is not stated here may be so elsewhere: it is doubted, and nobody accused
        blames = {"nothing": set(), "other hashes": {("BU-4", None)}}.get(what, {("BU-4", scene.name)})
        assert set(scene.watch.blames[name]) == blames
    told = {"nothing": set(), "other context": {"BU-1"}}.get(what, {"BU-4"})
    assert [(one.clause, one.who) for one in report(scene.group).violations] == [(one, scene.name) for one in told]


def relays(scene: Combined, make: Any, receiver: PeerId) -> Any:
    """Relay something beside the first result."""

    def twist(effect: Send) -> list[Send]:
        message, values = make(running(scene.liar))
        blob = scene.liar.driver.workbench().keep(np.asarray(values, np.int32))
        return [effect, Send(message, to=receiver, blobs={receiver: blob}, after=effect.after)]

    return twist


@pytest.mark.parametrize("what", ["another root", "no bucket", "other context"])
def test_a_relay_of_what_is_not_certified_is_named_or_left_aside_and_found(what: str) -> None:
    scene = attack()
    receiver = another(scene)
    bucket = own_bucket(scene)[0]

    def make(machine: Any) -> tuple[Relay, list[int]]:
        context = OTHER if what == "other context" else machine.context
        name = PeerId(b"\xff" * 32) if what == "no bucket" else bucket
        return Relay(context, name, OTHER), [1, 2, 3, 4, 1]

    lie(scene.liar, Result.kind, relays(scene, make, receiver))
    scene.named("BU-5", "DIGEST", "BU-3", witnesses=())
    scene.found("BU-1" if what == "other context" else "BU-5")


def withhold(scene: Combined, kept_from: Sequence[PeerId]) -> None:
    """The liar's bytes, and its word, come to some not at all."""
    honest = scene.liar.driver._post_to

    def post(target: PeerId, verified: Verified, blob: Any) -> None:
        if verified.entry.kind != Mean.kind or target not in kept_from:
            honest(target, verified, blob)

    scene.liar.driver._post_to = post  # type: ignore[method-assign]


def test_a_mean_that_is_kept_from_who_should_have_it_is_relayed_and_nobody_is_accused() -> None:
    scene = attack()
    receivers = Buckets(scene.group.charter.drawn_buckets, 1).receivers(scene.name)
    withhold(scene, receivers)
    results(play(scene.group, means(scene.group), but=[scene.place]))
    assert not any(scene.watch.blames[name] for name in scene.others)
    relayed = [
        one for peer in scene.group.peers for one in peer.journal.entries if parse(one.entry).kind == Relay.kind
    ]
    assert len(receivers) <= len(relayed) <= 2 * 2 * len(receivers)  # c + 1 of them each, and the next as many
    clean(scene.group)


def contribute(scene: Combined, rows: NDArray[Any]) -> None:
    """All of the liar's bucket bring a row that no encoding gives, as more than may lie of it can."""
    for peer in scene.group.peers:
        if peer.identity.id in own_bucket(scene):
            base: Any = peer.session._machine

            class Brings(base):  # type: ignore[misc]
                def computed(self, name: str, value: Any) -> None:
                    if name == "encode":
                        value = replace(value, slices=(self.bench.keep(rows),))
                    super().computed(name, value)

            Brings.bench = peer.driver.workbench()
            peer.session._machine = Brings


@pytest.mark.parametrize("row", [[2**31 - 1, 0, 0, 0, 1], [0, 0, 0, 0, 2], [0, 0, -(2**31), 0, 1]])
def test_a_certified_mean_that_no_encoding_gives_is_left_out_by_all_and_named_without_a_peer(row: list[int]) -> None:
    scene = attack()
    contribute(scene, np.array(row, np.int32))
    done = results(play(scene.group, means(scene.group)))
    left = tuple(peer for peer in ids(scene.group) if peer not in own_bucket(scene))
    assert done[0].participants == left and done[0].total_weight == 2
    assert all(scene.watch.blames[name] == [("BU-6", None)] for name in ids(scene.group))


@pytest.mark.parametrize(
    ("twist", "clause"),
    [
        (change(root=OTHER), "BU-7"),
        (change(weight=2), "BU-7"),
        (change(survivors=OTHER), "BU-7"),
        (change(context=OTHER), "BU-7"),
        (also(lambda result: replace(result, root=OTHER)), "EQUIVOCATION"),
    ],
)
def test_a_false_result_is_named_by_all_and_found(twist: Any, clause: str) -> None:
    scene = attack()
    lie(scene.liar, Result.kind, twist)
    scene.named(clause)
    assert {one.clause for one in report(scene.group).violations} <= {"BU-7", "BU-1"}
    assert report(scene.group).violations


def proposes() -> Combined:
    """The proposer of the next round attacks."""
    group = combining(protocol__rule="median")
    results(play(group, means(group)))
    return Combined(group, proposer_of(group, 2))


def few(effect: Send) -> list[Send]:
    return [replace(effect, message=replace(effect.message, shown=effect.message.shown[:1]))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("twist", [change(value=OTHER), change(shown=()), few], ids=["value", "none", "one"])
def test_an_outcome_that_no_c_plus_1_results_give_costs_its_view(twist: Any) -> None:
    scene = proposes()
    lie(scene.liar, "certify.propose", on_topic("outcome", twist))
    scene.named("BU-8")
    assert ("BU-8", scene.name) in {(one.clause, one.who) for one in report(scene.group).violations}


def test_survivors_that_the_holdings_do_not_give_cost_their_view() -> None:
    scene = proposes()
    lie(scene.liar, "certify.propose", on_topic("survivors", change(value=b"fail")))
    scene.named("CE-2")
    assert {(one.clause, one.who) for one in report(scene.group).violations} == {("CE-2", scene.name)}


def test_lost_is_not_voted_for_by_who_has_every_mean() -> None:
    scene = proposes()
    lie(scene.liar, "certify.propose", on_topic("outcome", change(value=LOST, shown=())))
    done = results(play(scene.group, means(scene.group), but=[scene.place]))
    assert done[0].total_weight == 3


def test_a_peer_whose_arithmetic_differs_is_named_and_refuses_what_is_certified() -> None:
    scene = attack()
    base: Any = scene.liar.session._machine
    bench = scene.liar.driver.workbench()

    class Differs(base):  # type: ignore[misc]
        def aggregated(self, value: Aggregated) -> None:
            assert value.result is not None
            wrong = bench.keep(np.zeros(5, np.int32))
            super().aggregated(replace(value, result=replace(value.result, total=wrong)))

    scene.liar.session._machine = Differs
    ended = play(scene.group, means(scene.group))
    mine = ended[scene.place]
    assert isinstance(mine, RemoteError) and mine.clause == "BU-8" and mine.peer is None
    assert all(scene.watch.blames[name] == [("BU-7", scene.name)] for name in scene.others)
    scene.found("BU-7")


# ── silence, stops, and buckets without a mean ───────────────────────────────────────────────────────────────────────


def test_a_bucket_without_a_mean_is_left_out_where_enough_are_left_and_fails_the_round_else() -> None:
    twelve = combining(12, protocol__rule="median")
    done = results(play(twelve, means(twelve, lost=[1])))
    assert done[0].total_weight == 3
    assert set(done[0].participants) == set(ids(twelve)) - set(twelve.charter.drawn_buckets[1])
    clean(twelve)
    nine = combining(protocol__rule="median")
    failed = errors(play(nine, means(nine, lost=[1])))
    assert all(isinstance(one, Unavailable) and "certified as failed" in str(one) for one in failed)
    clean(nine)


def test_a_member_that_lacks_its_bucket_s_result_has_the_common_one_and_its_bucket_counts() -> None:
    group = combining(protocol__rule="median")
    lacking = ids(group).index(group.charter.drawn_buckets[0][1])
    done = results(play(group, means(group, lacking=[lacking])))
    assert len(done) == 9 and done[0].total_weight == 3 and done[0].participants == ids(group)
    clean(group)


def test_c_silent_peers_change_nothing_for_the_others() -> None:
    scene = attack()
    at(scene.liar, "means", lambda _machine: kill(scene.liar))
    began = scene.group.clock.now()
    done = results(play(scene.group, means(scene.group), but=[scene.place]))
    assert len(done) == 8 and done[0].total_weight == 3 and scene.group.clock.now() - began < 2 * PHASE
    assert not any(scene.watch.blames[name] for name in scene.others)
    assert not report(scene.group).violations


def test_what_a_liar_states_alone_for_a_bucket_that_is_lost_is_in_no_holding() -> None:
    """c_b of a bucket state a mean, and the others none: c_b + 1 would be needed."""
    group = combining(12, protocol__rule="median")
    results(play(group, means(group)))
    scene = Combined(group, ids(group).index(group.charter.drawn_buckets[2][0]))
    lie(scene.liar, Mean.kind, change(members=own_bucket(scene), root=OTHER))
    done = results(play(group, means(group, lost=[2]), but=[scene.place]))
    assert done[0].total_weight == 3 and scene.name not in done[0].participants
    assert not report(group).violations  # whether it has made it up shows in its bucket's session


def test_two_peers_that_are_sent_different_statements_still_agree() -> None:
    """A liar states its bucket's mean to some, and that there is none to others: two of three state it anyway."""
    scene = attack()
    made: dict[str, Verified] = {}
    honest = scene.liar.driver._post_to

    def post(target: PeerId, verified: Verified, blob: Any) -> None:
        if verified.entry.kind == Mean.kind and target in scene.others[:4]:
            if "none" not in made:
                none = Mean(verified.message.context, (), ZERO)  # type: ignore[attr-defined]
                made["none"] = sign(scene.liar, none, verified.entry.after)
            verified, blob = made["none"], None
        honest(target, verified, blob)

    scene.liar.driver._post_to = post  # type: ignore[method-assign]
    done = results(play(scene.group, means(scene.group), but=[scene.place]))
    assert done[0].total_weight == 3 and done[0].participants == ids(scene.group)
