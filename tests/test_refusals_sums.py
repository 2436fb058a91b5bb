"""One test an attack on slices, votes, shares and sums; as in ``test_refusals.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from decentra.errors import DecentraError, RemoteError
from decentra.machine.effects import Send, Tools
from decentra.protocols.certify.messages import Commit, Prepare, Propose
from decentra.protocols.jobs import Encode, Encoded
from decentra.protocols.secagg.messages import Unmask
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.types import PeerId
from helpers import (
    OTHER,
    Scene,
    Twist,
    also,
    at,
    blamed,
    change,
    ids,
    lie,
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
)

# ── slices, holdings, votes ──────────────────────────────────────────────────────────────────────────────────────────

SLICES = [("secagg", "secagg.masked", "SA-2", "SA-10"), ("allreduce", "allreduce.slices", "AR-1", "AR-2")]


@pytest.mark.parametrize(("protocol", "kind", "clause", "_other"), SLICES)
def test_slices_under_another_context(protocol: str, kind: str, clause: str, _other: str) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, kind, change(context=OTHER))
    refused(attack.attacked(), clause, attack.name)


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
    refused(attack.attacked(), clause, attack.name)


@pytest.mark.parametrize(("protocol", "kind", "_context", "_slice"), SLICES)
def test_two_lists_of_slices(protocol: str, kind: str, _context: str, _slice: str) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, kind, also(lambda masked: replace(masked, roots=(OTHER,) * 4)))
    refused(attack.attacked(), "EQUIVOCATION", attack.name)


HOLDINGS = [("secagg", "SA-11"), ("allreduce", "AR-3")]


@pytest.mark.parametrize("fields", [{"held": ()}, {"slice": 63}, {"context": OTHER}], ids=str)
@pytest.mark.parametrize(("protocol", "clause"), HOLDINGS)
def test_a_holding_that_is_not_one(protocol: str, clause: str, fields: dict[str, object]) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, f"{protocol}.holding", change(**fields))
    refused(attack.attacked(), clause, attack.name)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(("protocol", "clause"), HOLDINGS)
def test_a_holding_of_another_list_names_its_author_and_accuses_no_one_else(
    protocol: str, clause: str, place: int
) -> None:
    """Also where the liar comes first in the roster, so that all others differ from it."""
    group = simulate(4, protocol)
    results(play(group, small(group)))
    attack = Scene(group, place)
    victim = attack.others[0]

    def twist(effect: Send) -> list[Send]:
        held = tuple((peer, OTHER if peer == victim else root) for peer, root in effect.message.held)  # type: ignore[attr-defined]
        return [replace(effect, message=replace(effect.message, held=held))]

    lie(attack.liar, f"{protocol}.holding", twist)
    refused(attack.attacked(), clause, None, str(attack.name), str(victim))


def test_two_holdings() -> None:
    attack = scene()
    lie(attack.liar, "secagg.holding", also(lambda holding: replace(holding, held=())))
    refused(attack.attacked(), "EQUIVOCATION", attack.name)


def test_ce1_a_proposal_by_a_peer_that_does_not_propose() -> None:
    attack = scene()
    lie(attack.liar, "secagg.holding", lambda e: [e, Send(Propose(e.message.context, "survivors", b"", ()))])  # type: ignore[attr-defined]
    refused(attack.attacked(), "CE-1", attack.name)


@pytest.mark.parametrize("topic", ["survivors", "outcome"])
def test_ce1_two_proposals(topic: str) -> None:
    attack = scene(proposes=True)

    def twist(effect: Send) -> list[Send]:
        if effect.message.topic != topic:  # type: ignore[attr-defined]
            return [effect]
        return also(lambda proposal: replace(proposal, value=b"other"))(effect)

    lie(attack.liar, "certify.propose", twist)
    ended = play(attack.group, small(attack.group), but=[attack.place])
    failed = [one for one in ended if isinstance(one, DecentraError)]
    refused(failed, "CE-1", attack.name)
    assert len(failed) == 3


def test_ce2_survivors_that_the_shown_holdings_do_not_give() -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "certify.propose", on_topic("survivors", change(value=b"fewer")))
    refused(attack.attacked(), "CE-2", attack.name)


def test_ce2_a_proposal_that_shows_too_few_holdings() -> None:
    attack = scene(proposes=True)
    fewer = on_topic("survivors", lambda e: [replace(e, message=replace(e.message, shown=e.message.shown[:3]))])  # type: ignore[attr-defined]
    lie(attack.liar, "certify.propose", fewer)
    refused(attack.attacked(), "CE-2", attack.name)


def test_ce2_two_prepares() -> None:
    attack = scene()
    lie(attack.liar, "certify.prepare", on_topic("survivors", also(lambda vote: replace(vote, value=OTHER))))
    refused(attack.attacked(), "CE-2", attack.name)


def test_ce3_two_commits() -> None:
    attack = scene()
    lie(attack.liar, "certify.commit", on_topic("survivors", also(lambda vote: replace(vote, value=OTHER))))
    refused(attack.attacked(), "CE-3", attack.name)


@pytest.mark.parametrize("how", ["too few", "one twice", "prepares", "another value", "a stranger"])
def test_ce4_a_certificate_that_is_none(how: str) -> None:
    attack = scene(5, protocol__floor=4)
    out = (attack.place + 2) % 5
    if out == proposer_of(attack.group, 2):
        out = (attack.place + 3) % 5
    absent = attack.group.peers[out]
    absent.session.leave()  # a member, but of no roster from now on
    settle(attack.group, 5.0)

    def twist(effect: Send) -> list[Send]:
        message: Any = effect.message
        commits = message.commits
        if how == "too few":
            commits = commits[:-1]
        elif how == "one twice":
            commits = (*commits[:-1], commits[0])
        elif how == "prepares":
            vote = Prepare(message.context, message.topic, message.value)
            commits = (*commits[:-1], sign(attack.liar, vote, bytes(32)))
        elif how == "another value":
            vote = Commit(message.context, message.topic, OTHER)
            commits = (*commits[:-1], sign(attack.liar, vote, bytes(32)))
        else:
            vote = Commit(message.context, message.topic, message.value)
            commits = (*commits[:-1], sign(absent, vote, bytes(32)))
        return [replace(effect, message=replace(message, commits=commits))]

    lie(attack.liar, "certify.certificate", on_topic("survivors", twist))
    vectors = [None if place == out else mine for place, mine in enumerate(small(attack.group))]
    refused(attack.attacked(vectors), "CE-4", attack.name)


def test_a_vote_on_what_no_round_votes_on_and_one_under_another_context() -> None:
    attack = scene()
    lie(attack.liar, "secagg.deal", lambda e: [e, Send(Prepare(OTHER, "weather", OTHER))])
    refused(attack.attacked(), "SCHEMA", attack.name)
    attack = scene()
    lie(attack.liar, "certify.prepare", change(context=OTHER))
    refused(attack.attacked(), "SA-2", attack.name)


def test_a_flood_of_early_votes_is_not_kept() -> None:
    attack = scene()
    flood = [Send(Prepare(OTHER, "outcome", bytes([place]) * 32)) for place in range(50)]
    lie(attack.liar, "secagg.deal", lambda e: [e, *flood])
    kept: list[int] = []
    for peer in attack.group.peers:
        at(peer, "survivors", lambda machine: kept.append(len(machine._votes)))
    attack.attacked()
    assert len(kept) >= 3
    assert max(kept) <= 2


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
    attack = scene(3)  # t = 3: everybody's shares are needed
    lie(attack.liar, "secagg.unmask", lambda effect: [replace(effect, message=twist(effect.message))])
    refused(attack.attacked(), clause, attack.name)


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
    ended = play(attack.group, small(attack.group), but=[attack.place])
    results(ended)
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
    refused(attack.attacked(), clause, attack.name)


@pytest.mark.parametrize(("protocol", "clause", "_outcome"), SUMS)
def test_two_sums_for_one_slice_shown_to_different_peers(protocol: str, clause: str, _outcome: str) -> None:
    """The outcome's proposal shows every sum, so whoever got another one has two signed by one owner."""
    attack = scene(protocol=protocol)
    group, victim = attack.group, attack.others[0]
    if victim == ids(group)[proposer_of(group, 2)]:
        victim = attack.others[1]
    driver = attack.liar.driver
    honest = driver._post_to

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind == f"{protocol}.sum" and target == victim:
            data = driver.blobs.view(blob).copy()
            data[0] ^= 1
            blob = running(attack.liar) and driver._bench.keep(data)  # type: ignore[union-attr]
            driver.blobs.lend(blob)
            verified = sign(attack.liar, replace(verified.message, root=blob.root), verified.entry.after)
        honest(target, verified, blob)

    driver._post_to = post  # type: ignore[method-assign]
    ended = play(group, small(group), but=[attack.place])
    seen = ended[ids(group).index(victim)]
    assert isinstance(seen, RemoteError)
    assert blamed(seen) == (clause, attack.name)
    # t others may certify their outcome before they hear of it; whoever fails names the owner
    refused([one for one in ended if isinstance(one, DecentraError)], clause, attack.name)


def test_two_sums_shown_to_one_peer() -> None:
    attack = scene()
    lie(attack.liar, "secagg.sum", also(lambda message: replace(message, root=OTHER)))
    ended = play(attack.group, small(attack.group), but=[attack.place])
    refused([one for one in ended if isinstance(one, DecentraError)], "EQUIVOCATION", attack.name)
    assert any(isinstance(one, DecentraError) for one in ended)


@pytest.mark.parametrize(("protocol", "_sum", "clause"), SUMS)
def test_another_outcome_proposed_or_one_that_shows_no_sums(protocol: str, _sum: str, clause: str) -> None:
    for fields in ({"value": OTHER}, {"shown": ()}):
        attack = scene(protocol=protocol, proposes=True)
        lie(attack.liar, "certify.propose", on_topic("outcome", change(**fields)))
        refused(attack.attacked(), clause, attack.name)


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
