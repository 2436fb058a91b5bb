"""Reduce-scatter and all-gather under certificates: the flow that allreduce and secagg share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from decentra import derive
from decentra.crypto.prg import Mask
from decentra.errors import LocalError, RemoteError, Unavailable
from decentra.machine.effects import Blame, Compute, Finish, Persist, Record, Release, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols.certify.machine import Certify
from decentra.protocols.jobs import Assemble, Assembled, Encode, Encoded
from decentra.protocols.rendezvous.messages import AbortRound, Leave, State
from decentra.protocols.round import CONTEXT, OUTCOME, SUM, SURVIVORS, Round
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.protocols.survivors import FAIL, Survivors, derive_survivors, read_holding
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed
from decentra.wire.message import Message, Verified

LOST = b"lost"
"""The outcome that says: a slice's sum never came, and the round is spent."""

OVERTIME = 6
"""Phase deadlines that a vote may take before a peer gives up: views 0 to 4 and part of the next."""


class Reduce(Round):
    """A round that sums vectors slice by slice: every slice has one owner, and certificates bind what is summed.

    From the first masked byte on, a peer that stops is gone and no more: its vector is summed if every slice's owner
    has it, its slice passes to the next in the roster, and certified values say which it was.
    """

    scattering: ClassVar[str]
    """The phase in which slices travel."""
    slice_clause: ClassVar[str]
    holding_clause: ClassVar[str]
    sum_clause: ClassVar[str]
    outcome_clause: ClassVar[str]

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.own_slices: tuple[Blob, ...] = ()
        self.survivors: Survivors | None = None
        self.gone: set[PeerId] = set()
        """Who said that it stops, or broke a clause: nobody waits for it."""
        self._waited: set[str] = set()
        self._overtime = 0
        self._takers: dict[int, int] = {}
        self._held: set[int] = set()
        self._unsound: set[tuple[str, PeerId]] = set()
        self._doubted: set[tuple[PeerId, PeerId]] = set()
        self._two_sums: RemoteError | None = None
        self._totals: dict[int, Blob] = {}
        self._lacking = self._assembling = False
        self._assembled: Assembled | None = None

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def own_step(self) -> bool:
        """Try to leave a phase of the protocol's own; True if it moved."""

    @abstractmethod
    def slices_message(self, roots: tuple[bytes, ...]) -> Message:
        """The message that signs the roots of this peer's slices."""

    @abstractmethod
    def again_message(self, position: int, root: bytes) -> Message: ...

    @abstractmethod
    def holding_message(self, position: int, held: tuple[tuple[PeerId, bytes], ...]) -> Message: ...

    @abstractmethod
    def sum_message(self, position: int, root: bytes) -> Message: ...

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self) -> bool:
        if self.phase in (self.scattering, SURVIVORS) and self.n - len(self.gone) < self.quorum:
            what = f"round {self.round}, of which too few are left to certify anything"
            raise Unavailable(sorted(self.gone), 0.0, what, "the next round begins without them")
        if self.phase == SURVIVORS:
            return self._step_survivors()
        if self.phase == SUM:
            return self._step_sum()
        if self.phase == OUTCOME:
            return self._step_outcome()
        return self.own_step()

    def slot(self, message: Message) -> str:
        """Holdings, sums and repeated parts are of one slice; a peer has one of each for every slice."""
        position = getattr(message, "slice", None)
        return message.kind if position is None else f"{message.kind}/{position}"

    def room(self, message: Message) -> int:
        if isinstance(message, State):
            return super().room(message)
        count = self.n or self.setting.floor  # until the roster is known, its least size gives the largest slices
        return -(-self.mine.length // count) * (self.setting.width // 8)

    def waiting_for(self) -> tuple[PeerId, ...]:
        if self.phase == SURVIVORS:
            silent = tuple(self.roster[position] for position in range(self.n) if not self._covered(position))
            return silent or tuple(sorted(self.gone)) or self.certify[SURVIVORS].missing()
        if self.phase == SUM or (self.phase == OUTCOME and self._assembled is None):
            return tuple(sorted({self.owners[position] for position in self._missing_sums()}))
        if self.phase in self.certify:
            return self.certify[self.phase].missing()
        if self.phase == self.scattering:
            return self.missing(self.slices_message(()).kind)
        if self.phase == CONTEXT:
            return self.missing(f"{self.protocol}.endorse")
        return self.missing(f"{self.protocol}.{self.phase}")

    def went_on(self, timer: str) -> bool:
        if timer == "hold":
            self._waited.add(timer)
            return True
        if timer == "takeover":
            if self.phase == SURVIVORS:
                self._waited.add(timer)
                self._take_over(silent=True)
                self.out.append(SetTimer("takeover", self.setting.patience))
            return True
        if timer != "phase" or self.phase not in (self.scattering, SURVIVORS, SUM, OUTCOME):
            return False
        if self.phase == SUM:
            self._lacking = True
            return True
        self._overtime += 1
        self.out.append(SetTimer("phase", self.setting.phase_deadline))
        return self._overtime <= OVERTIME and bool(self.own_slices)

    def broke(self, error: RemoteError) -> None:
        """A peer broke a clause. Before anything was masked that ends the round for all; later that peer is gone."""
        if not self.spent or error.peer is None:
            super().broke(error)
        elif (error.clause, error.peer) not in self._unsound:
            self._unsound.add((error.clause, error.peer))
            self.gone.add(error.peer)
            self.out.append(Blame(error))

    def ended(self, sender: PeerId, message: AbortRound | Leave) -> None:
        """A peer stops. Before anything was masked that ends the round for all; from then on it is just gone."""
        if not self.spent:
            super().ended(sender, message)
        self.gone.add(sender)

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        return derive.slice_bounds(self.mine.length, self.n)

    def slice_size(self, position: int) -> int:
        """Bytes in one slice."""
        low, high = self.bounds[position]
        return (high - low) * (self.setting.width // 8)

    def endorsed_by_all(self) -> bool:
        """Whether everybody in the roster has endorsed this peer's context."""
        endorsed = self.got(f"{self.protocol}.endorse")
        mine = endorsed.get(self.setting.me)
        for peer, received in endorsed.items():
            verified = received.verified
            if mine is None or getattr(verified.message, "context", b"") == self.context:
                continue
            if verified.entry.after == mine.verified.entry.after:  # both opened by one entry, which gives one context
                raise RemoteError(peer, self.context_clause, "it endorsed another context than the one that was opened")
            liars = f"either peer {peer} made up the context that it endorsed, or proposer {self.rendezvous.proposer}"
            raise RemoteError(None, self.context_clause, f"{liars} opened two; compare their transcripts")
        return not self.missing(f"{self.protocol}.endorse")

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

    def encode_job(self, masks: tuple[Mask, ...]) -> Encode:
        """The job that turns this peer's update into slices."""
        mine, setting = self.mine, self.setting
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
        self.own_slices = encoded.slices
        roots = tuple(blob.root for blob in encoded.slices)
        message = self.slices_message(roots)
        self.out.append(Persist(Record("intent", "update", self.context + b"".join(roots))))
        self.spent = True
        blobs = {
            peer: blob
            for peer, blob in zip(self.roster, encoded.slices, strict=True)
            if peer != self.setting.me and blob.size
        }
        self.out.append(Send(message, blobs=blobs, after=self.rendezvous.opened_by))
        self.out.append(SetTimer("hold", 2 * self.setting.patience))

    def step_scatter(self) -> bool:
        """Say whose part of this peer's slice is whole: everybody's, or, when the time is over, that of who came."""
        if not self.own_slices:
            return False
        kind = self.slices_message(()).kind
        whole = {peer: received for peer, received in self.got(kind).items() if self._sound_slice(peer, received)}
        awaited = [peer for peer in self.roster if peer not in whole and peer not in self.gone]
        if awaited and "hold" not in self._waited:
            return False
        self._hold(self.position, {peer: received.verified.hash for peer, received in whole.items()})
        self.out.append(SetTimer("takeover", self.setting.patience))
        self.go("slices held")
        return True

    def _hold(self, position: int, held: dict[PeerId, bytes]) -> None:
        self._held.add(position)
        message = self.holding_message(position, tuple(sorted(held.items())))
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
        return peer == self.setting.me or self._sound_blob(
            peer, self.slice_clause, received.blob, roots[self.position], self.slice_size(self.position)
        )

    def _sound_blob(self, peer: PeerId, clause: str, blob: Blob | None, root: bytes, size: int) -> bool:
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

    def _covered(self, position: int) -> bool:
        return bool(self._holdings(position))

    def _take_over(self, silent: bool) -> None:
        """Pass every slice that nobody holds to the next peer in the roster, with the same bytes as before.

        At once where the one before is gone, and then to the next that is not, whatever came so far, so that all choose
        alike; or, where the one before was ``silent`` for too long, to the next that did hold its own.
        """
        for position in range(self.n):
            if self._covered(position) or not (silent or self._taker(position) in self.gone):
                continue
            for _ in range(self.n):
                self._takers[position] = self._takers.get(position, 0) + 1
                taker = self._taker(position)
                if taker not in self.gone and not (silent and not self._covered(self.roster.index(taker))):
                    break
            blob = self.own_slices[position]
            message = self.again_message(position, blob.root)
            if taker != self.setting.me:
                blobs = {taker: blob} if blob.size else {}
                self.out.append(Send(message, to=taker, blobs=blobs, after=self.rendezvous.opened_by))

    def _hold_taken(self) -> None:
        """Hold a slice that passed to this peer, once everybody who is not gone has repeated its part."""
        kind, sent = self.again_message(0, b"").kind, self.got(self.slices_message(()).kind)
        for position in range(self.n):
            parts = self._parts(position, kind, sent)
            if position in self._held or len(parts) <= 1:
                continue
            awaited = [peer for peer in sent if peer not in parts and peer not in self.gone]
            if not awaited or ("takeover" in self._waited and len(parts) >= self.quorum):
                self._hold(position, {peer: sent[peer].verified.hash for peer in parts})

    def _parts(self, position: int, kind: str, sent: dict[PeerId, Received]) -> dict[PeerId, Blob | None]:
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
            if sound and self._sound_blob(peer, self.slice_clause, received.blob, roots[position], size):
                parts[peer] = received.blob
        return parts

    # ── the survivors ────────────────────────────────────────────────────────────────────────────────────────────────

    def _step_survivors(self) -> bool:
        vote = self.certify.get(SURVIVORS) or self.open_vote(SURVIVORS, self._check_survivors)
        self._read_holdings()
        self._take_over(silent=False)
        self._hold_taken()
        if vote.proposer() == self.setting.me:
            self._offer_survivors(vote)
        if not vote.advance():
            return False
        if vote.value == FAIL:
            self.spent = False  # the certificate frees every update (SA-4)
            what = f"the survivors of round {self.round}"
            raise Unavailable(sorted(self.gone), 0.0, what, "it is certified as failed, and every update may go again")
        self.survivors = Survivors.unpack(vote.value)
        if self.setting.me not in self.survivors.members:
            self.spent = False
        for position, blob in enumerate(self.own_slices):
            if self.owners[position] != self.setting.me:
                self.out.append(Release(blob))
        self.rendezvous.release()
        self.go("certificate(survivors)")
        return True

    def _offer_survivors(self, vote: Certify) -> None:
        """Propose what the holdings give; in a later view, to fail the round, if they give nothing."""
        shown = self._shown_holdings()
        given = derive_survivors(self.roster, self.quorum, shown, self._holding_kind, self.context)
        if given is not None:
            chosen = {verified.hash: verified for verified in shown}
            vote.offer(given.pack(), tuple(chosen[one] for one in given.holdings))
        elif vote.view > 0 and len({verified.sender for verified in shown}) >= self.quorum:
            vote.offer(FAIL, tuple(shown))
        else:
            vote.offer(None)

    @property
    def _holding_kind(self) -> str:
        return f"{self.protocol}.holding"

    def _holdings(self, position: int) -> dict[PeerId, Verified]:
        """Who says that it holds a slice, in messages that can be shown to others."""
        kind, known = self._holding_kind, self.got(f"{self._holding_kind}/{position}")
        return {
            peer: received.verified
            for peer, received in known.items()
            if read_holding(received.verified, kind, self.context, self.n) is not None
        }

    def _shown_holdings(self) -> list[Verified]:
        """One holding a slice, of who owns it or took it over first."""
        shown: list[Verified] = []
        for position in range(self.n):
            holdings = self._holdings(position)
            if holdings:
                first = min(holdings, key=lambda peer: (self.roster.index(peer) - position) % self.n)
                shown.append(holdings[first])
        return shown

    def _read_holdings(self) -> None:
        """Take down holdings that are none, and those whose lists are not the ones that came here."""
        prefix, sent = f"{self._holding_kind}/", self.got(self.slices_message(()).kind)
        for slot in [slot for slot in self.box if slot.startswith(prefix)]:
            for author, received in self.got(slot).items():
                read = read_holding(received.verified, self._holding_kind, self.context, self.n)
                if read is None or not set(read[1]) <= set(self.roster):
                    self.refuse(author, self.holding_clause, "its holding is none of a slice of this round")
                    continue
                for peer, hashed in read[1].items():
                    if peer not in sent or sent[peer].verified.hash == hashed:
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

    def _check_survivors(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """CE-2: the shown holdings give this value and no other."""
        proposer = self.certify[SURVIVORS].proposer()
        for verified in shown:
            if read_holding(verified, self._holding_kind, self.context, self.n) is None:
                raise RemoteError(proposer, "CE-2", "it shows something else than holdings under this context")
        given = derive_survivors(self.roster, self.quorum, shown, self._holding_kind, self.context)
        if value == FAIL:
            if given is not None or len({verified.sender for verified in shown}) < self.quorum:
                raise RemoteError(proposer, "CE-2", "it proposes to fail a round that the shown holdings don't fail")
            return True
        try:
            Survivors.unpack(value)
        except Malformed as error:
            raise RemoteError(proposer, "CE-2", str(error)) from error
        if given is None or given.pack() != value:
            raise RemoteError(proposer, "CE-2", "it proposes other survivors than the shown holdings give")
        return True

    @property
    def members(self) -> tuple[PeerId, ...]:
        """The survivors, once certified."""
        return self.roster if self.survivors is None else self.survivors.members

    @property
    def owners(self) -> tuple[PeerId, ...]:
        """Who sums each slice, once certified."""
        return self.roster if self.survivors is None else self.survivors.owners

    # ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def owned(self) -> Iterator[tuple[int, tuple[Blob, ...]]]:
        """The slices that this peer sums, each with the survivors' parts; empty slices have none."""
        sent, kind = self.got(self.slices_message(()).kind), self.again_message(0, b"").kind
        for position, owner in enumerate(self.owners):
            if owner == self.setting.me:
                parts = self._parts(position, kind, sent)
                yield position, tuple(blob for peer in self.members if (blob := parts[peer]) is not None and blob.size)

    def publish_sum(self, position: int, total: Blob) -> None:
        """Send the sum of a slice to everyone."""
        self._totals[position] = total
        others = {peer: total for peer in self.roster if peer != self.setting.me and total.size}
        after = self.certify[SURVIVORS].opened_by
        self.out.append(Send(self.sum_message(position, total.root), blobs=others, after=after))

    def _sum_of(self, position: int) -> Received | None:
        """The sum that a slice's owner published, if it is what the owner signed."""
        owner = self.owners[position]
        received = self.got(f"{self.protocol}.sum/{position}").get(owner)
        if received is None:
            return None
        message = received.verified.message
        if getattr(message, "context", b"") != self.context:
            self.refuse(owner, self.sum_clause, "its sum is not one of this context")
            return None
        if owner == self.setting.me:
            return received
        root = getattr(message, "root", b"")
        sound = self._sound_blob(owner, self.sum_clause, received.blob, root, self.slice_size(position))
        return received if sound else None

    def _missing_sums(self) -> list[int]:
        return [position for position in range(self.n) if self._sum_of(position) is None]

    def _read_sums(self) -> None:
        """Take down sums of slices that are not their author's to sum."""
        for slot in [slot for slot in self.box if slot.startswith(f"{self.protocol}.sum/")]:
            for author, received in self.got(slot).items():
                position = getattr(received.verified.message, "slice", self.n)
                if position >= self.n or self.owners[position] != author:
                    self.refuse(author, self.sum_clause, f"it published a sum of slice {position}, not its own")

    def _step_sum(self) -> bool:
        self._read_sums()
        missing = self._missing_sums()
        if missing and not self._lacking and any(self.owners[position] not in self.gone for position in missing):
            return False
        self._lacking = bool(missing)
        self.go("every sum, or one is missing")
        return True

    def _assemble(self) -> None:
        """Put the slices together as soon as all are here, even if late."""
        if self._assembling or self._missing_sums():
            return
        self._assembling = True
        blobs = []
        for position in range(self.n):
            received = self._sum_of(position)
            blob = self._totals.get(position) or (None if received is None else received.blob)
            if blob is not None and blob.size:
                blobs.append(blob)
        self.out.append(Compute("assemble", Assemble(tuple(blobs), self.mine.length, self.setting.width)))

    def assembled(self, value: object) -> None:
        """The slices of the sum are one vector; check its weight and know the outcome (SA-9, AR-5)."""
        if not isinstance(value, Assembled):
            raise LocalError(f"{self.protocol}: the sums could not be put together: {value}")
        count = len(self.members)
        if not count <= value.total_weight <= count * self.setting.max_weight:
            liars = f"peer {self.owners[-1]}, which summed them, or a peer that gave a false one"
            said = f"the weights of {count} peers can't sum to {value.total_weight}: {liars}"
            raise RemoteError(None, self.outcome_clause, said)
        self._assembled = value

    # ── the outcome ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _shown_sums(self) -> tuple[Verified, ...]:
        sums = (self._sum_of(position) for position in range(self.n))
        return tuple(received.verified for received in sums if received is not None)

    def _outcome_digest(self) -> bytes | None:
        if self._assembled is None:
            return None
        roots = tuple(getattr(verified.message, "root", b"") for verified in self._shown_sums())
        return derive.outcome_value(
            self.context, self.certify[SURVIVORS].digest, self._assembled.total_weight, roots
        )

    def _check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """The outcome that the sums give, or ``lost`` where this peer too has waited for one in vain."""
        if value == LOST:
            return self._lacking and self._assembled is None
        digest = self._outcome_digest()
        if digest is None:
            return False
        proposer = self.certify[OUTCOME].proposer()
        if tuple(cited.sender for cited in shown) != self.owners:
            raise RemoteError(proposer, self.outcome_clause, "it shows not one sum of every slice's owner")
        for cited, mine in zip(shown, self._shown_sums(), strict=True):
            if cited.message.kind != mine.message.kind or getattr(cited.message, "context", b"") != self.context:
                raise RemoteError(proposer, self.outcome_clause, "what it shows are no sums of this round")
            if cited.hash != mine.hash:
                self._two_sums = RemoteError(cited.sender, self.sum_clause, "it signed two sums for its slice")
                raise self._two_sums
        if value != digest:
            raise RemoteError(proposer, self.outcome_clause, "it proposes another outcome than the shown sums give")
        return True

    def _step_outcome(self) -> bool:
        vote = self.certify.get(OUTCOME) or self.open_vote(OUTCOME, self._check_outcome)
        self._assemble()
        digest = self._outcome_digest()
        if digest is not None:
            vote.offer(digest, self._shown_sums())
        else:
            vote.offer(LOST if self._lacking and not self._assembling else None)
        if not vote.advance():
            return False
        if vote.value == LOST:
            silent = sorted({self.owners[position] for position in self._missing_sums()})
            raise Unavailable(silent, 0.0, f"a slice's sum in round {self.round}", "it is certified as lost, and spent")
        if self._assembled is None:
            return False  # the result is certified, and this peer still lacks a slice of it
        if digest != vote.value:
            raise self._two_sums or RemoteError(
                None, self.outcome_clause, "what is certified is no sum of what came here: compare transcripts"
            )
        self.out.append(Persist(Record("done", "outcome", self.context + vote.value)))
        self.out.append(
            Finish(
                Outcome(
                    total=self._assembled.total,
                    ranges=self.ranges,
                    roster=self.roster,
                    survivors=self.members,
                    total_weight=self._assembled.total_weight,
                    digest=vote.value,
                    adopted=self.rendezvous.adopted,
                )
            )
        )
        self.go("certificate(outcome)")
        return True
