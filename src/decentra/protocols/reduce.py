"""Reduce-scatter and all-gather under certificates: the flow that allreduce and secagg share.

A round is a walk over the phases in the protocol's ``transitions.py``. Messages of any phase may come at any time, since
peers move at their own speed: they are kept by kind and sender, and ``advance`` walks on as far as they carry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from decentra import derive
from decentra.crypto.prg import Mask
from decentra.errors import DecentraError, LocalError, RemoteError, Unavailable
from decentra.machine.effects import Abort, Compute, Effect, Finish, Persist, Record, Release, Send, SetTimer
from decentra.machine.events import Blob, Computed, Event, Expired, Received, Start
from decentra.protocols.certify.machine import Certify, Check
from decentra.protocols.certify.messages import Certificate, Commit, Prepare, Propose
from decentra.protocols.jobs import Assemble, Assembled, Encode, Encoded
from decentra.protocols.rendezvous.machine import Rendezvous
from decentra.protocols.rendezvous.messages import AbortRound, Leave, Ready
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.types import PeerId, RoundId
from decentra.wire.codec import pack
from decentra.wire.entry import ZERO
from decentra.wire.message import Message, Verified

READY, SURVIVORS, SUM, OUTCOME, DONE = "ready", "survivors", "sum", "outcome", "done"
Transitions = Mapping[tuple[str, str], str]


class Reduce(ABC):
    """One peer's part in one round. Pure: it takes an event and returns effects."""

    protocol: ClassVar[str]
    transitions: ClassVar[Transitions]
    scattering: ClassVar[str]
    """The phase in which slices travel."""
    slice_clause: ClassVar[str]
    holding_clause: ClassVar[str]
    sum_clause: ClassVar[str]
    outcome_clause: ClassVar[str]
    context_clause: ClassVar[str]

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        self.setting, self.mine, self.round = setting, mine, round_id
        self.out: list[Effect] = []
        self.phase = READY
        self.spent = False
        self.rendezvous = Rendezvous(setting, mine, round_id, self.out)
        self.box: dict[str, dict[PeerId, Received]] = {}
        self.roster: tuple[PeerId, ...] = ()
        self.context = b""
        self.ranges: tuple[float, ...] = ()
        self.own_slices: tuple[Blob, ...] = ()
        self.certify: dict[str, Certify] = {}
        self.own_sum: Blob | None = None
        self._votes: list[Verified] = []
        self._proposed: set[str] = set()
        self._assembled: Assembled | None = None

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def entered(self, phase: str) -> None:
        """The phase has just begun: start its jobs."""

    @abstractmethod
    def step(self) -> bool:
        """Try to leave a phase of the protocol's own; True if it moved."""

    @abstractmethod
    def computed(self, name: str, value: object) -> None:
        """A job of the protocol's own has its value."""

    @abstractmethod
    def slices_message(self, roots: tuple[bytes, ...]) -> Message:
        """The message that signs the roots of this peer's slices."""

    @abstractmethod
    def holding_message(self, held: tuple[tuple[PeerId, bytes], ...]) -> Message: ...

    @abstractmethod
    def sum_message(self, root: bytes) -> Message: ...

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        return derive.slice_bounds(self.mine.length, self.n)

    def slice_size(self, position: int) -> int:
        """Bytes in one slice."""
        low, high = self.bounds[position]
        return (high - low) * (self.setting.width // 8)

    def endorsed_by_all(self) -> bool:
        """Whether everybody in the roster has endorsed this peer's context."""
        for peer, received in self.got(f"{self.protocol}.endorse").items():
            if getattr(received.verified.message, "context", b"") != self.context:
                raise RemoteError(
                    peer, self.context_clause, "it endorsed another context: it was shown, or made up, another roster or deal"
                )
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
            self._check_blob(peer, self.slice_clause, received.blob, roots[self.position], self.slice_size(self.position))

    def _check_blob(self, peer: PeerId, clause: str, blob: Blob | None, root: bytes, size: int) -> None:
        if size == 0 and blob is None:
            return
        if blob is None or blob.root != root or blob.size != size:
            raise RemoteError(peer, clause, "the data that it sent does not hash to what it signed, or has another length")

    def slices_of_mine(self) -> tuple[Blob, ...]:
        """This peer's slice of every vector, in roster order; empty slices have no blob and are left out."""
        kind = self.slices_message(()).kind
        mine = self.own_slices[self.position]
        blobs = (mine if peer == self.setting.me else self.got(kind)[peer].blob for peer in self.roster)
        return tuple(blob for blob in blobs if blob is not None and blob.size)

    def _step_survivors(self) -> bool:
        vote = self.certify.get("survivors") or self._open("survivors", self._check_survivors)
        kind = f"{self.protocol}.holding"
        if self.rendezvous.proposer == self.setting.me and not self.missing(kind) and vote.proposal is None:
            shown = tuple(self.got(kind)[peer].verified for peer in self.roster)
            self._propose(vote, pack((self.roster, self.roster, tuple(holding.hash for holding in shown))), shown)
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
        names: dict[PeerId, bytes] = {}
        for position, owner in enumerate(self.roster):
            cited = held[owner]
            message = cited.message
            listed = dict(getattr(message, "held", ()))
            sound = message.kind == f"{self.protocol}.holding" and getattr(message, "context", b"") == self.context
            if not sound or getattr(message, "slice", -1) != position or set(listed) != set(self.roster):
                raise RemoteError(owner, self.holding_clause, "its holding is not one of its own slice of every vector")
            if names and listed != names:
                raise RemoteError(owner, self.holding_clause, "its holding names other lists of slices than others hold")
            names = listed
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
            owner = self.roster[-1]
            raise RemoteError(
                owner, self.outcome_clause, f"the sum that it published weighs {value.total_weight}, which {self.n} can't"
            )
        self._assembled = value

    def _outcome_digest(self) -> bytes | None:
        if self._assembled is None:
            return None
        sums = self.got(f"{self.protocol}.sum")
        roots = tuple(getattr(sums[peer].verified.message, "root", b"") for peer in self.roster)
        weight = self._assembled.total_weight
        return derive.outcome_value(self.context, self.certify["survivors"].value, weight, roots)

    def _check_outcome(self, proposal: Propose) -> bytes | None:
        digest = self._outcome_digest()
        if digest is not None and proposal.value != digest:
            raise RemoteError(
                self.rendezvous.proposer,
                self.outcome_clause,
                "it proposes another outcome than the sums give: it lies, or a slice's owner showed it another sum",
            )
        return digest

    def _step_outcome(self) -> bool:
        vote = self.certify.get("outcome") or self._open("outcome", self._check_outcome)
        digest = self._outcome_digest()
        if digest is not None and self.rendezvous.proposer == self.setting.me and vote.proposal is None:
            self._propose(vote, digest, ())
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

