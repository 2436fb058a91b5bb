"""What holds of every run, whoever lies and whatever breaks: checked as honest peers act, and again at the end.

The oracle sees everything: what each honest peer takes in, decides and sends. It judges honest peers alone, by the
clauses of the specs, and knows none of the machines: a machine that breaks a clause is found out by what it signs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.errors import DecentraError, RemoteError
from decentra.machine.effects import Abort, Blame, Effect, Finish, Send
from decentra.machine.events import Event, Received
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.rendezvous.messages import Ready
from decentra.protocols.secagg.messages import Beacon, Unmask
from decentra.protocols.survivors import FAIL
from decentra.simulation.ideal import IdealCrypto
from decentra.simulation.knowledge import Knowledge, Masking
from decentra.simulation.recovery import Recovery
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.codec import Malformed, Signed, unpack
from decentra.wire.message import Message

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor, Stage

SURVIVORS, OUTCOME = "survivors", "outcome"


ONCE = {
    "ready": "RV-1",
    "roster": "RV-3",
    "deal": "SA-1",
    "context": "SA-2",
    "endorse": "SA-2",
    "masked": "SA-4",
    "slices": "AR-2",
    "holding": "SA-11",
    "again": "SA-4",
    "sum": "SA-8",
    "propose": "CE-1",
    "prepare": "CE-2",
    "commit": "CE-4",
    "unmask": "SA-7",
    "beacon": "SA-12",
}
"""What a peer signs once a round, view, slice or topic, over all its processes, and the clause that says so."""


@dataclass(frozen=True)
class Violation:
    """A clause that did not hold: at whom, when, and what was seen."""

    clause: str
    who: PeerId | None
    at: float
    said: str


Topic = tuple[bytes, str]
"""A context, and a topic that is voted on under it."""


@dataclass
class _Notes:
    """What one honest peer has signed and seen, over all its processes."""

    prepared: dict[tuple[bytes, str, int], bytes] = field(default_factory=dict)
    committed: dict[tuple[bytes, str, int], bytes] = field(default_factory=dict)
    acted: dict[Topic, int] = field(default_factory=dict)
    locks: dict[Topic, tuple[int, bytes]] = field(default_factory=dict)
    contexts: dict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """Contexts voted or masked under, by round."""
    slots: dict[tuple[int, str], bytes] = field(default_factory=dict)
    prepares: dict[tuple[bytes, str, int, bytes], set[PeerId]] = field(default_factory=lambda: defaultdict(set))
    commits: dict[tuple[bytes, str, bytes], dict[int, set[PeerId]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    endorsed: dict[bytes, set[PeerId]] = field(default_factory=lambda: defaultdict(set))
    proposals: dict[tuple[bytes, str, int], list[Propose]] = field(default_factory=lambda: defaultdict(list))
    values: dict[bytes, bytes] = field(default_factory=dict)
    """Values that it has seen, by the hash that votes cite."""
    masked: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """The contexts that each of its updates was masked under."""
    roots: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    kinds: dict[tuple[bytes, PeerId], str] = field(default_factory=dict)
    """Which kind of share it showed, by context and dealer."""
    update: str = ""


class Oracle:
    """Watches one schedule.

    Attributes:
        violations: what did not hold, in the order found.
        certified: what honest peers hold certificates of, by round, context and topic.
    """

    def __init__(self, stage: Stage, liars: frozenset[PeerId]) -> None:
        self._stage, self.liars = stage, liars
        self._c = stage.play.c
        self.violations: list[Violation] = []
        self.certified: dict[tuple[RoundId, bytes, str], dict[bytes, list[PeerId]]] = {}
        self.hung = False
        self._notes: dict[PeerId, _Notes] = {peer: _Notes() for peer in stage.cast.charter.ids if peer not in liars}
        self._rosters: dict[bytes, tuple[PeerId, ...]] = {}
        self._encoded: dict[tuple[PeerId, RoundId], list[NDArray[Any]]] = defaultdict(list)
        self._totals: list[tuple[PeerId, RoundId, bytes, NDArray[Any], tuple[PeerId, ...], int]] = []
        self._results: dict[RoundId, list[tuple[PeerId, RoundResult]]] = defaultdict(list)
        self._seals: dict[tuple[int, PeerId], bytes] = {}
        self.knowledge = Knowledge(stage.cast.charter.ids, self._c, liars)
        self.recovery = Recovery(liars, stage.cast.charter.protocol.width) if stage.rebuilds else None
        """What computes in earnest what ``knowledge`` counts, where this schedule is one that does."""
        self._heard: dict[type[Message], Callable[[_Notes, PeerId, Any], None]] = {
            Prepare: self._hear_prepare,
            Commit: self._hear_commit,
            Propose: self._hear_propose,
            Lock: self._hear_lock,
            Certificate: self._hear_certificate,
        }
        self._said: dict[type[Message], Callable[[Actor, _Notes, Any], None]] = {
            Prepare: self._say_prepare,
            Commit: self._say_commit,
            Unmask: self._say_unmask,
            Beacon: self._say_beacon,
        }

    def violated(self, clause: str, who: PeerId | None, said: str) -> None:
        """Take a violation down, once."""
        now, trace = self._stage.clock.now(), self._stage.trace
        if not any((known.clause, known.who, known.said) == (clause, who, said) for known in self.violations):
            self.violations.append(Violation(clause, who, now, said))
            if trace is not None:
                trace.violation(now, "-" if who is None else self._stage.letter(who), clause, said)

    def _letter(self, peer: PeerId) -> str:
        return self._stage.letter(peer)

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def given(self, actor: Actor, name: str) -> None:
        """A peer was handed this update to contribute."""
        if actor.id in self._notes:
            self._notes[actor.id].update = name

    def encoded(self, actor: Actor, round_id: RoundId, vector: NDArray[Any]) -> None:
        """What a peer encoded, before it is masked."""
        self._encoded[actor.id, round_id].append(vector.copy())

    def encoded_by(self, peer: PeerId) -> list[NDArray[Any]]:
        """What a peer encoded, in all rounds."""
        return [one for (who, _), vectors in self._encoded.items() if who == peer for one in vectors]

    def saw(self, actor: Actor, seen: Event | Effect) -> None:
        """An event that a peer's machine takes, or an effect that its driver carries out."""
        if type(seen) is Received:
            message = seen.verified.message
            hear = self._heard.get(type(message))
            notes = self._notes.get(actor.id)
            if notes is None:
                return
            if hear is not None:
                hear(notes, seen.verified.sender, message)
            elif message.kind.endswith(".endorse"):
                notes.endorsed[getattr(message, "context", b"")].add(seen.verified.sender)
        elif type(seen) is Blame:
            self._blames(actor, seen.error)
        elif type(seen) is Abort:
            self._note_certified(actor)
            if isinstance(seen.error, RemoteError):
                self._blames(actor, seen.error)
        elif type(seen) is Finish:
            self._note_certified(actor)
            self._finishes(actor, seen.result)

    def _hear_prepare(self, notes: _Notes, sender: PeerId, message: Prepare) -> None:
        notes.prepares[message.context, message.topic, message.view, message.value].add(sender)

    def _hear_commit(self, notes: _Notes, sender: PeerId, message: Commit) -> None:
        notes.commits[message.context, message.topic, message.value][message.view].add(sender)

    def _hear_propose(self, notes: _Notes, sender: PeerId, message: Propose) -> None:
        notes.proposals[message.context, message.topic, message.view].append(message)
        self._learn(notes, message.context, message.topic, message.value)
        for cited in message.locked:
            if isinstance(cited.message, Prepare):
                self._hear_prepare(notes, cited.sender, cited.message)

    def _hear_lock(self, notes: _Notes, sender: PeerId, message: Lock) -> None:
        for cited in message.prepares:
            if isinstance(cited.message, Prepare):
                self._hear_prepare(notes, cited.sender, cited.message)
        if message.prepares:
            self._learn(notes, message.context, message.topic, message.value)

    def _hear_certificate(self, notes: _Notes, sender: PeerId, message: Certificate) -> None:
        self._learn(notes, message.context, message.topic, message.value)
        for cited in message.commits:
            if isinstance(cited.message, Commit):
                self._hear_commit(notes, cited.sender, cited.message)

    @staticmethod
    def _learn(notes: _Notes, context: bytes, topic: str, value: bytes) -> None:
        notes.values[derive.vote_value(context, topic, value)] = value

    # ── what honest peers sign ───────────────────────────────────────────────────────────────────────────────────────

    def sent(self, actor: Actor, effect: Send, signed: Signed) -> None:
        """A message of a peer's is durable, and leaves it now."""
        notes = self._notes.get(actor.id)
        if self.recovery is not None:
            vectors = self._encoded[actor.id, actor.session.round]
            self.recovery.sent(actor, effect, notes.update if notes else "", vectors[-1] if vectors else None)
        if notes is None:
            return
        message = effect.message
        said = self._said.get(type(message))
        if said is not None:
            said(actor, notes, message)
        self._say_once(actor, notes, effect, signed)
        kind = message.kind.partition(".")[2]
        if kind in ("masked", "slices"):
            self._say_masked(actor, notes, message)
        elif kind == "again":
            self._say_again(actor, notes, message)
        elif kind == "deal":
            self._say_deal(actor, message)
        elif kind == "endorse":
            context = getattr(message, "context", b"")
            self._rosters.setdefault(context, tuple(actor.machine.roster) if actor.machine is not None else ())
        elif isinstance(message, Ready):
            self._seals[actor.session.round.number, actor.id] = message.seal

    def _say_once(self, actor: Actor, notes: _Notes, effect: Send, signed: Signed) -> None:
        message = effect.message
        kind = message.kind.partition(".")[2]
        clause = ONCE.get(kind)
        if clause is None:
            return
        place = ".".join(
            str(getattr(message, name)) for name in ("topic", "view", "slice") if hasattr(message, name)
        )
        if kind == "again" and effect.to is not None:
            place += f".{effect.to}"
        slot = (actor.session.round.number, f"{kind} {place}")
        if notes.slots.setdefault(slot, signed.body) != signed.body:
            self.violated(clause, actor.id, f"it signed two different {kind} {place}".rstrip())

    def _durable(self, actor: Actor, kind: str, topic: str, value: bytes, clause: str) -> None:
        written = actor.journal.acts.get((actor.session.round.number, kind, topic))
        if written is None:
            self.violated(clause, actor.id, f"its {kind} {topic} left before it was durable")
        elif written != value:
            self.violated(clause, actor.id, f"its {kind} {topic} is not the one that it wrote down")

    def _quorum(self, context: bytes) -> int:
        return derive.quorum(len(self._rosters.get(context, ())) or self._stage.play.n, self._c)

    def _votes_under(self, actor: Actor, notes: _Notes, context: bytes) -> None:
        contexts = notes.contexts[actor.session.round.number]
        contexts.add(context)
        if len(contexts) > 1:
            self.violated("SA-2", actor.id, "it voted or masked under two contexts of one round")

    def _say_prepare(self, actor: Actor, notes: _Notes, message: Prepare) -> None:
        self._votes_under(actor, notes, message.context)
        topic, place = (message.context, message.topic), (message.context, message.topic, message.view)
        what = f"{message.topic!r} in view {message.view}"
        self._durable(actor, "prepare", f"{message.topic}/{message.view}", message.context + message.value, "SA-5")
        if notes.prepared.setdefault(place, message.value) != message.value:
            self.violated("CE-2", actor.id, f"it prepared two values of {what}")
        if message.view < notes.acted.get(topic, -1):
            self.violated("CE-2", actor.id, f"it prepared {what}, below view {notes.acted[topic]} that it acted in")
        notes.acted[topic] = max(message.view, notes.acted.get(topic, -1))
        proposals = [
            proposal
            for proposal in notes.proposals[place]
            if derive.vote_value(message.context, message.topic, proposal.value) == message.value
        ]
        if not proposals:
            self.violated("CE-2", actor.id, f"it prepared a value of {what} that nobody proposed to it there")
        locked = notes.locks.get(topic)
        bound = locked is not None and locked[1] != message.value
        if locked is not None and bound and not self._later_prepares(message, locked[0], proposals):
            self.violated("CE-3", actor.id, f"it prepared {what} against its lock of view {locked[0]}")

    def _later_prepares(self, message: Prepare, lock: int, proposals: Sequence[Propose]) -> bool:
        """Whether a proposal showed t prepares of this value from one view after the lock's and before this one."""
        for proposal in proposals:
            signers: dict[int, set[PeerId]] = defaultdict(set)
            for cited in proposal.locked:
                if isinstance(cited.message, Prepare) and cited.message.value == message.value:
                    signers[cited.message.view].add(cited.sender)
            if any(
                lock < view < message.view and len(who) >= self._quorum(message.context)
                for view, who in signers.items()
            ):
                return True
        return False

    def _say_commit(self, actor: Actor, notes: _Notes, message: Commit) -> None:
        self._votes_under(actor, notes, message.context)
        topic, place = (message.context, message.topic), (message.context, message.topic, message.view)
        what = f"{message.topic!r} in view {message.view}"
        self._durable(actor, "commit", f"{message.topic}/{message.view}", message.context + message.value, "SA-5")
        if notes.committed.setdefault(place, message.value) != message.value:
            self.violated("CE-4", actor.id, f"it committed to two values of {what}")
        if message.view < notes.acted.get(topic, -1):
            self.violated("CE-4", actor.id, f"it committed to {what}, below view {notes.acted[topic]}")
        notes.acted[topic] = max(message.view, notes.acted.get(topic, -1))
        notes.locks[topic] = (message.view, message.value)
        prepares = notes.prepares[*place, message.value]
        if len(prepares) < self._quorum(message.context):
            self.violated("CE-4", actor.id, f"it committed to {what} on {len(prepares)} prepares")

    def _certified_for(self, notes: _Notes, context: bytes, topic: str, value: bytes) -> bool:
        """Whether a peer has seen t commits of a value, given by the hash that votes cite, in one view."""
        views = notes.commits[context, topic, value]
        return any(len(who) >= self._quorum(context) for who in views.values())

    def _say_masked(self, actor: Actor, notes: _Notes, message: Message) -> None:
        context, roots = getattr(message, "context", b""), getattr(message, "roots", ())
        clauses = ("SA-2", "SA-4") if message.kind.startswith("secagg") else ("AR-1", "AR-2")
        self._votes_under(actor, notes, context)
        roster = self._rosters.get(context, ())
        absent = [peer for peer in roster if peer not in notes.endorsed[context]]
        if absent or not roster:
            who = "".join(map(self._letter, absent)) or "anyone"
            self.violated(clauses[0], actor.id, f"it masked under a context that {who} had not endorsed")
        self._durable(actor, "intent", "update", context + b"".join(roots), clauses[1])
        if notes.roots.setdefault(context, roots) != roots:
            self.violated(clauses[1], actor.id, "it sent two different vectors under one context")
        earlier = notes.masked[notes.update]
        if any(not self._freed(notes, actor.id, known) for known in earlier if known != context):
            self.violated(clauses[1], actor.id, "it masked an update again that no certificate had freed")
        if context not in earlier:
            earlier.append(context)
        if message.kind == "secagg.masked":
            masking = Masking(actor.id, context, notes.update, roster)
            vectors = self._encoded[actor.id, actor.session.round]
            self.knowledge.masked(masking, vectors[-1] if vectors else None)

    def _freed(self, notes: _Notes, me: PeerId, context: bytes) -> bool:
        """Whether a peer has seen a certificate that leaves it out of the survivors, or fails the round (SA-4)."""
        for (under, topic, digest), _ in list(notes.commits.items()):
            if (under, topic) == (context, SURVIVORS) and self._certified_for(notes, context, topic, digest):
                value = notes.values.get(digest)
                if value == FAIL or (value is not None and me not in _members(value)):
                    return True
        return False

    def _say_again(self, actor: Actor, notes: _Notes, message: Message) -> None:
        roots = notes.roots.get(getattr(message, "context", b""), ())
        position = getattr(message, "slice", 0)
        if not position < len(roots) or roots[position] != getattr(message, "root", b""):
            self.violated("SA-4", actor.id, f"it repeats other bytes of slice {position} than it sent first")

    def _say_deal(self, actor: Actor, message: Message) -> None:
        """Every share is sealed to its receiver's epoch key (SA-1), which ideal boxes show."""
        machine, sealed = actor.machine, getattr(message, "sealed", ())
        if machine is None or not isinstance(self._stage.suite, IdealCrypto):
            return
        number = actor.session.round.number
        for peer, box in zip(machine.roster, sealed, strict=False):
            expected = self._seals.get((number, peer))
            if expected is not None and box[:32] != expected:
                whose = f"{self._letter(peer)}'s share"
                self.violated("SA-1", actor.id, f"it sealed {whose} to another key than its epoch's")

    def _say_unmask(self, actor: Actor, notes: _Notes, message: Unmask) -> None:
        context = message.context
        self._durable(actor, "reveal", "unmask", context + message.survivors, "SA-7")
        if not self._certified_for(notes, context, SURVIVORS, message.survivors):
            self.violated("SA-7", actor.id, "it showed shares without a certificate of the survivors")
        selves, keys = [peer for peer, _ in message.self_shares], [peer for peer, _ in message.key_shares]
        value = notes.values.get(message.survivors)
        if value is not None and value != FAIL and sorted(selves) != sorted(_members(value)):
            self.violated("SA-7", actor.id, "it showed self seeds of others than the certified survivors")
        if value == FAIL:
            self.violated("SA-7", actor.id, "it showed shares of a round that is certified as failed")
        if len(selves) < self._quorum(context):
            self.violated("SA-6", actor.id, f"it showed the self seeds of {len(selves)} survivors")
        for kind, peers in (("self", selves), ("key", keys)):
            for peer in peers:
                if notes.kinds.setdefault((context, peer), kind) != kind:
                    self.violated("SA-3", actor.id, f"it showed both kinds of share of {self._letter(peer)}")
                self.knowledge.shown(context, kind, peer, actor.id)

    def _say_beacon(self, actor: Actor, notes: _Notes, message: Beacon) -> None:
        self._durable(actor, "reveal", "beacon", message.context + message.outcome, "SA-12")
        voted = derive.vote_value(message.context, OUTCOME, message.outcome)
        if not self._certified_for(notes, message.context, OUTCOME, voted):
            self.violated("SA-12", actor.id, "it showed shares of the beacon without a certificate of the outcome")

    # ── how rounds end ───────────────────────────────────────────────────────────────────────────────────────────────

    def _blames(self, actor: Actor, error: RemoteError) -> None:
        """No honest peer names an honest peer, unless it only reports what another said of it."""
        reported = error.reason.endswith("reports)")
        if actor.id in self._notes and error.peer in self._notes and not reported:
            who = "itself" if error.peer == actor.id else f"honest {self._letter(error.peer)}"
            self.violated("ACCURACY", actor.id, f"it names {who} under {error.clause}: {error.reason}")

    def _note_certified(self, actor: Actor) -> None:
        machine = actor.machine
        if actor.id not in self._notes or machine is None:
            return
        for topic, vote in machine.certify.items():
            if vote.certificate:
                held = self.certified.setdefault((machine.round, machine.context, topic), {})
                held.setdefault(vote.value, []).append(actor.id)

    def _finishes(self, actor: Actor, outcome: Any) -> None:
        if actor.id in self._notes:
            width = self._stage.cast.charter.protocol.width // 8
            total = actor.driver.blobs.view(outcome.total).view(np.dtype(f"<u{width}")).copy()
            self._totals.append(
                (actor.id, actor.session.round, outcome.digest, total, outcome.survivors, outcome.total_weight)
            )

    def ended(self, actor: Actor, result: RoundResult | DecentraError) -> None:
        """A round has ended for a peer."""
        if actor.id in self._notes and isinstance(result, RoundResult):
            self._results[result.round].append((actor.id, result))

    def hangs(self, late: Sequence[Actor], patience: float) -> None:
        """A round has not ended in time for these peers."""
        self.hung = True
        for actor in late:
            phase = getattr(actor.machine, "phase", "no round")
            self.violated("HANG", actor.id, f"in {phase!r} after {patience:g} virtual seconds")

    # ── at the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Judge the schedule as a whole."""
        self._one_value()
        self._one_result()
        self._exact_sums()
        self._write_once()
        self.knowledge.judge(self.violated, None if self.recovery is None else self.recovery.sums)

    def _one_value(self) -> None:
        contexts: dict[RoundId, set[bytes]] = defaultdict(set)
        for (round_id, context, topic), values in self.certified.items():
            if len(values) > 1:
                who = " and ".join("".join(map(self._letter, peers)) for peers in values.values())
                self.violated("CE-5", None, f"two values of {topic!r} are certified, at {who}")
            if topic == SURVIVORS:
                contexts[round_id].add(context)
        for round_id, several in contexts.items():
            if len(several) > 1:
                self.violated("SA-2", None, f"two contexts of round {round_id} are certified")

    def _one_result(self) -> None:
        for results in self._results.values():
            (first, expected), *others = results
            for peer, result in others:
                same = (
                    result.digest == expected.digest
                    and result.participants == expected.participants
                    and result.total_weight == expected.total_weight
                    and [one.tobytes() for one in result.values] == [one.tobytes() for one in expected.values]
                )
                if not same:
                    self.violated("SA-9", peer, f"its result is not {self._letter(first)}'s")

    def _exact_sums(self) -> None:
        for peer, round_id, _, total, survivors, weight in self._totals:
            liars = [one for one in survivors if one in self.liars]
            if self._stage.play.protocol == "secagg" and len(survivors) - self._c < 2:
                self.violated("SA-6", peer, f"a sum over {len(survivors)} is out")
            if liars and self._stage.spoiled:
                continue
            expected = np.zeros_like(total)
            for one in survivors:
                vectors = self._encoded[one, round_id]
                if not vectors:
                    self.violated("SA-9", peer, f"its sum names {self._letter(one)}, which encoded nothing")
                    break
                expected += vectors[-1]
            else:
                if not np.array_equal(total, expected) or weight != len(survivors):
                    self.violated("SA-9", peer, "its sum is not that of the survivors' vectors")

    def _write_once(self) -> None:
        """No one-time act is in a peer's journal twice, over all its processes."""
        for actor in self._stage.actors:
            if actor.id not in self._notes:
                continue
            seen: dict[tuple[RoundId, str, str], bytes] = {}
            for round_id, record in actor.journal.records:
                key = (round_id, record.kind, record.topic)
                if key in seen:
                    self.violated("SA-5", actor.id, f"{record.kind} {record.topic} is in its journal twice")
                seen[key] = record.value


def _members(value: bytes) -> tuple[bytes, ...]:
    """The survivors that a certified value names; none where it names none."""
    try:
        fields = unpack(value, len(value))
    except Malformed:
        return ()
    match fields:
        case (tuple(members), *_):
            return members
        case _:
            return ()


