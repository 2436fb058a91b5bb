"""Sharings, vectors and whole rounds of arithmetic on shares, for the tests of ``decentra.crypto.shares``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from decentra.crypto.shares import checks, deal, gram, sketch
from decentra.crypto.shares.deal import Deal
from decentra.crypto.shares.field61 import Elements
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.streams import Row, uniform

IN_USE = (
    *(Sharing(4, 1), Sharing(7, 2), Sharing(10, 3), Sharing(13, 4), Sharing(16, 5), Sharing(32, 10)),
    *(Sharing(5, 1), Sharing(9, 2), Sharing(13, 3), Sharing(16, 3, 2), Sharing(16, 2, 4), Sharing(16, 1, 6)),
    *(Sharing(17, 3, 3), Sharing(32, 7, 2), Sharing(32, 5, 6), Sharing(8, 1, 3), Sharing(64, 21)),
)
"""Rosters with and without packing, at 3c + 1 and above, at n = 4c + 2l − 1, and between."""
SMALL = tuple(sharing for sharing in IN_USE if sharing.n <= 17)
SHARINGS, SMALLER = st.sampled_from(IN_USE), st.sampled_from(SMALL)
BEACON = bytes(range(100, 132))


def secret(peer: int, run: int = 0) -> bytes:
    return bytes([peer, run]) * 16


def vector(seed: int, d: int, most: int = 1 << 20) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-most, most + 1, d)


def whole(row: Row, length: int) -> Elements:
    """A share, expanded where it is a stream."""
    return uniform(row, length) if isinstance(row, bytes) else row


@dataclass
class Round:
    """Every peer's vector dealt, and what each peer holds; shares may be changed before they are looked at."""

    sharing: Sharing
    vectors: list[NDArray[np.int64]]
    deals: list[Deal]
    held: list[list[Row]]

    @property
    def d(self) -> int:
        return self.vectors[0].size

    @property
    def elements(self) -> int:
        return self.sharing.elements(self.d)

    def bodies(self, peer: int) -> list[Row]:
        return [checks.without_blind(row) for row in self.held[peer]]

    def degree_values(self, beacon: bytes = BEACON) -> list[tuple[int, ...]]:
        return [checks.degree_values(rows, self.sharing.length(self.d), beacon) for rows in self.held]

    def sketches(self, beacon: bytes = BEACON) -> list[Elements]:
        return [sketch.sketch(self.bodies(peer), self.elements, beacon) for peer in range(self.sharing.n)]

    def words(self, beacon: bytes = BEACON) -> dict[int, Elements]:
        """What every peer tells of the products, hidden by everybody's zero-sharing."""
        count = len(self.vectors)
        entries = count * (count + 1) // 2
        zeros = [gram.deal_zero(entries, self.sharing, secret(peer)) for peer in range(self.sharing.n)]
        return {
            peer + 1: gram.hidden(gram.products(one), [zero[peer] for zero in zeros], self.sharing)
            for peer, one in enumerate(self.sketches(beacon))
        }


def dealt(sharing: Sharing, vectors: Sequence[NDArray[np.int64]], run: int = 0) -> Round:
    """A round in which peer i deals vector i."""
    deals = [deal.deal(one, sharing, peer, secret(peer, run)) for peer, one in enumerate(vectors)]
    held = [[one.share(peer) for one in deals] for peer in range(sharing.n)]
    return Round(sharing, list(vectors), deals, held)
