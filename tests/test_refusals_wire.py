"""One test an attack by who may not speak, or says what is no message; and mistakes of one's own."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decentra.driver.session import describe
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.machine.effects import Send
from decentra.protocols.certify.messages import Prepare
from decentra.protocols.rendezvous.messages import AbortRound
from decentra.protocols.secagg.messages import Endorse, SliceSum, Unmask
from decentra.simulation.group import Ending, SimulatedGroup, charter_for, identities
from decentra.wire.entry import Chain
from helpers import (
    OTHER,
    Scene,
    at,
    change,
    ids,
    kill,
    lie,
    nothing_left,
    play,
    post_raw,
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
        lambda machine: Endorse(OTHER),
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


def test_an_end_by_a_liar_names_who_reported_it() -> None:
    attack = scene()
    accused = attack.others[0]
    lie(attack.liar, "secagg.deal", lambda e: [e, Send(AbortRound("SA-1", (accused,), "it sealed nonsense"))])
    for error in attack.attacked():
        assert f"as {attack.name} reports" in str(error)
    nothing_left(attack)


def test_after_an_attack_the_next_round_completes_without_the_liar() -> None:
    attack = scene(5)
    lie(attack.liar, "secagg.deal", change(mask_public=bytes(32)))
    refused(attack.attacked(), "SA-1", attack.name)
    kill(attack.liar)
    vectors = [None if place == attack.place else mine for place, mine in enumerate(small(attack.group))]
    assert results(play(attack.group, vectors))[0].dropped == (attack.name,)


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
@pytest.mark.parametrize("protocol", ["secagg", "allreduce"])
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
