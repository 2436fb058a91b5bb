"""secagg's machine: the common flow of ``protocols.reduce`` with a deal before it and an unmasking inside it."""

from __future__ import annotations

from typing import TypeGuard

from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Blame, Compute, Persist, Record, Send
from decentra.machine.events import Blob, Received
from decentra.protocols.jobs import Encoded, Sum
from decentra.protocols.reduce import Reduce
from decentra.protocols.round import CONTEXT
from decentra.protocols.secagg.deal import (
    SELF,
    BadDeal,
    DealSecrets,
    Dealt,
    DeriveMasks,
    OpenDeals,
    RebuildSeeds,
    Shares,
    Table,
)
from decentra.protocols.secagg.messages import Context, Deal, Endorse, Holding, Masked, SliceSum, Unmask
from decentra.protocols.secagg.transitions import TRANSITIONS
from decentra.types import PeerId
from decentra.wire.message import Verified


class SecAgg(Reduce):
    """One peer's part in one round of secagg."""

    protocol = "secagg"
    transitions = TRANSITIONS
    scattering = "masked"
    context_clause, slice_clause, holding_clause = "SA-2", "SA-10", "SA-11"
    sum_clause, outcome_clause = "SA-8", "SA-9"

    _dealt: Dealt | None = None
    _opening = False
    _shares: dict[PeerId, Shares] | None = None
    _rebuilding = False

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def entered(self, phase: str) -> None:
        match phase:
            case "deal":
                keys = tuple(self.rendezvous.sealing_key(peer) for peer in self.roster)
                self.out.append(Compute("deal", DealSecrets(self._table, self.setting.me, keys)))
            case "context" if self.rendezvous.proposer == self.setting.me:
                hashes = tuple(self.got("secagg.deal")[peer].verified.hash for peer in self.roster)
                self.out.append(Send(Context(self._view, hashes), after=self.rendezvous.opened_by))
            case "masked":
                publics = {peer: self._deal(peer).mask_public for peer in self.roster}
                dealt = self._own_deal()
                self.out.append(Compute("masks", DeriveMasks(self.setting.me, dealt, publics, self.context)))
            case "unmask":
                self._show_shares()

    def own_step(self) -> bool:
        match self.phase:
            case "deal":
                return self._step_deal()
            case "context":
                return self._step_context()
            case "masked":
                return self.step_scatter()
            case _:
                self._step_unmask()
                return False

    def computed(self, name: str, value: object) -> None:
        if isinstance(value, BadDeal):
            raise RemoteError(value.dealer, "SA-1", value.reason)
        match name, value:
            case "deal", Dealt():
                self._dealt = value
                self.out.append(Send(value.message, after=self.rendezvous.opened_by))
            case "open", dict():
                self._shares = value
                self.context = self.derive_context(self._listed().deals)
                self.out.append(Send(Endorse(self.context), after=self._listed_hash()))
            case "masks", tuple():
                self.out.append(Compute("encode", self.encode_job(value)))
            case "encode", Encoded():
                self.scatter(value)
            case "seeds", tuple():
                low, high = self.bounds[self.position]
                self.go("t shares of every self seed")
                self.out.append(Compute("sum", Sum(self.slices_of_mine(), self.setting.width, low, high, value)))
            case "sum", Blob():
                self.publish_sum(value)
            case "assemble", _:
                self.assembled(value)
            case _:
                raise LocalError(f"secagg: the job {name!r} gave {value!r}")

    def waiting_for(self) -> tuple[PeerId, ...]:
        proposer = self.rendezvous.proposer
        if self.phase == CONTEXT and proposer not in self.got("secagg.context"):
            return (proposer,)
        return super().waiting_for()

    def keep(self, event: Received) -> None:
        message, sender = event.verified.message, event.verified.sender
        if isinstance(message, Context) and sender != self.rendezvous.proposer_of(message.view):
            raise RemoteError(sender, "ROLE", f"it listed deals in view {message.view}, which is not its own")
        super().keep(event)
        if isinstance(message, Unmask) and self._rebuilding:
            self._look_at_late(sender, message)

    def belongs(self, verified: Verified) -> bool:
        """Deals and contexts belong to a view; those of another are left aside, not held against their author."""
        message = verified.message
        return super().belongs(verified) and not (isinstance(message, Deal | Context) and message.view != self._view)

    # ── deal and context ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _view(self) -> int:
        roster = self.rendezvous.roster
        return self.rendezvous.view if roster is None else roster.view

    @property
    def _table(self) -> Table:
        return Table(self.setting.session, self.round, self._view, self.roster, self.quorum)

    def _deal(self, peer: PeerId) -> Deal:
        message = self.got("secagg.deal")[peer].verified.message
        if not isinstance(message, Deal):
            raise LocalError("secagg: a deal of another type")
        return message

    def _own_deal(self) -> Dealt:
        if self._dealt is None:
            raise LocalError("secagg: masking before dealing; a defect of decentra")
        return self._dealt

    def _listed(self) -> Context:
        message = self.got("secagg.context")[self.rendezvous.proposer].verified.message
        if not isinstance(message, Context):
            raise LocalError("secagg: a context of another type")
        return message

    def _listed_hash(self) -> bytes:
        return self.got("secagg.context")[self.rendezvous.proposer].verified.entry.hash

    def _step_deal(self) -> bool:
        if self.missing("secagg.deal"):
            return False
        self.go("every deal")
        return True

    def _step_context(self) -> bool:
        if not self._opening and self.rendezvous.proposer in self.got("secagg.context"):
            self._check_listed(self._listed())
            self._opening = True
            deals = {peer: self._deal(peer) for peer in self.roster}
            self.out.append(Compute("open", OpenDeals(self._table, self.setting.me, deals, self.setting.sealing)))
        if not self.context or not self.endorsed_by_all():
            return False
        self.go("endorsed by all")
        return True

    def _check_listed(self, listed: Context) -> None:
        proposer = self.rendezvous.proposer
        if self.got("secagg.context")[proposer].verified.entry.after != self.rendezvous.opened_by:
            raise RemoteError(proposer, "RV-3", "its context belongs to another roster than the one it offered here")
        if len(listed.deals) != self.n:
            raise RemoteError(proposer, "SA-2", f"its context lists {len(listed.deals)} deals of {self.n}")
        for peer, hashed in zip(self.roster, listed.deals, strict=True):
            if self.got("secagg.deal")[peer].verified.hash != hashed:
                if peer == proposer:
                    raise RemoteError(proposer, "SA-1", "it lists another deal of its own than the one it sent here")
                liars = f"either proposer {proposer} lists a deal that peer {peer} never signed, or {peer} dealt twice"
                raise RemoteError(None, "SA-1", f"{liars}; compare their transcripts")

    # ── unmasking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _show_shares(self) -> None:
        """Under the certificate, once, durable before it is sent: the survivors' self seeds, never both (SA-3)."""
        if self._shares is None:
            raise LocalError("secagg: unmasking before opening the deals; a defect of decentra")
        survivors = self.certify["survivors"]
        shown = tuple((peer, self._shares[peer].self_share) for peer in self.roster)
        self.out.append(Persist(Record("reveal", "unmask", self.context + survivors.value)))
        self.out.append(Send(Unmask(self.context, survivors.value, shown, ()), after=survivors.opened_by))

    def _step_unmask(self) -> None:
        shown = self.got("secagg.unmask")
        if self._rebuilding or len(shown) < self.quorum:
            return
        shares: dict[PeerId, dict[int, bytes]] = {peer: {} for peer in self.roster}
        for sender, received in sorted(shown.items()):
            self._check_unmask(sender, received.verified.message)
            message = received.verified.message
            if isinstance(message, Unmask):
                for dealer, share in message.self_shares:
                    shares[dealer][self.roster.index(sender) + 1] = share
        self._rebuilding = True
        hashes = {peer: self._deal(peer).self_hash for peer in self.roster}
        self.out.append(Compute("seeds", RebuildSeeds(self._table, hashes, shares, self.context)))

    def _look_at_late(self, sender: PeerId, message: Unmask) -> None:
        """Shares that came after enough were there are needed no more: a false one is taken down, the round goes on."""
        try:
            self._check_unmask(sender, message)
        except RemoteError as error:
            self.out.append(Blame(error))

    def _check_unmask(self, sender: PeerId, message: object) -> None:
        certified = self.certify["survivors"].value
        if not _is_unmask(message) or (message.context, message.survivors) != (self.context, certified):
            raise RemoteError(sender, "SA-7", "it showed shares under another certificate than this round's")
        if message.key_shares:
            raise RemoteError(sender, "SA-3", "it showed shares of a survivor's mask key")
        if tuple(dealer for dealer, _ in message.self_shares) != self.roster:
            raise RemoteError(sender, "SA-7", "it showed not one share of every survivor's self seed")
        position = self.roster.index(sender)
        for dealer, share in message.self_shares:
            expected = self._deal(dealer).self_share_hashes[position]
            if self._table.share_hash(dealer, sender, SELF, share) != expected:
                raise RemoteError(sender, "SA-7", f"the share of {dealer} that it showed is not the one that was dealt")

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def slices_message(self, roots: tuple[bytes, ...]) -> Masked:
        return Masked(self.context, roots)

    def holding_message(self, held: tuple[tuple[PeerId, bytes], ...]) -> Holding:
        return Holding(self.context, self.position, held)

    def sum_message(self, root: bytes) -> SliceSum:
        return SliceSum(self.context, self.position, root)


def _is_unmask(message: object) -> TypeGuard[Unmask]:
    return isinstance(message, Unmask)
