"""The beacon of a round (``specs/beacon``): every survivor's part of it was dealt before, and is shown under a
certificate, so that nobody knew it before that, and nobody can withhold it while t honest peers live.

A protocol deals the parts with its own deal, and says under which certificate they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from decentra import derive
from decentra.errors import RemoteError
from decentra.machine.effects import Blame, Compute, Effect, Persist, Record, Send, Tools
from decentra.machine.events import Received
from decentra.protocols.sharing import SHARE_BYTES, Table, rebuild
from decentra.types import PeerId
from decentra.wire.message import Message

BEACON = "beacon"
"""The kind of secret that a part of the beacon is; the job that rebuilds all parts."""


SharesOf = tuple[tuple[PeerId, bytes], ...]
"""Of each dealer one share."""


@dataclass(frozen=True)
class DealtPart:
    """What a dealer signed for its part: the part's hash, and that of each share in roster order."""

    secret: bytes
    shares: tuple[bytes, ...]


@dataclass(frozen=True)
class Drawn:
    """The survivors' parts of the beacon in roster order, and who dealt one badly, so that zeros stand for it."""

    parts: tuple[bytes, ...]
    bad: tuple[PeerId, ...]


@dataclass(frozen=True)
class RebuildBeacon:
    """Job: rebuild every survivor's part of the beacon of t shares."""

    table: Table
    dealt: Mapping[PeerId, DealtPart]
    shown: Mapping[PeerId, Mapping[int, bytes]] = field(repr=False)

    def run(self, tools: Tools) -> Drawn:
        parts = {dealer: self._part(dealer, shares) for dealer, shares in self.shown.items()}
        bad = tuple(dealer for dealer, part in parts.items() if part is None)
        return Drawn(tuple(part or bytes(SHARE_BYTES) for part in parts.values()), bad)

    def _part(self, dealer: PeerId, shares: Mapping[int, bytes]) -> bytes | None:
        dealt = self.dealt[dealer]
        part = rebuild(self.table, dealer, BEACON, dealt.shares, shares)
        told = part is not None and self.table.secret_hash(dealer, BEACON, part) == dealt.secret
        return part if told else None


class Host(Protocol):
    """The machine of the round: what the drawing of its beacon takes from it."""

    out: list[Effect]
    context: bytes
    roster: tuple[PeerId, ...]

    @property
    def quorum(self) -> int: ...
    def got(self, kind: str) -> dict[PeerId, Received]: ...
    def refuse(self, peer: PeerId, clause: str, said: str) -> bool: ...


class Beacon:
    """One peer's part in the drawing of a round's beacon.

    Args:
        host: the machine of the round.
        kind: that of the message that shows shares, which has a ``context``, a ``certificate`` and ``shares``.
        clauses: what is broken by a part that was dealt badly, and by shares that are shown wrongly.
        table: where the parts were dealt.
        dealt: of each survivor, in roster order, what it signed.
        certificate: the hash, as votes cite it, of what has to be certified before shares are shown; ``of`` says what
            that is.
    """

    def __init__(
        self,
        host: Host,
        kind: str,
        clauses: tuple[str, str],
        table: Table,
        dealt: Mapping[PeerId, DealtPart],
        certificate: bytes,
        of: str,
    ) -> None:
        self._host, self._kind, self._table, self._dealt = host, kind, table, dealt
        (self._deal_clause, self._clause), self._certificate, self._of = clauses, certificate, of
        self._sound: dict[PeerId, bool] = {}
        """Whose shares were looked at, and whether they are what was dealt."""
        self._drawing = False
        self.value = b""
        """The beacon, once it is out."""

    def show(self, make: Callable[[SharesOf], Message], mine: Mapping[PeerId, bytes], opened_by: bytes) -> None:
        """Show this peer's shares of the survivors' parts: once, durable before it is sent.

        Args:
            make: makes the message of them.
            mine: by dealer this peer's share of its part.
        """
        host = self._host
        shares = tuple((peer, mine[peer]) for peer in self._dealt)
        host.out.append(Persist(Record("reveal", BEACON, host.context + self._certificate)))
        host.out.append(Send(make(shares), after=opened_by))

    def advance(self) -> None:
        """Rebuild every survivor's part once t peers have shown their shares; who shows a wrong one is taken down and
        left out, later ones too."""
        host, shown = self._host, self._host.got(self._kind)
        for sender, received in shown.items():
            if sender not in self._sound:
                self._sound[sender] = self._is_sound(sender, received)
        sound = sorted(sender for sender, well in self._sound.items() if well)
        if self._drawing or len(sound) < host.quorum:
            return
        parts: dict[PeerId, dict[int, bytes]] = {peer: {} for peer in self._dealt}
        for sender in sound:
            for dealer, share in getattr(shown[sender].verified.message, "shares", ()):
                parts[dealer][host.roster.index(sender) + 1] = share
        self._drawing = True
        host.out.append(Compute(BEACON, RebuildBeacon(self._table, self._dealt, parts)))

    def _is_sound(self, sender: PeerId, received: Received) -> bool:
        host, message = self._host, received.verified.message
        under = (getattr(message, "context", b""), getattr(message, "certificate", b""))
        if under != (host.context, self._certificate):
            said = f"it showed shares of the beacon under another {self._of}"
            return host.refuse(sender, self._clause, said)
        shares: SharesOf = getattr(message, "shares", ())
        if tuple(peer for peer, _ in shares) != tuple(self._dealt):
            said = "it showed not one share of every survivor's part of the beacon"
            return host.refuse(sender, self._clause, said)
        position = host.roster.index(sender)
        for dealer, share in shares:
            if self._table.share_hash(dealer, sender, BEACON, share) != self._dealt[dealer].shares[position]:
                said = f"the share of {dealer} that it showed is not the one that was dealt"
                return host.refuse(sender, self._clause, said)
        return True

    def drawn(self, drawn: Drawn) -> bytes:
        """The beacon. Whoever dealt its part badly is named, and zeros stand for it."""
        for peer in drawn.bad:
            said = "the shares that it dealt are not of the part of the beacon that it signed"
            self._host.out.append(Blame(RemoteError(peer, self._deal_clause, said)))
        self.value = derive.beacon(self._host.context, drawn.parts)
        return self.value
