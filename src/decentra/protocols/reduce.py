"""Reduce-scatter and all-gather under certificates: the flow that allreduce and secagg share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from decentra import derive
from decentra.crypto.prg import Mask
from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Compute, Finish, Persist, Record, Release, Send
from decentra.machine.events import Blob, Received
from decentra.protocols.certify.messages import Propose
from decentra.protocols.jobs import Assemble, Assembled, Encode, Encoded
from decentra.protocols.round import CONTEXT, OUTCOME, SUM, SURVIVORS, Round
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.codec import pack
from decentra.wire.message import Message


class Reduce(Round):
    """A round that sums vectors slice by slice: every peer owns one slice, and certificates bind what is summed."""

    scattering: ClassVar[str]
    """The phase in which slices travel."""
    slice_clause: ClassVar[str]
    holding_clause: ClassVar[str]
    sum_clause: ClassVar[str]
    outcome_clause: ClassVar[str]

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.own_slices: tuple[Blob, ...] = ()
        self.own_sum: Blob | None = None
        self._assembled: Assembled | None = None

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def own_step(self) -> bool:
        """Try to leave a phase of the protocol's own; True if it moved."""

    @abstractmethod
    def slices_message(self, roots: tuple[bytes, ...]) -> Message:
        """The message that signs the roots of this peer's slices."""

    @abstractmethod
    def holding_message(self, held: tuple[tuple[PeerId, bytes], ...]) -> Message: ...

    @abstractmethod
    def sum_message(self, root: bytes) -> Message: ...

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self) -> bool:
        if self.phase == SURVIVORS:
            return self._step_survivors()
        if self.phase == SUM:
            return self._step_sum()
        if self.phase == OUTCOME:
            return self._step_outcome()
        return self.own_step()

    def waiting_for(self) -> tuple[PeerId, ...]:
        if self.phase in self.certify:
            missing = self.missing(f"{self.protocol}.holding") if self.phase == SURVIVORS else ()
            return missing or self.certify[self.phase].missing()
        if self.phase == self.scattering:
            return self.missing(self.slices_message(()).kind)
        if self.phase == SUM:
            return self.missing(f"{self.protocol}.sum")
        if self.phase == CONTEXT:
            return self.missing(f"{self.protocol}.endorse")
        return self.missing(f"{self.protocol}.{self.phase}")

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

    def step_scatter(self) -> bool:
        """Once this peer's slice of every vector is whole and is what its sender signed, say so."""
        kind = self.slices_message(()).kind
        if self.missing(kind) or not self.own_slices:
            return False
        held: list[tuple[PeerId, bytes]] = []
        for peer in self.roster:
            received = self.got(kind)[peer]
            self._check_slice(peer, received)
            held.append((peer, received.verified.hash))
        self.out.append(Send(self.holding_message(tuple(held)), after=self.rendezvous.opened_by))
        self.go("every slice whole")
        return True

    def _check_slice(self, peer: PeerId, received: Received) -> None:
        message = received.verified.message
        roots: tuple[bytes, ...] = getattr(message, "roots", ())
        if getattr(message, "context", b"") != self.context:
            raise RemoteError(peer, self.context_clause, "it sent slices under a context that it did not endorse")
        if len(roots) != self.n:
            raise RemoteError(peer, self.slice_clause, f"it signed {len(roots)} slices, the roster has {self.n}")
        if peer != self.setting.me:
            size = self.slice_size(self.position)
            self._check_blob(peer, self.slice_clause, received.blob, roots[self.position], size)

    def _check_blob(self, peer: PeerId, clause: str, blob: Blob | None, root: bytes, size: int) -> None:
        if size == 0 and blob is None:
            return
        if blob is None or blob.root != root or blob.size != size:
            raise RemoteError(peer, clause, "what it sent does not hash to what it signed, or has another length")

    def slices_of_mine(self) -> tuple[Blob, ...]:
        """This peer's slice of every vector, in roster order; empty slices have no blob and are left out."""
        kind = self.slices_message(()).kind
        mine = self.own_slices[self.position]
        blobs = (mine if peer == self.setting.me else self.got(kind)[peer].blob for peer in self.roster)
        return tuple(blob for blob in blobs if blob is not None and blob.size)

    def _step_survivors(self) -> bool:
        vote = self.certify.get("survivors") or self.open_vote("survivors", self._check_survivors)
        kind = f"{self.protocol}.holding"
        if self.rendezvous.proposer == self.setting.me and not self.missing(kind) and vote.proposal is None:
            shown = tuple(self.got(kind)[peer].verified for peer in self.roster)
            self.propose(vote, pack((self.roster, self.roster, tuple(holding.hash for holding in shown))), shown)
        if not vote.advance():
            return False
        for position, blob in enumerate(self.own_slices):
            if position != self.position:
                self.out.append(Release(blob))
        self.rendezvous.release()
        self.go("certificate(survivors)")
        return True

    def _check_survivors(self, proposal: Propose) -> bytes | None:
        """The survivors that the shown holdings give: here everybody, each slice owned by its own peer."""
        proposer = self.rendezvous.proposer
        held = {cited.sender: cited for cited in proposal.shown}
        if tuple(sorted(held)) != self.roster or len(proposal.shown) != self.n:
            raise RemoteError(proposer, "CE-2", "it shows not one holding of every slice's owner")
        mine = {peer: received.verified.hash for peer, received in self.got(self.slices_message(()).kind).items()}
        for position, owner in enumerate(self.roster):
            cited = held[owner]
            message = cited.message
            listed = dict(getattr(message, "held", ()))
            sound = message.kind == f"{self.protocol}.holding" and getattr(message, "context", b"") == self.context
            if not sound or getattr(message, "slice", -1) != position or set(listed) != set(self.roster):
                raise RemoteError(owner, self.holding_clause, "its holding is not one of its own slice of every vector")
            for peer, named in listed.items():
                if named != mine[peer]:  # only the entry that the owner holds could tell which of the two it is
                    liars = f"either peer {owner} holds another list of slices than it says, or peer {peer} signed two"
                    raise RemoteError(None, self.holding_clause, f"{liars}; compare their transcripts")
        hashes = tuple(held[owner].hash for owner in self.roster)
        if proposal.value != pack((self.roster, self.roster, hashes)):
            raise RemoteError(proposer, "CE-2", "it proposes other survivors than the shown holdings give")
        return derive.survivors_value(self.roster, self.roster, hashes)

    def publish_sum(self, total: Blob) -> None:
        """Send this peer's slice of the sum to everyone."""
        others = {peer: total for peer in self.roster if peer != self.setting.me and total.size}
        self.own_sum = total
        self.out.append(Send(self.sum_message(total.root), blobs=others, after=self.certify["survivors"].opened_by))

    def _step_sum(self) -> bool:
        kind = f"{self.protocol}.sum"
        if self.missing(kind):
            return False
        blobs: list[Blob] = []
        for position, peer in enumerate(self.roster):
            received = self.got(kind)[peer]
            message, blob = received.verified.message, received.blob
            if getattr(message, "context", b"") != self.context or getattr(message, "slice", -1) != position:
                raise RemoteError(peer, self.sum_clause, "its sum is not one of its own slice under this context")
            if peer == self.setting.me:
                blob = self.own_sum
            else:
                self._check_blob(peer, self.sum_clause, blob, getattr(message, "root", b""), self.slice_size(position))
            if blob is not None and blob.size:
                blobs.append(blob)
        self.go("every sum")
        self.out.append(Compute("assemble", Assemble(tuple(blobs), self.mine.length, self.setting.width)))
        return True

    def assembled(self, value: object) -> None:
        """The slices of the sum are one vector; check its weight and know the outcome (SA-9, AR-5)."""
        if not isinstance(value, Assembled):
            raise LocalError(f"{self.protocol}: the sums could not be put together: {value}")
        if not self.n <= value.total_weight <= self.n * self.setting.max_weight:
            liars = f"peer {self.roster[-1]}, which summed them, or a peer that gave a false one"
            said = f"the weights of {self.n} peers can't sum to {value.total_weight}: {liars}"
            raise RemoteError(None, self.outcome_clause, said)
        self._assembled = value

    def _outcome_digest(self) -> bytes | None:
        if self._assembled is None:
            return None
        sums = self.got(f"{self.protocol}.sum")
        roots = tuple(getattr(sums[peer].verified.message, "root", b"") for peer in self.roster)
        weight = self._assembled.total_weight
        return derive.outcome_value(self.context, self.certify["survivors"].value, weight, roots)

    def _check_outcome(self, proposal: Propose) -> bytes | None:
        """The outcome that the sums give; the shown ones tell a lying proposer from an owner that signed two sums."""
        digest = self._outcome_digest()
        if digest is None:
            return None
        proposer, kind = self.rendezvous.proposer, f"{self.protocol}.sum"
        if tuple(cited.sender for cited in proposal.shown) != self.roster:
            raise RemoteError(proposer, self.outcome_clause, "it shows not one sum of every slice's owner")
        for cited in proposal.shown:
            if cited.message.kind != kind or getattr(cited.message, "context", b"") != self.context:
                raise RemoteError(proposer, self.outcome_clause, "what it shows are no sums of this round")
            if cited.hash != self.got(kind)[cited.sender].verified.hash:
                raise RemoteError(cited.sender, self.sum_clause, "it signed two different sums for its slice")
        if proposal.value != digest:
            raise RemoteError(proposer, self.outcome_clause, "it proposes another outcome than the shown sums give")
        return digest

    def _step_outcome(self) -> bool:
        vote = self.certify.get("outcome") or self.open_vote("outcome", self._check_outcome)
        digest = self._outcome_digest()
        if digest is not None and self.rendezvous.proposer == self.setting.me and vote.proposal is None:
            sums = self.got(f"{self.protocol}.sum")
            self.propose(vote, digest, tuple(sums[peer].verified for peer in self.roster))
        if not vote.advance() or self._assembled is None:
            return False
        self.out.append(Persist(Record("done", "outcome", self.context + vote.value)))
        self.out.append(
            Finish(
                Outcome(
                    total=self._assembled.total,
                    ranges=self.ranges,
                    roster=self.roster,
                    survivors=self.roster,
                    total_weight=self._assembled.total_weight,
                    digest=vote.value,
                    adopted=self.rendezvous.adopted,
                )
            )
        )
        self.go("certificate(outcome)")
        return True

