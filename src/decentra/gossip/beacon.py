"""An epoch's beacon as its drawers vouch for it: what they sign, when it is in force, and how it is told.

Pure, as everything here: who signs, checks and keeps is given (``specs/group-gossip/README.md``, "The beacon").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from decentra.derive import quorum
from decentra.errors import LocalError
from decentra.gossip.schedule import drawn
from decentra.types import PeerId
from decentra.wire.codec import Malformed, pack, unpack
from decentra.wire.entry import Checker
from decentra.wire.frame import DATAGRAM_LIMIT

BEACON_BYTES, SIGNATURE_BYTES = 32, 64
NOTHING = pack(())
"""The datagram of a peer that knows of no beacon yet, and so asks for it."""


@dataclass(frozen=True)
class Draw:
    """A beacon, and the signatures of drawers whose round gave it."""

    beacon: bytes
    signatures: Mapping[PeerId, bytes]

    def pack(self) -> bytes:
        """As a datagram carries it."""
        return pack((self.beacon, tuple((bytes(peer), made) for peer, made in sorted(self.signatures.items()))))


def read(datagram: bytes) -> Draw | None:
    """What a datagram tells; None where it only asks.

    Raises:
        Malformed: it is no datagram of ours.
    """
    match unpack(datagram, DATAGRAM_LIMIT):
        case ():
            return None
        case (bytes(beacon), tuple(signed)) if len(beacon) == BEACON_BYTES and signed:
            signatures: dict[PeerId, bytes] = {}
            for item in signed:
                match item:
                    case (bytes(peer), bytes(made)) if len(peer) == 32 and len(made) == SIGNATURE_BYTES:
                        signatures[PeerId(peer)] = made
                    case _:
                        raise Malformed("not a drawer and its signature")
            return Draw(beacon, MappingProxyType(signatures))
        case _:
            raise Malformed("neither a beacon with its signatures nor nothing")


class Draws:
    """What one peer knows of its epoch's beacon. Each drawer counts once, with the first beacon that it signed.

    Args:
        me: this peer.
        name: the large charter's hash.
        drawers: who draws.
        c: how many of them may be corrupt.
        sign: this peer's signature on 32 bytes.
        check: whether a member's signature on bytes is valid.
    """

    def __init__(
        self,
        me: PeerId,
        name: bytes,
        drawers: Sequence[PeerId],
        c: int,
        sign: Callable[[bytes], bytes],
        check: Checker,
    ) -> None:
        self._me, self._name, self._c, self._sign, self._check = me, name, c, sign, check
        self._drawers = frozenset(drawers)
        self._said: dict[PeerId, tuple[bytes, bytes]] = {}
        """Of each drawer the beacon and its signature."""

    @property
    def draws(self) -> bool:
        """Whether this peer is to draw: it is a drawer, and has signed no beacon."""
        return self._me in self._drawers and self._me not in self._said

    def sign(self, beacon: bytes, keep: Callable[[Draw], None]) -> None:
        """Sign the beacon that this peer's round gave, or that it takes over.

        Args:
            keep: makes the word durable. Where it raises the word is not given: a later start, which knows nothing of
                it, may sign another.

        Raises:
            LocalError: it has signed one before, or is no drawer; or what ``keep`` raises.
        """
        if not self.draws:
            raise LocalError("a second beacon was to be signed for one epoch; a defect of decentra, please report it")
        made = self._sign(drawn(self._name, beacon))
        keep(Draw(beacon, MappingProxyType({**self._signatures(beacon), self._me: made})))
        self._said[self._me] = beacon, made

    def restore(self, kept: Draw) -> None:
        """Count what this peer kept of an earlier start, as far as it verifies."""
        message = drawn(self._name, kept.beacon)
        for peer, made in kept.signatures.items():
            if peer in self._drawers and self._check(peer, made, message):
                self._said[peer] = kept.beacon, made

    def take(self, draw: Draw, affords: Callable[[], bool]) -> bool:
        """Count what somebody tells, and say whether any of it was new.

        It is read no further than the first signature that does not verify: who has checked what it tells has none.
        Once a beacon is in force nothing is verified any more.

        Args:
            affords: asked before each check of a signature whether its teller may cost one more.
        """
        if self.in_force is not None:
            return False
        message, news = drawn(self._name, draw.beacon), False
        for peer, made in draw.signatures.items():
            if peer not in self._drawers or peer in self._said:
                continue
            if not affords() or not self._check(peer, made, message):
                break
            self._said[peer] = draw.beacon, made
            news = True
        return news

    @property
    def known(self) -> Draw | None:
        """The beacon that most drawers signed, with all their signatures; the lowest of several."""
        counts = Counter(beacon for beacon, _ in self._said.values())
        if not counts:
            return None
        beacon = min(counts, key=lambda one: (-counts[one], one))
        return Draw(beacon, MappingProxyType(self._signatures(beacon)))

    @property
    def to_keep(self) -> Draw | None:
        """What a later start has to know: of a drawer's own word all, before what more drawers say."""
        if self._me not in self._said:
            return self.known
        beacon, _ = self._said[self._me]
        return Draw(beacon, MappingProxyType(self._signatures(beacon)))

    def _signatures(self, beacon: bytes) -> dict[PeerId, bytes]:
        return {peer: made for peer, (said, made) in sorted(self._said.items()) if said == beacon}

    @property
    def shared(self) -> bytes | None:
        """A beacon that more than c drawers signed: a drawer without one takes it over."""
        known = self.known
        return known.beacon if known is not None and len(known.signatures) > self._c else None

    @property
    def in_force(self) -> bytes | None:
        """The epoch's beacon, once a quorum of drawers signed it: two quorums share an honest one, who signs one."""
        known = self.known
        return known.beacon if known is not None and self._is_quorum(known) else None

    def lacks(self, other: Draw | None) -> bool:
        """Whether who tells this lacks something that is known here; of a beacon in force, a quorum is all."""
        known = self.known
        if known is None:
            return False
        if other is None or other.beacon != known.beacon:
            return True
        all_told = self._is_quorum(other) or known.signatures.keys() <= other.signatures.keys()
        return not all_told

    def _is_quorum(self, draw: Draw) -> bool:
        return len(draw.signatures.keys() & self._drawers) >= quorum(len(self._drawers), self._c)
