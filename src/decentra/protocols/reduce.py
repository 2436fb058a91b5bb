"""Reduce-scatter and all-gather under certificates: the flow that allreduce and secagg share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from decentra import derive
from decentra.errors import LocalError, RemoteError, Unavailable
from decentra.machine.effects import Compute, Finish, Persist, Record, Release, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols import slices
from decentra.protocols.certify.machine import Certify
from decentra.protocols.jobs import Assemble, Assembled, Sum
from decentra.protocols.round import CONTEXT, OUTCOME, SUM, SURVIVORS
from decentra.protocols.scatter import Scatter
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.protocols.survivors import FAIL, Survivors, derive_survivors, read_holding
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed
from decentra.wire.message import Verified

LOST = b"lost"
"""The outcome that says: a slice's sum never came, and the round is spent."""

OVERTIME = 6
"""Phase deadlines that a vote may take before a peer gives up: views 0 to 4 are 5.75 of them."""


class Reduce(Scatter):
    """A round that sums vectors slice by slice: every slice has one owner, and certificates bind what is summed."""

    sum_type: ClassVar[type[slices.SliceSum]]
    sum_clause: ClassVar[str]
    outcome_clause: ClassVar[str]
    patient: ClassVar[tuple[str, ...]] = (SURVIVORS, SUM, OUTCOME)
    """The phases that a certificate ends: their deadline is `OVERTIME` long, so that views have their time."""

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.survivors: Survivors | None = None
        self._overtime = 0
        self._two_sums: RemoteError | None = None
        self._totals: dict[int, Blob] = {}
        self._lacking = self._assembling = False
        self._summing: set[int] = set()
        self._sound_sums: dict[int, Received] = {}
        self._shown: tuple[Verified, ...] = ()
        """One sum of every slice: those that were put together, whatever comes after them."""
        self._assembled: Assembled | None = None
        self._digest = b""
        """The outcome that this peer's sums give, once they are assembled."""

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def own_step(self) -> bool:
        """Try to leave a phase of the protocol's own; True if it moved."""

    @property
    def keeps_slices(self) -> bool:
        """Whether this peer's slices may be needed again once the survivors are certified."""
        return self.setting.backup

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

    def waiting_for(self) -> tuple[PeerId, ...]:
        if self.phase == SURVIVORS:
            silent = tuple(self.roster[position] for position in range(self.n) if not self.covered(position))
            return silent or tuple(sorted(self.gone or self.absent)) or self.certify[SURVIVORS].missing()
        if self.phase == SUM or (self.phase == OUTCOME and self._assembled is None):
            return tuple(sorted({self.owners[position] for position in self.missing_sums()}))
        if self.phase in self.certify:
            return self.certify[self.phase].missing()
        if self.phase == self.scattering:
            return self.missing(self.slices_type.kind)
        if self.phase == CONTEXT:
            return self.missing(self.endorse_type.kind)
        return self.missing(f"{self.protocol}.{self.phase}")

    def went_on(self, timer: str) -> bool:
        if timer in ("hold", "steps", "fail", "spare"):
            self.waited.add(timer)
            return True
        if timer == "endorsed":
            self.hand_endorsements()
            return True
        if timer == "takeover":
            if self.phase == SURVIVORS:
                self.waited.add(timer)
                self.take_over(silent=True)
                self.out.append(SetTimer("takeover", self.setting.patience))
            return True
        if timer != "phase" or self.phase not in (self.scattering, *self.patient):
            return False
        if self.phase == SUM:
            self._lacking = True
            return True
        self.out.append(SetTimer("phase", self.setting.phase_deadline))
        if self.phase == self.scattering and (self.mine.update is None or self.in_steps()):
            return True  # local steps take the time that they take
        self._overtime += 1
        if self.phase == OUTCOME and self._overtime == 1 and self._assembled is not None and OUTCOME in self.certify:
            self.certify[OUTCOME].give_up(self._digest)
        return self._overtime < OVERTIME and bool(self.own_slices)

    def go(self, why: str) -> None:
        self._overtime = 0
        super().go(why)

    def waited_seconds(self) -> float:
        return self.setting.phase_deadline * max(1, self._overtime)

    @property
    def order(self) -> tuple[PeerId, ...]:
        """Once there are survivors, the certified owners propose first: who was dead by then costs no view's time."""
        order = super().order
        if self.survivors is None:
            return order
        return (*(peer for peer in order if peer in self.owners), *(peer for peer in order if peer not in self.owners))

    # ── the survivors ────────────────────────────────────────────────────────────────────────────────────────────────

    def _step_survivors(self) -> bool:
        vote = self.certify.get(SURVIVORS) or self.open_vote(SURVIVORS, self._check_survivors)
        self.read_holdings()
        self.take_over(silent=False)
        self.hold_taken()
        if vote.offers:
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
        if not self.keeps_slices:
            for position, blob in enumerate(self.own_slices):
                if self.owners[position] != self.setting.me:
                    self.out.append(Release(blob))
        self.rendezvous.release()
        self.out.append(SetTimer("spare", 2 * self.setting.patience))
        self.go("certificate(survivors)")
        return True

    def _offer_survivors(self, vote: Certify) -> None:
        """Propose what the holdings give; or, once slices had their time to pass on, to fail the round."""
        shown = self.shown_holdings()
        given = derive_survivors(self.roster, self.quorum, shown, self._holding_kind, self.context)
        if given is not None:
            chosen = {verified.body_hash: verified for verified in shown}
            vote.offer(given.pack(), tuple(chosen[one] for one in given.holdings))
        elif "fail" in self.waited and len({verified.sender for verified in shown}) >= self.quorum:
            vote.offer(FAIL, tuple(shown))
        else:
            vote.offer(None)

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

    def sum_job(self, position: int, parts: tuple[Blob, ...]) -> Sum:
        """What adds up a slice's parts."""
        low, high = self.bounds[position]
        kept = self.own_slices[position] if self.keeps_slices else None
        return Sum(parts, self.setting.width, low, high, kept=kept)

    def owned(self) -> Iterator[tuple[int, tuple[Blob, ...]]]:
        """The slices that this peer sums, each with the survivors' parts; empty slices have none."""
        sent, kind = self.got(self.slices_type.kind), self.again_type.kind
        for position, owner in enumerate(self.owners):
            if owner == self.setting.me:
                parts = self.parts(position, kind, sent)
                yield position, tuple(blob for peer in self.members if (blob := parts[peer]) is not None and blob.size)

    def publish_sum(self, position: int, total: Blob) -> None:
        """Send the sum of a slice to everyone."""
        self._totals[position] = total
        self._tell_sum(position, total.root, total)

    def _tell_sum(self, position: int, root: bytes, total: Blob | None) -> None:
        others = [peer for peer in self.roster if peer != self.setting.me]
        blobs = {} if total is None or not total.size else dict.fromkeys(others, total)
        after = self.certify[SURVIVORS].opened_by
        self.out.append(Send(self.sum_type(self.context, position, root), blobs=blobs, after=after, lasting=True))

    def _summers(self, position: int) -> tuple[PeerId, ...]:
        """Who may publish a slice's sum: its certified owner, and who stands in for it."""
        spare = self.spare(position)
        return (self.owners[position],) if spare is None else (self.owners[position], spare)

    def _sum_of(self, position: int) -> Received | None:
        """A slice's sum, if it is what its summer signed; the owner's before the spare's, until they are assembled."""
        known = self._sound_sums.get(position)
        if known is not None and (self._shown or known.verified.sender == self.owners[position]):
            return known
        published = self.got(f"{self.sum_type.kind}/{position}")
        for summer in self._summers(position):
            received = published.get(summer)
            message = None if received is None else received.verified.message
            if received is None or not isinstance(message, slices.SliceSum):
                continue
            if message.context != self.context:
                self.refuse(summer, self.sum_clause, "its sum is not one of this context")
            elif summer == self.setting.me or self.sound_blob(
                summer, self.sum_clause, received.blob, message.root, self.slice_size(position)
            ):
                self._sound_sums[position] = received
                return received
        return None

    def missing_sums(self) -> list[int]:
        if self._shown:
            return []
        return [position for position in range(self.n) if self._sum_of(position) is None]

    def spare(self, position: int) -> PeerId | None:
        """Who sums a slice whose certified owner stops; None where a part of it is nowhere else.

        An owner in the sum alone has its own part of its slice, unless the charter has backups: then the next in the
        roster has it too, or would not hold that owner's vector (SA-11).
        """
        if not self.keeps_slices:
            return None
        owner, following = self.owners[position], (position + 1) % self.n
        if owner in self.members:
            backed = self.setting.backup and owner == self.roster[position]
            return self.roster[following] if backed and self.owners[following] == self.roster[following] else None
        after = self.roster.index(owner) + 1
        order = (*self.roster[after:], *self.roster[:after])
        return next((peer for peer in order if peer in self.owners and peer != owner), None)

    def _call_on_spares(self) -> None:
        """Where an owner is gone, or silent for too long, let its spare have every part, and sum where this is it."""
        sent, kind = self.got(self.slices_type.kind), self.again_type.kind
        for position in self.missing_sums():
            spare = self.spare(position)
            if spare is None or not (self.owners[position] in self.gone or "spare" in self.waited):
                continue
            if spare != self.setting.me:
                if self.setting.me in self.members:
                    self.send_again(position, spare)
            elif position not in self._summing:
                parts = self.parts(position, kind, sent)
                if set(self.members) <= set(parts):
                    self._summing.add(position)
                    blobs = tuple(blob for peer in self.members if (blob := parts[peer]) is not None and blob.size)
                    self.out.append(Compute(f"sum/{position}", self.sum_job(position, blobs)))

    def _stand_in(self) -> None:
        """Whoever sends its part of a slice to the spare lacks its sum: an owner's that reached the spare, and not
        everybody, the spare publishes in the owner's place."""
        for position, received in self._sound_sums.items():
            if not self.setting.backup or self.spare(position) != self.setting.me or position in self._summing:
                continue
            asking = self.got(f"{self.again_type.kind}/{position}").keys() - {self.roster[position]}
            message, blob = received.verified.message, received.blob
            if asking and isinstance(message, slices.SliceSum):  # the owner's own part came before anybody lacked a sum
                self._summing.add(position)
                self._tell_sum(position, message.root, blob)

    def _read_sums(self) -> None:
        """Take down sums of slices that are not their author's to sum."""
        for slot in [slot for slot in self.box if slot.startswith(f"{self.protocol}.sum/")]:
            for author, received in self.got(slot).items():
                position = getattr(received.verified.message, "slice", self.n)
                if position >= self.n or author not in self._summers(position):
                    self.refuse(author, self.sum_clause, f"it published a sum of slice {position}, not its own")

    def _is_lost(self, position: int) -> bool:
        """Whether nobody is left to sum a slice: its owner has stopped, and its spare has too, or lacks a part for
        good, as it does where another survivor stopped and the time to send its part again is over."""
        owner, spare = self.owners[position], self.spare(position)
        if owner not in self.gone or position in self._summing:
            return False
        if spare is None or spare in self.gone:
            return True
        return "spare" in self.waited and not self.gone.isdisjoint(set(self.members) - {owner})

    def _step_sum(self) -> bool:
        self._read_sums()
        self._call_on_spares()
        missing = self.missing_sums()
        if missing and not self._lacking and not all(self._is_lost(position) for position in missing):
            return False
        self._lacking = bool(missing)
        self.go("every sum, or one is missing")
        return True

    def _assemble(self) -> None:
        """Put the slices together as soon as all are here, even if late."""
        if self._assembling or self.missing_sums():
            return
        self._assembling, self._shown = True, self.shown_sums()
        blobs, kept = [], None
        for position in range(self.n):
            received = self._sum_of(position)
            blob = self._totals.get(position) or (None if received is None else received.blob)
            if blob is not None and blob.size:
                blobs.append(blob)
                kept = blob if self.setting.backup and self.spare(position) == self.setting.me else kept
        self.out.append(Compute("assemble", Assemble(tuple(blobs), self.mine.length, self.setting.width, kept)))

    def assembled(self, value: object) -> None:
        """The slices of the sum are one vector; check its weight and know the outcome (SA-9, AR-5)."""
        if not isinstance(value, Assembled):
            raise LocalError(f"{self.protocol}: the sums could not be put together: {value}")
        self.check_weight(value)
        self._assembled = value
        self._digest = self.outcome_value(value.total_weight, self.sum_roots())

    def check_weight(self, sums: Assembled) -> None:
        """W lies in [|U|, |U| · max_weight], or all refuse the result."""
        count = len(self.members)
        if not count <= sums.total_weight <= count * self.setting.max_weight:
            liars = f"peer {self.owners[-1]}, which summed them, or a peer that gave a false one"
            said = f"the weights of {count} peers can't sum to {sums.total_weight}: {liars}"
            raise RemoteError(None, self.outcome_clause, said)

    # ── the outcome ──────────────────────────────────────────────────────────────────────────────────────────────────

    def shown_sums(self) -> tuple[Verified, ...]:
        if self._shown:
            return self._shown
        sums = (self._sum_of(position) for position in range(self.n))
        return tuple(received.verified for received in sums if received is not None)

    def sum_roots(self) -> tuple[bytes, ...]:
        """The roots of the slices' sums, as their owners published them."""
        return tuple(getattr(verified.message, "root", b"") for verified in self.shown_sums())

    def outcome_value(self, total_weight: int, roots: tuple[bytes, ...]) -> bytes:
        return derive.outcome_value(self.context, self.certify[SURVIVORS].digest, total_weight, roots)

    def _check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """The outcome that the sums give; or ``lost``, where this peer too has waited for one in vain, or has every sum
        and has seen that too few others have."""
        if value == LOST:
            return (self._lacking and self._assembled is None) or self._in_vain()
        if self._assembled is None:
            return False
        proposer = self.certify[OUTCOME].proposer()
        summers = [self._summers(position) for position in range(self.n)]
        if len(shown) != self.n or any(one.sender not in may for one, may in zip(shown, summers, strict=True)):
            raise RemoteError(proposer, self.outcome_clause, "it shows not one sum of every slice's owner")
        for cited, mine in zip(shown, self.shown_sums(), strict=True):
            if cited.message.kind != mine.message.kind or getattr(cited.message, "context", b"") != self.context:
                raise RemoteError(proposer, self.outcome_clause, "what it shows are no sums of this round")
            if cited.body_hash != mine.body_hash:
                if cited.sender != mine.sender:
                    return False  # an owner and who stood in for it disagree: nobody here can tell which is right
                self._two_sums = RemoteError(cited.sender, self.sum_clause, "it signed two sums for its slice")
                raise self._two_sums
        if value != self._digest:
            raise RemoteError(proposer, self.outcome_clause, "it proposes another outcome than the shown sums give")
        return True

    def _in_vain(self) -> bool:
        """Whether others had long enough for every sum: a phase's time. Or, where an owner has stopped, so that nobody
        gets its sum any more: more proposers than may lie have offered `LOST`, or this outcome in vain."""
        if self._overtime or self.gone.isdisjoint(self.owners):
            return self._overtime > 0
        vote = self.certify[OUTCOME]
        return len(vote.proposers_of(LOST) | vote.failed_with(self._digest)) > self.setting.c

    def _step_outcome(self) -> bool:
        vote = self.certify.get(OUTCOME) or self.open_vote(OUTCOME, self._check_outcome)
        if self._assembled is None:
            self._call_on_spares()
        self._assemble()
        self._stand_in()
        if self._assembled is not None and not (self._in_vain() and vote.tried(self._digest)):
            vote.offer(self._digest, self._shown)
        else:
            vote.offer(LOST if self._assembled is not None or (self._lacking and not self._assembling) else None)
        if not vote.advance():
            return False
        if vote.value == LOST:
            silent = sorted({self.owners[position] for position in self.missing_sums()})
            raise Unavailable(silent, 0.0, f"a slice's sum in round {self.round}", "it is certified as lost, and spent")
        missing = self.missing_sums()
        if self._assembled is None and self._overtime == 0 and not (missing and all(map(self._is_lost, missing))):
            return False  # the result is certified, and a slice of it may still come
        if self._assembled is not None and self._digest != vote.value:
            raise self._two_sums or RemoteError(
                None, self.outcome_clause, "what is certified is no sum of what came here: compare transcripts"
            )
        self.settled(self._assembled, vote.value)
        self.go("certificate(outcome)")
        return True

    def settled(self, sums: Assembled | None, digest: bytes) -> None:
        """The outcome is certified, whether or not this peer has every sum of it; a protocol that puts it to the test
        first finishes later."""
        self.finish(sums, digest)

    def finish(self, sums: Assembled | None, digest: bytes) -> None:
        """Hand the result out, if it is here."""
        self.hand_over()
        if sums is None:
            silent = sorted({self.owners[position] for position in self.missing_sums()})
            mend = "the others have it, and this peer takes it over in the next round"
            what = f"a slice of the certified result of round {self.round}"
            raise Unavailable(silent, self.waited_seconds(), what, mend)
        self.out.append(Persist(Record("done", "outcome", self.context + digest)))
        outcome = Outcome(
            total=sums.total,
            ranges=self.ranges,
            roster=self.roster,
            survivors=self.members,
            total_weight=sums.total_weight,
            digest=digest,
            adopted=self.rendezvous.adopted,
            clipped=self.clipped,
        )
        self.out.append(Finish(outcome))
