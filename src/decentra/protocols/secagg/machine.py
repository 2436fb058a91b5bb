"""secagg's machine: the common flow of ``protocols.reduce`` with a deal before it and an unmasking inside it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

from decentra.crypto.prg import Mask
from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Compute, Finish, Persist, Record, Send
from decentra.machine.events import Blob, Received
from decentra.protocols.beacon import BEACON, Beacon, DealtPart, Drawn
from decentra.protocols.jobs import Assembled, Encoded, Repair, Sum
from decentra.protocols.reduce import Reduce
from decentra.protocols.round import CONTEXT, OUTCOME, SURVIVORS
from decentra.protocols.secagg import messages
from decentra.protocols.secagg.challenge import STANDS, TIMER, Challenge, read_verdict
from decentra.protocols.secagg.deal import (
    KEY,
    SELF,
    BadDeal,
    DealSecrets,
    Dealt,
    DeriveMasks,
    OpenDeals,
    RebuildSecrets,
    Shares,
    share_hashes,
)
from decentra.protocols.secagg.messages import (
    Again,
    Context,
    Deal,
    Endorse,
    Endorsed,
    Holding,
    Masked,
    SliceSum,
    Unmask,
)
from decentra.protocols.secagg.transitions import READS, SHOWS, TRANSITIONS
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.protocols.sharing import Table
from decentra.types import PeerId, RoundId
from decentra.wire.message import Verified

VERDICT = "verdict"


class SecAgg(Reduce):
    """One peer's part in one round of secagg."""

    protocol = "secagg"
    transitions, reads, shows = TRANSITIONS, READS, SHOWS
    endorse_type, endorsed_type, slices_type, again_type = Endorse, Endorsed, Masked, Again
    holding_type, sum_type = Holding, SliceSum
    scattering = "masked"
    context_clause, slice_clause, holding_clause = "SA-2", "SA-10", "SA-11"
    sum_clause, outcome_clause = "SA-8", "SA-9"

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self._dealt: Dealt | None = None
        self._opening = self._rebuilding = False
        self._shares: dict[PeerId, Shares] | None = None
        self._sound: dict[PeerId, bool] = {}
        """Whose shares were looked at, and whether they are what was dealt."""
        self._left: tuple[Mask, ...] = ()
        """The masks that lie on the sum of the survivors' vectors."""
        self._settled: tuple[Assembled | None, bytes] | None = None
        self._challenge: Challenge | None = None
        self._beacon: Beacon | None = None
        self._repaired: Assembled | None = None
        self._repairing = False

    @property
    def keeps_slices(self) -> bool:
        return self.setting.challenges > 0 or super().keeps_slices

    @property
    def patient(self) -> tuple[str, ...]:
        return (*super().patient, BEACON, VERDICT)

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def entered(self, phase: str) -> None:
        match phase:
            case "deal":
                keys = tuple(self.rendezvous.sealing_key(peer) for peer in self.roster)
                self.out.append(Compute("deal", DealSecrets(self._table, self.setting.me, keys)))
            case "context" if self.rendezvous.proposer == self.setting.me:
                hashes = tuple(self.got("secagg.deal")[peer].verified.body_hash for peer in self.roster)
                self.out.append(Send(Context(self._view, hashes), after=self.rendezvous.opened_by))
            case "masked":
                publics = {peer: self._deal(peer).mask_public for peer in self.roster}
                setting, dealt = self.setting, self._own_deal()
                derive = DeriveMasks(setting.me, dealt, publics, self.context, setting.suite)
                self.out.append(Compute("masks", derive))
            case "unmask":
                self._show_shares()
            case "beacon":
                self._begin_beacon()

    def own_step(self) -> bool:
        match self.phase:
            case "deal":
                return self._step_deal()
            case "context":
                return self._step_context()
            case "masked":
                return self.step_scatter()
            case "unmask":
                self._step_unmask()
            case "beacon" if self._beacon is not None:
                self._beacon.advance()
            case "verdict":
                return self._step_verdict()
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
                self.encode(value)
            case "encode", Encoded():
                self.scatter(value)
            case "secrets", tuple():
                self._left = value
                self.go("t shares of every secret")
                for position, parts in self.owned():
                    self.out.append(Compute(f"sum/{position}", self.sum_job(position, parts)))
            case str(), Blob() if name.startswith("sum/"):
                self.publish_sum(int(name.removeprefix("sum/")), value)
            case "assemble", _:
                self.assembled(value)
            case "beacon", Drawn() if self._beacon is not None:
                self._open_challenge(self._beacon, value)
            case str(), Blob() if name.startswith("check/") and self._challenge is not None:
                self._challenge.computed(int(name.removeprefix("check/")), value)
            case "repair", Assembled():
                self.check_weight(value)
                self._repaired = value
            case _:
                raise LocalError(f"secagg: the job {name!r} gave {value!r}")

    def waiting_for(self) -> tuple[PeerId, ...]:
        proposer = self.rendezvous.proposer
        if self.phase == CONTEXT and proposer not in self.got("secagg.context"):
            return (proposer,)
        if self.phase in ("unmask", BEACON):  # who showed a false share is missed as well
            shown = self.got(f"secagg.{self.phase}")
            return tuple(peer for peer in self.roster if peer not in shown or peer in self.gone)
        return super().waiting_for()

    def went_on(self, timer: str) -> bool:
        if timer == TIMER and self._challenge is not None:
            self._challenge.expired()
            return True
        return super().went_on(timer)

    def keep(self, event: Received) -> None:
        message, sender = event.verified.message, event.verified.sender
        if isinstance(message, Context) and sender != self.rendezvous.proposer_of(message.view):
            raise RemoteError(sender, "ROLE", f"it listed deals in view {message.view}, which is not its own")
        super().keep(event)
        if isinstance(message, Unmask) and self._rebuilding:
            self._sound_unmask(sender, message)  # needed no more; a false one is taken down all the same
        if isinstance(message, messages.Beacon) and self._beacon is not None:
            self._beacon.advance()  # needed no more, it may be; a false one is taken down all the same

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
        return Table(
            self.setting.session, self.round, self._view, self.roster, self.quorum, self.setting.suite
        )

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
        return self.step_context()

    def _check_listed(self, listed: Context) -> None:
        proposer = self.rendezvous.proposer
        if self.got("secagg.context")[proposer].verified.entry.after != self.rendezvous.opened_by:
            raise RemoteError(proposer, "RV-3", "its context belongs to another roster than the one it offered here")
        if len(listed.deals) != self.n:
            raise RemoteError(proposer, "SA-2", f"its context lists {len(listed.deals)} deals of {self.n}")
        for peer, hashed in zip(self.roster, listed.deals, strict=True):
            if self.got("secagg.deal")[peer].verified.body_hash != hashed:
                if peer == proposer:
                    raise RemoteError(proposer, "SA-1", "it lists another deal of its own than the one it sent here")
                liars = f"either proposer {proposer} lists a deal that peer {peer} never signed, or {peer} dealt twice"
                raise RemoteError(None, "SA-1", f"{liars}; compare their transcripts")

    # ── unmasking ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _dropped(self) -> tuple[PeerId, ...]:
        return tuple(peer for peer in self.roster if peer not in self.members)

    def _show_shares(self) -> None:
        """Under the certificate, once, durable before it is sent: of each survivor the share of its self seed, of each
        dropped peer that of its mask key, never both (SA-3)."""
        if self._shares is None:
            raise LocalError("secagg: unmasking before opening the deals; a defect of decentra")
        survivors = self.certify[SURVIVORS]
        selves = tuple((peer, self._shares[peer].self_share) for peer in self.members)
        keys = tuple((peer, self._shares[peer].key_share) for peer in self._dropped)
        self.out.append(Persist(Record("reveal", "unmask", self.context + survivors.digest)))
        self.out.append(Send(Unmask(self.context, survivors.digest, selves, keys), after=survivors.opened_by))

    def _step_unmask(self) -> None:
        """Rebuild what is needed from t peers' shares; who shows a wrong one is taken down and left out."""
        if self._rebuilding:
            return
        selves: dict[PeerId, dict[int, bytes]] = {peer: {} for peer in self.members}
        keys: dict[PeerId, dict[int, bytes]] = {peer: {} for peer in self._dropped}
        shown = self.got("secagg.unmask")
        for sender, received in shown.items():
            message = received.verified.message
            if sender not in self._sound and isinstance(message, Unmask):
                self._sound[sender] = self._sound_unmask(sender, message)
        sound = sorted(sender for sender, well in self._sound.items() if well)
        if len(sound) < self.quorum:
            return
        for sender in sound:
            message = shown[sender].verified.message
            if not isinstance(message, Unmask):
                continue
            x = self.roster.index(sender) + 1
            for shares, kept in ((message.self_shares, selves), (message.key_shares, keys)):
                for dealer, share in shares:
                    kept[dealer][x] = share
        self._rebuilding = True
        deals = {peer: self._deal(peer) for peer in self.roster}
        self.out.append(Compute("secrets", RebuildSecrets(self._table, deals, selves, keys, self.context)))

    def _sound_unmask(self, sender: PeerId, message: Unmask) -> bool:
        if (message.context, message.survivors) != (self.context, self.certify[SURVIVORS].digest):
            return self.refuse(sender, "SA-7", "it showed shares under another certificate than this round's")
        if tuple(peer for peer, _ in message.key_shares) != self._dropped:
            return self.refuse(sender, "SA-3", "it showed mask keys of others than those who dropped")
        if tuple(peer for peer, _ in message.self_shares) != self.members:
            return self.refuse(sender, "SA-7", "it showed not one share of every survivor's self seed")
        return self._sound_shares(sender, "SA-7", SELF, message.self_shares) and self._sound_shares(
            sender, "SA-7", KEY, message.key_shares
        )

    def _sound_shares(self, sender: PeerId, clause: str, kind: str, shown: tuple[tuple[PeerId, bytes], ...]) -> bool:
        """Whether shares that a peer shows are those that it was dealt."""
        position, table = self.roster.index(sender), self._table
        for dealer, share in shown:
            if table.share_hash(dealer, sender, kind, share) != share_hashes(self._deal(dealer))[kind][position]:
                said = f"the share of {dealer} that it showed is not the one that was dealt"
                return self.refuse(sender, clause, said)
        return True

    def sum_job(self, position: int, parts: tuple[Blob, ...]) -> Sum:
        """What adds a slice's parts and takes the masks off; this peer's own part stays for who recomputes the sum."""
        return replace(super().sum_job(position, parts), masks=self._left)

    # ── the beacon and the verdict ───────────────────────────────────────────────────────────────────────────────────

    def settled(self, sums: Assembled | None, digest: bytes) -> None:
        self._settled = (sums, digest)

    def _certified(self) -> tuple[Assembled | None, bytes]:
        if self._settled is None:
            raise LocalError("secagg: a challenge before the outcome; a defect of decentra")
        return self._settled

    def _begin_beacon(self) -> None:
        """Under the outcome's certificate show shares of the survivors' parts (SA-12)."""
        _, digest = self._certified()
        deals = {peer: self._deal(peer) for peer in self.members}
        dealt = {peer: DealtPart(deal.beacon_hash, deal.beacon_share_hashes) for peer, deal in deals.items()}
        clauses = ("SA-1", "SA-12")
        self._beacon = Beacon(self, messages.Beacon.kind, clauses, self._table, dealt, digest, "outcome")
        self._show_beacon(self._beacon, digest)

    def _show_beacon(self, beacon: Beacon, digest: bytes) -> None:
        if self._shares is None:
            raise LocalError("secagg: the beacon before opening the deals; a defect of decentra")
        mine = {peer: self._shares[peer].beacon_share for peer in self.members}
        beacon.show(partial(messages.Beacon, self.context, digest), mine, self.certify[OUTCOME].opened_by)

    def _open_challenge(self, beacon: Beacon, drawn: Drawn) -> None:
        value = beacon.drawn(drawn)
        if self._certified()[0] is not None:
            self._challenge = Challenge(self, value, self.certify[OUTCOME].opened_by)
        self.go("the beacon")

    def _step_verdict(self) -> bool:
        challenge, (sums, digest) = self._challenge, self._certified()
        if challenge is not None:
            challenge.advance()
            if VERDICT not in self.certify and challenge.verdict() is None:
                return False  # a view's time is for the vote, not for the proof before it
        vote = self.certify.get(VERDICT) or self.open_vote(VERDICT, self._check_verdict)
        if challenge is None:
            vote.offer(STANDS)  # who lacks a sum has no proof against any, and its vote is needed all the same
        else:
            challenge.offer(vote)
        if not vote.advance():
            return False
        if vote.value != STANDS and challenge is not None and sums is not None:
            repairs = read_verdict(vote.value)
            if self._repaired is None:
                self._repair(challenge, sums, repairs)
                return False
            sums = self._repaired
            roots = [repairs.get(position, root) for position, root in enumerate(self.sum_roots())]
            digest = self.outcome_value(sums.total_weight, tuple(roots))
        self.finish(sums, digest)
        self.go("certificate(verdict)")
        return True

    def finish(self, sums: Assembled | None, digest: bytes) -> None:
        super().finish(sums, digest)
        finished = self.out.pop()
        if isinstance(finished, Finish) and isinstance(finished.result, Outcome):
            finished = Finish(replace(finished.result, beacon=b"" if self._beacon is None else self._beacon.value))
        self.out.append(finished)

    def _check_verdict(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        if self._challenge is None:
            return value == STANDS
        return self._challenge.check(self.certify[VERDICT].proposer(), value)

    def _repair(self, challenge: Challenge, sums: Assembled, repairs: dict[int, bytes]) -> None:
        """Put the right sums in, once this peer has recomputed all of them itself."""
        right = {at: blob for at, root in repairs.items() if (blob := challenge.sums.get(at)) and blob.root == root}
        if len(right) == len(repairs) and not self._repairing:
            self._repairing = True
            placed = tuple((self.bounds[position][0], blob) for position, blob in right.items())
            self.out.append(Compute("repair", Repair(sums.total, placed, self.setting.width)))

    @cached_property
    def _lists(self) -> dict[PeerId, bytes]:
        return {} if self.survivors is None else self.certified_lists(self.survivors.holdings)

    def published(self, position: int) -> tuple[PeerId, bytes]:
        verified = self.shown_sums()[position]
        return verified.sender, getattr(verified.message, "root", b"")

    def certified_part(self, peer: PeerId, position: int) -> bytes | None:
        received = self.got(Masked.kind).get(peer)
        message = None if received is None else received.verified.message
        if received is None or not isinstance(message, Masked):
            return None
        certified = received.verified.body_hash == self._lists.get(peer)
        return message.roots[position] if certified and len(message.roots) == self.n else None
