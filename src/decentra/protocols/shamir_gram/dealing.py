"""The first half of a shamir-gram round: updates are dealt, it is certified whose count and who holds them, and the
beacon is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

from decentra.crypto.prg import KEY_BYTES, Mask
from decentra.crypto.shares.field61 import ELEMENT_BYTES
from decentra.errors import RemoteError
from decentra.machine.effects import Blame, Compute, Release, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols.agreed import Agreed, Named, counted
from decentra.protocols.ballots import Ballots
from decentra.protocols.beacon import BEACON, Beacon, DealtPart
from decentra.protocols.rendezvous.messages import State
from decentra.protocols.round import CONTEXT, SURVIVORS
from decentra.protocols.setting import Contribution, Setting
from decentra.protocols.shamir_gram import messages
from decentra.protocols.shamir_gram.held import derive_held
from decentra.protocols.shamir_gram.jobs import Dealt, DealUpdate, Held, TakeIn
from decentra.protocols.shamir_gram.messages import Deal, Holding
from decentra.protocols.shamir_gram.terms import Terms
from decentra.protocols.sharing import Table
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified

DEAL = "deal"
TAKEN = "taken/"
"""How the job that looks at a dealer's blob is named, before the dealer's id."""


class Dealing(Ballots):
    """One peer's part in a round of shamir-gram up to its beacon."""

    scattering = DEAL
    deal_clause, holding_clause, beacon_clause = "SG-2", "SG-3", "SG-4"

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.survivors: Agreed | None = None
        self.blobs: dict[PeerId, Blob] = {}
        """What each dealer dealt this peer, where it was looked at and is sound."""
        self._beacon_shares: dict[PeerId, bytes] = {}
        """This peer's shares of dealers' parts of the beacon, likewise."""
        self._looked_at: set[PeerId] = set()
        self._said: Named = {}
        """What this peer's own holding names."""
        self._held: dict[PeerId, Named] = {}
        """What the holdings that were read name, by author."""
        self._came = 0
        """How many deals had come when the holdings were last held against them."""
        self.beacon: Beacon | None = None

    # ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def terms(self) -> Terms:
        return Terms(self.n, self.setting.c, self.mine.length - 1)

    @property
    def table(self) -> Table:
        roster = self.rendezvous.roster
        view = self.rendezvous.view if roster is None else roster.view
        return Table(self.setting.session, self.round, view, self.roster, self.quorum, self.setting.suite)

    def held(self, dealer: PeerId, holder: PeerId, blob: Blob) -> Held:
        return Held(self.roster.index(dealer), self.roster.index(holder), blob)

    @property
    def members(self) -> tuple[PeerId, ...]:
        """Whose deals count, once certified."""
        return self.roster if self.survivors is None else self.survivors.members

    @property
    def owners(self) -> tuple[PeerId, ...]:
        """Who holds all that count, once certified."""
        return self.roster if self.survivors is None else self.survivors.witnesses

    def survives_with(self) -> bytes:
        """The hash of the certified survivors, as votes cite it."""
        return self.certify[SURVIVORS].digest

    # ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def room(self, message: Message) -> int:
        if isinstance(message, State):
            return super().room(message)
        largest = Terms(len(self.setting.members), self.setting.c, self.mine.length - 1)
        return max(KEY_BYTES, ELEMENT_BYTES * self.mine.length) + largest.zero_bytes

    # ── the deal ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def given_kind(self) -> str:
        return Deal.kind

    def mask(self, masks: tuple[Mask, ...]) -> None:
        """Share the update, now or as soon as it is here: no mask is on it."""
        self._masks, mine, me = masks, self.mine, self.setting.me
        if mine.update is not None:
            keys = tuple(self.rendezvous.sealing_key(peer) for peer in self.roster)
            job = DealUpdate(self.terms, self.table, me, mine.update, mine.residual, self.ranges, keys)
            self.out.append(Compute("encode", job))

    def supplied(self) -> None:
        if self._masks is not None:
            self.mask(self._masks)

    def entered(self, phase: str) -> None:
        if phase == CONTEXT:
            self.endorse_plainly()
        elif phase == DEAL:
            self.mask(())
        elif phase == BEACON:
            self._show_beacon()

    def own_step(self) -> bool:
        if self.phase == CONTEXT:
            return self.step_context()
        if self.phase == DEAL:
            return self._step_deal()
        if self.beacon is not None:
            self.beacon.advance()
        return False

    def dealt(self, value: Dealt) -> None:
        """This peer's shares are made: INTENT, and they leave (SG-1)."""
        me = self.setting.me
        self.clipped = value.clipped
        self.blobs[me], self._beacon_shares[me] = value.blobs[self.position], value.own
        roots = tuple(blob.root for blob in value.blobs)
        message = Deal(self.context, roots, value.beacon_hash, value.share_hashes, value.sealed)
        blobs = {peer: blob for peer, blob in zip(self.roster, value.blobs, strict=True) if peer != me}
        self.spend(message, roots, blobs)
        for blob in blobs.values():
            self.out.append(Release(blob))
        self.await_others()

    def keep(self, event: Received) -> None:
        super().keep(event)
        if isinstance(event.verified.message, Deal) and self.phase in (DEAL, SURVIVORS):
            self._look_at(event.verified.sender)

    def _look_at(self, dealer: PeerId) -> None:
        """Begin to look at what a dealer dealt this peer, where it is what that one signed under this context."""
        received = self.got(Deal.kind)[dealer]
        if dealer in self._looked_at or dealer == self.setting.me or not self._sound(dealer, received):
            return
        self._looked_at.add(dealer)
        deal, blob, at, me = received.verified.message, received.blob, self.position, self.setting.me
        if isinstance(deal, Deal) and blob is not None:
            held, hashed = self.held(dealer, me, blob), deal.beacon_share_hashes[at]
            box, key = deal.sealed[at], self.setting.sealing
            job = TakeIn(self.terms, self.table, me, dealer, held, box, hashed, key)
            self.out.append(Compute(f"{TAKEN}{dealer.hex()}", job))

    def _sound(self, dealer: PeerId, received: Received) -> bool:
        """Whether a deal is one of this context and roster, and the blob beside it what it signs; else its dealer is
        gone, with its clause."""
        message = received.verified.message
        if not isinstance(message, Deal) or message.context != self.context:
            return self.refuse(dealer, self.context_clause, "it dealt under a context that it did not endorse")
        if not len(message.roots) == len(message.sealed) == len(message.beacon_share_hashes) == self.n:
            return self.refuse(dealer, self.deal_clause, f"its deal is none for a roster of {self.n}")
        size = self.terms.blob_bytes(self.roster.index(dealer), self.position)
        return self.sound_blob(dealer, self.deal_clause, received.blob, message.roots[self.position], size)

    def taken_in(self, dealer: PeerId, value: object) -> None:
        """What a dealer dealt this peer was looked at."""
        blob = self.got(Deal.kind)[dealer].blob
        if isinstance(value, bytes) and blob is not None:
            self.blobs[dealer], self._beacon_shares[dealer] = blob, value
        else:
            self.refuse(dealer, self.deal_clause, str(value))

    def _step_deal(self) -> bool:
        """Say whose deal is whole here: everybody's, or, when the time is over, that of who came."""
        self.hurry()
        if not self.left:
            self.go_after()
            return False
        sent = self.got(Deal.kind)
        for dealer in sent:
            if dealer not in self._looked_at and dealer not in self.gone:
                self._look_at(dealer)
        whole = {peer: sent[peer].verified.body_hash for peer in self.blobs if peer in sent}
        if any(dealer not in whole and dealer not in self.gone for dealer in self._looked_at):
            return False  # what has come counts, be it the last after its time: it is being looked at
        if self.setting.me not in whole or not self.holds_now(whole):
            return False
        self._said = whole
        self.out.append(Send(Holding(self.context, tuple(sorted(whole.items()))), after=self.rendezvous.opened_by))
        # Whoever's deal is here began to wait for others' by now, for twice that patience; the third is for the way.
        self.out.append(SetTimer("shown", 3 * self.setting.patience))
        self.out.append(SetTimer("fail", 4 * self.setting.patience))
        self.go("deals held")
        return True

    # ── the survivors ────────────────────────────────────────────────────────────────────────────────────────────────

    def went_on(self, timer: str) -> bool:
        if timer == "shown":
            self.waited.add(timer)
            self.absent.update(self._awaited())
            return True
        return super().went_on(timer)

    def own_holdings(self) -> dict[PeerId, Verified]:
        return {
            peer: one.verified for peer, one in self.got(Holding.kind).items() if self.is_holding(one.verified)
        }

    def _read(self, verified: Verified) -> Named | None:
        message = verified.message
        if not isinstance(message, Holding) or message.context != self.context:
            return None
        held = dict(message.held)
        return held if verified.sender in held and set(held) <= set(self.roster) else None

    def is_holding(self, verified: Verified) -> bool:
        return self._read(verified) is not None

    def unheard(self) -> tuple[PeerId, ...]:
        return self.missing(Holding.kind)

    @property
    def may_vote(self) -> bool:
        return bool(self.shown_holdings()) or self.proposed_early(SURVIVORS)

    def shown_holdings(self) -> list[Verified]:
        """Every holding, once everybody's is here that can be expected; those that came, when the time is over."""
        if "shown" not in self.waited and self._awaited():
            return []
        holdings = self.own_holdings()
        return [holdings[peer] for peer in self.roster if peer in holdings]

    def _awaited(self) -> list[PeerId]:
        """Whose holding may still come: not of who stopped, nor of whom nobody has a deal."""
        holdings = self.own_holdings()
        named = set[PeerId]().union(*(dict(getattr(one.message, "held", ())) for one in holdings.values()))
        silent = self.gone | (self.absent - named)
        return [peer for peer in self.roster if peer not in holdings and peer not in silent]

    def derived(self, shown: Sequence[Verified]) -> tuple[bytes, tuple[Verified, ...]] | None:
        held: dict[PeerId, Named] = {}
        for verified in shown:
            read = self._read(verified)
            if read is not None and verified.sender in self.roster:
                held.setdefault(verified.sender, read)
        if len(held) < self.quorum:
            return None
        fewest = self.terms.fewest_dealers, self.terms.fewest_holders
        given = derive_held(self.roster, self.setting.c, fewest, held)
        return None if given is None else (given.pack(), tuple(shown))

    def compare_holdings(self) -> None:
        """Take down holdings that are none, and those that name other deals than came here; and who is held under two
        hashes by more peers each than may lie."""
        sent, known = self.got(Deal.kind), self.got(Holding.kind)
        if len(self._held) == len(known) and self._came == len(sent):
            return
        self._came = len(sent)
        for author, received in known.items():
            held = self._read(received.verified)
            if held is None:
                self.refuse(author, self.holding_clause, "its holding is none of deals of this round")
            self._held[author] = held or {}
            for peer, hashed in self._held[author].items():
                if peer not in sent or sent[peer].verified.body_hash == hashed:
                    continue
                if peer == author:
                    self.refuse(author, self.holding_clause, "it holds another deal of its own than it sent")
                else:
                    self.doubt(author, peer, self.holding_clause, "deal", "deals")
        for peer, hashes in counted(self._held.values(), self.setting.c).items():
            if len(hashes) > 1:
                self.refuse(peer, self.context_clause, "more peers than may lie hold each of two deals of its")

    def take_survivors(self, value: bytes) -> None:
        self.survivors = Agreed.unpack(value)
        certified = self.survivors.updates
        for peer, received in self.got(Deal.kind).items():
            if certified.get(peer) != received.verified.body_hash:
                blob = self.blobs.pop(peer, None)
                if blob is not None:
                    self.out.append(Release(blob))
        named = [peer for peer, hashes in counted(self._held.values(), self.setting.c).items() if len(hashes) == 1]
        for holder, held in self._held.items():
            for dealer in named:
                if held and dealer not in held:
                    said = f"either {holder} denies what dealer {dealer} dealt it, or {dealer} dealt it nothing"
                    self.out.append(Blame(RemoteError(None, self.holding_clause, f"{said}; compare their transcripts")))

    def deal_of(self, dealer: PeerId) -> Deal | None:
        """A survivor's certified deal, where it is here."""
        received = self.got(Deal.kind).get(dealer)
        certified = {} if self.survivors is None else self.survivors.updates
        if received is None or certified.get(dealer) != received.verified.body_hash:
            return None
        message = received.verified.message
        return message if isinstance(message, Deal) else None

    # ── the beacon ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _show_beacon(self) -> None:
        """Under the survivors' certificate, once, durable before it is sent: shares of their parts (SG-4)."""
        deals = {peer: self.deal_of(peer) for peer in self.members}
        if any(deal is None for deal in deals.values()):
            return  # it can follow the others' votes, and no more
        dealt = {
            peer: DealtPart(deal.beacon_hash, deal.beacon_share_hashes)
            for peer, deal in deals.items()
            if deal is not None
        }
        certificate, clauses = self.survives_with(), (self.deal_clause, self.beacon_clause)
        self.beacon = Beacon(self, messages.Beacon.kind, clauses, self.table, dealt, certificate, "survivors")
        if set(dealt) <= set(self._beacon_shares):
            make = partial(messages.Beacon, self.context, certificate)
            self.beacon.show(make, self._beacon_shares, self.certify[SURVIVORS].opened_by)
