"""Reduce-scatter: every vector travels in slices to whoever sums them, and who holds which part is told to all."""

from __future__ import annotations

from typing import ClassVar

from decentra import derive
from decentra.crypto.prg import Mask
from decentra.errors import Behind, LocalError, RemoteError
from decentra.machine.effects import Blame, Compute, Persist, Record, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols import slices
from decentra.protocols.jobs import Encode, Encoded
from decentra.protocols.rendezvous.messages import State
from decentra.protocols.round import Round
from decentra.protocols.setting import Contribution, Setting
from decentra.protocols.survivors import read_holding
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified


class Scatter(Round):
    """The first half of a reduce: contexts, slices, and holdings of them.

    From the first masked byte on, a peer that stops or breaks a clause is gone and no more: its vector is summed if
    every slice's owner has it, and its slice passes to the next in the roster.

    A round may begin ahead of its updates. Who has said so is waited for here as others are at the rendezvous: as long
    as rounds of late let one expect, from when as many as the charter's floor have sent their slices.
    """

    scattering: ClassVar[str]
    """The phase in which slices travel."""
    endorse_type: ClassVar[type[slices.Endorse]]
    endorsed_type: ClassVar[type[slices.Endorsed]]
    slices_type: ClassVar[type[slices.Slices]]
    again_type: ClassVar[type[slices.Again]]
    holding_type: ClassVar[type[slices.Holding]]
    slice_clause: ClassVar[str]
    holding_clause: ClassVar[str]

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.own_slices: tuple[Blob, ...] = ()
        self.clipped = 0
        """Coordinates of this peer's update that exceeded their range."""
        self.masked = False
        """Whether this peer's slices have left; unlike ``spent`` it stays, whatever a certificate frees."""
        self.waited: set[str] = set()
        """Which of the timers that a round goes on from have run out."""
        self._masks: tuple[Mask, ...] | None = None
        """What this peer's update is masked with, once it is known."""
        self._hurried = False
        self._takers: dict[int, int] = {}
        self._repeated: set[tuple[int, PeerId]] = set()
        self._held: set[int] = set()
        self._holders: dict[int, tuple[int, dict[PeerId, Verified]]] = {}
        """By slice, how many holdings had come when they were last read, and those that are some."""
        self._compared: set[tuple[str, PeerId]] = set()
        """The holdings that were held against the lists which had come by then, and how many lists these were."""
        self._lists_compared = 0
        self._unsound: set[tuple[str, PeerId]] = set()
        self._doubted: set[tuple[PeerId, PeerId]] = set()

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def slot(self, message: Message) -> str:
        """Holdings, sums and repeated parts are of one slice; a peer has one of each for every slice."""
        return f"{message.kind}/{message.slice}" if isinstance(message, slices.OfSlice) else super().slot(message)

    def room(self, message: Message) -> int:
        if isinstance(message, State):
            return super().room(message)
        count = self.n or self.setting.floor  # until the roster is known, its least size gives the largest slices
        return -(-self.mine.length // count) * (self.setting.width // 8)

    def wants(self, verified: Verified, root: bytes) -> bool:
        message = verified.message
        beyond = bool(self.roster) and isinstance(message, slices.OfSlice) and message.slice >= self.n
        return not beyond and super().wants(verified, root)

    def broke(self, error: RemoteError) -> None:
        """A peer broke a clause. Before anything was masked that ends the round for all; later that peer is gone."""
        if not self._under_way or error.peer is None:
            super().broke(error)
        elif (error.clause, error.peer) not in self._unsound:
            self._stays = False
            self._unsound.add((error.clause, error.peer))
            self.gone.add(error.peer)
            self.absent.add(error.peer)
            self.out.append(Blame(error))

    def ended(self, sender: PeerId, message: Message) -> None:
        """A peer stops. Before anything was masked that ends the round for all; from then on it is just gone."""
        if not self._under_way:
            super().ended(sender, message)
        self.gone.add(sender)
        self.absent.add(sender)

    @property
    def _under_way(self) -> bool:
        """Whether something was masked: here, or, while some are still in their local steps, it may be elsewhere."""
        return self.masked or (self.phase == self.scattering and bool(self.rendezvous.later))

    def keep(self, event: Received) -> None:
        super().keep(event)
        if isinstance(event.verified.message, slices.Endorsed):
            for one in event.verified.message.endorsements:
                if isinstance(one.message, self.endorse_type) and one.entry.round == self.round.number:
                    super().keep(Received(one))
        waits = self.rendezvous.later and self.phase == self.scattering
        if waits and isinstance(event.verified.message, slices.Holding):
            self._stays = False  # it may show that others have stopped waiting for somebody's local steps

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        return derive.slice_bounds(self.mine.length, self.n)

    def slice_size(self, position: int) -> int:
        """Bytes in one slice."""
        low, high = self.bounds[position]
        return (high - low) * (self.setting.width // 8)

    def endorsed_by_all(self) -> bool:
        """Whether everybody in the roster has endorsed this peer's context."""
        endorsed = self.got(self.endorse_type.kind)
        mine = endorsed.get(self.setting.me)
        for peer, received in endorsed.items():
            verified = received.verified
            if mine is None or getattr(verified.message, "context", b"") == self.context:
                continue
            if verified.entry.after == mine.verified.entry.after:  # both opened by one entry, which gives one context
                raise RemoteError(peer, self.context_clause, "it endorsed another context than the one that was opened")
            liars = f"either peer {peer} made up the context that it endorsed, or proposer {self.rendezvous.proposer}"
            raise RemoteError(None, self.context_clause, f"{liars} opened two; compare their transcripts")
        return not self.missing(self.endorse_type.kind)

    def derive_context(self, deals: tuple[bytes, ...]) -> bytes:
        roster = self.rendezvous.roster
        if roster is None:
            raise LocalError(f"{self.protocol}: a context without a roster; a defect of decentra")
        return derive.context(
            session=self.setting.session,
            round_id=self.round,
            view=roster.view,
            roster=roster.members,
            fingerprint=roster.fingerprint,
            layout=derive.vector_layout(self.mine.specs, self.ranges),
            state=roster.state,
            width=self.setting.width,
            max_weight=self.setting.max_weight,
            deals=deals,
        )

    def mask(self, masks: tuple[Mask, ...]) -> None:
        """Put the update under these masks, now or as soon as it is here."""
        self._masks = masks
        if self.mine.update is not None:
            self.out.append(Compute("encode", self.encode_job(masks)))

    def supplied(self) -> None:
        if self._masks is not None:
            self.mask(self._masks)

    def encode_job(self, masks: tuple[Mask, ...]) -> Encode:
        """The job that turns this peer's update into slices."""
        mine, setting = self.mine, self.setting
        if mine.update is None:
            raise LocalError(f"{self.protocol}: masking an update that is still to come; a defect of decentra")
        return Encode(
            round_id=self.round,
            update=mine.update,
            residual=mine.residual,
            ranges=self.ranges,
            weight=mine.weight,
            max_weight=setting.max_weight,
            width=setting.width,
            length=mine.length,
            n=self.n,
            masks=masks,
        )

    # ── slices and holdings ──────────────────────────────────────────────────────────────────────────────────────────

    def scatter(self, encoded: Encoded) -> None:
        """Spend the update: INTENT is durable before the first byte leaves (SA-4)."""
        self.own_slices, self.clipped = encoded.slices, encoded.clipped
        roots = tuple(blob.root for blob in encoded.slices)
        message = self.slices_type(self.context, roots)
        self.out.append(Persist(Record("intent", "update", self.context + b"".join(roots))))
        self.spent = self.masked = True
        blobs = {
            peer: blob
            for peer, blob in zip(self.roster, encoded.slices, strict=True)
            if peer != self.setting.me and blob.size
        }
        self.out.append(Send(message, blobs=blobs, after=self.rendezvous.opened_by))
        if self.setting.backup:
            self.send_again(self.position, self.roster[(self.position + 1) % self.n])
        self.out.append(SetTimer("endorsed", self.setting.patience))
        self.out.append(SetTimer("hold", 2 * self.setting.patience))
        if self.rendezvous.later and not self._hurried:
            self._await_steps(None)

    def hand_endorsements(self) -> None:
        """Who has sent no slices by now may lack somebody's endorsement, which reached this peer before its author
        died: show it all of them."""
        sent, endorsed = self.got(self.slices_type.kind), self.got(self.endorse_type.kind)
        passed = sent.keys() | self.gone | self.rendezvous.later | {self.setting.me}
        lacking = [peer for peer in self.roster if peer not in passed]
        if self.phase == self.scattering and lacking:
            message = self.endorsed_type(self.context, tuple(endorsed[peer].verified for peer in self.roster))
            for peer in lacking:
                self.out.append(Send(message, to=peer, after=self.rendezvous.opened_by))

    def step_scatter(self) -> bool:
        """Say whose part of this peer's slice is whole: everybody's, or, when the time is over, that of who came."""
        self._hurry()
        if not self.own_slices:
            self._go_after()
            return False
        kind = self.slices_type.kind
        whole = {peer: received for peer, received in self.got(kind).items() if self._sound_slice(peer, received)}
        before = (self.position - 1) % self.n
        if self.setting.backup and self.roster[before] not in self.parts(before, self.again_type.kind, self.got(kind)):
            whole.pop(self.roster[before], None)  # with its own part of its own slice it is whole
        awaited = [peer for peer in self.roster if peer not in whole and peer not in self.absent]
        if awaited and ("hold" not in self.waited or self.in_steps()):
            return False
        self.absent.update(peer for peer in awaited if peer != self.setting.me and peer not in self.got(kind))
        self._hold(self.position, {peer: received.verified.body_hash for peer, received in whole.items()})
        self.out.append(SetTimer("takeover", self.setting.patience))
        self.out.append(SetTimer("fail", 2 * self.setting.patience))
        self.go("slices held")
        return True

    # ── local steps ──────────────────────────────────────────────────────────────────────────────────────────────────

    def in_steps(self) -> tuple[PeerId, ...]:
        """Whose slices may still come after its local steps: not of who was left out lately, nor of whom more peers
        have stopped to wait for than may lie."""
        later = self.rendezvous.later
        if not later or "steps" in self.waited:
            return ()
        passed = self.absent | self.mine.benched | self.got(self.slices_type.kind).keys() | {self.setting.me}
        waited = [peer for peer in self.roster if peer in later and peer not in passed]
        return tuple(peer for peer in waited if len(self._holding_without(peer)) <= self.setting.c)

    def _holding_without(self, peer: PeerId) -> set[PeerId]:
        """Who holds its own slice without this peer's part of it."""
        own = ((owner, self.holdings(position).get(owner)) for position, owner in enumerate(self.roster))
        return {owner for owner, said in own if said and peer not in dict(getattr(said.message, "held", ()))}

    def _hurry(self) -> None:
        """As many slices are here as a round needs: the rest have as long as rounds of late let one expect."""
        enough = len(self.got(self.slices_type.kind)) >= self.setting.floor
        if enough and self.rendezvous.later and not self._hurried:
            self._hurried = True
            self._await_steps(self.mine.lateness)

    def _await_steps(self, lateness: float | None) -> None:
        longest = self.setting.ready_deadline if lateness is None else lateness
        self.out.append(SetTimer("steps", longest + 2 * self.setting.patience))

    def _go_after(self) -> None:
        """Where the others have gone on without an update that is still to come, keep it for the next round."""
        if self.mine.update is not None:
            return
        without = self._holding_without(self.setting.me)
        if len(self.beyond) > self.setting.c or len(without) >= self.quorum:
            what = f"a place in round {self.round} for an update that was still to come"
            raise Behind.of(sorted(self.beyond | without), what, self.round.number + 1)

    def _hold(self, position: int, held: dict[PeerId, bytes]) -> None:
        self._held.add(position)
        message = self.holding_type(self.context, position, tuple(sorted(held.items())))
        self.out.append(Send(message, after=self.rendezvous.opened_by))

    def _sound_slice(self, peer: PeerId, received: Received) -> bool:
        """Whether a peer's part of this peer's slice is what it signed under this context; else it is gone, with its
        clause."""
        message = received.verified.message
        roots: tuple[bytes, ...] = getattr(message, "roots", ())
        if getattr(message, "context", b"") != self.context:
            return self.refuse(peer, self.context_clause, "it sent slices under a context that it did not endorse")
        if len(roots) != self.n:
            return self.refuse(peer, self.slice_clause, f"it signed {len(roots)} slices, the roster has {self.n}")
        return peer == self.setting.me or self.sound_blob(
            peer, self.slice_clause, received.blob, roots[self.position], self.slice_size(self.position)
        )

    def sound_blob(self, peer: PeerId, clause: str, blob: Blob | None, root: bytes, size: int) -> bool:
        if size == 0 and blob is None:
            return True
        if blob is None or blob.root != root or blob.size != size:
            return self.refuse(peer, clause, "what it sent does not hash to what it signed, or has another length")
        return True

    def refuse(self, peer: PeerId, clause: str, said: str) -> bool:
        """Take a broken clause down; always False."""
        self.broke(RemoteError(peer, clause, said))
        return False

    # ── slices taken over ────────────────────────────────────────────────────────────────────────────────────────────

    def _taker(self, position: int) -> PeerId:
        """Whose holding of a slice is waited for now: its own peer's, then, one by one, the next in the roster's."""
        return self.roster[(position + self._takers.get(position, 0)) % self.n]

    def covered(self, position: int) -> bool:
        return bool(self.holdings(position))

    def take_over(self, silent: bool) -> None:
        """Pass every slice that nobody holds to the next peer in the roster, with the same bytes as before.

        At once where the one before is absent, and then to the next that is not, whatever came so far, so that all
        choose alike; or, where the one before was ``silent`` for too long, to the next that did hold its own.
        """
        for position in range(self.n):
            if self.covered(position) or not (silent or self._taker(position) in self.absent):
                continue
            for _ in range(self.n):
                self._takers[position] = self._takers.get(position, 0) + 1
                taker = self._taker(position)
                if taker not in self.absent and not (silent and not self.covered(self.roster.index(taker))):
                    break
            self.send_again(position, taker)

    def send_again(self, position: int, taker: PeerId) -> None:
        """This peer's part of a slice, the same bytes as before, to who is to sum it; once."""
        if taker == self.setting.me or (position, taker) in self._repeated:
            return
        self._repeated.add((position, taker))
        blob = self.own_slices[position]
        message = self.again_type(self.context, position, blob.root)
        blobs = {taker: blob} if blob.size else {}
        self.out.append(Send(message, to=taker, blobs=blobs, after=self.rendezvous.opened_by))

    def hold_taken(self) -> None:
        """Hold a slice that passed to this peer, once everybody who is not gone has repeated its part."""
        kind, sent = self.again_type.kind, self.got(self.slices_type.kind)
        for position in range(self.n):
            if position in self._held or not self.got(f"{kind}/{position}"):
                continue
            parts = self.parts(position, kind, sent)
            if len(parts) <= 1:
                continue
            awaited = [peer for peer in sent if peer not in parts and peer not in self.absent]
            if not awaited or ("takeover" in self.waited and len(parts) >= self.quorum):
                self._hold(position, {peer: sent[peer].verified.body_hash for peer in parts})

    def parts(self, position: int, kind: str, sent: dict[PeerId, Received]) -> dict[PeerId, Blob | None]:
        """The parts of a slice that are here and are what their senders signed in their lists."""
        if position == self.position:
            return {
                peer: self.own_slices[position] if peer == self.setting.me else received.blob
                for peer, received in sent.items()
                if self._sound_slice(peer, received)
            }
        parts: dict[PeerId, Blob | None] = {self.setting.me: self.own_slices[position]}
        for peer, received in self.got(f"{kind}/{position}").items():
            message = sent[peer].verified.message if peer in sent else None
            roots: tuple[bytes, ...] = getattr(message, "roots", ())
            sound = len(roots) == self.n and getattr(received.verified.message, "root", b"") == roots[position]
            size = self.slice_size(position)
            if sound and self.sound_blob(peer, self.slice_clause, received.blob, roots[position], size):
                parts[peer] = received.blob
        return parts

    # ── holdings ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _holding_kind(self) -> str:
        return self.holding_type.kind

    def holdings(self, position: int) -> dict[PeerId, Verified]:
        """Who says that it holds a slice, in messages that can be shown to others."""
        kind, known = self._holding_kind, self.got(f"{self._holding_kind}/{position}")
        count, holders = self._holders.get(position, (0, {}))
        if count != len(known):
            holders = {
                peer: received.verified
                for peer, received in known.items()
                if read_holding(received.verified, kind, self.context, self.n) is not None
            }
            self._holders[position] = len(known), holders
        return holders

    def shown_holdings(self) -> list[Verified]:
        """One holding a slice: its own peer's; or, once that one is gone or its time is over, that of the next in the
        roster that holds its own slice too."""
        shown: list[Verified] = []
        for position, owner in enumerate(self.roster):
            holdings = self.holdings(position)
            passed = owner in self.absent or "takeover" in self.waited
            for taker in (*self.roster[position:], *self.roster[:position]) if passed else (owner,):
                if taker in holdings and taker in self.holdings(self.roster.index(taker)):
                    shown.append(holdings[taker])
                    break
        return shown

    def certified_lists(self, holdings: tuple[bytes, ...]) -> dict[PeerId, bytes]:
        """Of each survivor the hash of its list of roots, by the holdings that a certificate names; these agree."""
        for slot in [slot for slot in self.box if slot.startswith(f"{self._holding_kind}/")]:
            for received in self.got(slot).values():
                if received.verified.body_hash in holdings:
                    return dict(getattr(received.verified.message, "held", ()))
        return {}

    def read_holdings(self) -> None:
        """Take down holdings that are none, and those whose lists are not the ones that came here."""
        prefix, sent = f"{self._holding_kind}/", self.got(self.slices_type.kind)
        if self._lists_compared != len(sent):
            self._lists_compared = len(sent)
            self._compared.clear()
        for slot in [slot for slot in self.box if slot.startswith(prefix)]:
            for author, received in self.got(slot).items():
                if (slot, author) in self._compared:
                    continue
                self._compared.add((slot, author))
                read = read_holding(received.verified, self._holding_kind, self.context, self.n)
                if read is None or not set(read[1]) <= set(self.roster):
                    self.refuse(author, self.holding_clause, "its holding is none of a slice of this round")
                    continue
                for peer, hashed in read[1].items():
                    if peer not in sent or sent[peer].verified.body_hash == hashed:
                        continue
                    if peer == author:
                        self.refuse(author, self.holding_clause, "it holds another list of its own slices than it sent")
                    else:
                        self._doubt(author, peer)

    def _doubt(self, author: PeerId, peer: PeerId) -> None:
        """Two signed words that can't both be true; who of the two lies shows only beside other transcripts."""
        if (author, peer) not in self._doubted:
            self._doubted.add((author, peer))
            liars = f"either peer {author} made up the slices of peer {peer} that it holds, or {peer} signed two lists"
            self.out.append(Blame(RemoteError(None, self.holding_clause, f"{liars}; compare their transcripts")))
