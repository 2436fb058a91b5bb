"""Small secrets that a peer deals to a roster: what their hashes are bound to, and rebuilding them of t shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from decentra import derive
from decentra.crypto.shamir import combine, extend
from decentra.crypto.suite import REAL, Suite
from decentra.types import PeerId, RoundId

SHARE_BYTES = 32


@dataclass(frozen=True)
class Table:
    """Where a deal is played: everything that its hashes and seals are bound to."""

    session: bytes
    round_id: RoundId
    view: int
    roster: tuple[PeerId, ...]
    quorum: int
    suite: Suite = field(default=REAL, repr=False)

    def share_hash(self, dealer: PeerId, receiver: PeerId, kind: str, value: bytes) -> bytes:
        return derive.share_hash(self.session, self.round_id, self.view, self.roster, dealer, receiver, kind, value)

    def share_hashes(self, dealer: PeerId, kind: str, shares: Sequence[bytes]) -> tuple[bytes, ...]:
        """What a dealer signs for its shares of one secret, in roster order."""
        return tuple(
            self.share_hash(dealer, receiver, kind, share)
            for receiver, share in zip(self.roster, shares, strict=True)
        )

    def secret_hash(self, dealer: PeerId, kind: str, value: bytes) -> bytes:
        return derive.secret_hash(self.session, self.round_id, self.view, dealer, kind, value)

    def seal_context(self, dealer: PeerId, receiver: PeerId) -> bytes:
        """What a sealed share is bound to, so that it opens in its own place only."""
        return self.share_hash(dealer, receiver, "seal", b"")


def rebuild(
    table: Table, dealer: PeerId, kind: str, hashes: Sequence[bytes], shares: Mapping[int, bytes]
) -> bytes | None:
    """A dealer's secret from t shares or more, each of which hashes to what the dealer signed for it; None unless they
    give back every share that the dealer signed.

    The shares that are used lie on one polynomial; only if all others do too would any t shares have given the same.

    Args:
        hashes: what the dealer signed for its shares, in roster order.
        shares: by place in the roster, from 1.
    """
    try:
        secret = combine(shares, table.quorum)
        everyone = extend(shares, table.quorum, len(table.roster))
    except ValueError:
        return None
    for place, (receiver, share) in enumerate(zip(table.roster, everyone, strict=True)):
        shown = shares.get(place + 1)
        if share != shown and (shown is not None or table.share_hash(dealer, receiver, kind, share) != hashes[place]):
            return None
    return secret
