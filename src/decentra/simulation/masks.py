"""The oracle's rules for contexts, masks and shares: what leaves, under what, and what is shown of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentra import derive
from decentra.crypto.agreement import check_public
from decentra.protocols.rendezvous.messages import Ready, Roster
from decentra.protocols.secagg.messages import Beacon, Context, Deal, Masked, Unmask
from decentra.protocols.slices import Endorse, Endorsed
from decentra.protocols.survivors import FAIL
from decentra.simulation.case import OUTCOME, SURVIVORS, Case, Notes, members_of
from decentra.simulation.ideal import IdealCrypto
from decentra.simulation.knowledge import Knowledge, Masking
from decentra.types import PeerId
from decentra.wire.message import Message, Verified

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor


CLAUSES = {"secagg": ("SA-2", "SA-4"), "allreduce": ("AR-1", "AR-2"), "mesh": ("ME-1", "ME-1"),
           "shamir-gram": ("SG-1", "SG-1")}
"""By protocol, what says that a context is endorsed by all, and that one update leaves under it."""


class Masks:
    """Judges what honest peers deal, endorse, mask and show, and hands on what a coalition learns of it."""

    def __init__(self, case: Case, knowledge: Knowledge) -> None:
        self._case, self._knowledge = case, knowledge
        self._seals: dict[tuple[int, PeerId], bytes] = {}

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def hear_roster(self, actor: Actor, notes: Notes, verified: Verified, message: Roster) -> None:
        notes.rosters.append(message)

    def hear_context(self, actor: Actor, notes: Notes, verified: Verified, message: Context) -> None:
        notes.listed.append(message)

    def hear_deal(self, actor: Actor, notes: Notes, verified: Verified, message: Deal) -> None:
        notes.deals[verified.body_hash] = message

    def hear_masked(self, actor: Actor, notes: Notes, verified: Verified, message: Masked) -> None:
        notes.vectors[verified.entry.round, verified.sender].add(verified.body_hash)

    def hear_endorse(self, actor: Actor, notes: Notes, verified: Verified, message: Message) -> None:
        notes.endorsed[getattr(message, "context", b"")].add(verified.sender)

    def hear_endorsed(self, actor: Actor, notes: Notes, verified: Verified, message: Endorsed) -> None:
        for one in message.endorsements:
            if isinstance(one.message, Endorse) and one.entry.round_id == verified.entry.round_id:
                self.hear_endorse(actor, notes, one, one.message)

    # ── contexts and deals ───────────────────────────────────────────────────────────────────────────────────────────

    def ready(self, actor: Actor, notes: Notes, message: Ready) -> None:
        self._seals[actor.session.round.number, actor.id] = message.seal

    def deal(self, actor: Actor, notes: Notes, message: Deal) -> None:
        """Every share is sealed to its receiver's epoch key (SA-1), which ideal boxes show."""
        machine = actor.machine
        if machine is None or not isinstance(self._case.stage.suite, IdealCrypto):
            return
        number = actor.session.round.number
        for peer, box in zip(machine.roster, message.sealed, strict=False):
            expected = self._seals.get((number, peer))
            if expected is not None and box[:32] != expected:
                whose = f"{self._case.letter(peer)}'s share"
                self._case.violated("SA-1", actor.id, f"it sealed {whose} to another key than its epoch's")

    def endorse(self, actor: Actor, notes: Notes, message: Message) -> None:
        machine, context = actor.machine, getattr(message, "context", b"")
        self._case.rosters.setdefault(context, () if machine is None else tuple(machine.roster))
        if message.kind.startswith("secagg") and machine is not None:
            self._endorses(actor, notes, context)

    def _endorses(self, actor: Actor, notes: Notes, context: bytes) -> None:
        """A context binds session, round, view, roster, model, vector and the listed deals (SA-2), and the keys of
        those deals are sound (SA-1)."""
        machine = actor.machine
        setting, mine = machine.setting, machine.mine
        layout = derive.vector_layout(mine.specs, machine.ranges)
        for roster in notes.rosters:
            for listed in notes.listed:
                derived = derive.context(
                    session=setting.session,
                    round_id=actor.session.round,
                    view=roster.view,
                    roster=roster.members,
                    fingerprint=roster.fingerprint,
                    layout=layout,
                    state=roster.state,
                    width=setting.width,
                    max_weight=setting.max_weight,
                    deals=listed.deals,
                )
                if derived == context:
                    self._sound_keys(actor, notes, listed)
                    return
        self._case.violated("SA-2", actor.id, "its context binds another roster, view or list of deals")
        for listed in notes.listed:
            self._sound_keys(actor, notes, listed)

    def _sound_keys(self, actor: Actor, notes: Notes, listed: Context) -> None:
        for hashed in listed.deals:
            known = notes.deals.get(hashed)
            if known is None:
                continue
            try:
                check_public(known.mask_public)
            except ValueError:
                self._case.violated("SA-1", actor.id, "it endorsed a deal with a mask key of low order")

    # ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def masked(self, actor: Actor, notes: Notes, message: Message) -> None:
        case, context = self._case, getattr(message, "context", b"")
        roots = getattr(message, "roots", (getattr(message, "root", b""),))
        protocol = message.kind.partition(".")[0]
        hides, (all_endorsed, once) = protocol == "secagg", CLAUSES[protocol]
        case.acts_under(actor, notes, context)
        roster = case.rosters.get(context, ())
        absent = [peer for peer in roster if peer not in notes.endorsed[context]]
        if absent or not roster:
            who = "".join(map(case.letter, absent)) or "anyone"
            case.violated(all_endorsed, actor.id, f"it masked under a context that {who} had not endorsed")
        case.durable(actor, "intent", "update", context + b"".join(roots), once)
        if notes.roots.setdefault(context, roots) != roots:
            case.violated(once, actor.id, "it sent two different vectors under one context")
        earlier = notes.masked[notes.update]
        if any(not self._freed(notes, actor.id, known) for known in earlier if known != context):
            case.violated(once, actor.id, "it masked an update again that no certificate had freed")
        if context not in earlier:
            earlier.append(context)
        if hides:
            self._knowledge.masked(Masking(actor.id, context, notes.update, roster))

    def _freed(self, notes: Notes, me: PeerId, context: bytes) -> bool:
        """Whether a peer has seen a certificate that leaves it out of the survivors, or fails the round (SA-4)."""
        for under, topic, digest in list(notes.commits):
            if (under, topic) == (context, SURVIVORS) and self._case.certified_for(notes, context, topic, digest):
                value = notes.values.get(digest)
                if value == FAIL or (value is not None and me not in members_of(value)):
                    return True
        return False

    def again(self, actor: Actor, notes: Notes, message: Message) -> None:
        roots = notes.roots.get(getattr(message, "context", b""), ())
        position = getattr(message, "slice", 0)
        if not position < len(roots) or roots[position] != getattr(message, "root", b""):
            self._case.violated("SA-4", actor.id, f"it repeats other bytes of slice {position} than it sent first")

    # ── shares ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def unmask(self, actor: Actor, notes: Notes, message: Unmask) -> None:
        case, context = self._case, message.context
        case.durable(actor, "reveal", "unmask", context + message.survivors, "SA-7")
        if not case.certified_for(notes, context, SURVIVORS, message.survivors):
            case.violated("SA-7", actor.id, "it showed shares without a certificate of the survivors")
        selves, keys = [peer for peer, _ in message.self_shares], [peer for peer, _ in message.key_shares]
        value = notes.values.get(message.survivors)
        if value is not None and value != FAIL and sorted(selves) != sorted(members_of(value)):
            case.violated("SA-7", actor.id, "it showed self seeds of others than the certified survivors")
        if value == FAIL:
            case.violated("SA-7", actor.id, "it showed shares of a round that is certified as failed")
        if len(selves) < case.quorum(context):
            case.violated("SA-6", actor.id, f"it showed the self seeds of {len(selves)} survivors")
        for kind, peers in (("self", selves), ("key", keys)):
            for peer in peers:
                if notes.kinds.setdefault((context, peer), kind) != kind:
                    case.violated("SA-3", actor.id, f"it showed both kinds of share of {case.letter(peer)}")
                self._knowledge.shown(context, kind, peer, actor.id)

    def beacon(self, actor: Actor, notes: Notes, message: Beacon) -> None:
        case = self._case
        case.durable(actor, "reveal", "beacon", message.context + message.outcome, "SA-12")
        voted = derive.vote_value(message.context, OUTCOME, message.outcome)
        if not case.certified_for(notes, message.context, OUTCOME, voted):
            case.violated("SA-12", actor.id, "it showed shares of the beacon without a certificate of the outcome")
