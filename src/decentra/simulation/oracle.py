"""What holds of every run, whoever lies and whatever breaks: checked as honest peers act, and again at the end.

The oracle sees everything: what each honest peer takes in, decides and sends. It judges honest peers alone, by the
clauses of the specs: a machine that breaks one is found out by what it signs, held against what it was shown. The rules
are in ``votes``, ``masks``, ``echoes``, ``statements``, ``shares`` and ``endings``; here is what comes to them, and
what a peer may sign but once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from decentra.errors import DecentraError
from decentra.machine.effects import Abort, Blame, Effect, Finish, Send
from decentra.machine.events import Event, Received
from decentra.protocols.allreduce import messages as allreduce
from decentra.protocols.bucketed import messages as bucketed
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.mesh import messages as mesh
from decentra.protocols.rendezvous.messages import Ready, Roster
from decentra.protocols.secagg import messages as secagg
from decentra.protocols.shamir_gram import messages as shamir
from decentra.simulation.case import Case, Notes, Violation
from decentra.simulation.echoes import Echoes
from decentra.simulation.endings import Endings
from decentra.simulation.knowledge import Knowledge
from decentra.simulation.masks import Masks
from decentra.simulation.recovery import Recovery
from decentra.simulation.shares import Shares
from decentra.simulation.statements import Statements
from decentra.simulation.votes import Votes
from decentra.types import PeerId, RoundId, RoundResult
from decentra.wire.codec import Signed
from decentra.wire.message import Message, Verified

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor, Stage

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
    "update": "ME-1",
    "relay": "ME-4",
    "result": "ME-6",
    "mean": "BU-1",
    "bucketed.endorse": "BU-1",
    "bucketed.holding": "BU-4",
    "bucketed.relay": "BU-5",
    "bucketed.result": "BU-7",
    "shamir-gram.endorse": "SG-1",
    "shamir-gram.deal": "SG-1",
    "shamir-gram.holding": "SG-3",
    "shamir-gram.beacon": "SG-4",
    "shamir-gram.check": "SG-5",
    "shamir-gram.shown": "SG-6",
    "shamir-gram.gram": "SG-7",
    "shamir-gram.part": "SG-9",
    "shamir-gram.slice": "SG-10",
    "shamir-gram.told": "SG-11",
}
"""What a peer signs once a round, view, slice or topic, over all its processes, and the clause that says so: by a
kind's part after the dot, or by the whole kind where a protocol says it in a clause of its own."""

Hear = Callable[["Actor", Notes, Verified, Any], None]
"""What a peer takes in."""

Say = Callable[["Actor", Notes, Any], None]
"""What a peer signs."""

Part = Callable[["Actor", Notes, Send], None]
"""The same, with the blobs beside it."""


class Oracle:
    """Watches one schedule.

    Attributes:
        case: all that is known of it.
        knowledge: what coalitions learn, counted in shares.
        recovery: what computes that in earnest, where this schedule is one that does.
        hung: whether a round did not end in time.
    """

    def __init__(self, stage: Stage, liars: frozenset[PeerId]) -> None:
        self.liars, self.hung = liars, False
        self.case = Case(stage, liars)
        charter = stage.cast.charter
        self.knowledge = Knowledge(charter.ids, stage.play.c, liars)
        self.recovery = Recovery(liars, charter.protocol.width) if stage.rebuilds else None
        statements = Statements(self.case)
        masks = Masks(self.case, self.knowledge)
        self._shares = shares = Shares(self.case, masks)
        self._endings = Endings(self.case, statements, shares)
        votes = Votes(self.case, statements, shares)
        echoes = Echoes(self.case)
        self._hears: dict[type[Message], Hear] = {
            Prepare: votes.hear_prepare,
            Commit: votes.hear_commit,
            Propose: votes.hear_propose,
            Lock: votes.hear_lock,
            Certificate: votes.hear_certificate,
            Roster: masks.hear_roster,
            secagg.Context: masks.hear_context,
            secagg.Deal: masks.hear_deal,
            secagg.Masked: masks.hear_masked,
            secagg.Endorse: masks.hear_endorse,
            allreduce.Endorse: masks.hear_endorse,
            secagg.Endorsed: masks.hear_endorsed,
            allreduce.Endorsed: masks.hear_endorsed,
            mesh.Endorse: masks.hear_endorse,
            mesh.Endorsed: masks.hear_endorsed,
            mesh.Update: echoes.hear_update,
            mesh.Relay: echoes.hear_relay,
            bucketed.Endorse: masks.hear_endorse,
            bucketed.Endorsed: masks.hear_endorsed,
            bucketed.Mean: statements.hear_mean,
            shamir.Endorse: masks.hear_endorse,
            shamir.Endorsed: masks.hear_endorsed,
            shamir.Deal: shares.hear_deal,
            shamir.Beacon: shares.hear_beacon,
            shamir.Check: shares.hear,
            shamir.Gram: shares.hear,
            shamir.Slice: shares.hear,
        }
        self._says: dict[type[Message], Say] = {
            Prepare: votes.prepare,
            Commit: votes.commit,
            Ready: masks.ready,
            secagg.Deal: masks.deal,
            secagg.Endorse: masks.endorse,
            allreduce.Endorse: masks.endorse,
            mesh.Endorse: masks.endorse,
            secagg.Masked: masks.masked,
            allreduce.Slices: masks.masked,
            mesh.Update: masks.masked,
            mesh.Holding: echoes.holding,
            mesh.Relay: echoes.relay,
            mesh.Result: echoes.result,
            bucketed.Endorse: masks.endorse,
            bucketed.Mean: statements.mean,
            bucketed.Holding: statements.holding,
            bucketed.Relay: statements.relay,
            bucketed.Result: statements.result,
            secagg.Again: masks.again,
            allreduce.Again: masks.again,
            secagg.Unmask: masks.unmask,
            secagg.Beacon: masks.beacon,
            shamir.Endorse: shares.endorse,
        }
        self._parts: dict[type[Message], Part] = {
            shamir.Deal: shares.deal,
            shamir.Holding: shares.holding,
            shamir.Beacon: shares.beacon,
            shamir.Check: shares.check,
            shamir.Shown: shares.shown,
            shamir.Gram: shares.gram,
            shamir.Part: shares.part,
            shamir.Slice: shares.slice,
            shamir.Told: shares.told,
        }

    @property
    def violations(self) -> list[Violation]:
        """What did not hold, in the order found."""
        return self.case.violations

    @property
    def certified(self) -> dict[tuple[RoundId, bytes, str], dict[bytes, list[PeerId]]]:
        """What honest peers hold certificates of, by round, context and topic."""
        return self._endings.certified

    def violated(self, clause: str, who: PeerId | None, said: str) -> None:
        """Take a violation down, once."""
        self.case.violated(clause, who, said)

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def given(self, actor: Actor, name: str) -> None:
        """A peer was handed this update to contribute."""
        if actor.id in self.case.notes:
            self.case.notes[actor.id].update = name

    def encoded(self, actor: Actor, round_id: RoundId, vector: NDArray[Any]) -> None:
        """What a peer encoded, before it is masked."""
        self.case.encoded[actor.id, round_id].append(vector.copy())

    def saw(self, actor: Actor, seen: Event | Effect) -> None:
        """An event that a peer's machine takes, or an effect that its driver carries out."""
        notes = self.case.notes.get(actor.id)
        if notes is None:
            return
        if type(seen) is Received:
            verified = seen.verified
            hear = self._hears.get(type(verified.message))
            if hear is not None:
                hear(actor, notes, verified, verified.message)
            elif type(verified.message) is shamir.Shown:
                self._shares.took(actor, seen)
        elif type(seen) is Blame or type(seen) is Abort:
            self._endings.blamed(actor, notes, seen)
        elif type(seen) is Finish:
            self._endings.finished(actor, seen.result)

    # ── what they sign ───────────────────────────────────────────────────────────────────────────────────────────────

    def sent(self, actor: Actor, effect: Send, signed: Signed) -> None:
        """A message of a peer's is durable, and leaves it now."""
        notes, message = self.case.notes.get(actor.id), effect.message
        if self.recovery is not None:
            vectors = self.case.encoded[actor.id, actor.session.round]
            self.recovery.sent(actor, effect, notes.update if notes else "", vectors[-1] if vectors else None)
        if notes is None:
            return
        says = self._says.get(type(message))
        if says is not None:
            says(actor, notes, message)
        part = self._parts.get(type(message))
        if part is not None:
            part(actor, notes, effect)
        self._once(actor, notes, effect, signed)

    def _once(self, actor: Actor, notes: Notes, effect: Send, signed: Signed) -> None:
        message = effect.message
        kind = message.kind.partition(".")[2]
        clause = ONCE.get(message.kind, ONCE.get(kind))
        if clause is None:
            return
        place = ".".join(
            str(getattr(message, name))
            for name in ("topic", "view", "slice", "author", "bucket", "dealer", "receiver")
            if hasattr(message, name)
        )
        if kind == "again" and effect.to is not None:
            place += f".{effect.to}"
        slot = (actor.session.round.number, f"{kind} {place}")
        if notes.slots.setdefault(slot, signed.body) != signed.body:
            self.violated(clause, actor.id, f"it signed two different {kind} {place}".rstrip())

    # ── how rounds end ───────────────────────────────────────────────────────────────────────────────────────────────

    def ended(self, actor: Actor, result: RoundResult | DecentraError) -> None:
        """A round has ended for a peer."""
        if actor.id in self.case.notes and isinstance(result, RoundResult):
            self._endings.result(actor, result)

    def hangs(self, late: Sequence[Actor], patience: float) -> None:
        """A round has not ended in time for these peers."""
        self.hung = True
        for actor in late:
            phase = getattr(actor.machine, "phase", "no round")
            self.violated("HANG", actor.id, f"in {phase!r} after {patience:g} virtual seconds")

    def close(self) -> None:
        """Judge the schedule as a whole."""
        self._endings.close()
        self.knowledge.judge(self.violated, None if self.recovery is None else self.recovery.sums)
