"""shamir-gram's machine: updates are shared, a rule runs on inner products of their sketches, and one weighted sum is
opened.

The sum's slices are opened by those holders whose shares were true so far; everybody holds each slice against what all
holders tell of their own shares, and the whole against the certified inner products.
"""

from __future__ import annotations

from dataclasses import replace

from decentra import derive
from decentra.crypto.hashing import digest
from decentra.crypto.shares.combine import Judged
from decentra.errors import LocalError, RemoteError
from decentra.machine.effects import Blame, Compute, Persist, Record, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols.ballots import LOST
from decentra.protocols.beacon import Drawn
from decentra.protocols.round import OUTCOME
from decentra.protocols.setting import Contribution, Outcome, Setting
from decentra.protocols.shamir_gram.checking import CHECK, GEOMETRY, GRAM, SHOWN, SKETCH, Checking, read_elements
from decentra.protocols.shamir_gram.dealing import TAKEN
from decentra.protocols.shamir_gram.jobs import (
    Assemble,
    Combinations,
    Dealt,
    Judge,
    Open,
    Recovered,
    Summed,
    Weigh,
    Weighted,
)
from decentra.protocols.shamir_gram.messages import Endorse, Endorsed, Holding, Part, Slice, Told
from decentra.protocols.shamir_gram.transitions import READS, SHOWS, TRANSITIONS
from decentra.protocols.shamir_gram.verdicts import Geometry, Peers
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified

COMBINE, WEIGH, OPEN, ASSEMBLE, JUDGE = "combine", "weigh", "open", "assemble", "judge"
PARTS, TELLINGS = "parts", "tellings"
"""Timers: for the parts of this peer's slice, and for what holders tell once the sum is here."""


class ShamirGram(Checking):
    """One peer's part in one round of shamir-gram."""

    protocol = "shamir-gram"
    transitions, reads, shows = TRANSITIONS, READS, SHOWS
    endorse_type, endorsed_type, holding_type = Endorse, Endorsed, Holding
    computing = COMBINE
    wanted, missed = "a slice of the sum", "a slice"
    context_clause, deal_clause, holding_clause, beacon_clause = "SG-1", "SG-2", "SG-3", "SG-4"
    check_clause, shown_clause, gram_clause, geometry_clause = "SG-5", "SG-6", "SG-7", "SG-8"
    part_clause, slice_clause, told_clause, outcome_clause = "SG-9", "SG-10", "SG-11", "SG-12"

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self._weighted: Weighted | None = None
        self._opening = self._assembling = False
        self._opened_of = 0
        """How many parts this peer's slice was opened of last."""
        self._slice: Blob | None = None
        """The slice that this peer opened."""
        self._slices: dict[PeerId, Received] = {}
        """By owner the slice that it published, where it is what its owner signed."""
        self._key = b""
        """What all slices' roots come to, once they are here."""
        self._sum: Summed | None = None
        self._tellings: dict[PeerId, tuple[int, ...] | None] = {}
        self._judging = -1
        """How many tellings were judged last."""
        self._false = False
        """Whether a slice is proved false."""
        self._stopped: set[PeerId] = set()
        """Who said that it stops: of the others, liars among them, a slice may still come."""

    # ── phases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def entered(self, phase: str) -> None:
        if phase == COMBINE:
            self._begin_combine()
        else:
            super().entered(phase)

    def computed(self, name: str, value: object) -> None:
        match name, value:
            case "encode", Dealt():
                self.dealt(value)
            case str(), bytes() | str() if name.startswith(TAKEN):
                self.taken_in(PeerId(bytes.fromhex(name.removeprefix(TAKEN))), value)
            case "beacon", Drawn():
                self.drawn(value)
            case str(), Combinations() | None if name.startswith(SHOWN):
                self.shown(name, value)
            case _ if name == CHECK and isinstance(value, Combinations):
                self.tell_check(value)
            case _ if name == SKETCH and isinstance(value, Blob):
                self.sketched(value)
            case _ if name == GRAM and isinstance(value, bytes):
                self.tell_gram(value)
            case _ if name == WEIGH and isinstance(value, Weighted):
                self._send_parts(value)
            case _ if name == OPEN and isinstance(value, Recovered):
                self._publish(value)
            case _ if name == ASSEMBLE and isinstance(value, Summed):
                self._tell(value)
            case _ if name == JUDGE and (value is None or isinstance(value, Judged)):
                self._judged_slices(value)
            case _:
                raise LocalError(f"shamir-gram: the job {name!r} gave {value!r}")

    def went_on(self, timer: str) -> bool:
        if timer in (PARTS, TELLINGS):
            self.waited.add(timer)
            return True
        return super().went_on(timer)

    @property
    def participants(self) -> Peers:
        return self.members if self.geometry is None else self.geometry.dealers

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _geometry(self) -> Geometry:
        if self.geometry is None:
            raise LocalError("shamir-gram: a sum before the weights; a defect of decentra")
        return self.geometry

    @property
    def _liars(self) -> int:
        return self.judges.liars(len(self._geometry().proved))

    @property
    def slicers(self) -> Peers:
        """Who owns a slice of the sum: the holders that the geometry leaves, in roster order."""
        return self._geometry().holders

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Where each slice begins and ends, in elements of a share."""
        return derive.slice_bounds(self.terms.elements, len(self.slicers))

    def _coordinates(self, place: int) -> int:
        """How many coordinates of the sum a slice has."""
        (low, high), terms = self.bounds[place], self.terms
        return min(terms.d, high * terms.sharing.slots) - min(terms.d, low * terms.sharing.slots)

    def _begin_combine(self) -> None:
        """Weigh what was dealt: of the weighted sum each owner of a slice gets this peer's share (SG-9)."""
        geometry = self._geometry()
        mine = self._mine(geometry.dealers)
        if self.setting.me in geometry.holders and mine is not None:
            self.out.append(Compute(WEIGH, Weigh(self.terms, mine, geometry.weights, self.bounds)))
            self.out.append(SetTimer(PARTS, 2 * self.setting.patience))

    def _send_parts(self, value: Weighted) -> None:
        self._weighted = value
        certified, me = self.certify[GEOMETRY], self.setting.me
        roots = tuple(blob.root for blob in value.slices)
        self.out.append(Persist(Record("reveal", "part", self.context + certified.digest)))
        blobs = {peer: blob for peer, blob in zip(self.slicers, value.slices, strict=True) if peer != me and blob.size}
        self.out.append(Send(Part(self.context, certified.digest, roots), blobs=blobs, after=certified.opened_by))

    def wants(self, verified: Verified, root: bytes) -> bool:
        message = verified.message
        if isinstance(message, Part) and self.geometry is not None and self.setting.me in self.slicers:
            at = self.slicers.index(self.setting.me)
            return len(message.roots) == len(self.slicers) and message.roots[at] == root
        if isinstance(message, Part):
            return root in message.roots
        return super().wants(verified, root)

    def _parts(self) -> dict[PeerId, Blob | None]:
        """The parts of this peer's slice that are here and are what their senders signed."""
        me, parts = self.setting.me, dict[PeerId, Blob | None]()
        at = self.slicers.index(me)
        low, high = self.bounds[at]
        for peer, received in self.got(Part.kind).items():
            if peer == me and self._weighted is not None:
                parts[me] = self._weighted.slices[at]
                continue
            message = self.under(received.verified, Part, self.certify[GEOMETRY].digest, self.part_clause)
            if message is None or peer == me:
                continue
            if peer not in self.slicers or len(message.roots) != len(self.slicers):
                self.refuse(peer, self.part_clause, "its part is none of a sum of this round's slices")
            elif self.sound_blob(peer, self.part_clause, received.blob, message.roots[at], 8 * (high - low)):
                parts[peer] = received.blob
        return parts

    def _open_slice(self) -> None:
        """Open this peer's slice: of every holder's part, or, when the time is over, of those that came."""
        me = self.setting.me
        if self._opening or self._weighted is None or me not in self.slicers:
            return
        parts = self._parts()
        if any(peer not in parts and peer not in self.gone for peer in self.slicers) and PARTS not in self.waited:
            return
        if len(parts) < max(self._opened_of + 1, self.terms.needed(self.terms.sharing.degree, self._liars)):
            return
        self._opening, self._opened_of, at = True, len(parts), self.slicers.index(me)
        low, high = self.bounds[at]
        points = {self.judges.point(peer): blob for peer, blob in parts.items()}
        self.out.append(Compute(OPEN, Open(self.terms, points, high - low, self._coordinates(at), self._liars)))

    def _publish(self, value: Recovered) -> None:
        """Send this peer's slice to everybody (SG-10)."""
        for point in value.wrong:
            said = "its part of the sum is not on what others' parts are"
            self.refuse(self.roster[point - 1], self.part_clause, said)
        if value.values is None:
            self._opening = False  # with more parts it may be told who lies
            return
        self._slice, certified = value.values, self.certify[GEOMETRY]
        others = [peer for peer in self.roster if peer != self.setting.me]
        blobs = dict.fromkeys(others, value.values) if value.values.size else {}
        message = Slice(self.context, certified.digest, value.values.root)
        self.out.append(Send(message, blobs=blobs, after=certified.opened_by, lasting=True))

    # ── slices ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_slices(self) -> None:
        for owner, received in self.got(Slice.kind).items():
            if owner in self._slices:
                continue
            message = self.under(received.verified, Slice, self.certify[GEOMETRY].digest, self.slice_clause)
            if message is None:
                continue
            if owner not in self.slicers:
                self.refuse(owner, self.slice_clause, "it published a slice, and owns none")
            elif owner == self.setting.me:
                self._slices[owner] = Received(received.verified, self._slice)
            elif self.sound_blob(
                owner, self.slice_clause, received.blob, message.root, 8 * self._coordinates(self.slicers.index(owner))
            ):
                self._slices[owner] = received

    def _missing_slices(self) -> Peers:
        return tuple(peer for peer in self.slicers if peer not in self._slices)

    def _roots(self) -> tuple[bytes, ...]:
        return tuple(getattr(self._slices[peer].verified.message, "root", b"") for peer in self.slicers)

    def _assemble(self) -> None:
        """Put the slices together once all are here; only then may anybody know by what they are tried."""
        matrix, geometry = self.matrix, self._geometry()
        if self._assembling or self._missing_slices() or matrix is None:
            return
        self._assembling, roots = True, self._roots()
        self._key = digest("opened", self.context, self.certify[GEOMETRY].digest, len(roots), *roots)
        blobs = (self._slices[peer].blob for peer in self.slicers)
        slices = tuple(blob if blob is not None and blob.size else None for blob in blobs)
        share = None if self._weighted is None else self._weighted.whole
        self.out.append(
            Compute(
                ASSEMBLE,
                Assemble(
                    self.terms, slices, self.bounds, geometry.weights, matrix, self.drawn_beacon, self._key, share
                ),
            )
        )

    def _tell(self, value: Summed) -> None:
        """Tell what this peer's own share of the sum gives (SG-11)."""
        self._sum = value
        if value.unfit:
            self._are_false(value.unfit)
            return
        self.out.append(SetTimer(TELLINGS, self.setting.patience))
        if value.told:
            certified = self.certify[GEOMETRY]
            message = Told(self.context, certified.digest, self._key, value.told)
            self.out.append(Send(message, after=certified.opened_by))

    def _read_tellings(self) -> None:
        for holder, received in self.got(Told.kind).items():
            if holder in self._tellings or not self._key:
                continue
            message = self.under(received.verified, Told, self.certify[GEOMETRY].digest, self.told_clause)
            self._tellings[holder] = None
            if message is None:
                continue
            if message.key != self._key:
                said = "it tells of other slices than came here: it, or their owner, shows two faces"
                self.out.append(Blame(RemoteError(None, self.told_clause, said)))
                continue
            self._tellings[holder] = read_elements(message.values, len(self.slicers))
            if holder not in self.slicers or self._tellings[holder] is None:
                self._tellings[holder] = None
                self.refuse(holder, self.told_clause, "what it tells is no element for each slice, of a holder")

    def _judge(self) -> None:
        """Hold the slices against what holders tell: of all, or, when the time is over, of those that told."""
        told = {peer: values for peer, values in self._tellings.items() if values is not None}
        if self._sum is None or self._digest or self._false or len(told) <= self._judging:
            return
        silent = [peer for peer in self.slicers if peer not in self._tellings and peer not in self.gone]
        if silent and TELLINGS not in self.waited:
            return
        if len(told) < self.terms.needed(self.terms.sharing.degree, self._liars):
            return
        self._judging = len(told)
        points = {self.judges.point(peer): values for peer, values in told.items()}
        job = Judge(self.terms, points, self._sum.total, self.bounds, self._key, self._liars)
        self.out.append(Compute(JUDGE, job))

    def _judged_slices(self, value: Judged | None) -> None:
        """What the tellings come to: the outcome, or a slice that is false."""
        if value is None or self._sum is None:
            return
        for point in value.wrong:
            self.refuse(self.roster[point - 1], self.told_clause, "what it tells of its share of the sum is false")
        if value.slices:
            self._are_false(value.slices)
            return
        if self._sum.flaw:
            self._lacking = True
            said = f"{self._sum.flaw}: a vector that counts wrapped around"
            self.out.append(Blame(RemoteError(None, self.outcome_clause, said)))
            return
        self._assembled = self._sum.result
        self._digest = self.outcome_value(self._assembled.total_weight, self._roots())

    def _are_false(self, places: tuple[int, ...]) -> None:
        """These slices are not what the shares give: their owners are named, and the sum is not to be had."""
        self._false = self._lacking = True
        for place in places:
            said = f"its slice {place} of the sum is not what the shares give"
            self.refuse(self.slicers[place], self.slice_clause, said)

    # ── the outcome ──────────────────────────────────────────────────────────────────────────────────────────────────

    def press_on(self) -> None:
        self._open_slice()
        self._read_slices()
        self._assemble()
        self._read_tellings()
        self._judge()

    def step_computing(self) -> bool:
        self.press_on()
        self._lacking = self._lacking or self.hopeless
        if not self._digest and not self._lacking:
            return False
        self.go("every slice is right, or one is not to be had")
        return True

    @property
    def hopeless(self) -> bool:
        return any(peer in self._stopped for peer in self._missing_slices())

    def ended(self, sender: PeerId, message: Message) -> None:
        self._stopped.add(sender)
        super().ended(sender, message)

    def owing(self) -> Peers:
        return self._missing_slices() or tuple(peer for peer in self.slicers if peer not in self._tellings)

    @property
    def shown_for_outcome(self) -> tuple[Verified, ...]:
        return tuple(self._slices[peer].verified for peer in self.slicers)

    def check_outcome(self, value: bytes, shown: tuple[Verified, ...]) -> bool:
        """The outcome that the owners' slices give, which this peer has tried; or ``lost``, where this peer too has
        waited in vain, or has the outcome and has seen that too few others do."""
        if value == LOST:
            return (self._lacking and not self._digest) or self._in_vain()
        proposer = self.certify[OUTCOME].proposer()
        roots = tuple(getattr(one.message, "root", b"") for one in shown if isinstance(one.message, Slice))
        if tuple(one.sender for one in shown) != self.slicers or len(roots) != len(shown):
            raise RemoteError(proposer, self.outcome_clause, "it shows not one slice of every owner")
        for one in shown:
            mine = self._slices.get(one.sender)
            if mine is not None and mine.verified.body_hash != one.body_hash:
                raise RemoteError(one.sender, self.slice_clause, "it signed two slices of the sum")
        if self.outcome_value(len(self.participants), roots) != value:
            raise RemoteError(proposer, self.outcome_clause, "it proposes another outcome than the shown slices give")
        return self._digest == value

    def contradicted(self, value: bytes) -> RemoteError | None:
        if not self._digest or self._digest == value:
            return None
        said = "what is certified is no sum of what came here: compare transcripts"
        return RemoteError(None, self.outcome_clause, said)

    def outcome_of(self, outcome: Outcome) -> Outcome:
        return replace(outcome, encoded_for=self.terms.encoded_for, beacon=self.drawn_beacon)
