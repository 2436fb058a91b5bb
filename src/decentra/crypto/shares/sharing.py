"""How vectors are shared in a roster: numbers that follow from n, c and the slots.

Peer at roster position i holds f(i + 1). Slot s of a share element is f(−s), s = 0 … l − 1: with one slot this is
Shamir's sharing (1979), with more the packed one of Franklin and Yung (1992). Coordinate j · l + s of a vector is slot
s of element j. After ⌈d/l⌉ elements comes one more, the blind: its slots are random, and it covers the vector in the
check of its degree.

A polynomial of degree c + l − 1 has c + l degrees of freedom: its l slots and its values at any c of the points 1 … n,
and these are independent, since the points are all distinct (Lagrange). So for every content of the slots the map from
the dealer's c random values to any c shares is a bijection: c holders together see uniform numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from decentra.crypto.shares.field61 import PRIME

MAX_PEERS = 64
BLINDS = 1
"""Elements behind the vector that hide it where one combination of it is opened; there is one such opening."""


@dataclass(frozen=True)
class Sharing:
    """n peers of whom c may lie and collude, and l slots an element.

    Raises:
        ValueError: n above 64, c below 1, l below 1, or n < 3c + 2l − 1: then c lies about a product would go unseen.
    """

    n: int
    c: int
    slots: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MAX_PEERS or self.c < 1 or self.slots < 1:
            raise ValueError(
                f"sharing is for up to {MAX_PEERS} peers, c ≥ 1 and 1 slot or more, not for n = {self.n}, "
                f"c = {self.c}, l = {self.slots}"
            )
        if self.n < 3 * self.c + 2 * self.slots - 1:
            raise ValueError(
                f"n ≥ 3c + 2l - 1 = {3 * self.c + 2 * self.slots - 1} shows every lie about a product; there are "
                f"{self.n} peers: lower c or the slots"
            )

    @property
    def degree(self) -> int:
        """That of a dealt polynomial: c + l − 1."""
        return self.c + self.slots - 1

    @property
    def product_degree(self) -> int:
        """That of a product of two, and of what hides it."""
        return 2 * self.degree

    @property
    def names_liars(self) -> bool:
        """Whether c lies about products are corrected and named: n ≥ 4c + 2l − 1. Lies about sums always are."""
        return self.n >= 4 * self.c + 2 * self.slots - 1

    @property
    def points(self) -> tuple[int, ...]:
        """Where the peers' shares lie: 1 … n."""
        return tuple(range(1, self.n + 1))

    @property
    def secret_points(self) -> tuple[int, ...]:
        """Where the slots lie: 0, −1, …, 1 − l mod p."""
        return tuple(-slot % PRIME for slot in range(self.slots))

    def elements(self, d: int) -> int:
        """⌈d/l⌉: the elements of a share of d coordinates, without the blind.

        Raises:
            ValueError: d is negative.
        """
        if d < 0:
            raise ValueError(f"a vector has no {d} coordinates")
        return -(-d // self.slots)

    def length(self, d: int) -> int:
        """Elements of a dealt share: ``elements(d)`` and the blind."""
        return self.elements(d) + BLINDS

    def seeded(self, dealer: int) -> tuple[int, ...]:
        """The positions whose shares are PRG streams: the c behind the dealer, in roster order and round.

        Every peer is so behind c dealers, and the dealer's own share is no stream, so that no explicit one is sent
        less.

        Raises:
            ValueError: the dealer has no place in the roster.
        """
        if not 0 <= dealer < self.n:
            raise ValueError(f"a roster of {self.n} has no position {dealer}")
        return tuple((dealer + step) % self.n for step in range(1, self.c + 1))

    def explicit(self, dealer: int) -> tuple[int, ...]:
        """The other positions, ascending; the dealer's own is among them."""
        seeded = self.seeded(dealer)
        return tuple(position for position in range(self.n) if position not in seeded)
