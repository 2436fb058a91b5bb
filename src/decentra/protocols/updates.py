"""Rounds in which updates leave their peers: one context endorsed by all, INTENT, and who is gone from then on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar

from decentra import derive
from decentra.crypto.prg import Mask
from decentra.errors import Behind, LocalError, RemoteError
from decentra.machine.effects import Blame, Compute, Persist, Record, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols import slices
from decentra.protocols.jobs import Encode
from decentra.protocols.round import Round
from decentra.protocols.setting import Contribution, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified


class Updates(Round):
    """The first half of a round: contexts, and updates that leave under one of them.

    From the first byte of an update on, a peer that stops or breaks a clause is gone and no more: its update counts if
    as many have it as the protocol asks for.

    A round may begin ahead of its updates. Who has said so is waited for here as others are at the rendezvous: as long
    as rounds of late let one expect, from when as many as the charter's floor have sent theirs.
    """

    scattering: ClassVar[str]
    """The phase in which updates travel."""
    endorse_type: ClassVar[type[slices.Endorse]]
    endorsed_type: ClassVar[type[slices.Endorsed]]
    holding_type: ClassVar[type[slices.InContext]]

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.clipped = 0
        """Coordinates of this peer's update that exceeded their range."""
        self.left = False
        """Whether this peer's update has left; unlike ``spent`` it stays, whatever a certificate frees."""
        self.waited: set[str] = set()
        """Which of the timers that a round goes on from have run out."""
        self._masks: tuple[Mask, ...] | None = None
        """Under what masks this peer's update leaves, once that is known; under none in the clear."""
        self._hurried = False
        self._unsound: set[tuple[str, PeerId]] = set()
        self._doubted: set[tuple[PeerId, PeerId]] = set()

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def own_holdings(self) -> Mapping[PeerId, Verified]:
        """Who has said whose update it has of what it is to have first, and in which message."""

    @property
    @abstractmethod
    def given_kind(self) -> str:
        """The kind of the message that an update leaves with."""

    @property
    def in_one_piece(self) -> bool:
        """Whether an update travels whole, not in slices."""
        return False

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def broke(self, error: RemoteError) -> None:
        """A peer broke a clause. Before anything left that ends the round for all; later that peer is gone."""
        if not self._under_way or error.peer is None:
            super().broke(error)
        elif (error.clause, error.peer) not in self._unsound:
            self._stays = False
            self._unsound.add((error.clause, error.peer))
            self.gone.add(error.peer)
            self.absent.add(error.peer)
            self.out.append(Blame(error))

    def ended(self, sender: PeerId, message: Message) -> None:
        """A peer stops. Before anything left that ends the round for all; from then on it is just gone."""
        if not self._under_way:
            super().ended(sender, message)
        self.gone.add(sender)
        self.absent.add(sender)

    def refuse(self, peer: PeerId, clause: str, said: str) -> bool:
        """Take a broken clause down; always False."""
        self.broke(RemoteError(peer, clause, said))
        return False

    def doubt(self, author: PeerId, peer: PeerId, clause: str, made_up: str, two: str) -> None:
        """Two signed words that can't both be true; who of the two lies shows only beside other transcripts."""
        if (author, peer) not in self._doubted:
            self._doubted.add((author, peer))
            other = f"made up the {made_up} of peer {peer} that it holds"
            liars = f"either peer {author} {other}, or {peer} signed two {two}"
            self.out.append(Blame(RemoteError(None, clause, f"{liars}; compare their transcripts")))

    @property
    def _under_way(self) -> bool:
        """Whether an update left: here, or, while some are still in their local steps, it may have elsewhere."""
        return self.left or (self.phase == self.scattering and bool(self.rendezvous.later))

    def keep(self, event: Received) -> None:
        super().keep(event)
        if isinstance(event.verified.message, slices.Endorsed):
            for one in event.verified.message.endorsements:
                if isinstance(one.message, self.endorse_type) and one.entry.round == self.round.number:
                    super().keep(Received(one))
        waits = self.rendezvous.later and self.phase == self.scattering
        if waits and isinstance(event.verified.message, self.holding_type):
            self._stays = False  # it may show that others have stopped waiting for somebody's local steps

    def sound_blob(self, peer: PeerId, clause: str, blob: Blob | None, root: bytes, size: int) -> bool:
        if size == 0 and blob is None:
            return True
        if blob is None or blob.root != root or blob.size != size:
            return self.refuse(peer, clause, "what it sent does not hash to what it signed, or has another length")
        return True

    # ── contexts ─────────────────────────────────────────────────────────────────────────────────────────────────────

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

    def endorse_plainly(self) -> None:
        """Endorse the context that follows from the roster alone, where a protocol deals nothing before."""
        self.context = self.derive_context(())
        self.out.append(Send(self.endorse_type(self.context), after=self.rendezvous.opened_by))

    def step_context(self) -> bool:
        if not self.context or not self.endorsed_by_all():
            return False
        self.go("endorsed by all")
        return True

    def hand_endorsements(self) -> None:
        """Who has sent no update by now may lack somebody's endorsement, which reached this peer before its author
        died: show it all of them."""
        sent, endorsed = self.got(self.given_kind), self.got(self.endorse_type.kind)
        passed = sent.keys() | self.gone | self.rendezvous.later | {self.setting.me}
        lacking = [peer for peer in self.roster if peer not in passed]
        if self.phase == self.scattering and lacking:
            message = self.endorsed_type(self.context, tuple(endorsed[peer].verified for peer in self.roster))
            for peer in lacking:
                self.out.append(Send(message, to=peer, after=self.rendezvous.opened_by))

    # ── the update ───────────────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, masks: tuple[Mask, ...] = ()) -> None:
        """Encode the update, now or as soon as it is here; under these masks, or in the clear."""
        self._masks = masks
        if self.mine.update is not None:
            self.out.append(Compute("encode", self.encode_job(masks)))

    def supplied(self) -> None:
        if self._masks is not None:
            self.encode(self._masks)

    def encode_job(self, masks: tuple[Mask, ...]) -> Encode:
        """The job that turns this peer's update into what it sends."""
        mine, setting = self.mine, self.setting
        if mine.update is None:
            raise LocalError(f"{self.protocol}: encoding an update that is still to come; a defect of decentra")
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
            whole=self.in_one_piece,
        )

    def spend(self, message: slices.Given, roots: tuple[bytes, ...], blobs: Mapping[PeerId, Blob]) -> None:
        """Spend the update: INTENT is durable before the first byte leaves (SA-4)."""
        self.out.append(Persist(Record("intent", "update", self.context + b"".join(roots))))
        self.spent = self.left = True
        self.out.append(Send(message, blobs=blobs, after=self.rendezvous.opened_by, lasting=self.in_one_piece))

    def await_others(self) -> None:
        """This peer's update has left: the others have their time from now on."""
        self.out.append(SetTimer("endorsed", self.setting.patience))
        self.out.append(SetTimer("hold", 2 * self.setting.patience))
        if self.rendezvous.later and not self._hurried:
            self._await_steps(None)

    def holds_now(self, whole: Collection[PeerId]) -> bool:
        """Whether to say what is here by now: all of it, or, when the time is over, what came."""
        awaited = [peer for peer in self.roster if peer not in whole and peer not in self.absent]
        if awaited and ("hold" not in self.waited or self.in_steps()):
            return False
        came = self.got(self.given_kind)
        self.absent.update(peer for peer in awaited if peer != self.setting.me and peer not in came)
        return True

    # ── local steps ──────────────────────────────────────────────────────────────────────────────────────────────────

    def in_steps(self) -> tuple[PeerId, ...]:
        """Whose update may still come after its local steps: not of who was left out lately, nor of whom more peers
        have stopped to wait for than may lie."""
        later = self.rendezvous.later
        if not later or "steps" in self.waited:
            return ()
        passed = self.absent | self.mine.benched | self.got(self.given_kind).keys() | {self.setting.me}
        waited = [peer for peer in self.roster if peer in later and peer not in passed]
        return tuple(peer for peer in waited if len(self._holding_without(peer)) <= self.setting.c)

    def _holding_without(self, peer: PeerId) -> set[PeerId]:
        """Who holds what it is to have first, without this peer's update in it."""
        own = self.own_holdings().items()
        return {owner for owner, said in own if peer not in dict(getattr(said.message, "held", ()))}

    def hurry(self) -> None:
        """As many updates are here as a round needs: the rest have as long as rounds of late let one expect."""
        enough = len(self.got(self.given_kind)) >= self.setting.floor
        if enough and self.rendezvous.later and not self._hurried:
            self._hurried = True
            self._await_steps(self.mine.lateness)

    def _await_steps(self, lateness: float | None) -> None:
        longest = self.setting.ready_deadline if lateness is None else lateness
        self.out.append(SetTimer("steps", longest + 2 * self.setting.patience))

    def go_after(self) -> None:
        """Where the others have gone on without an update that is still to come, keep it for the next round."""
        if self.mine.update is not None:
            return
        without = self._holding_without(self.setting.me)
        if len(self.beyond) > self.setting.c or len(without) >= self.quorum:
            what = f"a place in round {self.round} for an update that was still to come"
            raise Behind.of(sorted(self.beyond | without), what, self.round.number + 1)
