"""Dealing a vector: c of the n shares are streams of seeds, the others are interpolated from these and the secret.

Of c + l degrees of freedom the vector takes l and the seeds c, so nothing else random is needed. A seeded share costs
32 bytes to send. Any c shares tell nothing of the vector (``sharing``), as far as AES-256-CTR and HKDF look random: in
an explicit share the streams of seeds that its holder does not know are a one-time pad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.hashing import expand
from decentra.crypto.prg import KEY_BYTES
from decentra.crypto.shares.field61 import COLUMNS, Elements, Matrix, from_signed
from decentra.crypto.shares.polynomials import lagrange
from decentra.crypto.shares.sharing import Sharing
from decentra.crypto.shares.streams import Stream, uniform

SEED_LABEL = "decentra/shares/seed"
BLIND_LABEL = "decentra/shares/blind"
WIDE = 8 * COLUMNS
"""Elements interpolated at a time: below 8 MiB of rows at n = 64."""


@dataclass(frozen=True)
class Deal:
    """One dealer's shares.

    Attributes:
        seeds: position → the key of its share, 32 bytes; c of them.
        vectors: position → its share, (m,) uint64, the blind last; n − c of them, the dealer's own among them.
    """

    seeds: dict[int, bytes] = field(repr=False)
    vectors: dict[int, Elements] = field(repr=False)

    def share(self, position: int) -> Elements | bytes:
        """What the peer at a position holds."""
        return self.seeds[position] if position in self.seeds else self.vectors[position]


def seed_of(secret: bytes, receiver: int) -> bytes:
    """The key of a receiver's share, from the dealer's secret of the round; ``receiver`` is a position.

    Raises:
        ValueError: the secret has not 32 bytes.
    """
    if len(secret) != KEY_BYTES:
        raise ValueError(f"a dealer's secret has {KEY_BYTES} bytes, this has {len(secret)}")
    return expand(secret, SEED_LABEL, receiver)


def deal(quanta: NDArray[np.int64], sharing: Sharing, dealer: int, secret: bytes) -> Deal:
    """Shares a vector out.

    Args:
        quanta: (d,) int64; ``quanta.check_norm`` is the caller's.
        dealer: the dealer's position.
        secret: 32 uniform secret bytes, for one deal ever: seeds and blind derive from them.

    Extra memory: below 16 MiB.

    Raises:
        ValueError: arguments that do not fit; a coordinate beyond ±(p − 1)/2.
    """
    if quanta.dtype != np.int64 or quanta.ndim != 1:
        raise ValueError(f"quanta are one vector of int64, not {quanta.dtype} of shape {quanta.shape}")
    seeds = {position: seed_of(secret, position) for position in sharing.seeded(dealer)}
    blind = uniform(expand(secret, BLIND_LABEL), sharing.slots)
    explicit = sharing.explicit(dealer)
    length = sharing.length(quanta.size)
    shares = np.empty((len(explicit), length), dtype=np.uint64)
    known = (*sharing.secret_points, *(position + 1 for position in seeds))
    matrix = Matrix(lagrange(known, tuple(position + 1 for position in explicit)))
    streams = [Stream(seed) for seed in seeds.values()]
    room = np.empty((len(known), min(WIDE, length)), dtype=np.uint64)
    slots, last = sharing.slots, length - 1
    for low in range(0, length, WIDE):
        high = min(low + WIDE, length)
        rows = room[:, : high - low]
        _slots(quanta, slots, low, min(high, last), rows)
        if high == length:
            rows[:slots, -1] = blind
        for row, stream in zip(rows[slots:], streams, strict=True):
            stream.fill(row)
        matrix.apply(rows, out=shares[:, low:high])
    return Deal(seeds, dict(zip(explicit, shares, strict=True)))


def _slots(quanta: NDArray[np.int64], slots: int, low: int, high: int, rows: Elements) -> None:
    """Elements low … high − 1 of a vector, a row a slot; behind its end are zeros."""
    piece = quanta[low * slots : high * slots]
    whole = piece.size // slots
    for slot in range(slots):
        from_signed(piece[slot : whole * slots : slots], out=rows[slot, :whole])
        if whole < high - low:
            left = piece[whole * slots + slot : whole * slots + slot + 1]
            rows[slot, whole] = from_signed(left)[0] if left.size else 0


def slot_major(elements: Sequence[Elements], d: int) -> Elements:
    """A vector of d coordinates from its slots, each (⌈d/l⌉,): coordinate j · l + s is element j of slot s."""
    return np.ascontiguousarray(np.stack(list(elements), axis=1).reshape(-1)[:d])
