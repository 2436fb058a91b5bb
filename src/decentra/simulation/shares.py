"""The oracle's rules for shared updates: what is dealt, held, told and opened of them, and what may be certified (SG).

What an honest peer says is held against ``dealt``: the same, computed anew from what was dealt to it and shown to it.
Over all peers of a round stands what stays secret: of an honest update no share goes to anybody but its receiver, one
word is told under one certified set of deals and sharings of zero, and one weighted sum is opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentra import derive
from decentra.crypto.hashing import digest
from decentra.crypto.shares.field61 import PRIME
from decentra.machine.effects import Send
from decentra.machine.events import Received
from decentra.protocols.certify.messages import Propose
from decentra.protocols.shamir_gram.messages import Beacon, Check, Deal, Gram, Holding, Shown, Slice
from decentra.protocols.sharing import rebuild
from decentra.protocols.survivors import FAIL
from decentra.simulation import recount
from decentra.simulation.case import SURVIVORS, Case, Notes
from decentra.simulation.dealt import Agreed, Dealt, Pair, Row, Stands, Values, Weighed, elements, root_of
from decentra.simulation.masks import Masks
from decentra.simulation.settled import CHECKED, GEOMETRY, UNDECIDED, Settled
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified

if TYPE_CHECKING:
    from decentra.simulation.stage import Actor

Certified = Mapping[tuple[RoundId, bytes, str], Mapping[bytes, list[PeerId]]]


class Shares(Settled):
    """Judges what honest peers say of shared updates."""

    def __init__(self, case: Case, masks: Masks) -> None:
        super().__init__(case)
        self._masks = masks
        self._deals: dict[bytes, tuple[PeerId, Deal]] = {}
        """By the hash of its body each deal that came to anybody, and whose it is."""
        self._beacons: dict[bytes, dict[PeerId, Beacon]] = defaultdict(dict)
        self._came: dict[tuple[PeerId, bytes, str], dict[PeerId, Any]] = defaultdict(dict)
        """What came first of each peer, by whom it came to, the context and the kind."""
        self._hashes: dict[tuple[PeerId, int, PeerId, str], set[bytes]] = defaultdict(set)
        """All that came of each, by its hash."""
        self._blobs: dict[tuple[PeerId, bytes], dict[Pair, Row | None]] = defaultdict(dict)
        """What blobs that were shown to a peer deal, in the order in which they came."""
        self._showed: dict[tuple[PeerId, bytes], set[tuple[PeerId, Pair]]] = defaultdict(set)
        """Who showed a peer what."""
        self._opened: dict[tuple[int, str], set[bytes]] = defaultdict(set)
        """Under what words were told and parts sent, by honest peers of a round."""

    # ── what peers take in ───────────────────────────────────────────────────────────────────────────────────────────

    def hear_deal(self, actor: Actor, notes: Notes, verified: Verified, message: Deal) -> None:
        notes.vectors[verified.entry.round, verified.sender].add(verified.body_hash)
        self._deals.setdefault(verified.body_hash, (verified.sender, message))

    def hear_beacon(self, actor: Actor, notes: Notes, verified: Verified, message: Beacon) -> None:
        self._beacons[message.context].setdefault(verified.sender, message)

    def hear(self, actor: Actor, notes: Notes, verified: Verified, message: Check | Gram | Slice) -> None:
        """Whatever else there is one of a peer."""
        self._hashes[actor.id, verified.entry.round, verified.sender, message.kind].add(verified.body_hash)
        self._came[actor.id, message.context, message.kind].setdefault(verified.sender, message)

    def took(self, actor: Actor, received: Received) -> None:
        """A blob that is shown."""
        message, dealt = received.verified.message, self._dealt.get(getattr(received.verified.message, "context", b""))
        if not isinstance(message, Shown) or dealt is None or received.blob is None:
            return
        pair = message.dealer, message.receiver
        data = actor.driver.blobs.view(received.blob)
        if root_of(data) in self._signed(dealt, message.context, *pair):
            self._blobs[actor.id, message.context].setdefault(pair, dealt.read(*pair, data.tobytes()))
            self._showed[actor.id, message.context].add((received.verified.sender, pair))

    def _signed(self, dealt: Dealt, context: bytes, dealer: PeerId, receiver: PeerId) -> set[bytes]:
        """The roots that a dealer signed for a receiver."""
        if receiver not in dealt.roster:
            return set()
        at = dealt.roster.index(receiver)
        of = [deal for whose, deal in self._deals.values() if whose == dealer and deal.context == context]
        return {deal.roots[at] for deal in of if len(deal.roots) == dealt.n}

    # ── contexts and deals (SG-1, SG-2) ──────────────────────────────────────────────────────────────────────────────

    def endorse(self, actor: Actor, notes: Notes, message: Message) -> None:
        """A context binds session, round, view, roster, model and vector (SG-1)."""
        self._masks.endorse(actor, notes, message)
        machine, context = actor.machine, getattr(message, "context", b"")
        setting, mine = machine.setting, machine.mine
        layout = derive.vector_layout(mine.specs, machine.ranges)
        derived = {
            derive.context(
                session=setting.session,
                round_id=actor.session.round,
                view=roster.view,
                roster=roster.members,
                fingerprint=roster.fingerprint,
                layout=layout,
                state=roster.state,
                width=setting.width,
                max_weight=setting.max_weight,
                deals=(),
            )
            for roster in notes.rosters
        }
        if context not in derived:
            self._case.violated("SG-1", actor.id, "its context binds another roster or view than it was shown")
        if context not in self._dealt:
            rule = self._case.stage.cast.charter.protocol.rule
            self._dealt[context] = Dealt(machine.table, self._case.c, mine.length - 1, rule)

    def deal(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """One update, under one context, durable before; each blob to its receiver alone, and sound (SG-1, SG-2,
        SG-6)."""
        message: Any = effect.message
        case, machine = self._case, actor.machine
        self._masks.masked(actor, notes, message)
        dealt = self._dealt.get(message.context)
        if dealt is None:
            case.violated("SG-1", actor.id, "it dealt under a context that it did not endorse")
            return
        blobs = {**effect.blobs, actor.id: machine.blobs[actor.id]}
        rows: dict[PeerId, Row] = {}
        for peer, root in zip(dealt.roster, message.roots, strict=True):
            data = actor.driver.blobs.view(blobs[peer]) if peer in blobs else np.empty(0, np.uint8)
            row = dealt.read(actor.id, peer, data.tobytes())
            if row is None or root_of(data) != root:
                case.violated("SG-2", actor.id, f"what it deals {case.letter(peer)} is not what it signed, or no share")
                return
            rows[peer] = row
        if effect.to is not None or set(blobs) != set(dealt.roster):
            case.violated("SG-2", actor.id, "it deals to others than the roster")
        hashed = sha256(case.stage.registry.encode(message)).digest()
        dealt.rows[hashed] = rows
        self._deals[hashed] = actor.id, message
        encoded = case.encoded[actor.id, actor.session.round]
        vector = [int(value) for value in encoded[-1].view(np.int32)[:-1]] if encoded else []
        sound = dealt.lies_on_polynomials(hashed, dealt.roster)
        if not sound or list(dealt.vector(hashed, dealt.roster) or ()) != vector:
            case.violated("SG-6", actor.id, "what it dealt is on no polynomials of its update, or of zero")
        length = sum(value * value for value in vector)
        if length > recount.RADIUS**2 or any(abs(value) > dealt.most for value in vector):
            case.violated("SG-6", actor.id, "it dealt a vector that encoding does not give")

    # ── holdings and the beacon (SG-3, SG-4) ─────────────────────────────────────────────────────────────────────────

    def holding(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """Whom it names, dealt it what it signed; and what came in time is named (SG-2, SG-3)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        held = dict(message.held)
        if actor.id not in held or not set(held) <= set(dealt.roster):
            case.violated("SG-3", actor.id, "its holding does not name itself, or names others than the roster")
        came = self._sound_deals(actor, dealt)
        for peer, hashed in held.items():
            row = came.get((peer, hashed))
            if row is None:
                case.violated("SG-3", actor.id, f"it holds a deal of {case.letter(peer)}'s that is not whole with it")
            else:
                dealt.rows.setdefault(hashed, {})[actor.id] = row
        if case.stage.hazards.calm and {peer for peer, _ in came} - set(held):
            case.violated("SG-3", actor.id, "it leaves out who dealt it soundly")

    def _sound_deals(self, actor: Actor, dealt: Dealt) -> dict[tuple[PeerId, bytes], Row]:
        """The deals that a peer has whole: the blob is what was signed, all numbers are elements, and its share of z
        opens."""
        machine, sound = actor.machine, {}
        for peer, received in machine.got(Deal.kind).items():
            deal, hashed = received.verified.message, received.verified.body_hash
            if not isinstance(deal, Deal) or len({len(deal.roots), len(deal.sealed), dealt.n}) != 1:
                continue
            if peer == actor.id:
                if peer in dealt.rows.get(hashed, {}):
                    sound[peer, hashed] = dealt.rows[hashed][peer]
                continue
            blob, at = received.blob, dealt.point(actor.id) - 1
            data = b"" if blob is None else actor.driver.blobs.view(blob).tobytes()
            row = dealt.read(peer, actor.id, data)
            if row is None or root_of(np.frombuffer(data, np.uint8)) != deal.roots[at]:
                continue
            share = machine._beacon_shares.get(peer, b"")
            if dealt.table.share_hash(peer, actor.id, "beacon", share) == deal.beacon_share_hashes[at]:
                sound[peer, hashed] = row
        return sound

    def beacon(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """Its shares of the survivors' parts, under their certificate, durable before (SG-4)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        case.durable(actor, "reveal", "beacon", message.context + message.certificate, "SG-4")
        agreed = self._agreed(notes, message.context, message.certificate)
        if agreed is None:
            case.violated("SG-4", actor.id, "it showed shares of the beacon without a certificate of the survivors")
            return
        if tuple(peer for peer, _ in message.shares) != agreed.dealers:
            case.violated("SG-4", actor.id, "it showed shares of others' parts than the survivors'")
            return
        for peer, share in message.shares:
            _, deal = self._deals[agreed.hashes[peer]]
            signed = deal.beacon_share_hashes[dealt.point(actor.id) - 1]
            if dealt.table.share_hash(peer, actor.id, "beacon", share) != signed:
                case.violated("SG-4", actor.id, f"its share of {case.letter(peer)}'s part is not what was dealt")

    def _draw(self, actor: Actor, dealt: Dealt, context: bytes, agreed: Agreed) -> None:
        """The beacon follows from t shares of every part, the same for everybody (SG-4)."""
        if not dealt.beacon:
            dealt.beacon = derive.beacon(context, [self._part(dealt, context, agreed, peer) for peer in agreed.dealers])
        if actor.machine.drawn_beacon != dealt.beacon:
            self._case.violated("SG-4", actor.id, "its beacon is not what the shown shares give")

    def _part(self, dealt: Dealt, context: bytes, agreed: Agreed, dealer: PeerId) -> bytes:
        _, deal = self._deals[agreed.hashes[dealer]]
        shares = {
            dealt.point(sender): share
            for sender, message in self._beacons[context].items()
            for peer, share in message.shares
            if peer == dealer and sender in dealt.roster
            and dealt.table.share_hash(dealer, sender, "beacon", share)
            == deal.beacon_share_hashes[dealt.point(sender) - 1]
        }  # fmt: skip
        part = rebuild(dealt.table, dealer, "beacon", deal.beacon_share_hashes, shares)
        told = part is not None and dealt.table.secret_hash(dealer, "beacon", part) == deal.beacon_hash
        return part if told and part is not None else bytes(32)

    # ── checks and what is shown (SG-5, SG-6) ────────────────────────────────────────────────────────────────────────

    def check(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """A holder's combinations of what each survivor dealt it, durable before (SG-5)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        case.durable(actor, "reveal", "check", message.context + message.certificate, "SG-5")
        agreed = self._agreed(notes, message.context, message.certificate)
        if agreed is None or actor.id not in agreed.holders:
            case.violated("SG-5", actor.id, "it told a check without a certificate that makes it a holder")
            return
        self._draw(actor, dealt, message.context, agreed)
        if not self._holds(actor, dealt, agreed, "SG-5"):
            return
        told = [dealt.tells(dealt.rows[agreed.hashes[peer]][actor.id]) for peer in agreed.dealers]
        if (elements(message.degrees), elements(message.zeros)) != tuple(zip(*told, strict=True)):
            case.violated("SG-5", actor.id, "its check is not what it was dealt gives")

    def _holds(self, actor: Actor, dealt: Dealt, agreed: Agreed, clause: str) -> bool:
        """Whether a holder has what every survivor dealt it."""
        holds = all(actor.id in dealt.rows.get(hashed, {}) for hashed in agreed.hashes.values())
        if not holds:
            self._case.violated(clause, actor.id, "it tells of deals that it has not")
        return holds

    def shown(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """A share is shown by its receiver where the dealer dealt it wrong, and passed on by some others; of an honest
        update none is (SG-6)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        dealer, receiver = pair = message.dealer, message.receiver
        whose = f"{case.letter(receiver)}'s share of {case.letter(dealer)}'s update"
        if dealer not in case.liars and receiver not in case.liars:
            case.violated("SG-6", actor.id, f"it showed {whose}, both of whom are honest")
        if any(root_of(actor.driver.blobs.view(blob)) != message.root for blob in effect.blobs.values()):
            case.violated("SG-6", actor.id, f"it showed other bytes than it says for {whose}")
        agreed = self._agreed(notes, message.context, message.certificate)
        if agreed is None or message.root not in self._signed(dealt, message.context, *pair):
            case.violated("SG-6", actor.id, f"it showed {whose}, which that one never signed, or under no certificate")
            return
        if receiver != actor.id:
            some = [peer for peer in dealt.roster if peer != receiver][: case.c + 1]
            at_once = (receiver, pair) in self._showed[actor.id, message.context] and actor.id in some
            known = pair in self._blobs[actor.id, message.context]
            if not known or not (at_once or CHECKED in actor.machine.waited):
                case.violated("SG-6", actor.id, f"it passed on {whose}, which was not its to pass on")
            return
        held = dealt.rows.get(agreed.hashes.get(dealer, b""), {})
        if actor.id not in held:
            case.violated("SG-6", actor.id, f"it showed {whose}, which does not count")
            return
        self._blobs[actor.id, message.context].setdefault(pair, held[actor.id])
        honest = [peer for peer in agreed.holders if peer in held and peer not in case.liars]
        if dealt.lies_on_polynomials(agreed.hashes[dealer], honest):
            case.violated("SG-6", actor.id, f"it showed {whose}, which fits what others hold")

    # ── words (SG-7) ─────────────────────────────────────────────────────────────────────────────────────────────────

    def gram(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """One word, under the certificate of what stands and all of its sharings of zero, durable before (SG-7)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        case.durable(actor, "reveal", "gram", message.context + message.certificate, "SG-7")
        stands = self._stands(notes, message.context, message.certificate)
        agreed = self._settled(notes, message.context)
        if stands is None or agreed is None or actor.id not in stands.holders:
            case.violated("SG-7", actor.id, "it told a word without a certificate that counts it")
            return
        self._one(actor, message, "SG-7", "words are told under two sets of deals and sharings of zero in one round")
        if len(stands.zeros) <= case.c:
            case.violated("SG-7", actor.id, f"its word is hidden by {len(stands.zeros)} sharings of zero")
        if not self._holds(actor, dealt, agreed, "SG-7"):
            return
        if list(elements(message.word)) != dealt.word(agreed, stands, actor.id):
            case.violated("SG-7", actor.id, "its word is not that of its shares under all sharings of zero that stand")

    def _one(self, actor: Actor, message: Any, clause: str, said: str) -> None:
        """What all honest peers of a round tell, they tell under one certificate."""
        under = self._opened[actor.session.round.number, message.kind]
        under.add(message.certificate)
        if len(under) > 1:
            self._case.violated(clause, actor.id, said)

    # ── the sum (SG-9 to SG-11) ──────────────────────────────────────────────────────────────────────────────────────

    def part(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """Its share of the certified weighted sum, a slice to each owner (SG-9)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        case.durable(actor, "reveal", "part", message.context + message.certificate, "SG-9")
        settled = self._weighed(notes, message.context, message.certificate)
        if settled is None or actor.id not in settled[1].holders:
            case.violated("SG-9", actor.id, "it sent parts without a certificate that makes it a holder")
            return
        self._one(actor, message, "SG-9", "two weighted sums are opened in one round")
        agreed, weighed = settled
        if not self._holds(actor, dealt, agreed, "SG-9"):
            return
        share = np.array(dealt.share_of_sum(agreed, weighed, actor.id), np.uint64)
        for owner, root, (low, high) in zip(weighed.holders, message.roots, dealt.bounds(weighed), strict=True):
            blob = effect.blobs.get(owner)
            sent = root if blob is None else root_of(actor.driver.blobs.view(blob))
            if low < high and not root == sent == root_of(share[low:high]):
                case.violated("SG-9", actor.id, f"its part for {case.letter(owner)} is not its share of the sum")
        if not set(effect.blobs) <= set(weighed.holders):
            case.violated("SG-9", actor.id, "it sent parts to who owns no slice")

    def slice(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """An owner's slice is that of the weighted sum of what was dealt (SG-10)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        settled = self._weighed(notes, message.context, message.certificate)
        if settled is None or actor.id not in settled[1].holders:
            case.violated("SG-10", actor.id, "it published a slice without a certificate that makes it an owner")
            return
        agreed, weighed = settled
        opens = self._opens(dealt, notes, message.context, agreed, weighed)
        if opens is None:
            return
        mine = opens.slices[weighed.holders.index(actor.id)]
        sent = {root_of(actor.driver.blobs.view(blob)) for blob in effect.blobs.values()}
        if mine.size and {*sent, message.root} != {root_of(mine)}:
            case.violated("SG-10", actor.id, "its slice is not that of the weighted sum")

    def told(self, actor: Actor, notes: Notes, effect: Send) -> None:
        """The combinations of its share, by what all slices' roots come to (SG-11)."""
        message: Any = effect.message
        case, dealt = self._case, self._dealt[message.context]
        settled = self._weighed(notes, message.context, message.certificate)
        if settled is None or actor.id not in settled[1].holders:
            case.violated("SG-11", actor.id, "it told of a sum without a certificate that makes it a holder")
            return
        agreed, weighed = settled
        came = self._came[actor.id, message.context, Slice.kind]
        roots = [came[peer].root for peer in weighed.holders if peer in came]
        if message.key != digest("opened", message.context, message.certificate, len(weighed.holders), *roots):
            case.violated("SG-11", actor.id, "what it tells follows from other slices than came to it")
        if not self._holds(actor, dealt, agreed, "SG-11"):
            return
        share = dealt.share_of_sum(agreed, weighed, actor.id)
        told = [
            recount.combination(share[low:high], message.key, recount.OPENED, start=low)
            for low, high in dealt.bounds(weighed)
        ]
        if list(elements(message.values)) != told:
            case.violated("SG-11", actor.id, "what it tells is not what its share of the sum gives")

    # ── what may be voted for (CE-2, SG-6, SG-8, SG-12) ──────────────────────────────────────────────────────────────

    def gives(self, proposal: Propose, context: bytes) -> tuple[bool, bytes | None]:
        """Whether all that a proposal of survivors shows are holdings, and which value they give."""
        dealt, named, sound = self._dealt[context], dict[PeerId, dict[PeerId, bytes]](), True
        for one in proposal.shown:
            message = one.message
            held = dict(message.held) if isinstance(message, Holding) and message.context == context else {}
            if one.sender in held and set(held) <= set(dealt.roster):
                named.setdefault(one.sender, held)
            else:
                sound = False
        return sound, dealt.survivors(named) if len(named) >= self._case.quorum(context) else None

    def votes(self, actor: Actor, notes: Notes, proposal: Propose) -> None:
        """What an honest peer prepares is what is shown for it gives."""
        match proposal.topic:
            case "checked":
                self._votes_checked(actor, notes, proposal)
            case "geometry":
                self._votes_geometry(actor, notes, proposal)
            case "outcome":
                self._votes_outcome(actor, notes, proposal)

    def _votes_checked(self, actor: Actor, notes: Notes, proposal: Propose) -> None:
        context = proposal.context
        case, dealt, agreed = self._case, self._dealt[context], self._settled(notes, context)
        if agreed is None:
            case.violated("SG-6", actor.id, "it prepared what checks come to without a certificate of the survivors")
            return
        came = self._came[actor.id, context, Check.kind]
        if proposal.value == UNDECIDED:
            rows = self._looked_at(actor, context)[-1]
            if case.stage.hazards.calm and dealt.stands(agreed, self._told(agreed, came), rows) is not None:
                case.violated("SG-6", actor.id, "it prepared `undecided`, where the checks that it has decide")
            return
        told = self._told(agreed, {one.sender: one.message for one in reversed(proposal.shown)})
        given = [dealt.stands(agreed, told, rows) for rows in self._looked_at(actor, context)]
        if self._read(proposal.value, Stands) not in (given[-1:] if case.stage.hazards.calm else given):
            case.violated("SG-6", actor.id, "it prepared another value than checks and shown blobs give")

    def _told(self, agreed: Agreed, messages: Mapping[PeerId, Any]) -> dict[PeerId, Values]:
        """What the checks among some messages tell, of holders and of as many elements as there are survivors."""
        told: dict[PeerId, Values] = {}
        for peer in agreed.holders:
            message = messages.get(peer)
            if isinstance(message, Check) and {len(message.degrees), len(message.zeros)} == {8 * len(agreed.dealers)}:
                values = elements(message.degrees), elements(message.zeros)
                if all(value < PRIME for some in values for value in some):
                    told[peer] = values
        return told

    def _looked_at(self, actor: Actor, context: bytes) -> list[dict[Pair, Row | None]]:
        """What blobs a peer has looked at, as it was after each: its journal may have taken time since it voted."""
        known, looked = self._blobs[actor.id, context], list(actor.machine._verdicts)
        if not set(looked) <= set(known):
            self._case.violated("SG-6", actor.id, "it goes by a blob that was not shown to it")
        rows = [pair for pair in looked if pair in known]
        return [{pair: known[pair] for pair in rows[:count]} for count in range(len(rows) + 1)]

    def _votes_geometry(self, actor: Actor, notes: Notes, proposal: Propose) -> None:
        context = proposal.context
        case, dealt = self._case, self._dealt[context]
        standing = list(self._certified(notes, context, CHECKED))
        stands = self._stands(notes, context, standing[0][0]) if standing else None
        if stands is None:
            case.violated("SG-8", actor.id, "it prepared a geometry without a certificate of what stands")
            return
        if proposal.value == UNDECIDED:
            came = self._words(stands, self._came[actor.id, context, Gram.kind])
            if case.stage.hazards.calm and dealt.weighed(stands, came) is not None:
                case.violated("SG-8", actor.id, "it prepared `undecided`, where the words that it has decide")
            return
        words = self._words(stands, {one.sender: one.message for one in reversed(proposal.shown)})
        if self._read(proposal.value, Weighed) != dealt.weighed(stands, words):
            case.violated("SG-8", actor.id, "it prepared another geometry than the shown words give")

    @staticmethod
    def _words(stands: Stands, messages: Mapping[PeerId, Any]) -> dict[PeerId, tuple[int, ...]]:
        """The words among some messages, of counted holders and of as many elements as there are products."""
        size, words = 8 * (len(stands.dealers) * (len(stands.dealers) + 1) // 2), dict[PeerId, tuple[int, ...]]()
        for peer in stands.holders:
            message = messages.get(peer)
            if isinstance(message, Gram) and len(message.word) == size:
                word = elements(message.word)
                if all(value < PRIME for value in word):
                    words[peer] = word
        return words

    def _votes_outcome(self, actor: Actor, notes: Notes, proposal: Propose) -> None:
        context = proposal.context
        case, dealt = self._case, self._dealt[context]
        survivors = list(self._certified(notes, context, SURVIVORS))
        held = list(self._certified(notes, context, GEOMETRY))
        settled = self._weighed(notes, context, held[0][0]) if held else None
        if settled is None:
            case.violated("SG-12", actor.id, "it prepared an outcome without a certificate of the geometry")
            return
        agreed, weighed = settled
        opens = self._opens(dealt, notes, context, agreed, weighed)
        if opens is None:
            return
        roots = [getattr(one.message, "root", b"") for one in proposal.shown]
        sums = [root_of(one) if one.size else root for one, root in zip(opens.slices, roots, strict=False)]
        value = derive.outcome_value(context, survivors[0][0], len(weighed.dealers), tuple(sums))
        if roots != sums or value != proposal.value:
            case.violated("SG-12", actor.id, "it prepared an outcome that the weighted sum does not give")
        if dealt.wraps(opens.total, opens.vectors, weighed.weights):
            case.violated("SG-12", actor.id, "it prepared the outcome of a sum that wrapped around")

    # ── how rounds end ───────────────────────────────────────────────────────────────────────────────────────────────

    def finished(self, actor: Actor, outcome: Any, total: NDArray[Any]) -> None:
        """The result is the certified weighted sum of what was dealt, to the integer (SG-12)."""
        case, machine, notes = self._case, actor.machine, self._case.notes[actor.id]
        context, dealt = machine.context, self._dealt[machine.context]
        agreed, weighed = (
            self._read(machine.certify[topic].value, kind) for topic, kind in ((SURVIVORS, Agreed), (GEOMETRY, Weighed))
        )
        opens = self._opens(dealt, notes, context, agreed, weighed)
        if opens is None:
            return
        if total.view(np.int32).tolist() != dealt.result(opens.total, weighed.weights):
            case.violated("SG-12", actor.id, "its result is not the certified weighted sum of what was dealt")
        if (outcome.survivors, outcome.total_weight) != (weighed.dealers, len(weighed.dealers)):
            case.violated("SG-12", actor.id, "its result names others than whose updates are in it")
        if dealt.wraps(opens.total, opens.vectors, weighed.weights):
            case.violated("SG-12", actor.id, "its result is of a sum that wrapped around")

    def close(self, certified: Certified) -> None:
        """Nobody honest is proved a liar; and where nothing goes wrong but what liars do, no honest dealer is left out
        of what stands, and nothing stays undecided where nobody lied, or liars can be named (SG-6, SG-8)."""
        case, calm = self._case, self._case.stage.hazards.calm
        for (peer, number, sender, kind), hashes in self._hashes.items():
            if len(hashes) > 1 and (number, sender) not in case.notes[peer].named:
                said = f"it saw two {kind} of {case.letter(sender)}'s in a round and named nobody"
                case.violated("EQUIVOCATION", peer, said)
        for (round_id, context, topic), values in certified.items():
            if topic == SURVIVORS and calm:
                self._decided(round_id, context, values, certified)
            clause = {CHECKED: "SG-6", GEOMETRY: "SG-8"}.get(topic)
            for value in values if clause is not None else ():
                read = self._read(value, Stands if topic == CHECKED else Weighed)
                if read is None:
                    if calm and not case.liars:
                        case.violated(str(clause), None, "a round is certified as undecided, though nobody lied")
                    continue
                wronged = [peer for peer in read.proved if peer not in case.liars]
                if wronged:
                    who = "".join(map(case.letter, wronged))
                    case.violated(str(clause), None, f"honest {who} is certified as proved to lie")
                self._left_out(context, topic, read, values[value], calm, str(clause))

    def _decided(
        self, round_id: RoundId, context: bytes, values: Mapping[bytes, list[PeerId]], certified: Certified
    ) -> None:
        """Where all honest peers are there, each with every certified deal, and liars can be named, they come to a
        geometry."""
        case, dealt = self._case, self._dealt.get(context)
        held = {peer for value, who in values.items() if value != FAIL for peer in who}
        named = dealt is not None and dealt.n >= 4 * dealt.c + 2 * dealt.slots - 1
        if dealt is None or not named or not set(dealt.roster) - case.liars <= held:
            return
        agreed = self._settled(case.notes[min(held)], context)
        lacking = [peer for peer in held for hashed in (agreed.hashes.values() if agreed else ())
                   if peer not in dealt.rows.get(hashed, {})]  # fmt: skip
        if lacking:
            return
        for topic, clause in ((CHECKED, "SG-6"), (GEOMETRY, "SG-8")):
            if not set(certified.get((round_id, context, topic), ())) - {UNDECIDED}:
                case.violated(clause, None, f"no {topic} is certified, though {dealt.n} peers are enough to name liars")
                return

    def _left_out(
        self, context: bytes, topic: str, read: Stands | Weighed, who: list[PeerId], calm: bool, clause: str
    ) -> None:
        case = self._case
        agreed = self._settled(case.notes[who[0]], context) if who else None
        if agreed is None or not calm:
            return
        missing = [peer for peer in agreed.dealers if peer not in case.liars and peer not in read.dealers]
        if missing:
            letters = "".join(map(case.letter, missing))
            case.violated(clause, None, f"honest {letters} is left out of what stands, though nothing was lost")
