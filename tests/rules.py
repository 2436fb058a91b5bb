"""What else must hold of honest peers' acts in a simulated schedule: what the simulator's oracle does not judge.

`watch` sets these rules beside a stage's oracle; what they find is among its violations.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decentra import derive
from decentra.crypto.agreement import check_public
from decentra.machine.effects import Blame, Effect, Finish, Send
from decentra.machine.events import Event, Received
from decentra.protocols.certify.messages import Lock, Prepare, Propose
from decentra.protocols.reduce import LOST
from decentra.protocols.rendezvous.messages import Roster
from decentra.protocols.secagg.challenge import STANDS, read_verdict
from decentra.protocols.secagg.messages import Context, Deal, Masked
from decentra.protocols.survivors import FAIL, derive_survivors, read_holding
from decentra.simulation.stage import Actor, Stage
from decentra.transfer import blob_root, piece_digests
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed, Signed
from decentra.wire.message import Verified


@dataclass
class Seen:
    """What one honest peer took in, in all its processes."""

    rosters: list[Roster] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    deals: dict[bytes, Deal] = field(default_factory=dict)
    proposals: list[Propose] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    vectors: dict[tuple[int, PeerId], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    named: set[tuple[int, PeerId | None]] = field(default_factory=set)


class Rules:
    """Watches a stage through its oracle."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._oracle = stage, stage.oracle
        self._seen: dict[PeerId, Seen] = defaultdict(Seen)
        self._saw, self._sent, self._close = stage.oracle.saw, stage.oracle.sent, stage.oracle.close
        hooks: dict[str, Any] = {"saw": self.saw, "sent": self.sent, "close": self.close}
        for name, hook in hooks.items():
            setattr(stage.oracle, name, hook)

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def saw(self, actor: Actor, seen: Event | Effect) -> None:
        self._saw(actor, seen)
        if actor.id in self._oracle.liars:
            return
        number, notes = actor.session.round.number, self._seen[actor.id]
        if isinstance(seen, Received):
            self._take(notes, number, seen.verified)
        elif isinstance(seen, Finish):
            self._finishes(actor, seen.result)
        error = getattr(seen, "error", None)
        if error is not None:
            notes.named.add((number, getattr(error, "peer", None) if isinstance(seen, Blame) else None))
            notes.named.add((number, getattr(error, "peer", None)))

    def _take(self, notes: Seen, number: int, verified: Verified) -> None:
        match verified.message:
            case Roster() as message:
                notes.rosters.append(message)
            case Context() as message:
                notes.contexts.append(message)
            case Deal() as message:
                notes.deals[verified.body_hash] = message
            case Propose() as message:
                notes.proposals.append(message)
            case Masked():
                notes.vectors[number, verified.sender].add(verified.body_hash)

    # ── what honest peers sign ───────────────────────────────────────────────────────────────────────────────────────

    def sent(self, actor: Actor, effect: Send, signed: Signed) -> None:
        self._sent(actor, effect, signed)
        if actor.id in self._oracle.liars:
            return
        message, notes = effect.message, self._seen[actor.id]
        if message.kind == "secagg.endorse":
            self._endorses(actor, notes, getattr(message, "context", b""))
        elif isinstance(message, Prepare):
            self._prepares(actor, notes, message)

    def _endorses(self, actor: Actor, notes: Seen, context: bytes) -> None:
        """SA-2: a context binds session, round, view, roster, model, vector and the listed deals. SA-1: whose keys are
        sound."""
        machine = actor.machine
        setting, mine = machine.setting, machine.mine
        for roster in notes.rosters:
            for listed in notes.contexts:
                derived = derive.context(
                    session=setting.session,
                    round_id=actor.session.round,
                    view=roster.view,
                    roster=roster.members,
                    fingerprint=roster.fingerprint,
                    layout=derive.vector_layout(mine.specs, machine.ranges),
                    state=roster.state,
                    width=setting.width,
                    max_weight=setting.max_weight,
                    deals=listed.deals,
                )
                if derived == context:
                    self._sound_keys(actor, notes, listed)
                    return
        self._oracle.violated("SA-2", actor.id, "its context binds another roster, view or list of deals")
        for listed in notes.contexts:
            self._sound_keys(actor, notes, listed)

    def _sound_keys(self, actor: Actor, notes: Seen, listed: Context) -> None:
        for hashed in listed.deals:
            known = notes.deals.get(hashed)
            if known is None:
                continue
            try:
                check_public(known.mask_public)
            except ValueError:
                self._oracle.violated("SA-1", actor.id, "it endorsed a deal with a mask key of low order")

    def _prepares(self, actor: Actor, notes: Seen, message: Prepare) -> None:
        """CE-2, SA-9, SA-13: without t earlier prepares the protocol's rule gives what is prepared."""
        machine = actor.machine
        for proposal in notes.proposals:
            place = (proposal.context, proposal.topic, proposal.view)
            digest = derive.vote_value(proposal.context, proposal.topic, proposal.value)
            if place != (message.context, message.topic, message.view) or digest != message.value:
                continue
            held = machine.certify[message.topic]._lock
            if proposal.locked or (held is not None and held.value == proposal.value):
                return  # by votes, which the oracle judges
            if message.topic == "survivors":
                self._given(actor, proposal)
            elif message.topic == "outcome" and proposal.value == LOST and machine._assembled is not None:
                self._oracle.violated("SA-9", actor.id, "it prepared `lost` though it has every sum")
            elif message.topic == "verdict" and proposal.value != STANDS:
                self._repairs(actor, proposal.value)
            return

    def _given(self, actor: Actor, proposal: Propose) -> None:
        machine = actor.machine
        kind, n = "secagg.holding", len(machine.roster)
        given = derive_survivors(machine.roster, machine.setting.quorum(n), proposal.shown, kind, machine.context)
        sound = all(read_holding(one, kind, machine.context, n) is not None for one in proposal.shown)
        who = {one.sender for one in proposal.shown}
        if proposal.value == FAIL:
            right = given is None and len(who) >= machine.setting.quorum(n)
        else:
            right = given is not None and given.pack() == proposal.value
        if not (sound and right):
            self._oracle.violated("CE-2", actor.id, "it prepared survivors that the shown holdings do not give")

    def _repairs(self, actor: Actor, value: bytes) -> None:
        machine = actor.machine
        try:
            repairs = read_verdict(value)
        except Malformed:
            self._oracle.violated("SA-13", actor.id, "it prepared a verdict that is none")
            return
        for position, root in repairs.items():
            expected = self._sum(machine.members, machine.round)
            low, high = machine.bounds[position]
            data = np.ascontiguousarray(expected[low:high]).view(np.uint8).data
            if root != blob_root(data.nbytes, piece_digests(data)):
                self._oracle.violated("SA-13", actor.id, f"it prepared a repair of slice {position} that is wrong")

    # ── how rounds end ───────────────────────────────────────────────────────────────────────────────────────────────

    def _sum(self, members: tuple[PeerId, ...], round_id: RoundId) -> Any:
        """The sum of what these peers encoded last."""
        first, *others = (self._oracle._encoded[peer, round_id][-1] for peer in members)
        return sum(others, first.copy())

    def _finishes(self, actor: Actor, outcome: Any) -> None:
        """SA-9: a weight that the survivors can have. SA-13: a picked slice is what the survivors encoded."""
        machine = actor.machine
        count = len(outcome.survivors)
        if not count <= outcome.total_weight <= count * machine.setting.max_weight:
            said = f"its result weighs {outcome.total_weight}, which {count} survivors cannot"
            self._oracle.violated("SA-9", actor.id, said)
        if machine._challenge is not None and self._lies_about_sums():
            self._picked(actor, outcome)

    def _lies_about_sums(self) -> bool:
        """Whether all that is wrong in this schedule are false sums, of vectors that are what their owners encoded."""
        hazards, coalition = self._stage.hazards, self._stage.coalition
        calm = not (hazards.edges or hazards.cuts or hazards.crashes or hazards.rates or hazards.slow)
        return calm and coalition is not None and coalition.adversary.name in ("false-sum", "stubborn-sum")

    def _picked(self, actor: Actor, outcome: Any) -> None:
        """A sum that an honest verifier recomputed is right in the result; one that nobody could, may stand."""
        machine = actor.machine
        challenges = [other.machine._challenge for other in self._honest() if other.machine is not None]
        expected = self._sum(outcome.survivors, machine.round)
        total = actor.driver.blobs.view(outcome.total).view(expected.dtype)
        for position in machine._challenge.slices:
            low, high = machine.bounds[position]
            recomputed = any(one is not None and position in one.sums for one in challenges)
            if recomputed and not np.array_equal(total[low:high], expected[low:high]):
                self._oracle.violated("SA-13", actor.id, f"a false sum of slice {position} stands")

    def _honest(self) -> list[Actor]:
        return [actor for actor in self._stage.actors if actor.id not in self._oracle.liars]

    def close(self) -> None:
        for peer, notes in sorted(self._seen.items()):
            for (number, sender), hashes in sorted(notes.vectors.items()):
                if len(hashes) > 1 and (number, sender) not in notes.named:
                    said = f"it saw two vectors of {self._stage.letter(sender)}'s in a round and named nobody"
                    self._oracle.violated("EQUIVOCATION", peer, said)
        self._close()


def watch(stage: Stage) -> Rules:
    """Set these rules beside a stage's oracle; call it before the stage runs."""
    return Rules(stage)


