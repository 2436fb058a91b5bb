"""Peers that die in any phase, and acts that happen once: what was spent, what was voted, what was revealed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from decentra.errors import DecentraError, LocalError, Unavailable, Underway
from decentra.machine.effects import Job, Record, Send, Tools
from decentra.machine.events import Received
from decentra.protocols.allreduce.transitions import TRANSITIONS as ALLREDUCE
from decentra.protocols.jobs import Encode
from decentra.protocols.mesh.transitions import TRANSITIONS as MESH
from decentra.protocols.rendezvous.messages import AbortRound, Leave, Ready
from decentra.protocols.secagg.messages import Endorsed
from decentra.protocols.secagg.transitions import TRANSITIONS as SECAGG
from decentra.simulation.group import SimulatedGroup, SimulatedPeer
from decentra.simulation.ports import InlinePool, MemoryJournal
from decentra.transport.base import Lane
from decentra.transport.virtual import Scheduler
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.codec import Signed
from decentra.wire.entry import ZERO, Chain, parse
from decentra.wire.message import Message, Verified
from helpers import (
    PHASE,
    READY,
    Watch,
    at,
    cut_off,
    errors,
    gave_up,
    ids,
    kill,
    lie,
    play,
    proposer_of,
    results,
    settle,
    simulate,
    small,
    vector,
    with_ports,
    without,
)

WALKS = [
    (protocol, phase)
    for protocol, transitions in (("secagg", SECAGG), ("allreduce", ALLREDUCE), ("mesh", MESH))
    for phase in ("ready", *transitions.values())
    if phase != "done"
]
BEFORE = ("deal", "context")
"""Phases in which nothing is spent yet, so that who stops ends the round."""
SCATTERING = ("masked", "slices", "updates")
AFTER_THE_CERTIFICATE = ("unmask", "sum", "outcome")
"""Phases in which a slice's sum is still to come from its certified owner."""


class LatePool(InlinePool):
    """A pool whose jobs of one kind take their time."""

    def __init__(self, clock: Scheduler, kind: type[Job], after: float) -> None:
        self._clock, self._kind, self._after = clock, kind, after

    def submit(self, job: Job, tools: Tools, done: Callable[[object], None]) -> None:
        if isinstance(job, self._kind):
            super().submit(job, tools, lambda value: self._later(done, value))
        else:
            super().submit(job, tools, done)

    def _later(self, done: Callable[[object], None], value: object) -> None:
        self._clock.call_later(self._after, partial(done, value))


def kinds(peer: SimulatedPeer, number: int) -> list[str]:
    """The kinds of a peer's own entries in a round, in order."""
    entries = [parse(signed.entry) for signed in peer.journal.entries]
    return [entry.kind for entry in entries if entry.round == number]


def acts(peer: SimulatedPeer, number: int) -> list[tuple[str, str]]:
    return [(record.kind, record.topic) for round_id, record in peer.journal.records if round_id.number == number]


def check_nothing_was_revealed_without_a_certificate(group: SimulatedGroup, number: int) -> None:
    """SA-3, SA-7: shares leave after t commits for the survivors, and once; a vote or share is recorded first."""
    for peer in group.peers:
        sent, done = kinds(peer, number), acts(peer, number)
        assert len(set(done)) == len(done)
        assert sent.count("secagg.unmask") == done.count(("reveal", "unmask")) <= 1
        if "secagg.unmask" in sent:
            committed = Counter(act for other in group.peers for act in acts(other, number) if act[0] == "commit")
            in_one_view = max(count for (_, topic), count in committed.items() if topic.startswith("survivors/"))
            assert in_one_view >= 3  # t for (n, c) = (4, 1)
        assert sent.count("certify.prepare") <= sum(kind == "prepare" for kind, _ in done)
        assert sent.count("certify.commit") <= sum(kind == "commit" for kind, _ in done)


@pytest.mark.parametrize("who", ["proposer", "other"])
@pytest.mark.parametrize("stop", ["killed", "cut off"])
@pytest.mark.parametrize(("protocol", "phase"), WALKS)
def test_a_peer_that_stops_as_it_enters_a_phase(protocol: str, phase: str, stop: str, who: str) -> None:
    group = simulate(4, protocol, protocol__rule="mean")
    results(play(group, small(group)))
    victim = (proposer_of(group, 2) + (who == "other")) % 4
    me, name = group.peers[victim], ids(group)[victim]

    def strike(_machine: object) -> None:
        if stop == "killed":
            kill(me)
        else:
            cut_off(group, victim)

    if phase in SCATTERING:  # nothing of its vector has left, and what it signed before that has come
        with_ports(me, pool=LatePool(group.clock, Encode, 0.01))
        at(me, phase, lambda machine: group.clock.call_later(0.005, partial(strike, machine)))
    else:
        at(me, phase, strike)
    watch, began = Watch(group), group.clock.now()
    ended = play(group, small(group), but=[victim])
    survivors = [peer for place, peer in enumerate(group.peers) if place != victim]
    # who dies before its roster is out is known to be ready, so it is in the next view's roster as well
    first = phase in (SECAGG["ready", "roster"], ALLREDUCE["ready", "roster"])
    assert group.clock.now() - began < 2 * PHASE + (READY if phase == "ready" or (first and who == "proposer") else 0)
    failed = [one for one in ended if isinstance(one, DecentraError)]
    for one in failed:
        assert isinstance(one, Unavailable), repr(one)
        assert one.waited_for == (name,)
        assert str(name) in str(one)
    if phase in BEFORE:
        # the last peer's own readiness is still on its way when it has everybody's: the others may begin without it
        assert len(failed) == 3 or (not failed and first and who == "proposer" and victim == 3)
        assert not any(one.spent for one in failed)
    elif phase in AFTER_THE_CERTIFICATE and protocol != "mesh":  # where everybody has the updates
        # its slice's sum is either out, and then everybody who lives has the result, or lost, and they all say so
        assert len(failed) in (0, 3)
        assert all(one.spent and "certified as lost" in str(one) for one in failed)
    else:
        assert not failed
    if not failed:
        done = results(ended)
        assert len(done) == 3
        watch.exact(2, done)
        if phase in ("ready", *SCATTERING) or (phase, protocol == "mesh") == ("survivors", False):
            # it never said that it holds its own slice; a whole update may have come to all
            assert done[0].dropped == (name,)
    assert not any(watch.blames.values())  # who stops breaks no clause
    for peer in survivors:
        if isinstance(peer.ended, DecentraError):
            assert peer.ended.spent == (("intent", "update") in acts(peer, 2))
    check_nothing_was_revealed_without_a_certificate(group, 2)
    settle(group, 500.0)
    if stop == "cut off" and isinstance(me.ended, DecentraError):
        assert me.ended.spent == (("intent", "update") in acts(me, 2))
    held = [peer.driver.blobs.bytes_held for peer in survivors]
    if isinstance(survivors[0].ended, DecentraError):
        assert held == [0] * 3

    base = group.clock.now()
    after = play(group, without(group, victim))
    assert results(after)[0].dropped == (name,)
    assert group.clock.now() - base < READY + PHASE
    assert [peer.driver.blobs.bytes_held for peer in survivors] == [0] * 3


@pytest.mark.parametrize("phase", ["deal", "context", "unmask"])
def test_nobody_waits_a_deadline_for_a_peer_that_has_started_again(phase: str) -> None:
    group = simulate(4)
    results(play(group, small(group)))
    victim = (proposer_of(group, 2) + 1) % 4
    me, name = group.peers[victim], ids(group)[victim]

    def start_again() -> None:
        back = SimulatedPeer(group, me.identity, boot=2)
        back.session.begin(vector([0.01, 0.0, 0.0], [[0.0]]), back._end, least=3)

    def strike(_machine: object) -> None:
        kill(me)
        group.clock.call_later(2.0, start_again)

    at(me, phase, strike)
    watch, began = Watch(group), group.clock.now()
    ended = play(group, small(group), but=[victim])
    assert group.clock.now() - began < PHASE / 4
    for place, one in enumerate(ended):
        if place != victim:
            assert isinstance(one, Unavailable) and one.waited_for == (name,), one
            assert one.spent == (phase == "unmask")
    assert not any(watch.blames.values())  # who starts again breaks no clause


SEALING = X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()


@pytest.mark.parametrize("heard", [0, 1])
def test_who_comes_into_a_round_that_others_end_is_told_that_there_is_no_beginning_to_join(heard: int) -> None:
    """Of so many it hears that they were ready, with what they train, and then that they ended the round."""
    group = simulate(8, protocol__c=2)
    back = SimulatedPeer(group, group.peers[7].identity, boot=2)
    others = [Chain(peer.identity, back.session.session, 1) for peer in group.peers[:3]]
    back.session.begin(vector(), back._end)
    settle(group, READY / 10)  # those that may come back have had their time to
    number = back.session.round
    ready = Ready(bytes(32), b"x" * 32, ZERO, ZERO, SEALING)
    for place, chain in enumerate(others):
        said: list[Message] = [ready] if place < heard else []
        for message in (*said, AbortRound("DEADLINE", (), "it waited in vain")):
            body = back.driver.registry.encode(message)
            entry = chain.sign(number, message.kind, body)
            back.driver._feed(Received(Verified(entry, message, Signed(entry.packed, body))))
    assert isinstance(back.ended, Underway)
    assert not back.ended.spent


def test_a_round_completes_without_a_peer_that_dies_before_the_last_vote() -> None:
    group = simulate(4)
    victim = (proposer_of(group, 1) + 1) % 4
    die = partial(kill, group.peers[victim])  # its sum is on its way to the others
    at(group.peers[victim], "outcome", lambda _machine: group.clock.call_later(0.0005, die))
    done = results(play(group, small(group), but=[victim]))
    assert len(done) == 3
    assert ids(group)[victim] in done[0].participants  # its update is in the sum
    assert done[0].seconds < PHASE / 2  # it may be asked to recompute a sum: a quarter of a phase


@pytest.mark.parametrize("phase", ["masked", "survivors"])
def test_a_round_completes_without_two_peers_that_die_in_the_same_phase(phase: str) -> None:
    group = simulate(7, protocol__c=2)
    watch = Watch(group)
    for place in (1, 4):
        at(group.peers[place], phase, lambda _machine, peer=group.peers[place]: kill(peer))
    done = results(play(group, small(group), but=[1, 4]))
    assert len(done) == 5
    assert set(done[0].dropped) == {ids(group)[1], ids(group)[4]}  # they are not there to hand over their parts anew
    watch.exact(1, done)
    assert group.clock.now() < 2 * PHASE


def test_two_peers_that_die_before_anything_is_masked_are_both_named() -> None:
    group = simulate(7, protocol__c=2)
    for place in (1, 4):
        at(group.peers[place], "context", lambda _machine, peer=group.peers[place]: kill(peer))
    failed = gave_up(play(group, small(group), but=[1, 4]), spent=False, on=(ids(group)[1], ids(group)[4]))
    assert len(failed) == 5


def test_two_owners_that_die_after_the_certificate_are_both_named() -> None:
    group = simulate(7, protocol__c=2)
    for place in (1, 4):
        at(group.peers[place], "unmask", lambda _machine, peer=group.peers[place]: kill(peer))
    failed = gave_up(play(group, small(group), but=[1, 4]), spent=True, on=(ids(group)[1], ids(group)[4]))
    assert len(failed) == 5
    assert all("lost" in str(error) for error in failed)


@pytest.mark.parametrize("reached", [1, 3, 4])
def test_a_sum_that_some_have_when_its_owner_dies_ends_the_round_alike(reached: int) -> None:
    """Some have every sum and some lack one, and neither are t: they must not wait for each other to the end."""
    group = simulate(7, protocol__c=2)
    victim = group.peers[1]
    honest, served = victim.driver._post_to, [peer for peer in ids(group) if peer != ids(group)[1]][:reached]

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind != "secagg.sum" or target in served:
            honest(target, verified, blob)

    victim.driver._post_to = post  # type: ignore[method-assign]
    at(victim, "sum", lambda _machine: group.clock.call_later(0.01, partial(kill, victim)))
    began = group.clock.now()
    ended = play(group, [vector([0.001 * place] * 40) for place in range(7)], but=[1])
    if reached < 4:
        for error in errors(ended):
            assert isinstance(error, Unavailable) and "certified as lost" in str(error)
    else:  # with its owner's own vote these had been enough to certify the result
        done = [one for one in ended if isinstance(one, RoundResult)]
        assert len({one.digest for one in done}) == 1 and len(done) == 4
        for error in (one for one in ended if isinstance(one, DecentraError)):
            assert isinstance(error, Unavailable) and error.spent and "certified result" in str(error)
    assert group.clock.now() - began < 6 * PHASE
    after = results(play(group, [None if place == 1 else vector([0.001] * 40) for place in range(7)]))
    assert len(after) == 6


@pytest.mark.parametrize("reached", [1, 3])
def test_a_sum_that_some_have_is_given_up_after_a_view_where_its_owner_has_started_again(reached: int) -> None:
    group = simulate(7, protocol__c=2)
    results(play(group, small(group)))
    victim = group.peers[1]
    honest, served = victim.driver._post_to, [peer for peer in ids(group) if peer != ids(group)[1]][:reached]

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind != "secagg.sum" or target in served:
            honest(target, verified, blob)

    def strike() -> None:
        kill(victim)
        group.clock.call_later(2.0, start_again)

    def start_again() -> None:
        back = SimulatedPeer(group, victim.identity, boot=2)
        back.session.begin(vector([0.01, 0.0, 0.0], [[0.0]]), back._end, least=3)

    victim.driver._post_to = post  # type: ignore[method-assign]
    at(victim, "sum", lambda _machine: group.clock.call_later(0.01, strike))
    began = group.clock.now()
    for error in errors(play(group, small(group), but=[1])):
        assert isinstance(error, Unavailable) and "certified as lost" in str(error)
    assert group.clock.now() - began < PHASE  # views of a quarter of it, and of two


def test_who_lacks_a_slice_of_a_certified_result_whose_owner_has_started_again_waits_no_phase_for_it() -> None:
    group = simulate(8, protocol__c=2)
    results(play(group, small(group)))
    victim, without_it = group.peers[1], ids(group)[3]
    honest = victim.driver._post_to

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind != "secagg.sum" or target != without_it:
            honest(target, verified, blob)

    def strike() -> None:
        kill(victim)
        group.clock.call_later(2.0, start_again)

    def start_again() -> None:
        back = SimulatedPeer(group, victim.identity, boot=2)
        back.session.begin(vector([0.01, 0.0, 0.0], [[0.0]]), back._end, least=3)

    victim.driver._post_to = post  # type: ignore[method-assign]
    at(victim, "sum", lambda _machine: group.clock.call_later(0.01, strike))
    began = group.clock.now()
    ended = [one for place, one in enumerate(play(group, small(group), but=[1])) if place != 1]
    assert group.clock.now() - began < PHASE / 2
    (lacks,) = [one for one in ended if not isinstance(one, RoundResult)]
    assert isinstance(lacks, Unavailable) and "of the certified result" in str(lacks) and lacks.spent


@pytest.mark.parametrize("reached", [1, 2, 5])
@pytest.mark.parametrize("protocol", ["secagg", "allreduce", "mesh"])
def test_an_endorsement_that_reached_some_before_its_author_died_is_shown_to_the_others(
    protocol: str, reached: int
) -> None:
    """Who got it masks and spends its update; without it the others would end the round, and certify nothing."""
    group = simulate(7, protocol, protocol__c=2, protocol__rule="mean")
    watch = Watch(group)
    victim = group.peers[3]
    honest, others = victim.driver._post_to, [peer for peer in ids(group) if peer != ids(group)[3]]

    def post(target: PeerId, verified: Any, blob: Any) -> None:
        if verified.entry.kind == f"{protocol}.endorse":
            group.clock.call_later(0.01, partial(kill, victim))
            if target not in others[:reached]:
                return
        if verified.entry.kind not in ("secagg.masked", "allreduce.slices", "mesh.update"):
            honest(target, verified, blob)

    victim.driver._post_to = post  # type: ignore[method-assign]
    began = group.clock.now()
    done = results(play(group, small(group), but=[3]))
    assert group.clock.now() - began < 1.1 * PHASE
    assert len(done) == 6 and ids(group)[3] not in done[0].participants
    watch.exact(1, done)
    assert not any(watch.blames.values())


def test_an_endorsement_of_another_round_is_none_whoever_shows_it() -> None:
    group = simulate(4)
    results(play(group, small(group)))
    old = next(one for one in group.peers[1].journal.entries if parse(one.entry).kind == "secagg.endorse")
    liar, registry = group.peers[0], group.peers[0].driver.registry
    check = liar.session._check_signed
    stale = registry.verify(Signed(old.entry, old.body), liar.session.session, check)

    def twist(effect: Any) -> list[Any]:
        shows = Send(Endorsed(effect.message.context, (stale,)), after=effect.after)
        return [effect, shows]

    lie(liar, "secagg.endorse", twist)
    watch = Watch(group)
    assert len(results(play(group, small(group)))) == 4
    assert not any(watch.blames.values())


def test_more_than_n_minus_t_that_die_end_the_round_within_its_deadlines_and_are_named() -> None:
    group = simulate(4)
    for place in (1, 2):
        lie(group.peers[place], "secagg.masked", lambda _effect: [])
        die = partial(group.clock.call_later, 0.01, partial(kill, group.peers[place]))  # its endorsement has come
        at(group.peers[place], "masked", lambda _machine, die=die: die())
    began = group.clock.now()
    for error in gave_up(play(group, small(group), but=[1, 2]), spent=True):  # nobody can certify the contrary
        assert error.waited_for  # the owners of slices that nobody holds
        assert error.seconds == 6 * PHASE
    assert group.clock.now() - began < 6.6 * PHASE
    settle(group)
    assert [group.peers[place].driver.blobs.bytes_held for place in (0, 3)] == [0, 0]


@pytest.mark.parametrize("phase", ["deal", "masked", "unmask"])
def test_for_a_peer_that_leaves_in_a_round_nobody_waits(phase: str) -> None:
    group = simulate(4)
    watch = Watch(group)
    place = (proposer_of(group, 1) + 1) % 4
    leaver, name = group.peers[place], ids(group)[place]

    def leave(_machine: object) -> None:
        group.clock.call_later(0.0, lambda: leaver.driver.say(Leave()))
        lie(leaver, "never", lambda effect: [effect])

    at(leaver, phase, leave)
    mute = {"deal": "secagg.deal", "masked": "secagg.masked", "unmask": "secagg.unmask"}[phase]
    lie(leaver, mute, lambda _effect: [])
    if phase == "unmask":
        lie(leaver, "secagg.sum", lambda _effect: [])
    began = group.clock.now()
    ended = play(group, small(group), but=[place])
    if phase == "masked":  # nothing of it came, so the others sum without it
        done = results(ended)
        assert len(done) == 3
        assert done[0].dropped == (name,)
        watch.exact(1, done)
        assert group.clock.now() - began < 1.0
        return
    failed = gave_up(ended, spent=phase == "unmask", on=[name])
    assert len(failed) == 3
    assert all(("lost" if phase == "unmask" else "left") in str(error) for error in failed)
    if phase == "deal":
        assert group.clock.now() - began < 1.0
    else:  # t others show their shares, but nobody sums its slice
        assert group.clock.now() - began < PHASE


def test_a_peer_whose_owner_interrupts_it_ends_the_round_for_all_and_is_named() -> None:
    group = simulate(4)
    peer = group.peers[1]
    stop = LocalError("its owner interrupted it")
    at(peer, "context", lambda _machine: group.clock.call_later(0.0, lambda: peer.driver.cancel(stop)))
    ended = play(group, small(group))
    assert ended[1] is stop
    assert not stop.spent
    gave_up([ended[place] for place in (0, 2, 3)], spent=False, on=[ids(group)[1]])


# ── acts that happen once ────────────────────────────────────────────────────────────────────────────────────────────


class Recording(MemoryJournal):
    """A journal, and a transport beside it, that write one common diary."""

    def __init__(self, diary: list[str], hold: Callable[[str], bool] = lambda _what: False) -> None:
        super().__init__()
        self.diary, self.hold = diary, hold
        self.held: list[Callable[[], None]] = []

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        kind = parse(signed.entry).kind
        self.diary.append(f"entry {kind}")
        super().entry(signed, log_body, self._or_hold(f"entry {kind}", durable))

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        what = f"record {record.kind} {record.topic}"
        self.diary.append(what)
        super().record(round_id, record, self._or_hold(what, durable))

    def _or_hold(self, what: str, durable: Callable[[], None]) -> Callable[[], None]:
        return (lambda: self.held.append(durable)) if self.hold(what) else durable


LOOKED_FOR = (
    "secagg.masked",
    "allreduce.slices",
    "mesh.update",
    "certify.prepare",
    "certify.commit",
    "secagg.unmask",
    "secagg.beacon",
)


class Diary:
    """A transport that notes what is handed to it."""

    def __init__(self, under: Any, diary: list[str]) -> None:
        self._under, self._diary = under, diary

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)

    def send(self, peer: bytes, lane: Lane, header: bytes, buffers: Sequence[Any]) -> bool:
        if lane is Lane.BULK:
            self._diary.append("piece")
        for part in buffers:
            raw = bytes(part)
            for kind in LOOKED_FOR:
                if kind.encode() in raw[:512] and len(raw) <= 512:  # a packed entry
                    self._diary.append(f"sent {kind}")
        return bool(self._under.send(peer, lane, header, buffers))


def keep_a_diary(peer: SimulatedPeer, hold: Callable[[str], bool] = lambda _what: False) -> tuple[list[str], Recording]:
    diary: list[str] = []
    journal = Recording(diary, hold)
    peer.journal = journal
    ports = peer.driver._ports
    assert ports is not None
    with_ports(peer, journal=journal, transport=Diary(ports.transport, diary))
    return diary, journal


@pytest.mark.parametrize(
    ("protocol", "slices"), [("secagg", "secagg.masked"), ("allreduce", "allreduce.slices"), ("mesh", "mesh.update")]
)
def test_intent_votes_and_reveals_are_durable_before_they_leave(protocol: str, slices: str) -> None:
    group = simulate(4, protocol)
    diary, _ = keep_a_diary(group.peers[1])
    results(play(group, small(group)))
    first = diary.index
    assert first("record intent update") < first(f"entry {slices}") < first(f"sent {slices}") < first("piece")
    for act in ("prepare", "commit"):
        recorded = [place for place, what in enumerate(diary) if what.startswith(f"record {act}")]
        entered = [place for place, what in enumerate(diary) if what == f"entry certify.{act}"]
        sent = [place for place, what in enumerate(diary) if what == f"sent certify.{act}"]
        topics = 3 if protocol == "secagg" else 2
        assert len(recorded) == len(entered) == topics
        assert len(sent) == 3 * topics
        for ballot, (record, entry) in enumerate(zip(recorded, entered, strict=True)):
            assert record < entry < min(sent[3 * ballot : 3 * ballot + 3])
    if protocol == "secagg":
        assert first("record reveal beacon") < first("entry secagg.beacon") < first("sent secagg.beacon")
        assert first("record commit outcome/0") < first("record reveal beacon")
        assert first("record reveal unmask") < first("entry secagg.unmask") < first("sent secagg.unmask")
        assert first("record commit survivors/0") < first("record reveal unmask")


def test_with_a_journal_that_is_never_durable_nothing_is_sent_at_all() -> None:
    group = simulate(4)
    diary, _ = keep_a_diary(group.peers[1], lambda _what: True)
    before = group.peers[1].driver._ports.transport.counters.bytes_sent
    group.peers[1].begin(small(group)[1])
    done = results(play(group, without(group, 1), patience=300.0))
    assert done[0].dropped == (ids(group)[1],)
    assert diary == ["entry rendezvous.ready"]
    assert before == 0 or group.peers[1].ended is None


@pytest.mark.parametrize(
    ("stuck", "never", "outcome"),
    [
        ("record intent update", "secagg.masked", "dropped"),
        ("record prepare survivors/0", "certify.prepare", "lost"),
        ("record reveal unmask", "secagg.unmask", "lost"),
    ],
)
def test_what_is_not_durable_does_not_leave(stuck: str, never: str, outcome: str) -> None:
    group = simulate(4)
    watch = Watch(group)
    diary, _ = keep_a_diary(group.peers[1], lambda what: what == stuck)
    ended = play(group, small(group), but=[1])
    if outcome == "dropped":
        done = results(ended)
        assert len(done) == 3
        assert done[0].dropped == (ids(group)[1],)
        watch.exact(1, done)
    else:
        failed = gave_up(ended, spent=True, on=[ids(group)[1]])
        assert len(failed) == 3
        assert all("lost" in str(error) for error in failed)
    settle(group, 500.0)
    assert stuck in diary
    assert f"sent {never}" not in diary
    assert f"entry {never}" not in diary
    if stuck == "record intent update":
        assert "piece" not in diary


def test_a_slow_disk_delays_and_changes_nothing() -> None:
    quick, slow = simulate(4), simulate(4)
    _, journal = keep_a_diary(slow.peers[2], lambda _what: True)

    def flush() -> None:
        held, journal.held = journal.held, []
        for durable in held:
            durable()
        slow.clock.call_later(0.05, flush)

    slow.clock.call_later(0.05, flush)
    expected = results(play(quick, small(quick)))[0]
    done = results(play(slow, small(slow)))[0]
    assert [value.tobytes() for value in done.values] == [value.tobytes() for value in expected.values]
    assert done.seconds > expected.seconds


def test_a_refused_input_of_ones_own_is_not_spent_and_is_named_to_the_others() -> None:
    group = simulate(4)
    vectors = small(group)
    vectors[0].tensors[0][1] = float("nan")
    ended = play(group, vectors)
    assert isinstance(ended[0], LocalError)
    assert "NaN" in str(ended[0])
    assert not ended[0].spent
    assert acts(group.peers[0], 1) == []
    assert "secagg.masked" not in kinds(group.peers[0], 1)
    done = results(ended[1:])  # the others go on without it
    assert len(done) == 3
    assert done[0].dropped == (ids(group)[0],)
    assert isinstance(play(group, small(group))[0], RoundResult)
