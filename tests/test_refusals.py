"""One test an attack: a peer that breaks a clause ends the round for all, with an error that names clause and peer.

Every attack comes after a round in which the same peers were honest and succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decentra.errors import RemoteError
from decentra.machine.effects import Send
from decentra.protocols.rendezvous.messages import AbortRound, Absent, Roster
from decentra.protocols.secagg.messages import Context, Deal
from decentra.simulation.group import SimulatedPeer
from decentra.types import PeerId
from decentra.wire.codec import Signed
from decentra.wire.entry import parse
from helpers import (
    OTHER,
    Scene,
    also,
    change,
    ids,
    lie,
    nothing_left,
    play,
    proposer_of,
    refused,
    results,
    running,
    scene,
    sign,
    simulate,
    small,
    two_faced,
)

# ── rendezvous ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rv1_two_readinesses() -> None:
    attack = scene()
    lie(attack.liar, "rendezvous.ready", also(lambda ready: replace(ready, state=OTHER)))
    refused(attack.attacked(), "RV-1", attack.name)
    nothing_left(attack)


def test_rv2_a_roster_for_another_model() -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "rendezvous.roster", change(fingerprint=OTHER))
    refused(attack.attacked(), "RV-2", attack.name)
    nothing_left(attack)


def test_rv3_a_roster_by_a_peer_that_does_not_propose() -> None:
    attack = scene()
    members = ids(attack.group)

    def offer(effect: Send) -> list[Send]:
        ready: Any = effect.message
        roster = Roster(0, members, ready.fingerprint, ready.layout, ready.last, ready.state, ())
        return [effect, Send(roster)]

    lie(attack.liar, "rendezvous.ready", offer)
    refused(attack.attacked(), "RV-3", attack.name)
    nothing_left(attack)


def test_rv3_two_rosters_in_one_view() -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "rendezvous.roster", also(lambda roster: replace(roster, last=OTHER)))
    refused(attack.attacked(), "RV-3", attack.name)
    nothing_left(attack)


def test_rv3_a_context_under_another_roster_than_was_offered_here() -> None:
    attack = scene(proposes=True)
    two_faced(attack.liar, "rendezvous.roster", attack.others[:1], lambda roster: replace(roster, citations=()))
    failed = attack.attacked()  # the same words, signed twice: the context belongs to the first entry alone
    refused(failed, "RV-3", attack.name)
    nothing_left(attack)


def test_rv4_an_exclusion_without_a_citation() -> None:
    attack = scene(5, proposes=True)
    out = attack.others[0]
    lie(attack.liar, "rendezvous.roster", lambda e: [replace(e, message=left_out(e.message, out))])
    refused(attack.attacked(), "RV-4", attack.name, str(out))
    nothing_left(attack)


def left_out(roster: Any, *peers: PeerId) -> Roster:
    return replace(roster, members=tuple(peer for peer in roster.members if peer not in peers))


def test_rv4_too_few_statements_of_absence_or_a_readiness_that_does_not_differ() -> None:
    for cite in ("ready", "absent"):
        attack = scene(5, proposes=True)
        out = attack.others[0]

        def twist(effect: Send, attack: Scene = attack, out: PeerId = out, cite: str = cite) -> list[Send]:
            machine = running(attack.liar)
            if cite == "ready":
                cited = machine.rendezvous.ready[out]
            else:
                cited = sign(attack.liar, Absent(0, (out,)), bytes(32))
            return [replace(effect, message=replace(left_out(effect.message, out), citations=(cited,)))]

        lie(attack.liar, "rendezvous.roster", twist)
        refused(attack.attacked(), "RV-4", attack.name, str(out))


@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_role_a_roster_without_its_own_proposer_though_it_cites_its_own_abort(protocol: str) -> None:
    attack = scene(5, protocol, proposes=True)

    def twist(effect: Send) -> list[Send]:
        cited = sign(attack.liar, AbortRound("LOCAL", (), "it ends the round for itself"), bytes(32))
        return [replace(effect, message=replace(left_out(effect.message, attack.name), citations=(cited,)))]

    lie(attack.liar, "rendezvous.roster", twist)
    refused(attack.attacked(), "ROLE", attack.name)
    nothing_left(attack)


def test_rv5_a_roster_below_the_floor_and_one_with_a_stranger() -> None:
    for twist in (
        lambda roster, others: left_out(roster, *others[:2]),
        lambda roster, others: replace(roster, members=(*roster.members[:-1], PeerId(b"\xff" * 32))),
    ):
        attack = scene(5, proposes=True)
        others = attack.others
        lie(
            attack.liar,
            "rendezvous.roster",
            lambda e, twist=twist, others=others: [replace(e, message=twist(e.message, others))],
        )
        refused(attack.attacked(), "RV-5", attack.name)
        nothing_left(attack)


def test_rv6_a_roster_with_a_state_that_too_few_hold() -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "rendezvous.roster", change(state=OTHER))
    refused(attack.attacked(), "RV-6", attack.name)
    nothing_left(attack)


@pytest.mark.parametrize("how", ["other bytes", "other root"])
def test_rv6_a_state_that_does_not_hash_to_what_was_named(how: str) -> None:
    group = simulate(4)
    results(play(group, small(group)))
    laggard = group.peers[3]
    laggard.session.common._ranges.clear()
    laggard.session.last = bytes(32)
    attack = Scene(group, 0)  # who is asked first; the others have the state too
    if how == "other bytes":
        attack.liar.session.common.export = lambda _number: np.zeros(64, np.uint8)  # type: ignore[method-assign]
    else:
        lie(attack.liar, "rendezvous.state", change(root=OTHER))
    attack.survived("RV-6", dropped=False, witnesses=(laggard.identity.id,))


def test_a_sealing_key_that_everybody_could_open_is_refused_before_anything_is_sealed_to_it() -> None:
    attack = scene()
    lie(attack.liar, "rendezvous.ready", change(seal=bytes(32)))
    refused(attack.attacked(), "SCHEMA", attack.name, "sealing key")
    nothing_left(attack)


# ── deal and context ─────────────────────────────────────────────────────────────────────────────────────────────────


def swapped(deal: Any) -> Deal:
    first, second, *rest = deal.sealed
    return replace(deal, sealed=(second, first, *rest))


@pytest.mark.parametrize(
    ("twist", "word"),
    [
        (lambda deal: swapped(deal), "does not open"),
        (lambda deal: replace(deal, self_share_hashes=(OTHER,) * 4), "not the one it signed"),
        (lambda deal: replace(deal, key_share_hashes=(OTHER,) * 4), "not the one it signed"),
        (lambda deal: replace(deal, mask_public=bytes(32)), "low order"),
        (lambda deal: replace(deal, mask_public=(1).to_bytes(32, "little")), "low order"),
        (lambda deal: replace(deal, sealed=deal.sealed[:-1]), "not one for a roster of 4"),
    ],
    ids=["sealed to another", "self hash", "key hash", "zero key", "key of order one", "too short"],
)
def test_sa1_a_bad_share_or_a_mask_key_of_low_order(twist: Any, word: str) -> None:
    attack = scene()
    lie(attack.liar, "secagg.deal", lambda effect: [replace(effect, message=twist(effect.message))])
    refused(attack.attacked(), "SA-1", attack.name, word)
    nothing_left(attack)


def test_sa1_shares_that_do_not_rebuild_the_secret_that_was_signed() -> None:
    attack = scene(3)
    lie(attack.liar, "secagg.deal", change(self_hash=OTHER))
    failed = attack.attacked()
    refused(failed, "SA-1", attack.name, "rebuild")
    assert all(error.spent for error in failed)


def test_two_deals_shown_to_one_peer() -> None:
    attack = scene()
    lie(attack.liar, "secagg.deal", also(lambda deal: replace(deal, self_hash=OTHER)))
    refused(attack.attacked(), "EQUIVOCATION", attack.name, "secagg.deal")
    nothing_left(attack)


def test_sa1_two_deals_shown_to_different_peers_name_the_dealer_and_accuse_no_honest_proposer() -> None:
    attack = scene()
    two_faced(attack.liar, "secagg.deal", attack.others[:1], lambda deal: replace(deal, self_hash=OTHER))
    refused(attack.attacked(), "SA-1", None, str(attack.name), "dealt twice")
    nothing_left(attack)


def test_sa1_a_proposer_that_lists_another_deal_of_its_own() -> None:
    attack = scene(proposes=True)
    place = attack.place
    lie(
        attack.liar,
        "secagg.context",
        lambda e: [replace(e, message=replace(e.message, deals=edited(e.message.deals, place, OTHER)))],  # type: ignore[attr-defined]
    )
    refused(attack.attacked(), "SA-1", attack.name)
    nothing_left(attack)


def edited(items: Sequence[Any], place: int, value: Any) -> tuple[Any, ...]:
    return (*items[:place], value, *items[place + 1 :])


def test_sa2_a_context_of_too_few_deals() -> None:
    attack = scene(proposes=True)
    lie(attack.liar, "secagg.context", lambda e: [replace(e, message=Context(0, e.message.deals[:3]))])  # type: ignore[attr-defined]
    refused(attack.attacked(), "SA-2", attack.name)
    nothing_left(attack)


@pytest.mark.parametrize(("protocol", "clause"), [("secagg", "SA-2"), ("allreduce", "AR-1"), ("mesh", "ME-1")])
def test_another_context_endorsed(protocol: str, clause: str) -> None:
    attack = scene(protocol=protocol)
    lie(attack.liar, f"{protocol}.endorse", change(context=OTHER))
    refused(attack.attacked(), clause, attack.name)
    nothing_left(attack)


def test_sa2_another_context_endorsed_as_if_the_proposer_had_opened_two_accuses_neither_alone() -> None:
    attack = scene()
    lie(
        attack.liar,
        "secagg.endorse",
        lambda e: [Send(replace(e.message, context=OTHER), after=OTHER)],
    )
    proposer = ids(attack.group)[proposer_of(attack.group, 2)]
    refused(attack.attacked(), "SA-2", None, str(attack.name), str(proposer))
    nothing_left(attack)


def test_a_context_by_a_peer_that_does_not_propose() -> None:
    attack = scene()
    lie(attack.liar, "secagg.deal", lambda e: [e, Send(Context(0, (OTHER,) * 4))])
    refused(attack.attacked(), "ROLE", attack.name)
    nothing_left(attack)


def test_a_peer_that_ends_the_round_with_an_accusation_gets_nobody_named_by_hearsay() -> None:
    attack = scene()
    victim = attack.others[0]
    lie(attack.liar, "secagg.deal", lambda _effect: [Send(AbortRound("SA-1", (victim,), "its deal did not open"))])
    for error in attack.attacked():
        assert isinstance(error, RemoteError)
        assert error.peer is None
        assert str(attack.name) in str(error)
    for peer in attack.group.peers:
        signed = [peer.driver.registry.codec.decode(AbortRound.kind, one.body) for one in aborts(peer)]
        assert signed
        assert peer is attack.liar or all(victim not in blamed for _, blamed, _ in signed)


def aborts(peer: SimulatedPeer) -> list[Signed]:
    return [one for one in peer.journal.entries if parse(one.entry).kind == AbortRound.kind]
