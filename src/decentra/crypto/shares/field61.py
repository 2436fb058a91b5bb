"""The prime field of p = 2^61 − 1 on arrays of uint64, one IEEE or integer operation at a time over cached chunks.

p is a Mersenne prime: 2^61 = 1, so a product's high half is added to its low half, and multiplying by a power of two
is a rotation of 61 bits. Matrix products go through float64, whose product of matrices is the fastest there is:
numbers are cut into three limbs of 21 bits, so that every sum of products stays below 2^53 and is exact, in whatever
order and by however many threads a library sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRIME = (1 << 61) - 1
BITS = 61
ELEMENT_BYTES = 8
Elements = NDArray[np.uint64]

LIMBS = 3
LIMB_BITS = 21
MAX_TERMS = (1 << (53 - 2 * LIMB_BITS)) // LIMBS
"""The most terms of a sum in a matrix product: LIMBS times as many products of two limbs stay below 2^53."""
DOT_TERMS = 1 << (53 - 2 * LIMB_BITS)
"""Columns of one exact float64 dot product of limbs."""
COLUMNS = 1024
"""Columns of a matrix product at a time: limbs and products of a dozen rows stay in a second-level cache."""
CHUNK = 8192
"""Elements worked on at a time elsewhere: eight buffers of 64 KiB."""

_P = np.uint64(PRIME)
_BITS = np.uint64(BITS)
_LIMB = np.uint64((1 << LIMB_BITS) - 1)
_HALF = np.uint64((1 << 31) - 1)
_REST = np.uint64((1 << 30) - 1)


def check_elements(values: Any, name: str, shape: tuple[int, ...] | None = None) -> Elements:
    """The same array, known to be uint64 below p.

    Raises:
        ValueError: another dtype or byte order, another shape than ``shape``, or a number that is not below p.
    """
    if not isinstance(values, np.ndarray) or values.dtype != np.uint64 or not values.dtype.isnative:
        found = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ValueError(f"{name} has to be an array of uint64, it is {found}")
    if shape is not None and values.shape != shape:
        raise ValueError(f"{name} has to have the shape {shape}, it has {values.shape}")
    if values.size and int(values.max()) >= PRIME:
        raise ValueError(f"{name} holds a number that is not below 2^61 - 1")
    return values


def from_bytes(data: bytes | bytearray | memoryview, count: int, name: str = "a vector") -> Elements:
    """Reads ``count`` elements of 8 canonical little-endian bytes.

    Raises:
        ValueError: another length, or a number that is not below p.
    """
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size != count * ELEMENT_BYTES:
        raise ValueError(f"{name} of {count} elements has {count * ELEMENT_BYTES} bytes, this has {size}")
    return check_elements(np.frombuffer(data, dtype="<u8").astype(np.uint64), name)


def to_bytes(values: Elements) -> bytes:
    """8 little-endian bytes an element; for short vectors, since it copies."""
    return values.astype("<u8").tobytes()


def reduce(values: Elements, out: Elements | None = None) -> Elements:
    """Any uint64 mod p."""
    out = np.empty_like(values) if out is None else out
    high = np.right_shift(values, _BITS)
    np.bitwise_and(values, _P, out=out)
    np.add(out, high, out=out)
    np.subtract(out, _P, out=high)  # below p it wraps around to something huge
    return np.minimum(out, high, out=out)


def add(left: Elements, right: Elements) -> Elements:
    """left + right mod p, of elements below p."""
    return reduce(np.add(left, right))


def subtract(left: Elements, right: Elements) -> Elements:
    """left − right mod p, of elements below p."""
    return reduce(np.add(left, np.subtract(_P, right)))


def negate(values: Elements) -> Elements:
    """−values mod p, of elements below p."""
    return reduce(np.subtract(_P, values))


def multiply(left: Elements, right: Elements | int) -> Elements:
    """left · right mod p, element by element or by one number; both below p, broadcast like numpy's.

    With a = a1 · 2^31 + a0 the product is a1·b1 · 2^62 + (a1·b0 + a0·b1) · 2^31 + a0·b0, and 2^61 = 1.
    """
    other = np.asarray(right % PRIME if isinstance(right, int) else right, dtype=np.uint64)
    shape = np.broadcast_shapes(left.shape, other.shape)
    one = np.ascontiguousarray(np.broadcast_to(left, shape)).reshape(-1)
    two = np.ascontiguousarray(np.broadcast_to(other, shape)).reshape(-1) if other.ndim else other
    out = np.empty(one.size, dtype=np.uint64)
    for low in range(0, one.size, CHUNK):
        high = min(low + CHUNK, one.size)
        _multiply(one[low:high], two[low:high] if two.ndim else two, out[low:high])
    return out.reshape(shape)


def _multiply(left: Elements, right: Any, out: Elements) -> None:
    left_low, left_high = np.bitwise_and(left, _HALF), np.right_shift(left, np.uint64(31))
    right_low, right_high = np.bitwise_and(right, _HALF), np.right_shift(right, np.uint64(31))
    middle = np.multiply(left_high, right_low)
    np.multiply(left_low, right_high, out=out)
    np.add(middle, out, out=middle)  # below 2^62
    np.multiply(left_high, right_high, out=left_high)
    np.left_shift(left_high, np.uint64(1), out=left_high)  # 2^62 = 2
    np.multiply(left_low, right_low, out=left_low)  # below 2^62
    np.right_shift(middle, np.uint64(30), out=out)
    np.add(out, left_high, out=out)
    np.bitwise_and(middle, _REST, out=middle)
    np.left_shift(middle, np.uint64(31), out=middle)
    np.add(out, middle, out=out)
    np.add(out, left_low, out=out)  # below 2^61 + 2^32 + 2^61 + 2^62 < 2^64
    reduce(out, out=out)


def from_signed(values: NDArray[Any], out: Elements | None = None) -> Elements:
    """Signed integers of at most 60 bits and sign as elements: a negative number −k is p − k.

    Raises:
        ValueError: another dtype than int16, int32 or int64, or a number not within ±(p − 1)/2.
    """
    if values.dtype not in (np.int16, np.int32, np.int64):
        raise ValueError(f"only int16, int32 or int64 becomes field elements, not {values.dtype}")
    if values.size and not (int(values.min()) >= -(PRIME >> 1) and int(values.max()) <= PRIME >> 1):
        raise ValueError("a signed number beyond (p - 1) / 2 has no field element of its own")
    out = np.empty(values.shape, dtype=np.uint64) if out is None else out
    signed = out.view(np.int64)
    signed[...] = values
    signed += (signed >> 63) & np.int64(PRIME)
    return out


def to_signed(values: Elements) -> NDArray[np.int64]:
    """The integers in ±(p − 1)/2 that elements below p stand for."""
    signed = values.astype(np.int64)
    signed -= np.where(signed > PRIME >> 1, np.int64(PRIME), np.int64(0))
    return signed


def signed(value: int) -> int:
    """The integer in ±(p − 1)/2 that a number mod p stands for."""
    value %= PRIME
    return value - PRIME if value > PRIME >> 1 else value


def split(values: Elements, out: NDArray[np.float64], room: Elements) -> None:
    """The limbs of (k, w) elements as (3k, w) float64: all lowest limbs, all middle ones, all highest.

    Args:
        room: (k, w), to be written over.
    """
    k = len(values)
    whole = room.view(np.int64)  # numbers below 2^63 turn into float64 sooner from int64
    np.bitwise_and(values, _LIMB, out=room)
    out[:k] = whole
    np.right_shift(values, np.uint64(LIMB_BITS), out=room)
    np.bitwise_and(room, _LIMB, out=room)
    out[k : 2 * k] = whole
    np.right_shift(values, np.uint64(2 * LIMB_BITS), out=room)
    out[2 * k :] = whole


class Matrix:
    """A matrix mod p, made ready to be multiplied with many columns.

    Row by row its product with limbs B_b is Σ_b (A · 2^(21b)) B_b; A · 2^(21b) mod p is cut into limbs itself, so one
    float64 matrix of (3m, 3k) does it all.

    Args:
        rows: m rows of k Python integers or elements; k at most 682.

    Raises:
        ValueError: rows of unlike lengths, none, or too long.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.height, self.width = len(rows), len(rows[0]) if rows else 0
        if not rows or any(len(row) != self.width for row in rows) or not 1 <= self.width <= MAX_TERMS:
            raise ValueError(f"a matrix needs rows of one length in 1..{MAX_TERMS}")
        m, k = self.height, self.width
        limbs = np.empty((LIMBS * m, LIMBS * k), dtype=np.float64)
        for shift in range(LIMBS):
            for i, row in enumerate(rows):
                for j, entry in enumerate(row):
                    value = (int(entry) << (shift * LIMB_BITS)) % PRIME
                    for limb in range(LIMBS):
                        limbs[limb * m + i, shift * k + j] = (value >> (limb * LIMB_BITS)) & int(_LIMB)
        self._limbs = limbs

    def apply(self, columns: Elements | Sequence[Elements], out: Elements | None = None) -> Elements:
        """The product with (k, w) elements below p, or with k rows of w: (m, w)."""
        if len(columns) != self.width:
            raise ValueError(f"the matrix has {self.width} columns, there are {len(columns)} rows to multiply")
        length = len(columns[0])
        out = np.empty((self.height, length), dtype=np.uint64) if out is None else out
        k, m = self.width, self.height
        step = min(COLUMNS, max(1, length))
        block, room = np.empty((k, step), dtype=np.uint64), np.empty((k, step), dtype=np.uint64)
        limbs, sums = np.empty((LIMBS * k, step)), np.empty((LIMBS * m, step))
        for low in range(0, length, COLUMNS):
            high = min(low + COLUMNS, length)
            if high - low < step:
                block, room = block[:, : high - low].copy(), room[:, : high - low].copy()
                limbs, sums = limbs[:, : high - low].copy(), sums[:, : high - low].copy()
            for i in range(k):
                block[i] = columns[i][low:high]
            split(block, limbs, room)
            np.matmul(self._limbs, limbs, out=sums)
            out[:, low:high] = joined(sums.astype(np.int64).view(np.uint64).reshape(LIMBS, m, high - low))
        return out


def joined(sums: Elements) -> Elements:
    """Σ_a 2^(21a) · sums[a] mod p, of three arrays of numbers below 2^53; ``sums`` is written over."""
    total, middle, high = sums
    for part, shift in ((middle, LIMB_BITS), (high, 2 * LIMB_BITS)):
        rolled = np.left_shift(part, np.uint64(shift))  # what leaves 64 bits is in the other summand
        np.bitwise_and(rolled, _P, out=rolled)
        np.right_shift(part, np.uint64(BITS - shift), out=part)
        np.add(total, rolled, out=total)
        np.add(total, part, out=total)  # below 2^53 + 2 · 2^61 + 2^35
    return reduce(total, out=total)


class Dots:
    """Inner products of n rows with one vector, mod p, over columns that come piece by piece.

    Args:
        n: how many rows.
    """

    def __init__(self, n: int) -> None:
        self._sums = np.zeros((LIMBS * n, LIMBS), dtype=np.uint64)
        self._n = n
        self._room = np.empty((n, DOT_TERMS), dtype=np.uint64)
        self._limbs = np.empty((LIMBS * n, DOT_TERMS))
        self._other = np.empty((LIMBS, DOT_TERMS))
        self._other_room = np.empty((1, DOT_TERMS), dtype=np.uint64)

    def take(self, block: Elements, coefficients: Elements) -> None:
        """Adds the products of (n, w) elements and w coefficients, all below p."""
        for low in range(0, coefficients.size, DOT_TERMS):
            piece, other = block[:, low : low + DOT_TERMS], coefficients[None, low : low + DOT_TERMS]
            w = other.shape[1]
            split(piece, self._limbs[:, :w], self._room[:, :w])
            split(other, self._other[:, :w], self._other_room[:, :w])
            part = self._limbs[:, :w] @ self._other[:, :w].T
            np.add(self._sums, part.astype(np.int64).view(np.uint64), out=self._sums)
            reduce(self._sums, out=self._sums)

    def values(self) -> tuple[int, ...]:
        """The n inner products so far."""
        n = self._n
        return tuple(
            sum(
                int(self._sums[one * n + row, other]) << (LIMB_BITS * (one + other))
                for one in range(LIMBS)
                for other in range(LIMBS)
            )
            % PRIME
            for row in range(n)
        )


def dot(left: Elements, right: Elements) -> int:
    """Σ left · right mod p, of two vectors of elements below p."""
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"an inner product is of two vectors of one length, not of {left.shape} and {right.shape}")
    dots = Dots(1)
    dots.take(left[None], right)
    return dots.values()[0]
