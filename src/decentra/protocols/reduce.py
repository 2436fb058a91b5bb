"""Reduce-scatter and all-gather under certificates: the flow that allreduce and secagg share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Compute, Release, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols import slices
from decentra.protocols.ballots import LOST
from decentra.protocols.jobs import Assemble, Assembled, Sum
from decentra.protocols.round import OUTCOME, SUM, SURVIVORS
from decentra.protocols.scatter import Scatter
from decentra.protocols.setting import Contribution, Setting
from decentra.protocols.survivors import Survivors, derive_survivors, read_holding
from decentra.types import PeerId, RoundId
from decentra.wire.message import Verified


class Reduce(Scatter):
    """A round that sums vectors slice by slice: every slice has one owner, and certificates bind what is summed."""

    sum_type: ClassVar[type[slices.SliceSum]]
    sum_clause: ClassVar[str]
    computing = SUM
    wanted, missed = "a slice's sum", "a slice"

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.survivors: Survivors | None = None
        self._two_sums: RemoteError | None = None
        self._totals: dict[int, Blob] = {}
        self._assembling = False
        self._summing: set[int] = set()
        self._sound_sums: dict[int, Received] = {}
        self._shown: tuple[Verified, ...] = ()
        """One sum of every slice: those that were put together, whatever comes after them."""

    # ── what a protocol adds ─────────────────────────────────────────────────────────────────────────────────────────

    @property
    def keeps_slices(self) -> bool:
        """Whether this peer's slices may be needed again once the survivors are certified."""
        return self.setting.backup

    # ── common steps ─────────────────────────────────────────────────────────────────────────────────────────────────

    def went_on(self, timer: str) -> bool:
        if timer != "takeover":
            return super().went_on(timer)
        if self.phase == SURVIVORS:
            self.waited.add(timer)
            self.take_over(silent=True)
            self.out.append(SetTimer("takeover", self.setting.patience))
        return True

    # ── the survivors ────────────────────────────────────────────────────────────────────────────────────────────────

    def unheard(self) -> tuple[PeerId, ...]:
        return tuple(self.roster[position] for position in range(self.n) if not self.covered(position))

    def compare_holdings(self) -> None:
        self.read_holdings()
        self.take_over(silent=False)
        self.hold_taken()

    def is_holding(self, verified: Verified) -> bool:
        return read_holding(verified, self._holding_kind, self.context, self.n) is not None

    def derived(self, shown: Sequence[Verified]) -> tuple[bytes, tuple[Verified, ...]] | None:
        given = derive_survivors(self.roster, self.quorum, shown, self._holding_kind, self.context)
        if given is None:
            return None
        chosen = {verified.body_hash: verified for verified in shown}
        return given.pack(), tuple(chosen[one] for one in given.holdings)

    def take_survivors(self, value: bytes) -> None:
        self.survivors = Survivors.unpack(value)
        if not self.keeps_slices:
            for position, blob in enumerate(self.own_slices):
                if self.owners[position] != self.setting.me:
                    self.out.append(Release(blob))

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

    def step_computing(self) -> bool:
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

    def check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
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

    def press_on(self) -> None:
        if self._assembled is None:
            self._call_on_spares()
        self._assemble()
        self._stand_in()

    @property
    def shown_for_outcome(self) -> tuple[Verified, ...]:
        return self._shown

    @property
    def lacks(self) -> bool:
        return self._lacking and not self._assembling

    @property
    def hopeless(self) -> bool:
        missing = self.missing_sums()
        return bool(missing) and all(map(self._is_lost, missing))

    def contradicted(self, value: bytes) -> RemoteError | None:
        if self._assembled is None or self._digest == value:
            return None
        said = "what is certified is no sum of what came here: compare transcripts"
        return self._two_sums or RemoteError(None, self.outcome_clause, said)

    def owing(self) -> tuple[PeerId, ...]:
        return tuple(sorted({self.owners[position] for position in self.missing_sums()}))
