"""One test an attack on slices, votes, shares and sums; as in ``test_refusals.py``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from decentra.crypto.shamir import split
from decentra.errors import RemoteError, Unavailable
from decentra.machine.effects import Send, Tools
from decentra.protocols.ballots import LOST
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.jobs import Encode, Encoded
from decentra.protocols.round import EARLY
from decentra.protocols.secagg.deal import SELF
from decentra.protocols.secagg.messages import Unmask
from decentra.protocols.sharing import Table, rebuild
from decentra.protocols.survivors import FAIL, Survivors
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.simulation.ports import SeededRandom
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.message import Verified
from helpers import (
    OTHER,
    Scene,
    Twist,
    also,
    at,
    change,
    ids,
    lie,
    nothing_left,
    on_topic,
    play,
    post_raw,
    proposer_of,
    refused,
    results,
    running,
    scene,
    settle,
    sign,
    simulate,
    small,
    vector,
)

# ── slices, holdings, votes ──────────────────────────────────────────────────────────────────────────────────────────

SLICES = [("secagg", "secagg.masked", "SA-2", "SA-10"), ("allreduce", "allreduce.slices", "AR-1", "AR-2")]


@pytest.mark.parametrize(("protocol", "kind", "clause", "_other"), SLICES)
def test_slices_under_another_context(protocol: str, kind: str, clause: str, _other: str) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, kind, change(context=OTHER))
    attack.survived(clause, dropped=True)


def turned(effect: Send) -> list[Send]:
    """The roots of other slices than the blobs beside them."""
    roots = effect.message.roots  # type: ignore[attr-defined]
    return [replace(effect, message=replace(effect.message, roots=(*roots[1:], roots[0])))]


def cut_short(effect: Send) -> list[Send]:
    roots = effect.message.roots  # type: ignore[attr-defined]
    return [replace(effect, message=replace(effect.message, roots=roots[:-1]))]


def of_other_length(effect: Send) -> list[Send]:
    """Two peers get each other's slice, signed as such; with 5 coordinates their lengths differ."""
    peers, blobs = list(effect.blobs), list(effect.blobs.values())
    dealt = {peer: blobs[(place + 1) % len(blobs)] for place, peer in enumerate(peers)}
    roots = list(effect.message.roots)  # type: ignore[attr-defined]
    for peer, blob in dealt.items():
        roots[PLACES[peer]] = blob.root
    return [replace(effect, message=replace(effect.message, roots=tuple(roots)), blobs=dealt)]


PLACES: dict[PeerId, int] = {}


def without_blobs(effect: Send) -> list[Send]:
    return [replace(effect, blobs={})]


@pytest.mark.parametrize("twist", [turned, cut_short, of_other_length, without_blobs])
@pytest.mark.parametrize(("protocol", "kind", "_other", "clause"), SLICES)
def test_slices_that_are_not_what_was_signed(protocol: str, kind: str, _other: str, clause: str, twist: Twist) -> None:
    attack = scene(protocol=protocol)
    PLACES.update({peer: place for place, peer in enumerate(ids(attack.group))})
    lie(attack.liar, kind, twist)
    some = twist is of_other_length  # two of the slices are of the right length all the same
    attack.survived(clause, dropped=True, witnesses=() if some else None)
    assert len(attack.watch.blames) >= (1 if some else 3)


@pytest.mark.parametrize(("protocol", "kind", "_context", "_slice"), SLICES)
def test_two_lists_of_slices(protocol: str, kind: str, _context: str, _slice: str) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, kind, also(lambda masked: replace(masked, roots=(OTHER,) * 4)))
    attack.survived("EQUIVOCATION")


HOLDINGS = [("secagg", "SA-11"), ("allreduce", "AR-3")]


def stranger(holding: Any) -> tuple[tuple[PeerId, bytes], ...]:
    return (*holding.held, (PeerId(b"\xff" * 32), OTHER))


@pytest.mark.parametrize(
    "twist",
    [
        change(held=()),
        change(slice=63),
        change(context=OTHER),
        lambda effect: [replace(effect, message=replace(effect.message, held=stranger(effect.message)))],
    ],
    ids=["empty", "slice", "context", "a stranger"],
)
@pytest.mark.parametrize(("protocol", "clause"), HOLDINGS)
def test_a_holding_that_is_not_one(protocol: str, clause: str, twist: Twist) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, f"{protocol}.holding", twist)
    attack.survived(clause)


@pytest.mark.parametrize(("protocol", "clause"), HOLDINGS)
def test_a_holding_of_another_list_of_ones_own(protocol: str, clause: str) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, f"{protocol}.holding", lambda effect: false_holding(effect, attack.name))
    attack.survived(clause, dropped=True)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(("protocol", "clause"), HOLDINGS)
def test_a_holding_of_another_list_names_its_author_and_accuses_no_one_else(
    protocol: str, clause: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the liar comes first in the roster, so that all others differ from it."""
    group = simulate(4, protocol)
    results(play(group, small(group)))
    attack = Scene(group, place)
    victim = attack.others[0]
    lie(attack.liar, f"{protocol}.holding", lambda effect: false_holding(effect, victim))
    with caplog.at_level(logging.WARNING, "decentra"):
        done = results(play(group, small(group), but=[place]))
    assert len(done) == 3
    assert victim not in done[0].participants  # it is not known to be in every slice, and so in none
    attack.watch.exact(2, done)
    for name in attack.others:
        assert (clause, None) in attack.watch.blames[name]
        assert set(attack.watch.blames[name]) <= {(clause, None), ("CE-2", attack.name)}  # it may propose as well
    said = [record.message for record in caplog.records if f"broke {clause}" in record.message]
    assert len(said) >= 3
    assert all(str(attack.name) in line and str(victim) in line and "compare" in line for line in said)
    mine = group.peers[ids(group).index(victim)]
    assert isinstance(mine.ended, RoundResult)


def false_holding(effect: Send, victim: PeerId) -> list[Send]:
    held = tuple((peer, OTHER if peer == victim else root) for peer, root in effect.message.held)  # type: ignore[attr-defined]
    return [replace(effect, message=replace(effect.message, held=held))]


def test_two_holdings() -> None:
    attack = scene()
    lie(attack.liar, "secagg.holding", also(lambda holding: replace(holding, held=())))
    attack.survived("EQUIVOCATION", dropped=False)


def test_ce1_a_proposal_by_a_peer_that_does_not_propose() -> None:
    attack = scene()

    def twist(effect: Send) -> list[Send]:
        context = effect.message.context  # type: ignore[attr-defined]
        return [effect, Send(Propose(context, "survivors", 0, b"", (), ()))]

    lie(attack.liar, "secagg.holding", twist)
    attack.survived("CE-1", dropped=False)


@pytest.mark.parametrize("topic", ["survivors", "outcome"])
def test_ce1_two_proposals(topic: str) -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "certify.propose", on_topic(topic, also(lambda proposal: replace(proposal, value=b"other"))))
    attack.survived("CE-1", dropped=False)


def test_ce2_survivors_that_the_shown_holdings_do_not_give() -> None:
    for value in (b"fewer", FAIL):
        attack = scene(proposes=True)
        lie(attack.liar, "certify.propose", on_topic("survivors", change(value=value)))
        attack.survived("CE-2", dropped=False)


def test_ce2_survivors_of_ones_own_choice_in_the_right_form() -> None:
    attack = scene(proposes=True)
    victim = attack.others[0]

    def twist(effect: Send) -> list[Send]:
        meant = Survivors.unpack(effect.message.value)  # type: ignore[attr-defined]
        fewer = replace(meant, members=tuple(peer for peer in meant.members if peer != victim))
        return [replace(effect, message=replace(effect.message, value=fewer.pack()))]

    lie(attack.liar, "certify.propose", on_topic("survivors", twist))
    attack.survived("CE-2", dropped=False)


def test_ce2_a_proposal_that_shows_too_few_holdings() -> None:
    attack = scene(proposes=True)
    fewer = on_topic("survivors", lambda e: [replace(e, message=replace(e.message, shown=e.message.shown[:3]))])  # type: ignore[attr-defined]
    lie(attack.liar, "certify.propose", fewer)
    attack.survived("CE-2", dropped=False)


def test_ce2_two_prepares() -> None:
    attack = scene()
    lie(attack.liar, "certify.prepare", on_topic("survivors", also(lambda vote: replace(vote, value=OTHER))))
    attack.survived("CE-2", dropped=False)


def test_ce4_two_commits() -> None:
    attack = scene()
    lie(attack.liar, "certify.commit", on_topic("survivors", also(lambda vote: replace(vote, value=OTHER))))
    attack.survived("CE-4", dropped=False)


def test_ce6_a_lock_that_is_none_and_two_locks() -> None:
    def lock(message: Any, prepares: tuple[Any, ...] = (), value: bytes = b"") -> Lock:
        return Lock(message.context, message.topic, 1, value, prepares)

    def made_up(effect: Send) -> list[Send]:
        own = sign(attack.liar, effect.message, effect.after)
        return [effect, Send(lock(effect.message, (own,), b"mine"))]

    def two(effect: Send) -> list[Send]:
        return [effect, Send(lock(effect.message)), Send(lock(effect.message, value=b"x"))]

    for twist in (made_up, two):
        attack = scene()
        lie(attack.liar, "certify.prepare", on_topic("survivors", twist))
        attack.survived("CE-6", dropped=False)


@pytest.mark.parametrize("how", ["too few", "one twice", "prepares", "another value", "another view", "a stranger"])
def test_ce5_a_certificate_that_is_none(how: str) -> None:
    attack = scene(5, protocol__floor=4)
    out = (attack.place + 2) % 5
    if out == proposer_of(attack.group, 2):
        out = (attack.place + 3) % 5
    absent = attack.group.peers[out]
    absent.session.leave()  # a member, but of no roster from now on
    settle(attack.group, 5.0)

    def twist(effect: Send) -> list[Send]:
        vote = attack.liar.driver.machine.certify["survivors"]
        message = Certificate(vote.context, vote.topic, vote.value, vote.certificate)
        commits: tuple[Any, ...] = message.commits
        digest = commits[0].message.value
        if how == "too few":
            commits = commits[:-1]
        elif how == "one twice":
            commits = (*commits[:-1], commits[0])
        elif how == "prepares":
            vote = Prepare(message.context, message.topic, 0, digest)
            commits = (*commits[:-1], sign(attack.liar, vote, bytes(32)))
        elif how == "another value":
            vote = Commit(message.context, message.topic, 0, OTHER)
            commits = (*commits[:-1], sign(attack.liar, vote, bytes(32)))
        elif how == "another view":
            vote = Commit(message.context, message.topic, 1, digest)
            commits = (*commits[:-1], sign(attack.liar, vote, bytes(32)))
        else:
            vote = Commit(message.context, message.topic, 0, digest)
            commits = (*commits[:-1], sign(absent, vote, bytes(32)))
        return [effect, Send(replace(message, commits=commits))]

    lie(attack.liar, "secagg.unmask", twist)
    vectors = [None if place == out else mine for place, mine in enumerate(small(attack.group))]
    attack.survived("CE-5", dropped=False, vectors=vectors)


def test_a_vote_on_what_no_round_votes_on_and_one_under_another_context() -> None:
    attack = scene()
    lie(attack.liar, "secagg.deal", lambda e: [e, Send(Prepare(OTHER, "weather", 0, OTHER))])
    refused(attack.attacked(), "SCHEMA", attack.name)
    nothing_left(attack)
    attack = scene()
    lie(attack.liar, "secagg.holding", lambda e: [e, Send(Prepare(e.message.context, "weather", 0, OTHER))])  # type: ignore[attr-defined]
    attack.survived("SCHEMA", dropped=False)
    attack = scene()
    lie(attack.liar, "certify.prepare", change(context=OTHER))
    attack.survived("SA-2", dropped=False)


def test_a_flood_of_early_votes_is_not_kept() -> None:
    attack = scene()
    flood = [Send(Prepare(OTHER, "outcome", place, bytes([place]) * 32)) for place in range(50)]
    lie(attack.liar, "secagg.deal", lambda e: [e, *flood])
    kept: list[int] = []
    for peer in attack.group.peers:
        at(peer, "survivors", lambda machine: kept.append(len(machine._votes)))
    attack.survived("SA-2", dropped=False)
    assert len(kept) >= 3
    assert max(kept) <= EARLY


# ── unmasking, sums, outcome ─────────────────────────────────────────────────────────────────────────────────────────


def false_share(message: Any) -> Unmask:
    (peer, share), *rest = message.self_shares
    return replace(message, self_shares=((peer, share[:-1] + bytes([share[-1] ^ 1])), *rest))


@pytest.mark.parametrize(
    ("clause", "twist"),
    [
        ("SA-3", lambda unmask: replace(unmask, key_shares=unmask.self_shares[:1])),
        ("SA-7", false_share),
        ("SA-7", lambda unmask: replace(unmask, survivors=OTHER)),
        ("SA-7", lambda unmask: replace(unmask, context=OTHER)),
        ("SA-7", lambda unmask: replace(unmask, self_shares=unmask.self_shares[1:])),
    ],
    ids=["both kinds", "false share", "other certificate", "other context", "one short"],
)
def test_shares_that_must_not_be_shown(clause: str, twist: Any) -> None:
    attack = scene(4)  # t = 3: those of the others are enough
    lie(attack.liar, "secagg.unmask", lambda effect: [replace(effect, message=twist(effect.message))])
    attack.survived(clause, dropped=False)
    attack = scene(3)  # t = 3: everybody's shares are needed
    lie(attack.liar, "secagg.unmask", lambda effect: [replace(effect, message=twist(effect.message))])
    for error in attack.attacked():
        assert isinstance(error, Unavailable)
        assert error.waited_for == (attack.name,)
        assert error.spent
    attack.accused(clause, witnesses=attack.others)


def test_a_false_share_that_nobody_needs_is_taken_down_and_ends_nothing() -> None:
    attack = scene(4)  # t = 3
    later = attack.group

    def twist(effect: Send) -> list[Send]:
        def send() -> None:
            verified = sign(attack.liar, false_share(effect.message), effect.after)
            post_raw(attack.liar, verified.signed.entry, verified.signed.body)

        later.clock.call_later(0.01, send)
        return []

    lie(attack.liar, "secagg.unmask", twist)
    hold(attack.group, 0.02)
    attack.survived("SA-7", dropped=False)
    for peer in attack.group.peers:
        if peer is not attack.liar:
            assert "not the one that was dealt" in peer.driver.reasons[attack.name]


def hold(group: SimulatedGroup, seconds: float) -> None:
    """Every sum takes a while, so that what comes late still comes within the round."""
    for peer in group.peers:
        post = peer.driver._send

        def late(effect: Send, post: Any = post, peer: SimulatedPeer = peer) -> None:
            if effect.message.kind != "secagg.sum":
                post(effect)
                return
            peer.driver._suspended = True
            group.clock.call_later(seconds, lambda: post(effect))

        peer.driver._send = late  # type: ignore[method-assign]


SUMS = [("secagg", "SA-8", "SA-9"), ("allreduce", "AR-4", "AR-5")]


@pytest.mark.parametrize("fields", [{"slice": 63}, {"context": OTHER}, {"root": OTHER}], ids=str)
@pytest.mark.parametrize(("protocol", "clause", "_outcome"), SUMS)
def test_a_sum_of_another_slice_or_context_or_data(
    protocol: str, clause: str, _outcome: str, fields: dict[str, object]
) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, f"{protocol}.sum", change(**fields))
    attack.lost(clause)


@pytest.mark.parametrize("proposes", [False, True], ids=["to another", "to the proposer"])
@pytest.mark.parametrize(("protocol", "clause", "_outcome"), SUMS)
def test_two_sums_for_one_slice_shown_to_different_peers(
    protocol: str, clause: str, _outcome: str, proposes: bool
) -> None:
    """The outcome's proposal shows every sum, so whoever got another one has two signed by one owner."""
    attack = scene(protocol=protocol)
    group = attack.group
    proposer = ids(group)[proposer_of(group, 2)]
    victim = proposer if proposes else next(peer for peer in attack.others if peer != proposer)
    driver = attack.liar.driver
    honest = driver._post_to

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind == f"{protocol}.sum" and target == victim:
            data = driver.blobs.view(blob).copy()
            data[0] ^= 1
            blob = running(attack.liar) and driver.running.bench.keep(data)  # type: ignore[union-attr]
            driver.blobs.lend(blob)
            verified = sign(attack.liar, replace(verified.message, root=blob.root), verified.entry.after)
        honest(target, verified, blob)

    driver._post_to = post  # type: ignore[method-assign]
    long = [vector(np.full(40, 0.001, np.float32)) for _ in group.peers]  # no slice is the weight alone
    ended = play(group, long, but=[attack.place])
    seen = ended[ids(group).index(victim)]
    assert isinstance(seen, RemoteError)
    assert seen.spent
    refused([seen], clause, attack.name)
    done = results([one for place, one in enumerate(ended) if place != ids(group).index(victim)])
    assert len(done) == 2  # who got the same sums settles on them; nobody ends with other ones
    attack.watch.exact(2, done)
    attack.accused(clause, witnesses=[peer for peer in attack.others if proposes or peer == victim])


def test_two_sums_shown_to_one_peer() -> None:
    attack = scene()
    lie(attack.liar, "secagg.sum", also(lambda message: replace(message, root=OTHER)))
    attack.survived("EQUIVOCATION", dropped=False)


@pytest.mark.parametrize(("protocol", "_sum", "clause"), SUMS)
def test_another_outcome_proposed_or_one_that_shows_no_sums(protocol: str, _sum: str, clause: str) -> None:
    for fields in ({"value": OTHER}, {"shown": ()}):
        attack = scene(protocol=protocol, proposes=True)
        lie(attack.liar, "certify.propose", on_topic("outcome", change(**fields)))
        attack.survived(clause, dropped=False)


def test_an_outcome_proposed_as_lost_that_is_not() -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "certify.propose", on_topic("outcome", change(value=LOST)))
    attack.survived(dropped=False, witnesses=())


@dataclass(frozen=True)
class Tampered:
    """Job: encode as always, then add to one coordinate of the masked vector, as a lying contributor would."""

    job: Encode
    place: int
    amount: int

    def run(self, tools: Tools) -> Encoded:
        encoded = self.job.run(tools)
        slices = list(encoded.slices)
        whole = np.concatenate([tools.view(blob) for blob in slices]).view(np.uint16)
        whole[self.place] += np.uint16(self.amount)
        start = 0
        for index, blob in enumerate(slices):
            end = start + blob.size // 2
            slices[index] = tools.keep(whole[start:end].copy())
            tools.drop(blob)
            start = end
        return Encoded(tuple(slices))


def tamper(peer: SimulatedPeer, place: int, amount: int) -> None:
    base: Any = peer.session._machine

    class Liar(base):  # type: ignore[misc]
        def encode_job(self, masks: Any) -> Any:
            return Tampered(super().encode_job(masks), place, amount)

    peer.session._machine = Liar


def test_sa9_weights_that_cannot_be_accuse_nobody_falsely() -> None:
    attack = scene()
    tamper(attack.liar, -1, 7)
    failed = attack.attacked()
    refused(failed, "SA-9", None, "can't sum to 11")
    assert all(error.spent for error in failed)
    settle(attack.group)
    assert [p.driver.blobs.bytes_held for p in attack.group.peers] == [0] * 4


def test_sa9_a_coordinate_that_honest_updates_cannot_give_is_refused_by_all_and_counts_as_spent() -> None:
    attack = scene()
    before = [peer.session.last for peer in attack.group.peers]
    ranges = [peer.session.common.ranges(2) for peer in attack.group.peers]
    tamper(attack.liar, 2, 1 << 15)  # everybody's third coordinate is 0
    failed = attack.attacked()
    refused(failed, "SA-9", None, "refuse")
    assert all(error.spent for error in failed)
    assert [peer.session.last for peer in attack.group.peers] == before
    assert [peer.session.common.ranges(2) for peer in attack.group.peers] == ranges
    settle(attack.group)
    assert [p.driver.blobs.bytes_held for p in attack.group.peers] == [0] * 4


# ── who owns what ────────────────────────────────────────────────────────────────────────────────────────────────────


def holds_everything(peer: SimulatedPeer) -> None:
    """Have a peer sign holdings of all slices with its own, and show these where it proposes."""
    base: Any = peer.session._machine

    class Liar(base):  # type: ignore[misc]
        def _hold(self, position: int, held: Any) -> None:
            for other in range(self.n):
                if other != position and other not in self._held:
                    super()._hold(other, held)
            super()._hold(position, held)

        def shown_holdings(self) -> list[Verified]:
            found = [self.holdings(position) for position in range(self.n)]
            return [known.get(self.setting.me) or next(iter(known.values())) for known in found if known]

    peer.session._machine = Liar


@pytest.mark.parametrize("proposes", [False, True])
def test_who_holds_every_slice_does_not_become_the_owner_of_all(proposes: bool) -> None:
    attack = scene(proposes=proposes)
    owners: list[tuple[PeerId, ...]] = []
    for peer in attack.group.peers:
        at(peer, "unmask", lambda machine: owners.append(machine.owners))  # type: ignore[attr-defined]
    holds_everything(attack.liar)
    attack.survived("CE-2", dropped=False, witnesses=())
    assert all(one.count(attack.name) == 1 for one in owners)


def test_who_was_left_out_of_the_sum_is_not_made_to_end_the_round_by_the_next_liar() -> None:
    """A freed peer still owns a slice: what others break must not take its sum from them."""
    attack = scene(5)
    victim = attack.others[0]

    def omit(effect: Any) -> list[Send]:
        held = tuple((peer, hashed) for peer, hashed in effect.message.held if peer != victim)
        return [replace(effect, message=replace(effect.message, held=held))]

    def show_falsely(effect: Any) -> list[Send]:
        (peer, _), *rest = effect.message.self_shares
        return [replace(effect, message=replace(effect.message, self_shares=((peer, OTHER), *rest)))]

    lie(attack.liar, "secagg.holding", omit)
    lie(attack.liar, "secagg.unmask", show_falsely)
    group = attack.group
    done = results(play(group, small(group), but=[attack.place]))
    assert len(done) == 4
    assert victim not in done[0].participants
    attack.watch.exact(2, done)


def test_a_deal_off_its_polynomial_gives_one_verdict_whichever_shares_rebuild_it() -> None:
    table = Table(OTHER, RoundId(1, 1), 0, tuple(PeerId(bytes([place]) * 32) for place in range(5)), 4)
    dealer = table.roster[0]
    seed = (5).to_bytes(32, "little")
    good = split(seed, 4, 5, SeededRandom(0, b"deal"))
    for wrong in range(5):
        shares = tuple((7).to_bytes(32, "little") if place == wrong else share for place, share in enumerate(good))
        hashes = tuple(
            table.share_hash(dealer, to, SELF, share) for to, share in zip(table.roster, shares, strict=True)
        )
        for left_out in range(5):
            shown = {place + 1: share for place, share in enumerate(shares) if place != left_out}
            assert rebuild(table, dealer, SELF, hashes, shown) is None
    honest = tuple(table.share_hash(dealer, to, SELF, share) for to, share in zip(table.roster, good, strict=True))
    assert rebuild(table, dealer, SELF, honest, {place + 1: share for place, share in enumerate(good)}) == seed
