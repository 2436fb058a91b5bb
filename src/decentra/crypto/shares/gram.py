"""Inner products of sketches: multiplied on shares, hidden by sharings of zero, opened, and looked at before use.

The products of shares lie on polynomials of degree 2(c + l − 1) that are not uniform and would tell more than their
slots. So everybody deals, for each pair, a polynomial of that degree whose slots sum to 0 and that is uniform
otherwise; the sum of these is added. What is opened is then uniform among the polynomials whose slots sum to ⟨Sx_i,
Sx_j⟩, as long as one of the zero-sharings that went in is an honest dealer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from decentra.crypto.hashing import expand
from decentra.crypto.prg import KEY_BYTES
from decentra.crypto.shares.checks import ZERO_LABEL, check_points, combinations
from decentra.crypto.shares.field61 import (
    DOT_TERMS,
    LIMB_BITS,
    LIMBS,
    PRIME,
    Elements,
    Matrix,
    check_elements,
    multiply,
    reduce,
    signed,
    split,
)
from decentra.crypto.shares.opening import open_vectors
from decentra.crypto.shares.polynomials import lagrange
from decentra.crypto.shares.quanta import check_radius
from decentra.crypto.shares.sharing import BLINDS, Sharing
from decentra.crypto.shares.sketch import ROWS, SIZE
from decentra.crypto.shares.streams import Stream

ZERO_SHARE_LABEL = "decentra/shares/zero"

Gram = tuple[tuple[int, ...], ...]
"""8⟨x_i, x_j⟩ by the sketch: Python integers, symmetric."""


def pairs(count: int) -> tuple[tuple[int, int], ...]:
    """(i, j) with i ≤ j, in the order in which entries are told: by i, then by j."""
    return tuple((i, j) for i in range(count) for j in range(i, count))


def products(sketches: Elements) -> Elements:
    """A holder's shares of the entries, not hidden yet: ⟨S_i, S_j⟩ mod p in the order of ``pairs``.

    Args:
        sketches: (k, 4096) uint64 below p.

    Raises:
        ValueError: another shape or dtype, or a number that is not below p.
    """
    k = len(sketches)
    check_elements(sketches, "the sketches", (k, SIZE))
    limbs, room = np.empty((LIMBS * k, DOT_TERMS)), np.empty((k, DOT_TERMS), dtype=np.uint64)
    total = np.zeros((LIMBS, k, LIMBS, k), dtype=np.uint64)
    for low in range(0, SIZE, DOT_TERMS):
        split(sketches[:, low : low + DOT_TERMS], limbs, room)
        total += (limbs @ limbs.T).astype(np.int64).view(np.uint64).reshape(total.shape)
    entries = np.zeros((k, k), dtype=np.uint64)
    for one in range(LIMBS):
        for other in range(LIMBS):
            shifted = multiply(reduce(total[one, :, other]), pow(2, LIMB_BITS * (one + other), PRIME))
            entries = reduce(entries + shifted)
    return np.ascontiguousarray(entries[np.triu_indices(k)])


@lru_cache(maxsize=32)
def zero_matrix(sharing: Sharing) -> tuple[tuple[int, ...], ...]:
    """From the values at points 1 … D to those at 1 … n of the polynomial of degree D = 2(c + l − 1) with slot sum 0.

    The slots' sum of the basis polynomial of point D + 1 is ± C(D + l, D + 1), which p does not divide: so the value
    there can be solved for, and D free values are just the polynomials of slot sum 0.
    """
    degree = sharing.product_degree
    base = tuple(range(1, degree + 2))
    sums = [sum(column) % PRIME for column in zip(*lagrange(base, sharing.secret_points), strict=True)]
    inverse = pow(sums[-1], -1, PRIME)
    return tuple(
        tuple((row[j] - row[-1] * sums[j] * inverse) % PRIME for j in range(degree))
        for row in lagrange(base, sharing.points)
    )


def deal_zero(count: int, sharing: Sharing, secret: bytes) -> Elements:
    """Shares of zero for ``count`` entries, and of a blind of the same kind: (n, count + 1) uint64, a row a holder.

    Args:
        secret: 32 uniform secret bytes; the one that a vector was dealt from will do, since labels keep them apart.

    Raises:
        ValueError: the secret has not 32 bytes, or a negative count.
    """
    if len(secret) != KEY_BYTES:
        raise ValueError(f"a dealer's secret has {KEY_BYTES} bytes, this has {len(secret)}")
    if count < 0:
        raise ValueError(f"there are no {count} entries")
    free = np.empty((sharing.product_degree, count + BLINDS), dtype=np.uint64)
    for index, row in enumerate(free):
        Stream(expand(secret, ZERO_SHARE_LABEL, index + 1)).fill(row)
    return Matrix(zero_matrix(sharing)).apply(free)


def zero_values(shares: Sequence[Elements], count: int, beacon: bytes) -> tuple[int, ...]:
    """What a holder tells of the zero-sharings that it was dealt: an element for each dealer.

    Args:
        shares: each (count + 1,) uint64 below p, the blind last.
        beacon: 32 bytes.

    Raises:
        ValueError: shares that are not so.
    """
    return combinations(shares, count + BLINDS, beacon, ZERO_LABEL, blinded=True)


def hidden(entries: Elements, zeros: Sequence[Elements], sharing: Sharing) -> Elements:
    """A holder's word: its products, plus its shares of every zero-sharing that was found good.

    A sharing of zero hides one matrix, ever: the difference of two words under the same ones is bare.

    Args:
        entries: of ``products``.
        zeros: of c + 1 dealers at least, each (entries + 1,) uint64 below p, so that one of them is honest.

    Raises:
        ValueError: shapes that don't fit, numbers that are not below p, or fewer than c + 1 sharings of zero.
    """
    if len(zeros) <= sharing.c:
        raise ValueError(f"products are told under {sharing.c + 1} sharings of zero or more, these are {len(zeros)}")
    total = check_elements(entries, "the products").copy()
    for share in zeros:
        total = reduce(total + check_elements(share, "a share of zero", (entries.size + BLINDS,))[:-BLINDS])
    return total


@dataclass(frozen=True)
class OpenedGram:
    """The matrix, and the points of holders whose words were false."""

    gram: Gram = field(repr=False)
    wrong: tuple[int, ...]


def open_gram(words: Mapping[int, Elements], count: int, sharing: Sharing, liars: int | None = None) -> OpenedGram:
    """The matrix of ``count`` vectors from holders' words.

    Args:
        words: point → (count (count + 1) / 2,) uint64 below p.
        liars: how many of these may be false, c by default.

    Raises:
        Undecided: words that don't fit together, where it can't be told whose are false; or too few.
        ValueError: a word of another shape or dtype, a number that is not below p, a point that is no peer's.
    """
    check_points(words, sharing)
    order = pairs(count)
    most = sharing.c if liars is None else liars
    opened = open_vectors(words, len(order), sharing.product_degree, most, sharing.secret_points)
    gram = [[0] * count for _ in range(count)]
    for (i, j), column in zip(order, opened.values.T, strict=True):
        gram[i][j] = gram[j][i] = signed(sum(int(value) for value in column))
    return OpenedGram(tuple(map(tuple, gram)), opened.wrong)


def largest_square(radius: int) -> int:
    """8R² · 3/2: what the square of an honest sketch does not exceed, 22 standard deviations above its mean."""
    return ROWS * check_radius(radius) ** 2 * 3 // 2


def implausible(gram: Gram, radius: int, f: int) -> tuple[int, ...]:
    """Whose entries can't be inner products of short vectors: indices, ascending.

    A vector that wraps around, such as one coordinate of 2^31 whose square is 2 mod p, would look near to all. Whose
    square lies outside 0 … 12R² is out. Among the others, whose G_ij² > G_ii · G_jj with more than f is out: integers
    have Cauchy's inequality, and an honest vector breaks it with false ones only.

    Raises:
        ValueError: R out of bounds, or f negative.
    """
    if f < 0:
        raise ValueError(f"f = {f} is no number of vectors")
    most = largest_square(radius)
    left = [i for i in range(len(gram)) if 0 <= gram[i][i] <= most]
    out = set(range(len(gram))) - set(left)
    for i in left:
        if sum(gram[i][j] ** 2 > gram[i][i] * gram[j][j] for j in left) > f:
            out.add(i)
    return tuple(sorted(out))
