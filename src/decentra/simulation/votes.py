"""The oracle's rules for votes: prepares, commits, locks, and what may be voted for (CE, SA-5, SA-9, SA-13)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from decentra import derive
from decentra.charter.policy import SHARED
from decentra.protocols.agreed import Agreed, derive_agreed
from decentra.protocols.ballots import LOST
from decentra.protocols.certify.messages import Certificate, Commit, Lock, Prepare, Propose
from decentra.protocols.evaluated import Evaluated
from decentra.protocols.mesh.holdings import holdings
from decentra.protocols.mesh.holdings import read_holding as read_agreed
from decentra.protocols.secagg.challenge import STANDS, read_verdict
from decentra.protocols.survivors import FAIL, Survivors, derive_survivors, read_holding
from decentra.simulation.case import OUTCOME, SURVIVORS, VERDICT, Ballot, Case, Notes
from decentra.simulation.shares import Shares
from decentra.simulation.statements import Statements
from decentra.transfer import blob_root, piece_digests
from decentra.types import PeerId
from decentra.wire.codec import Malformed
from decentra.wire.message import Verified

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor


class Votes:
    """Judges the votes of honest peers by what each of them had seen."""

    def __init__(self, case: Case, statements: Statements, shares: Shares) -> None:
        self._case, self._statements, self._shares = case, statements, shares
        self._given: dict[int, tuple[Propose, bool]] = {}
        """Proposals of survivors, by identity, and whether the holdings that they show give them."""

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def hear_prepare(self, actor: Actor, notes: Notes, verified: Verified, message: Prepare) -> None:
        notes.prepares[message.context, message.topic, message.view, message.value].add(verified.sender)

    def hear_commit(self, actor: Actor, notes: Notes, verified: Verified, message: Commit) -> None:
        notes.commits[message.context, message.topic, message.value][message.view].add(verified.sender)

    def hear_propose(self, actor: Actor, notes: Notes, verified: Verified, message: Propose) -> None:
        notes.proposals[message.context, message.topic, message.view].append(message)
        self._learn(notes, message)
        self._hear_cited(actor, notes, message.locked)
        if message.value == LOST and getattr(actor.machine, "_assembled", None) is not None:
            notes.refutes.add((message.context, message.topic, message.view))

    def hear_lock(self, actor: Actor, notes: Notes, verified: Verified, message: Lock) -> None:
        self._hear_cited(actor, notes, message.prepares)
        if message.prepares:
            self._learn(notes, message)

    def hear_certificate(self, actor: Actor, notes: Notes, verified: Verified, message: Certificate) -> None:
        self._learn(notes, message)
        for cited in message.commits:
            if isinstance(cited.message, Commit):
                self.hear_commit(actor, notes, cited, cited.message)

    def _hear_cited(self, actor: Actor, notes: Notes, prepares: Sequence[Verified]) -> None:
        for cited in prepares:
            if isinstance(cited.message, Prepare):
                self.hear_prepare(actor, notes, cited, cited.message)

    @staticmethod
    def _learn(notes: Notes, message: Propose | Lock | Certificate) -> None:
        notes.values[derive.vote_value(message.context, message.topic, message.value)] = message.value

    # ── what they sign ───────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, actor: Actor, notes: Notes, message: Prepare) -> None:
        what = self._casts(actor, notes, message, "prepare", "CE-2", notes.prepared)
        proposals = [
            proposal
            for proposal in notes.proposals[message.context, message.topic, message.view]
            if derive.vote_value(message.context, message.topic, proposal.value) == message.value
        ]
        if not proposals:
            said = f"it prepared a value of {what} that nobody proposed to it there"
            self._case.violated("CE-2", actor.id, said)
        locked = notes.locks.get((message.context, message.topic))
        bound = locked is not None and locked[1] != message.value
        if locked is not None and bound and not self._later_prepares(message, locked[0], proposals):
            self._case.violated("CE-3", actor.id, f"it prepared {what} against its lock of view {locked[0]}")
        if proposals:
            self._by_the_rule(actor, notes, message, proposals[0])

    def commit(self, actor: Actor, notes: Notes, message: Commit) -> None:
        what = self._casts(actor, notes, message, "commit", "CE-4", notes.committed)
        place = (message.context, message.topic, message.view)
        notes.locks[message.context, message.topic] = (message.view, message.value)
        prepares = notes.prepares[*place, message.value]
        if len(prepares) < self._case.quorum(message.context):
            self._case.violated("CE-4", actor.id, f"it committed to {what} on {len(prepares)} prepares")

    def _casts(
        self,
        actor: Actor,
        notes: Notes,
        message: Prepare | Commit,
        kind: str,
        clause: str,
        cast: dict[Ballot, bytes],
    ) -> str:
        """A vote of either kind is durable, one a view, and in no view below one that was acted in; says which."""
        case, topic = self._case, (message.context, message.topic)
        what, verb = f"{message.topic!r} in view {message.view}", f"{kind}d" if kind == "prepare" else "committed to"
        case.acts_under(actor, notes, message.context)
        case.durable(actor, kind, f"{message.topic}/{message.view}", message.context + message.value, "SA-5")
        if cast.setdefault((*topic, message.view), message.value) != message.value:
            case.violated(clause, actor.id, f"it {verb} two values of {what}")
        if message.view < notes.acted.get(topic, -1):
            case.violated(clause, actor.id, f"it {verb} {what}, below view {notes.acted[topic]} that it acted in")
        notes.acted[topic] = max(message.view, notes.acted.get(topic, -1))
        return what

    def _later_prepares(self, message: Prepare, lock: int, proposals: Sequence[Propose]) -> bool:
        """Whether a proposal showed t prepares of this value from one view after the lock's and before this one."""
        for proposal in proposals:
            signers: dict[int, set[PeerId]] = defaultdict(set)
            for cited in proposal.locked:
                if isinstance(cited.message, Prepare) and cited.message.value == message.value:
                    signers[cited.message.view].add(cited.sender)
            if any(
                lock < view < message.view and len(who) >= self._case.quorum(message.context)
                for view, who in signers.items()
            ):
                return True
        return False

    # ── what may be voted for ────────────────────────────────────────────────────────────────────────────────────────

    def _by_the_rule(self, actor: Actor, notes: Notes, message: Prepare, proposal: Propose) -> None:
        """Without t earlier prepares the protocol's rule gives what is prepared."""
        place = (message.context, message.topic, message.view)
        held = getattr(actor.machine.certify.get(message.topic), "_lock", None)
        if proposal.locked or (held is not None and held.value == proposal.value):
            return  # by votes, which are judged as votes
        match message.topic:
            case topic if topic == SURVIVORS:
                if not self._holdings_give(actor, proposal):
                    said = "it prepared survivors that the shown holdings do not give"
                    self._case.violated("CE-2", actor.id, said)
            case topic if topic == OUTCOME and proposal.value == LOST:
                if place in notes.refutes and not actor.machine._in_vain():  # then others' lack of sums counts
                    clause = actor.machine.outcome_clause
                    self._case.violated(clause, actor.id, "it prepared `lost` though it has every sum")
            case topic if topic == OUTCOME and isinstance(actor.machine, Evaluated):
                if proposal.value != LOST:
                    self._results_give(actor, proposal)
            case _ if actor.machine.protocol == SHARED:
                self._shares.votes(actor, notes, proposal)
            case topic if topic == VERDICT and proposal.value != STANDS:
                self._repairs(actor, proposal.value)

    def _holdings_give(self, actor: Actor, proposal: Propose) -> bool:
        known = self._given.get(id(proposal))
        if known is None:
            machine = actor.machine
            kind, roster, context = machine.holding_type.kind, machine.roster, machine.context
            quorum = machine.setting.quorum(len(roster))
            given: Agreed | Survivors | None
            if machine.protocol == "bucketed":
                sound, value = self._statements.gives(proposal.shown, context)
            elif machine.protocol == SHARED:
                sound, value = self._shares.gives(proposal, context)
            elif machine.protocol == "mesh":
                held = holdings(proposal.shown, roster, context)
                given = derive_agreed(roster, roster, quorum, quorum, self._case.c, held)
                sound = all(read_agreed(one, context) is not None for one in proposal.shown)
                value = None if given is None else given.pack()
            else:
                given = derive_survivors(roster, quorum, proposal.shown, kind, context)
                sound = all(read_holding(one, kind, context, len(roster)) is not None for one in proposal.shown)
                value = None if given is None else given.pack()
            who = {one.sender for one in proposal.shown}
            failed = value is None and len(who) >= quorum
            right = failed if proposal.value == FAIL else value == proposal.value
            known = self._given[id(proposal)] = (proposal, sound and right)
        return known[1]

    def _results_give(self, actor: Actor, proposal: Propose) -> None:
        """More peers than may lie signed the result that an outcome is of (ME-7, BU-8)."""
        machine = actor.machine
        kind = machine.result_type
        results: dict[PeerId, Any] = {one.sender: one.message for one in proposal.shown if type(one.message) is kind}
        values = {
            derive.outcome_value(one.context, one.survivors, one.weight, (one.root,)) for one in results.values()
        }
        if values != {proposal.value} or len(results.keys() & set(machine.roster)) <= self._case.c:
            self._case.violated(machine.outcome_clause, actor.id, "it prepared an outcome that no c + 1 results give")

    def _repairs(self, actor: Actor, value: bytes) -> None:
        """A repair that an honest peer prepares is the sum of what the survivors encoded (SA-13)."""
        machine, case = actor.machine, self._case
        try:
            repairs = read_verdict(value)
        except Malformed:
            case.violated("SA-13", actor.id, "it prepared a verdict that is none")
            return
        expected = case.sum_of(machine.members, machine.round)
        if expected is None or (case.stage.spoils == "vectors" and not case.liars.isdisjoint(machine.members)):
            return
        for position, root in repairs.items():
            low, high = machine.bounds[position]
            data = np.ascontiguousarray(expected[low:high]).view(np.uint8).data
            if root != blob_root(data.nbytes, piece_digests(data)):
                case.violated("SA-13", actor.id, f"it prepared a repair of slice {position} that is wrong")
