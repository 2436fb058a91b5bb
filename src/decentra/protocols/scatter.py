"""Reduce-scatter: every vector travels in slices to whoever sums them, and who holds which part is told to all."""

from __future__ import annotations

from typing import ClassVar

from decentra import derive
from decentra.machine.effects import Send, SetTimer
from decentra.machine.events import Blob, Received
from decentra.protocols import slices
from decentra.protocols.ballots import Ballots
from decentra.protocols.jobs import Encoded
from decentra.protocols.rendezvous.messages import State
from decentra.protocols.setting import Contribution, Setting
from decentra.protocols.survivors import read_holding
from decentra.types import PeerId, RoundId
from decentra.wire.message import Message, Verified


class Scatter(Ballots):
    """The first half of a reduce: slices, and holdings of them. A slice whose owner is gone passes to the next in the
    roster."""

    slices_type: ClassVar[type[slices.Slices]]
    again_type: ClassVar[type[slices.Again]]
    holding_type: ClassVar[type[slices.Holding]]
    slice_clause: ClassVar[str]
    holding_clause: ClassVar[str]

    def __init__(self, setting: Setting, mine: Contribution, round_id: RoundId) -> None:
        super().__init__(setting, mine, round_id)
        self.own_slices: tuple[Blob, ...] = ()
        self._takers: dict[int, int] = {}
        self._repeated: set[tuple[int, PeerId]] = set()
        self._held: set[int] = set()
        self._holders: dict[int, tuple[int, dict[PeerId, Verified]]] = {}
        """By slice, how many holdings had come when they were last read, and those that are some."""
        self._compared: set[tuple[str, PeerId]] = set()
        """The holdings that were held against the lists which had come by then, and how many lists these were."""
        self._lists_compared = 0

    @property
    def given_kind(self) -> str:
        return self.slices_type.kind

    def own_holdings(self) -> dict[PeerId, Verified]:
        own = ((owner, self.holdings(position).get(owner)) for position, owner in enumerate(self.roster))
        return {owner: said for owner, said in own if said is not None}

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

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        return derive.slice_bounds(self.mine.length, self.n)

    def slice_size(self, position: int) -> int:
        """Bytes in one slice."""
        low, high = self.bounds[position]
        return (high - low) * (self.setting.width // 8)

    # ── slices and holdings ──────────────────────────────────────────────────────────────────────────────────────────

    def scatter(self, encoded: Encoded) -> None:
        """Spend the update: INTENT is durable before the first byte leaves (SA-4)."""
        self.own_slices, self.clipped = encoded.slices, encoded.clipped
        roots = tuple(blob.root for blob in encoded.slices)
        message = self.slices_type(self.context, roots)
        blobs = {
            peer: blob
            for peer, blob in zip(self.roster, encoded.slices, strict=True)
            if peer != self.setting.me and blob.size
        }
        self.spend(message, roots, blobs)
        if self.setting.backup:
            self.send_again(self.position, self.roster[(self.position + 1) % self.n])
        self.await_others()

    def step_scatter(self) -> bool:
        """Say whose part of this peer's slice is whole: everybody's, or, when the time is over, that of who came."""
        self.hurry()
        if not self.own_slices:
            self.go_after()
            return False
        kind = self.slices_type.kind
        whole = {peer: received for peer, received in self.got(kind).items() if self._sound_slice(peer, received)}
        before = (self.position - 1) % self.n
        if self.setting.backup and self.roster[before] not in self.parts(before, self.again_type.kind, self.got(kind)):
            whole.pop(self.roster[before], None)  # with its own part of its own slice it is whole
        if not self.holds_now(whole):
            return False
        self._hold(self.position, {peer: received.verified.body_hash for peer, received in whole.items()})
        self.out.append(SetTimer("takeover", self.setting.patience))
        self.out.append(SetTimer("fail", 2 * self.setting.patience))
        self.go("slices held")
        return True

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
                        self.doubt(author, peer, self.holding_clause, "slices", "lists")
