"""The challenge of slice sums: the beacon picks slices and who recomputes them, and a proved lie is repaired (step 7).

A survivor sends its part of a picked slice to c+1 verifiers, drawn from the certified owners of other slices (of whom
there are t − 1 or more), each of whom says what the parts sum to. One that says otherwise than the slice's owner
brings every part to every peer, so that each sees for itself who lied. The verdict is certified like any value: the
sums stand as they are, or these slices have these sums instead.

Time runs in three spans of a quarter phase each: for the verifiers, for the proof of a disputed sum, and for a verdict
that this peer knows to be right. When they are over a sum stands that nobody could prove wrong (`not_covered` in
``specs/secagg/spec.toml``): no peer, by keeping its part back, can hold up a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from decentra import derive
from decentra.errors import RemoteError
from decentra.machine.effects import Compute, Effect, Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols.certify.machine import Certify
from decentra.protocols.jobs import Sum
from decentra.protocols.secagg.messages import Checked, Part
from decentra.protocols.setting import Setting
from decentra.types import PeerId
from decentra.wire.codec import Malformed, pack, unpack
from decentra.wire.entry import ZERO
from decentra.wire.message import Verified

STANDS = b"stands"
"""The verdict that changes nothing."""

TIMER = "challenge"
CHECKED, PROVED, SETTLED = 1, 2, 3
"""The spans that are over, by the number of times that the timer has run out."""

MOST_VERDICT = 8192


class Round(Protocol):
    """What a challenge reads of the round it is a part of."""

    setting: Setting
    roster: tuple[PeerId, ...]
    context: bytes
    own_slices: tuple[Blob, ...]
    out: list[Effect]

    @property
    def members(self) -> tuple[PeerId, ...]: ...

    @property
    def owners(self) -> tuple[PeerId, ...]: ...

    def got(self, kind: str) -> dict[PeerId, Received]: ...

    def published(self, position: int) -> tuple[PeerId, bytes]:
        """Who published a slice's sum, its owner or its spare, and its root."""
        ...

    def certified_part(self, peer: PeerId, position: int) -> bytes | None:
        """The root of a survivor's part of a slice, as the certificate binds it; None where this peer can't tell."""
        ...

    def sum_job(self, position: int, parts: tuple[Blob, ...]) -> Sum: ...

    def slice_size(self, position: int) -> int: ...

    def refuse(self, peer: PeerId, clause: str, said: str) -> bool: ...


class Challenge:
    """One peer's part in a round's challenge, from the beacon on."""

    def __init__(self, host: Round, beacon: bytes, opened_by: bytes) -> None:
        self._host, self._opened_by = host, opened_by
        setting = host.setting
        self.slices = tuple(sorted(derive.challenged_slices(beacon, len(host.roster), setting.challenges)))
        self.verifiers = {
            position: derive.verifiers(
                beacon,
                position,
                tuple(peer for peer in host.roster if peer in host.owners and peer != host.owners[position]),
                setting.c + 1,
            )
            for position in self.slices
        }
        self._over = 0
        self._sent: set[tuple[int, PeerId]] = set()
        self._computing: set[int] = set()
        self._reported: set[int] = set()
        self._disputed: set[int] = set()
        self.sums: dict[int, Blob] = {}
        """What this peer recomputed."""
        for position, chosen in self.verifiers.items():
            self._send_part(position, chosen)
        host.out.append(SetTimer(TIMER, setting.patience))

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def expired(self) -> None:
        """A span is over."""
        self._over += 1
        if self._over < SETTLED:
            self._host.out.append(SetTimer(TIMER, self._host.setting.patience))

    def computed(self, position: int, total: Blob) -> None:
        """A slice's parts were summed here."""
        self.sums[position] = total

    def advance(self) -> None:
        """Recompute what is asked of this peer and can be, say what came out, and read what others said."""
        for position in self.slices:
            self._read_reports(position)
            reports = self._host.setting.me in self._reporters(position)
            if reports or position in self._disputed:
                self._recompute(position)
            if reports:
                self._report(position)

    # ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────

    def offer(self, vote: Certify) -> None:
        """Propose the verdict, with the reports that show a repair to be due."""
        verdict = self.verdict()
        repairs = {} if verdict in (None, STANDS) else read_verdict(verdict or b"")
        shown = []
        for position, root in repairs.items():
            said = (received.verified for received in self._reports(position).values())
            shown += [verified for verified in said if getattr(verified.message, "root", b"") == root][:1]
        vote.offer(verdict, tuple(shown))

    def check(self, proposer: PeerId, value: bytes) -> bool:
        """Whether this peer votes for a verdict: for its own, or, when its time is over, that things stand."""
        if value != STANDS:
            try:
                repaired = read_verdict(value)
            except Malformed as error:
                raise RemoteError(proposer, "SA-13", f"what it proposes is {error}") from error
            if not set(repaired) <= set(self.slices):
                raise RemoteError(proposer, "SA-13", "it repairs a slice that the beacon did not pick")
        return value == self.verdict() or (value == STANDS and self._over >= SETTLED)

    def verdict(self) -> bytes | None:
        """What this peer holds to be true of the picked slices; None while it waits."""
        repairs = []
        for position in self.slices:
            total, (summer, published) = self.sums.get(position), self._host.published(position)
            mine = summer == self._host.setting.me
            if total is not None and not mine:
                if total.root != published:
                    repairs.append((position, total.root))
            elif position in self._disputed and not mine:
                if self._over < PROVED:
                    return None
            elif self._over < CHECKED and not set(self._reporters(position)) <= set(self._reports(position)):
                return None
        return pack(tuple(repairs)) if repairs else STANDS

    # ── parts and sums ───────────────────────────────────────────────────────────────────────────────────────────────

    def _send_part(self, position: int, to: tuple[PeerId, ...]) -> None:
        """This peer's part of a slice, the same bytes as before, to each of these once."""
        host = self._host
        if host.setting.me not in host.members:
            return
        blob = host.own_slices[position]
        for peer in to:
            if peer != host.setting.me and (position, peer) not in self._sent:
                self._sent.add((position, peer))
                blobs = {peer: blob} if blob.size else {}
                message = Part(host.context, position, blob.root)
                host.out.append(Send(message, to=peer, blobs=blobs, after=self._opened_by))

    def _parts(self, position: int) -> dict[PeerId, Blob | None]:
        """The survivors' parts of a slice that are here and are what the certificate binds."""
        host, parts = self._host, dict[PeerId, "Blob | None"]()
        if host.setting.me in host.members:
            parts[host.setting.me] = host.own_slices[position]
        for peer, received in host.got(f"{Part.kind}/{position}").items():
            root, blob, size = host.certified_part(peer, position), received.blob, host.slice_size(position)
            if peer not in host.members or root is None:
                continue
            told = getattr(received.verified.message, "root", b"")
            if told == root and (size == 0 if blob is None else (blob.root, blob.size) == (root, size)):
                parts[peer] = blob
            else:
                host.refuse(peer, "SA-10", "the part that it sent again is not the one whose digest it signed")
        return parts

    def _recompute(self, position: int) -> None:
        host = self._host
        if position in self._computing or host.published(position)[0] == host.setting.me:
            return
        parts = self._parts(position)
        if set(parts) == set(host.members):
            self._computing.add(position)
            blobs = tuple(blob for blob in parts.values() if blob is not None and blob.size)
            host.out.append(Compute(f"check/{position}", host.sum_job(position, blobs)))

    # ── reports ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _report(self, position: int) -> None:
        """Say, once, what a slice's parts give; or, when the time is over, whose are lacking."""
        host, total = self._host, self.sums.get(position)
        if position in self._reported or (total is None and (self._over < CHECKED or position in self._computing)):
            return
        self._reported.add(position)
        parts = self._parts(position)
        lacking = () if total is not None else tuple(sorted(peer for peer in host.members if peer not in parts))
        root = ZERO if total is None else total.root
        host.out.append(Send(Checked(host.context, position, root, lacking), after=self._opened_by))

    def _reporters(self, position: int) -> tuple[PeerId, ...]:
        """A slice's verifiers but for who summed it in its owner's place: of its own sum it has nothing to tell."""
        summer, _ = self._host.published(position)
        return tuple(peer for peer in self.verifiers[position] if peer != summer)

    def _reports(self, position: int) -> dict[PeerId, Received]:
        return self._host.got(f"{Checked.kind}/{position}")

    def _accusers(self, position: int) -> Iterator[tuple[PeerId, Verified]]:
        for peer, received in self._reports(position).items():
            message = received.verified.message
            told = isinstance(message, Checked) and not message.lacking and peer in self._reporters(position)
            if told and getattr(message, "root", b"") != self._host.published(position)[1]:
                yield peer, received.verified

    def _read_reports(self, position: int) -> None:
        """Open a dispute where a report contradicts the owner, and take down who lied once this peer knows."""
        host = self._host
        for peer in self._reports(position):
            if peer not in self.verifiers[position]:
                host.refuse(peer, "SA-13", "it reports on a slice that the beacon did not give it")
        total, (summer, published) = self.sums.get(position), host.published(position)
        right = published if summer == host.setting.me else None if total is None else total.root
        if right is not None and right != published:
            host.refuse(summer, "SA-8", f"its sum of slice {position} is not what the parts give")
        for peer, verified in self._accusers(position):
            if position not in self._disputed:
                self._disputed.add(position)
                self._send_part(position, host.roster)
            if right is not None and getattr(verified.message, "root", b"") != right:
                host.refuse(peer, "SA-13", f"what it says of slice {position} is not what the parts give")


def read_verdict(value: bytes) -> dict[int, bytes]:
    """The slices that a verdict repairs, and the roots of their right sums. Raises Malformed where it is none."""
    none = Malformed("no verdict: neither that the sums stand nor what repairs them")
    try:
        fields = unpack(value, MOST_VERDICT)
    except Malformed as error:
        raise none from error
    repairs: dict[int, bytes] = {}
    for item in fields if isinstance(fields, tuple) else ():
        match item:
            case (int(position), bytes(root)) if len(root) == 32:
                repairs[position] = root
            case _:
                raise none
    if not repairs or pack(tuple(sorted(repairs.items()))) != value:
        raise none
    return repairs
