"""One test an attack by who may not speak, or says what is no message; and mistakes of one's own."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decentra.driver.given import describe
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.machine.effects import Send
from decentra.protocols.certify.messages import Prepare
from decentra.protocols.rendezvous.messages import AbortRound, State
from decentra.protocols.secagg.messages import Again, Endorse, Masked, SliceSum, Unmask
from decentra.simulation.group import Ending, SimulatedGroup, SimulatedPeer, charter_for, identities
from decentra.transfer import Announcement, blob_root, piece_digests
from decentra.types import PeerId
from decentra.wire.codec import pack
from decentra.wire.entry import Chain
from decentra.wire.message import Message, Verified
from helpers import (
    OTHER,
    Scene,
    at,
    blamed,
    change,
    errors,
    ids,
    kill,
    lie,
    most_held,
    nothing_left,
    play,
    post_raw,
    proposer_of,
    refused,
    results,
    scene,
    settle,
    sign,
    simulate,
    small,
    vector,
)

# ── who may speak, and when ──────────────────────────────────────────────────────────────────────────────────────────


def outsider_scene(said: Any) -> tuple[Scene, list[Ending]]:
    """A round of four out of five, in which the fifth, who left, says something when a peer masks."""
    attack = scene(5)
    attack.liar.session.leave()
    settle(attack.group, 5.0)
    attack.liar.session.round = attack.liar.session.round._replace(number=2)
    witness = attack.group.peers[(attack.place + 1) % 5]

    def speak(machine: Any) -> None:
        message = said(machine)
        verified = sign(attack.liar, message, bytes(32))
        post_raw(attack.liar, verified.signed.entry, verified.signed.body)

    at(witness, "masked", speak)
    vectors = [None if place == attack.place else mine for place, mine in enumerate(small(attack.group))]
    return attack, play(attack.group, vectors)


@pytest.mark.parametrize(
    "said",
    [
        lambda machine: Endorse(machine.context),
        lambda machine: Unmask(machine.context, OTHER, (), ()),
        lambda machine: Prepare(machine.context, "survivors", 0, OTHER),
        lambda machine: SliceSum(machine.context, 0, OTHER),
    ],
    ids=["endorse", "unmask", "prepare", "sum"],
)
def test_a_member_outside_the_roster_is_taken_down_and_cannot_end_the_round(
    said: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "decentra"):
        attack, ended = outsider_scene(said)
    assert len(results(ended)) == 4
    assert any("broke ROLE" in record.message and str(attack.name) in record.message for record in caplog.records)


def test_a_member_outside_the_roster_that_follows_another_one_is_not_taken_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "decentra"):
        _, ended = outsider_scene(lambda _machine: Endorse(OTHER))
    assert len(results(ended)) == 4
    assert not any("broke" in record.message for record in caplog.records)


def test_what_an_outsider_said_before_the_roster_was_known_is_left_aside() -> None:
    attack = scene(5)
    attack.liar.session.leave()
    settle(attack.group, 5.0)
    attack.liar.session.round = attack.liar.session.round._replace(number=2)
    for early in (Endorse(OTHER), Unmask(OTHER, OTHER, (), ()), Prepare(OTHER, "survivors", 0, OTHER)):
        verified = sign(attack.liar, early, bytes(32))
        attack.group.clock.call_later(
            1.0, lambda parts=(verified.signed.entry, verified.signed.body): post_raw(attack.liar, *parts)
        )
    late = attack.group.peers[(attack.place + 1) % 5]
    vectors = [None if place == attack.place else mine for place, mine in enumerate(small(attack.group))]
    mine = vectors[(attack.place + 1) % 5]
    assert mine is not None
    vectors[(attack.place + 1) % 5] = None
    attack.group.clock.call_later(2.0, lambda: late.begin(mine))
    ended = play(attack.group, vectors)
    assert all(not isinstance(one, RemoteError) for one in ended)
    assert len(results(ended)[0].participants) >= 4


def test_a_deal_of_another_view_is_left_aside_and_not_held_against_its_author() -> None:
    attack = scene()
    lie(attack.liar, "secagg.deal", change(view=3))
    for error in attack.attacked():
        assert isinstance(error, Unavailable)
        assert error.waited_for == (attack.name,)
    nothing_left(attack)


# ── what is no message of this group ─────────────────────────────────────────────────────────────────────────────────


def tampered(attack: Scene, make: Any) -> list[DecentraError]:
    """The liar sends raw parts when it enters the deal."""
    at(attack.liar, "deal", lambda machine: [post_raw(attack.liar, *parts) for parts in make(machine)])
    return attack.attacked()


def test_a_replayed_entry() -> None:
    attack = scene()
    old = next(signed for signed in attack.liar.journal.entries if b"secagg.endorse" in signed.entry)
    refused(tampered(attack, lambda _machine: [(old.entry, old.body)]), "REPLAY", attack.name)
    nothing_left(attack)


def test_what_a_peer_sends_again_since_this_one_began_their_link_anew_is_no_replay() -> None:
    attack = scene()
    group, author, receiver = attack.group, attack.others[0], attack.others[1]
    ours = group.peers[ids(group).index(receiver)]
    settle(group, 5.0)
    group.network.cut(receiver, author)  # its acknowledgements don't come through
    for peer, mine in zip(group.peers, small(group), strict=True):
        assert mine is not None
        peer.begin(mine)
    settle(group, 4.0)
    ours.driver._restart_link(author)
    group.network.heal(receiver, author)
    settle(group, 60.0)
    assert not any(clause == "REPLAY" for clause, _ in attack.watch.blames[receiver])
    theirs = group.peers[ids(group).index(author)]
    sent = [signed for signed in theirs.journal.entries if b"rendezvous.ready" in signed.entry]
    theirs.driver._links[receiver].post((sent[-1].entry, sent[-1].body))  # but once it is
    settle(group, 5.0)
    assert ("REPLAY", author) in attack.watch.blames[receiver]


def test_other_words_under_a_number_that_was_used_are_a_replay_even_after_a_link_began_anew() -> None:
    attack = scene()
    settle(attack.group, 5.0)
    for peer in attack.group.peers:
        if peer is not attack.liar:
            peer.driver._restart_link(attack.name)
    settle(attack.group, 5.0)
    chain = attack.liar.driver.chain
    clone = Chain(attack.liar.identity, chain.session, chain.boot, chain.seq - 1)
    verified = sign(attack.liar, Endorse(OTHER), bytes(32), clone)
    post_raw(attack.liar, verified.signed.entry, verified.signed.body)
    settle(attack.group, 5.0)
    attack.accused("REPLAY", witnesses=attack.others)


def test_a_clone_is_seen_though_its_process_is_another() -> None:
    attack = scene()
    settle(attack.group, 5.0)
    attack.liar.driver._incarnation += 1
    for other in attack.others:
        attack.liar.driver._restart_link(other)
    settle(attack.group, 5.0)
    chain = attack.liar.driver.chain
    clone = Chain(attack.liar.identity, chain.session, chain.boot)
    verified = sign(attack.liar, Endorse(OTHER), bytes(32), clone)
    post_raw(attack.liar, verified.signed.entry, verified.signed.body)
    settle(attack.group, 5.0)
    attack.accused("REPLAY", witnesses=attack.others)


def test_a_bad_signature() -> None:
    attack = scene()

    def make(_machine: Any) -> list[tuple[bytes, bytes]]:
        good = sign(attack.liar, Endorse(OTHER), bytes(32))
        entry = replace(good.entry, signature=bytes([good.entry.signature[0] ^ 1]) + good.entry.signature[1:])
        return [(entry.packed, good.signed.body)]

    refused(tampered(attack, make), "SIGNATURE", attack.name)
    nothing_left(attack)


def test_another_members_entry_passed_on_as_ones_own() -> None:
    attack = scene()
    other = next(peer for peer in attack.group.peers if peer is not attack.liar)

    def make(_machine: Any) -> list[tuple[bytes, bytes]]:
        verified = sign(other, Endorse(OTHER), bytes(32))
        return [(verified.signed.entry, verified.signed.body)]

    refused(tampered(attack, make), "ROLE", attack.name)
    nothing_left(attack)


def test_an_entry_of_another_session() -> None:
    attack = scene()
    foreign = Chain(attack.liar.identity, OTHER, 1, seq=1000)

    def make(_machine: Any) -> list[tuple[bytes, bytes]]:
        verified = sign(attack.liar, Endorse(OTHER), bytes(32), foreign)
        return [(verified.signed.entry, verified.signed.body)]

    refused(tampered(attack, make), "SESSION", attack.name)
    nothing_left(attack)


@pytest.mark.parametrize(
    "parts",
    [(b"\xde\xad\xbe\xef",), (b"", b""), (bytes(500), bytes(500)), (b"a", b"b", b"c")],
    ids=["one part", "empty", "zeros", "three parts"],
)
def test_garbage(parts: tuple[bytes, ...]) -> None:
    attack = scene()
    refused(tampered(attack, lambda _machine: [parts]), "SCHEMA", attack.name)
    nothing_left(attack)


def test_a_body_that_is_not_the_one_signed_and_one_that_is_no_message() -> None:
    attack = scene()

    def swapped_body(_machine: Any) -> list[tuple[bytes, bytes]]:
        verified = sign(attack.liar, Endorse(OTHER), bytes(32))
        return [(verified.signed.entry, verified.signed.body[::-1])]

    refused(tampered(attack, swapped_body), "SCHEMA", attack.name)
    attack = scene()

    def no_message(_machine: Any) -> list[tuple[bytes, bytes]]:
        body = b"\x91\xc4\x01a"
        entry = attack.liar.driver.chain.sign(attack.liar.session.round, "secagg.endorse", body)
        return [(entry.packed, body)]

    refused(tampered(attack, no_message), "SCHEMA", attack.name)


def test_an_end_by_a_liar_names_who_reported_it_and_blames_nobody() -> None:
    attack = scene()
    accused = attack.others[0]
    lie(attack.liar, "secagg.deal", lambda e: [e, Send(AbortRound("SA-1", (accused,), "it sealed nonsense"))])
    for error in attack.attacked():
        assert f"{attack.name} ended the round, and names {accused}" in str(error)
        assert isinstance(error, RemoteError) and error.peer is None
    nothing_left(attack)


def test_after_an_attack_the_next_round_completes_without_the_liar() -> None:
    attack = scene(5)
    lie(attack.liar, "secagg.deal", change(mask_public=bytes(32)))
    refused(attack.attacked(), "SA-1", attack.name)
    kill(attack.liar)
    vectors = [None if place == attack.place else mine for place, mine in enumerate(small(attack.group))]
    assert results(play(attack.group, vectors))[0].dropped == (attack.name,)


# ── what takes room, or can't be read ────────────────────────────────────────────────────────────────────────────────


def post_blob(peer: SimulatedPeer, target: PeerId, message: Message, data: Any) -> None:
    """Send one peer a message with these bytes beside it, whatever the message says of them."""
    verified = sign(peer, message, bytes(32))
    link = peer.driver._links[target]
    link.post((verified.signed.entry, verified.signed.body), link.announce(data.data), data.data)


def test_the_same_slice_again_and_again_takes_no_more_room() -> None:
    attack = scene()
    group, victim = attack.group, attack.others[0]
    slow = group.peers[ids(group).index(attack.others[1])]
    lie(slow, "secagg.masked", lambda _effect: [])  # so that the round stays open for a while
    driver, honest = attack.liar.driver, attack.liar.driver._post_to

    def post(target: PeerId, verified: Verified, blob: Any) -> None:
        honest(target, verified, blob)
        if verified.entry.kind == "secagg.masked" and target == victim:
            for place in range(40):
                driver.blobs.lend(blob)
                again = sign(attack.liar, verified.message, verified.entry.after)
                group.clock.call_later(0.05 * place, lambda again=again: honest(target, again, blob))

    driver._post_to = post  # type: ignore[method-assign]
    seen = most_held(attack, victim)
    size = 50_000
    vectors = [vector(np.full(size, 0.001, np.float32)) for _ in ids(group)]
    play(group, vectors, but=[attack.place, group.peers.index(slow)])
    assert max(seen) <= 3 * 2 * (size + 4)  # as in a round without an attack: three vectors of 16 bits


@pytest.mark.parametrize(
    "made",
    [
        lambda m, me, root: State(0, bytes(32), 0, root),
        lambda m, me, root: Masked(m.context, (OTHER,) * 4),
        lambda m, me, root: Masked(m.context, tuple(OTHER if peer == me else root for peer in m.roster)),
        lambda m, me, root: Again(m.context, 0, OTHER),
        lambda m, me, root: Again(m.context, 4, root),
        lambda m, me, root: SliceSum(m.context, 63, root),
    ],
    ids=["unasked state", "another root", "another's slice", "again under another root", "slice 4 of 4", "sum 63 of 4"],
)
def test_bytes_that_nobody_signed_or_asked_for_get_no_room(made: Any) -> None:
    attack = scene()
    group, victim = attack.group, attack.others[0]
    data = np.ones(1_000, np.uint8)
    root = blob_root(data.nbytes, piece_digests(data.data))
    driver = group.peers[ids(group).index(victim)].driver
    taken: list[bytes] = []
    link = driver._links[attack.name]
    accept = link.accept

    def watched(announcement: Announcement, limit: int) -> bool:
        taken.append(announcement.root)
        return accept(announcement, limit)

    link.accept = watched  # type: ignore[method-assign]
    lie(attack.liar, "secagg.masked", lambda _effect: [])

    def flood(machine: Any) -> None:
        post_blob(attack.liar, victim, made(machine, victim, root), data)

    at(attack.liar, "masked", flood)
    done = results(play(group, [vector(np.zeros(4_000)) for _ in ids(group)], but=[attack.place]))
    assert attack.name not in done[0].participants
    assert root not in taken
    settle(group)
    assert driver.blobs.bytes_held == 0


HEXADECIMAL = "0x1.0000000000000p+0"


@pytest.mark.parametrize(
    "text", ["0x1p+99999", "0x1p+0", "1.0", "inf", "nan", " " + HEXADECIMAL, HEXADECIMAL.upper(), 1, b"1"]
)
def test_a_common_state_whose_ranges_are_not_numbers_as_they_are_written_is_unusable(text: object) -> None:
    group = simulate(3)
    first = group.peers[proposer_of(group, 1)]
    common = first.session.common
    common._ranges = {"w": float.fromhex(HEXADECIMAL)}
    common._index = lambda: pack(((("w", text),), 0, b""))  # type: ignore[method-assign]
    for error in errors(play(group, small(group), but=[group.peers.index(first)])):
        assert blamed(error) == ("RV-6", first.identity.id)
    assert not any(peer.session.common._ranges for peer in group.peers if peer is not first)


def test_a_common_state_whose_ranges_are_written_as_they_should_be_is_taken_over() -> None:
    group = simulate(3)
    first = group.peers[proposer_of(group, 1)]
    first.session.common._ranges = {"w": float.fromhex(HEXADECIMAL)}
    results(play(group, small(group)))
    assert {peer.session.common._ranges["w"].hex() for peer in group.peers} == {HEXADECIMAL}


# ── one's own mistakes ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mine", "word"),
    [
        (lambda: vector([1.0], [2.0], weight=4), "max_weight"),
        (lambda: vector([1.0], [2.0], weight=0), "max_weight"),
        (lambda: vector([1.0], [2.0], names=["a", "a"]), "one name"),
        (lambda: vector(np.zeros(1001)), "max_parameters"),
    ],
    ids=["weight above", "weight below", "duplicate names", "too many parameters"],
)
def test_a_vector_that_the_charter_does_not_allow_never_begins_a_round(mine: Any, word: str) -> None:
    group = simulate(3, protocol__max_weight=3, model__max_parameters=1000)
    peer = group.peers[0]
    with pytest.raises(LocalError) as raised:
        peer.begin(mine())
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not raised.value.spent
    assert peer.journal.entries == []
    results(play(group, small(group)))


def test_tensors_that_are_not_float32_and_names_that_do_not_match() -> None:
    for tensors, names, word in (
        ([np.zeros(3)], None, "float64"),
        ([[1.0, 2.0]], None, "list"),
        ([np.zeros(3, np.float32)], ["a", "b"], "2 names"),
    ):
        with pytest.raises(LocalError, match=word):
            describe(tensors, names)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_nan_and_infinity_leave_nothing(bad: float, protocol: str) -> None:
    group = simulate(3, protocol)
    vectors = small(group)
    vectors[1] = vector([0.0, bad, 0.0], [[0.0]])
    ended = play(group, vectors)
    mine = ended[1]
    assert isinstance(mine, LocalError)
    assert "NaN or infinity" in str(mine)
    assert not mine.spent
    assert not any(record.kind == "intent" for _, record in group.peers[1].journal.records)
    for place in (0, 2):
        error = ended[place]
        assert isinstance(error, Unavailable)
        assert error.waited_for == (ids(group)[1],)
    results(play(group, small(group)))


def test_a_residual_that_would_leave_float32_is_refused_and_kept() -> None:
    group = simulate(3)
    vectors = small(group)
    top = np.full(3, 3e38, np.float32)
    residual = [top.copy(), np.zeros((1, 1), np.float32)]
    vectors[0] = vector(top, [[0.0]], residual=residual)
    mine = play(group, vectors)[0]
    assert isinstance(mine, LocalError)
    assert not mine.spent
    assert residual[0].tolist() == top.tolist()


def test_a_charter_whose_sums_would_wrap_makes_no_group() -> None:
    members = identities(64, 0)
    with pytest.raises(LocalError, match="overflow"):
        SimulatedGroup(charter_for(members, "secagg", protocol__max_weight=600), members)


def test_a_second_round_beside_the_first_is_refused() -> None:
    group = simulate(3)
    group.peers[0].begin(vector([1.0]))
    with pytest.raises(LocalError, match="a round is on already"):
        group.peers[0].begin(vector([1.0]))
