"""The oracle finds what machines do wrong: for each of its rules, a peer that breaks it and counts as honest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from decentra import derive
from decentra.driver.fittings import MachineMaker
from decentra.errors import DecentraError, RemoteError
from decentra.machine.effects import Abort, Blame, Effect, Finish, Persist, Record, Send
from decentra.machine.events import Event, Received
from decentra.protocols.certify.messages import Commit, Prepare, Propose
from decentra.protocols.secagg.machine import SecAgg
from decentra.protocols.secagg.messages import Beacon, Deal, Holding, Masked, SliceSum, Unmask
from decentra.simulation.hazards import Crash, Hazards
from decentra.simulation.knowledge import Knowledge, Masking
from decentra.simulation.search import run_seed, stage_of, trace_of
from decentra.simulation.stage import Play, Stage
from decentra.types import PeerId

PLAY = Play(n=4, c=1)
CULPRIT = 1
OTHER = bytes(range(32))

Twist = Callable[["Planted", Event, list[Effect]], Sequence[Effect]]


class Planted:
    """A machine whose effects are changed on their way out; the oracle takes it for an honest one."""

    def __init__(self, inner: SecAgg, twist: Twist) -> None:
        self.inner, self._twist, self.done = inner, twist, False
        self.round = inner.round

    @property
    def roster(self) -> tuple[PeerId, ...]:
        return self.inner.roster

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def handle(self, event: Event) -> list[Effect]:
        return list(self._twist(self, event, self.inner.handle(event)))

    def cancel(self, error: DecentraError) -> list[Effect]:
        return self.inner.cancel(error)

    def faulted(self, error: RemoteError) -> list[Effect]:
        return self.inner.faulted(error)

    def slot(self, message: Any) -> str:
        return self.inner.slot(message)

    def room(self, message: Any) -> int:
        return self.inner.room(message)


def planted(twist: Twist) -> MachineMaker:
    return lambda setting, mine, number: Planted(SecAgg(setting, mine, number), twist)


def clauses(twist: Twist, hazards: Hazards | None = None, seed: int = 5) -> set[str]:
    """What the oracle holds against the culprit, or against nobody in particular, when one peer does this."""
    stage = stage_of(PLAY, seed, "none", machines={CULPRIT: planted(twist)}, hazards=hazards or Hazards())
    stage.run()
    culprit = stage.cast.charter.ids[CULPRIT]
    return {one.clause for one in stage.oracle.violations if one.who in (culprit, None)}


def sending(kind: type[Any], other: Callable[[Planted, Any], Sequence[Effect]]) -> Twist:
    """Put something in place of a message; at the first of its kind only."""

    def twist(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
        out: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, kind) and not machine.done:
                machine.done = True
                out += other(machine, effect)
            else:
                out.append(effect)
        return out

    return twist


def also(**fields: object) -> Callable[[Planted, Any], Sequence[Effect]]:
    """A second message with other fields, after the first."""
    return lambda _, effect: [effect, Send(replace(effect.message, **fields), after=effect.after)]


def without(kind: str) -> Twist:
    """Nothing of this kind is made durable."""
    return lambda _, __, effects: [
        effect for effect in effects if not (isinstance(effect, Persist) and effect.record.kind == kind)
    ]


def on_proposal(act: Callable[[Planted, Propose], Sequence[Effect]]) -> Twist:
    """Do something as soon as survivors are proposed, before anybody has voted."""

    def twist(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
        message = event.verified.message if isinstance(event, Received) else None
        if isinstance(message, Propose) and message.topic == "survivors" and not machine.done:
            machine.done = True
            return [*act(machine, message), *effects]
        return effects

    return twist


def place(proposal: Propose) -> tuple[bytes, str, int, bytes]:
    digest = derive.vote_value(proposal.context, proposal.topic, proposal.value)
    return (proposal.context, proposal.topic, proposal.view, digest)


def vote_of(kind: type[Any], proposal: Propose) -> Sequence[Effect]:
    """A vote as a machine casts it: durable first."""
    context, topic, view, digest = place(proposal)
    name = kind.kind.removeprefix("certify.")
    return [Persist(Record(name, f"{topic}/{view}", context + digest)), Send(kind(context, topic, view, digest))]


def against_lock(machine: Planted, effect: Send) -> Sequence[Effect]:
    message: Any = effect.message
    later = replace(message, view=message.view + 1, value=OTHER)
    return [effect, Send(Prepare(later.context, later.topic, later.view, OTHER))]


def below(machine: Planted, effect: Send) -> Sequence[Effect]:
    message: Any = effect.message
    return [Send(replace(message, view=message.view + 2)), effect]


def early_masked(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
    out = list(effects)
    for effect in effects:
        if isinstance(effect, Send) and effect.message.kind == "secagg.endorse":
            context = getattr(effect.message, "context", b"")
            out.append(Send(Masked(context, (OTHER,) * 4)))
    return out


def both_kinds(machine: Planted, effect: Any) -> Sequence[Effect]:
    keys = tuple((peer, share) for peer, share in effect.message.self_shares)
    return [replace(effect, message=replace(effect.message, key_shares=keys))]


def sealed_to_mask_keys(machine: Planted, effect: Any) -> Sequence[Effect]:
    sealed = tuple(effect.message.mask_public + box[32:] for box in effect.message.sealed)
    return [replace(effect, message=replace(effect.message, sealed=sealed))]


def blame_honest(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
    if isinstance(event, Received) and event.verified.sender != machine.inner.setting.me:
        return [*effects, Blame(RemoteError(event.verified.sender, "SA-10", "it looked wrong"))]
    return effects


def deaf(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
    return effects if not machine.inner.roster else ()


def other_result(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
    return [
        replace(effect, result=replace(effect.result, digest=OTHER)) if isinstance(effect, Finish) else effect  # type: ignore[type-var]
        for effect in effects
    ]


def twice(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
    return [again for effect in effects for again in ((effect, effect) if isinstance(effect, Persist) else (effect,))]


def early_beacon(machine: Planted, proposal: Propose) -> Sequence[Effect]:
    record = Record("reveal", "beacon", proposal.context + OTHER)
    return [Persist(record), Send(Beacon(proposal.context, OTHER, ()))]


RULES: Mapping[str, tuple[str, Twist]] = {
    "two prepares in one view": ("CE-2", sending(Prepare, also(value=OTHER))),
    "a prepare of what nobody proposed": (
        "CE-2",
        sending(Prepare, lambda _, effect: [replace(effect, message=replace(effect.message, value=OTHER))]),
    ),
    "a vote below a view acted in": ("CE-2", sending(Prepare, below)),
    "a prepare against its lock": ("CE-3", sending(Commit, against_lock)),
    "two commits in one view": ("CE-4", sending(Commit, also(value=OTHER))),
    "a commit on no prepares": ("CE-4", on_proposal(lambda _, proposal: vote_of(Commit, proposal))),
    "a vote that is not durable": ("SA-5", without("prepare")),
    "an act twice in the journal": ("SA-5", twice),
    "a vector that is not durable": ("SA-4", without("intent")),
    "a reveal that is not durable": ("SA-7", without("reveal")),
    "two vectors under one context": ("SA-4", sending(Masked, also(roots=(OTHER,) * 4))),
    "masking before all have endorsed": ("SA-2", early_masked),
    "shares without a certificate": (
        "SA-7",
        on_proposal(lambda _, it: [Send(Unmask(it.context, place(it)[3], (), ()))]),
    ),
    "shares of too few survivors": (
        "SA-6",
        sending(Unmask, lambda _, e: [replace(e, message=replace(e.message, self_shares=e.message.self_shares[:1]))]),
    ),
    "both kinds of share of one peer": ("SA-3", sending(Unmask, both_kinds)),
    "the beacon before the outcome": ("SA-12", on_proposal(early_beacon)),
    "shares sealed to mask keys": ("SA-1", sending(Deal, sealed_to_mask_keys)),
    "two deals": ("SA-1", sending(Deal, also(self_hash=OTHER))),
    "two holdings": ("SA-11", sending(Holding, also(held=()))),
    "two sums": ("SA-8", sending(SliceSum, also(root=OTHER))),
    "blaming an honest peer": ("ACCURACY", blame_honest),
    "never ending": ("HANG", deaf),
    "another result": ("SA-9", other_result),
}


@pytest.mark.parametrize("name", RULES)
def test_the_oracle_finds(name: str) -> None:
    clause, twist = RULES[name]
    assert clause in clauses(twist)


def test_the_oracle_finds_nothing_in_a_machine_that_is_only_wrapped() -> None:
    assert clauses(lambda _, __, effects: effects) == set()


def test_the_oracle_finds_a_sum_that_is_not_the_survivors() -> None:
    """One peer's vector is another than the one that it masked."""
    stage = stage_of(PLAY, 5, "none", hazards=Hazards())
    stage.run()
    assert not stage.oracle.violations
    vectors = next(iter(stage.oracle.case.encoded.values()))
    vectors[-1] = vectors[-1] + 1
    stage.oracle.close()
    assert {one.clause for one in stage.oracle.violations} == {"SA-9"}


def test_the_oracle_finds_two_certified_values_of_one_topic() -> None:
    @dataclass
    class Fake:
        value: bytes
        certificate: tuple[object, ...] = (1,)

    class Told(Planted):
        @property
        def certify(self) -> dict[str, Fake]:
            return {"outcome": Fake(OTHER)}

    def maker(setting: Any, mine: Any, number: Any) -> Told:
        return Told(SecAgg(setting, mine, number), lambda _, __, effects: effects)

    stage = stage_of(PLAY, 5, "none", machines={CULPRIT: maker}, hazards=Hazards())
    stage.run()
    assert {one.clause for one in stage.oracle.violations} == {"CE-5"}


def test_the_oracle_finds_an_update_that_goes_again_though_it_was_spent() -> None:
    """A machine that says after a lost round that its update is free."""

    def forgets(machine: Planted, event: Event, effects: list[Effect]) -> Sequence[Effect]:
        return [replace(effect, spent=False) if isinstance(effect, Abort) else effect for effect in effects]

    machines = {position: planted(forgets) for position in range(4)}
    for seed in range(30):
        hazards = Hazards(crashes={2: (Crash(effect=38),)})
        stage = stage_of(PLAY, seed, "none", machines=machines, hazards=hazards)
        stage.run()
        if stage.oracle.violations:
            assert {one.clause for one in stage.oracle.violations} == {"SA-4"}
            return
    pytest.fail("no seed showed it")


def test_an_update_that_everybody_reveals_alone_is_found_by_what_can_be_computed() -> None:
    """All peers show both kinds of all shares: every mask comes off."""
    machines = {position: planted(sending(Unmask, both_kinds)) for position in range(4)}
    outcome = run_seed(PLAY, 5, "none", machines=machines)
    assert any("alone can be computed" in one.said for one in outcome.violations)


# ── what a coalition can compute ─────────────────────────────────────────────────────────────────────────────────────

P = tuple(PeerId(bytes((letter,)) * 32) for letter in b"abcde")
CONTEXT, AGAIN = b"1" * 32, b"2" * 32


def known(c: int = 1, liars: Sequence[PeerId] = ()) -> Knowledge:
    knowledge = Knowledge(P, c, frozenset(liars))
    for peer in P:
        knowledge.masked(Masking(peer, CONTEXT, "first", P))
    return knowledge


def judged(knowledge: Knowledge) -> set[str]:
    found: set[str] = set()
    knowledge.judge(lambda clause, who, said: found.add(clause))
    return found


def show(
    knowledge: Knowledge, kind: str, dealers: Sequence[PeerId], by: Sequence[PeerId], context: bytes = CONTEXT
) -> None:
    for dealer in dealers:
        for peer in by:
            knowledge.shown(context, kind, dealer, peer)


def test_the_certified_sum_and_nothing_else_can_be_computed() -> None:
    knowledge = known()
    show(knowledge, "self", P, P)
    assert judged(knowledge) == set()
    assert knowledge.sums(frozenset(P[:1])) == [frozenset((peer, "first") for peer in P[1:])]


def test_shares_below_the_threshold_tell_nothing() -> None:
    knowledge = known()
    show(knowledge, "self", P, P[2:4])  # with one colluder's, three of four
    assert knowledge.sums(frozenset(P[:1])) == []


def test_a_dropped_peers_mask_key_leaves_the_others_sum_and_not_its_own_vector() -> None:
    knowledge = known()
    show(knowledge, "self", P[:4], P[:4])
    show(knowledge, "key", P[4:], P[:4])
    assert judged(knowledge) == set()
    assert knowledge.sums(frozenset(P[:1])) == [frozenset((peer, "first") for peer in P[1:4])]


def test_both_secrets_of_one_peer_bare_its_vector() -> None:
    knowledge = known()
    show(knowledge, "self", P, P)
    show(knowledge, "key", P[3:4], P)
    assert judged(knowledge) == {"SA-6"}


def test_two_sums_that_share_an_update_are_found_over_contexts() -> None:
    knowledge = known()
    for peer in P[:4]:
        knowledge.masked(Masking(peer, AGAIN, "first", P[:4]))
    show(knowledge, "self", P, P)
    show(knowledge, "self", P[:4], P[:4], AGAIN)
    assert judged(knowledge) == {"SA-4"}


def test_too_many_colluders_are_told_apart_from_the_charters() -> None:
    knowledge = known(c=1, liars=P[:1])
    assert list(knowledge.coalitions()) == [frozenset(P[:1])]
    assert len(list(known(c=2).coalitions())) == 10


# ── what is reported ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_violation_names_the_clause_the_peer_and_the_time_and_stands_in_the_trace() -> None:
    machines = {CULPRIT: planted(RULES["two commits in one view"][1])}
    outcome, lines = trace_of(PLAY, 5, "none", machines=machines)
    found = [one for one in outcome.violations if one.clause == "CE-4"]
    assert found and found[0].at > 0
    assert "two values" in found[0].said
    assert any("✗ CE-4" in line and "  B  " in line for line in lines)
    assert isinstance(stage_of(PLAY, 5, "none"), Stage)
