"""Dealing: one peer's fresh secrets for one roster, their shares, and the check of everybody else's (SA-1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from decentra.crypto.agreement import check_public, draw_secret
from decentra.crypto.hashing import expand
from decentra.crypto.prg import Mask
from decentra.crypto.seal import SealError
from decentra.crypto.shamir import split
from decentra.crypto.suite import REAL, Opener, Suite
from decentra.machine.effects import Tools
from decentra.protocols.beacon import BEACON
from decentra.protocols.secagg.messages import Deal
from decentra.protocols.sharing import SHARE_BYTES, Table, rebuild
from decentra.types import PeerId

SELF, KEY = "self", "key"
"""Two of the three secrets that a peer deals: its self seed and its mask key. The third is its part of the beacon."""

GROUP = 0
"""The tensor group under which masks are derived; a vector is one group."""


@dataclass(frozen=True)
class Dealt:
    """One's own deal and the secrets behind it."""

    message: Deal
    self_seed: bytes = field(repr=False)
    mask_secret: bytes = field(repr=False)


@dataclass(frozen=True)
class DealSecrets:
    """Job: draw the three secrets, share them, and seal the shares to their receivers' epoch keys."""

    table: Table
    me: PeerId
    sealing_keys: tuple[bytes, ...]

    def run(self, tools: Tools) -> Dealt:
        table, n = self.table, len(self.table.roster)
        self_seed, mask_secret, part = (draw_secret(tools.random) for _ in range(3))
        self_shares, key_shares, beacon_shares = (
            split(secret, table.quorum, n, tools.random) for secret in (self_seed, mask_secret, part)
        )
        boxes = zip(table.roster, self.sealing_keys, self_shares, key_shares, beacon_shares, strict=True)
        sealed = tuple(
            table.suite.seal(public, b"".join(shares), table.seal_context(self.me, receiver), tools.random)
            for receiver, public, *shares in boxes
        )
        message = Deal(
            view=table.view,
            mask_public=table.suite.mask_key(mask_secret).public,
            self_hash=table.secret_hash(self.me, SELF, self_seed),
            beacon_hash=table.secret_hash(self.me, BEACON, part),
            self_share_hashes=table.share_hashes(self.me, SELF, self_shares),
            key_share_hashes=table.share_hashes(self.me, KEY, key_shares),
            beacon_share_hashes=table.share_hashes(self.me, BEACON, beacon_shares),
            sealed=sealed,
        )
        return Dealt(message, self_seed, mask_secret)


@dataclass(frozen=True)
class Shares:
    """What a receiver holds of one dealer: a share of each secret."""

    self_share: bytes = field(repr=False)
    key_share: bytes = field(repr=False)
    beacon_share: bytes = field(repr=False)


@dataclass(frozen=True)
class BadDeal:
    """Whose deal did not check, and what was wrong with it."""

    dealer: PeerId
    reason: str


@dataclass(frozen=True)
class OpenDeals:
    """Job: open one's own share of every deal and hold it against the dealer's signed hashes."""

    table: Table
    me: PeerId
    deals: Mapping[PeerId, Deal]
    sealing: Opener = field(repr=False)

    def run(self, tools: Tools) -> Mapping[PeerId, Shares] | BadDeal:
        position, n = self.table.roster.index(self.me), len(self.table.roster)
        opened: dict[PeerId, Shares] = {}
        for dealer, deal in self.deals.items():
            hashes = share_hashes(deal)
            if not all(len(listed) == n for listed in (deal.sealed, *hashes.values())):
                return BadDeal(dealer, f"its deal is not one for a roster of {n}")
            try:
                check_public(deal.mask_public)
                box = self.sealing.open(deal.sealed[position], self.table.seal_context(dealer, self.me))
            except SealError:
                return BadDeal(dealer, "the share that it sealed to this peer does not open")
            except ValueError:
                return BadDeal(dealer, "its mask key is of low order")
            shares = [box[start : start + SHARE_BYTES] for start in range(0, len(box), SHARE_BYTES)]
            if len(shares) != len(hashes) or any(
                self.table.share_hash(dealer, self.me, kind, share) != listed[position]
                for (kind, listed), share in zip(hashes.items(), shares, strict=True)
            ):
                return BadDeal(dealer, "the share that it sealed to this peer is not the one it signed")
            opened[dealer] = Shares(*shares)
        return opened


def share_hashes(deal: Deal) -> dict[str, tuple[bytes, ...]]:
    """What a dealer signed for its shares of each secret, in the order in which they lie in a box."""
    return {SELF: deal.self_share_hashes, KEY: deal.key_share_hashes, BEACON: deal.beacon_share_hashes}


def self_key(seed: bytes, context: bytes) -> bytes:
    """The key of a peer's self mask: HKDF(b, ctx, "self", tensor group)."""
    return expand(seed, "decentra/self-mask", context, GROUP)


def masks(
    me: PeerId, dealt: Dealt, publics: Mapping[PeerId, bytes], context: bytes, suite: Suite = REAL
) -> tuple[Mask, ...]:
    """One's own self mask, and one mask a pair: added towards later members of the roster, taken away towards earlier
    ones, so that they cancel in the sum."""
    key = suite.mask_key(dealt.mask_secret)
    pairs = []
    for other in sorted(publics):
        if other != me:
            low, high = min(me, other), max(me, other)
            pairs.append(Mask(key.agree(publics[other], context, low, high, GROUP), 1 if other > me else -1))
    return (Mask(self_key(dealt.self_seed, context), 1), *pairs)


@dataclass(frozen=True)
class DeriveMasks:
    """Job: the keys of all of one's masks under a context."""

    me: PeerId
    dealt: Dealt = field(repr=False)
    publics: Mapping[PeerId, bytes]
    context: bytes
    suite: Suite = field(default=REAL, repr=False)

    def run(self, tools: Tools) -> tuple[Mask, ...]:
        return masks(self.me, self.dealt, self.publics, self.context, self.suite)


@dataclass(frozen=True)
class RebuildSecrets:
    """Job: rebuild the survivors' self seeds and the mask keys of who dropped of t shares each, hold them against what
    their dealers signed, and give the masks that still lie on the sum of the survivors' vectors."""

    table: Table
    deals: Mapping[PeerId, Deal]
    selves: Mapping[PeerId, Mapping[int, bytes]] = field(repr=False)
    keys: Mapping[PeerId, Mapping[int, bytes]] = field(repr=False)
    context: bytes

    def run(self, tools: Tools) -> tuple[Mask, ...] | BadDeal:
        left: list[Mask] = []
        for dealer, shares in self.selves.items():
            seed = rebuild(self.table, dealer, SELF, self.deals[dealer].self_share_hashes, shares)
            if seed is None or self.table.secret_hash(dealer, SELF, seed) != self.deals[dealer].self_hash:
                return BadDeal(dealer, "the shares that it dealt do not rebuild the self seed that it signed")
            left.append(Mask(self_key(seed, self.context), 1))
        for dropped, shares in self.keys.items():
            secret = rebuild(self.table, dropped, KEY, self.deals[dropped].key_share_hashes, shares)
            key = None if secret is None else self.table.suite.mask_key(secret)
            if key is None or key.public != self.deals[dropped].mask_public:
                return BadDeal(dropped, "the shares that it dealt do not rebuild the mask key that it signed")
            for member in self.selves:
                low, high = min(member, dropped), max(member, dropped)
                pair = key.agree(self.deals[member].mask_public, self.context, low, high, GROUP)
                left.append(Mask(pair, 1 if dropped > member else -1))
        return tuple(left)
