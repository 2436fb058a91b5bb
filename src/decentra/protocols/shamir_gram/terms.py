"""A roster's numbers in shamir-gram: slots, the fewest holders and dealers, the encoding, what a blob holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from decentra.crypto.prg import KEY_BYTES
from decentra.crypto.ring import Ring
from decentra.crypto.shares.field61 import ELEMENT_BYTES
from decentra.crypto.shares.quanta import encoded_for
from decentra.crypto.shares.sharing import BLINDS, Sharing
from decentra.derive import quorum
from decentra.robust.shared import fewest_updates

WIDTH = 32
"""Bits of a result's coordinate."""

PACKED = 16
"""The fewest peers among whom an element carries more than one coordinate."""


def slots(n: int, c: int) -> int:
    """l: one below 16 peers; from there the most with which liars are still named, n ≥ 4c + 2l − 1, or one."""
    return 1 if n < PACKED else max(1, (n - 4 * c + 1) // 2)


@dataclass(frozen=True)
class Terms:
    """The numbers of one round.

    Args:
        n: peers in the roster.
        c: how many may be corrupt.
        d: coordinates of an update, without a weight.
    """

    n: int
    c: int
    d: int

    @cached_property
    def sharing(self) -> Sharing:
        return Sharing(self.n, self.c, slots(self.n, self.c))

    @property
    def fewest_dealers(self) -> int:
        return fewest_updates(quorum(self.n, self.c), self.c)

    @property
    def fewest_holders(self) -> int:
        """3c + 2l − 1, who see every lie about a product; and t, who can vote."""
        return max(self.needed(self.sharing.product_degree, self.c), quorum(self.n, self.c))

    @staticmethod
    def needed(degree: int, liars: int) -> int:
        """Holders whose values show every lie of so many on polynomials of a degree."""
        return degree + 1 + liars

    @property
    def elements(self) -> int:
        return self.sharing.elements(self.d)

    @property
    def length(self) -> int:
        """Elements of a dealt share, its blind among them."""
        return self.sharing.length(self.d)

    @property
    def pairs(self) -> int:
        """Inner products among the roster: a sharing of zero has one entry each."""
        return self.n * (self.n + 1) // 2

    @property
    def encoded_for(self) -> int:
        """m, for so many vectors an update is encoded that ±q_max in every coordinate is no longer than R."""
        return encoded_for(self.n, self.d)

    @property
    def limit(self) -> int:
        """q_max."""
        return Ring(WIDTH).limit(self.encoded_for)

    def is_seeded(self, dealer: int, receiver: int) -> bool:
        """Whether what a receiver is dealt is the key of a stream; both are positions."""
        return receiver in self.sharing.seeded(dealer)

    def share_bytes(self, dealer: int, receiver: int) -> int:
        """Bytes of the vector's share in a blob; the sharing of zero lies behind it."""
        return KEY_BYTES if self.is_seeded(dealer, receiver) else self.length * ELEMENT_BYTES

    @property
    def zero_bytes(self) -> int:
        return (self.pairs + BLINDS) * ELEMENT_BYTES

    def blob_bytes(self, dealer: int, receiver: int) -> int:
        return self.share_bytes(dealer, receiver) + self.zero_bytes

    def entry(self, i: int, j: int) -> int:
        """Which entry of the roster's matrix is that of positions i ≤ j, in the order of ``gram.pairs``."""
        return i * self.n - i * (i - 1) // 2 + j - i
