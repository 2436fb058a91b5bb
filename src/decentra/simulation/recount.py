"""What shamir-gram's page of arithmetic says, computed once more in Python's integers, one element at a time.

The oracle holds machines against it. Of the library's kernels it uses the streams that keys stand for, and the rule's
weights; decoding is a search over who may have lied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from decentra.crypto.hashing import digest, expand
from decentra.crypto.prg import Keystream, buffer_for
from decentra.crypto.shares.field61 import PRIME
from decentra.crypto.shares.streams import uniform

ROWS, BUCKETS = 8, 512
DEGREE, ZERO, OPENED, SKETCH = (
    f"decentra/shares/{name}" for name in ("degree", "zero-check", "opened", "sketch")
)
"""Labels of what a beacon gives."""

RADIUS = (1 << 28) - 1
"""R, the length of the longest vector."""

Sketched = dict[int, int]
"""A sketch's buckets that are not 0: 512 r + b for bucket b of row r."""

Gram = dict[tuple[int, int], int]
"""The entries i ≤ j of a matrix of inner products."""


def signed(value: int) -> int:
    """The integer that an element stands for."""
    value %= PRIME
    return value - PRIME if value > PRIME >> 1 else value


# ── polynomials ──────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1 << 16)
def basis(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    """What the values at these points are multiplied with to give the value at another (Lagrange)."""
    out = []
    for one in points:
        above = below = 1
        for other in points:
            if other != one:
                above = above * (at - other) % PRIME
                below = below * (one - other) % PRIME
        out.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(out)


def value_at(values: Mapping[int, int], degree: int, at: int) -> int:
    """The value of the polynomial through the first ``degree`` + 1 points."""
    points = tuple(sorted(values))[: degree + 1]
    return sum(factor * values[x] for factor, x in zip(basis(points, at), points, strict=True)) % PRIME


def fits(values: Mapping[int, int], degree: int) -> bool:
    """Whether the values lie on one polynomial of the degree."""
    return all(value_at(values, degree, x) == values[x] for x in sorted(values)[degree + 1 :])


def slot_points(slots: int) -> tuple[int, ...]:
    """0, −1, …"""
    return tuple(-place % PRIME for place in range(slots))


@dataclass(frozen=True)
class Found:
    """The polynomial of decoded values, by those of them that lie on it; and whose do not."""

    values: Mapping[int, int]
    wrong: tuple[int, ...]


def spare(count: int, degree: int, liars: int) -> int:
    """How many lies among so many values are corrected."""
    return min(liars, count - degree - 1 - liars)


def decoded(values: Mapping[int, int], degree: int, liars: int) -> Found | None:
    """The one polynomial that all but so many of the values lie on as can be corrected; None where there is none."""
    for count in range(spare(len(values), degree, liars) + 1):
        for out in combinations(sorted(values), count):
            left = {x: value for x, value in values.items() if x not in out}
            if fits(left, degree):
                return Found(left, out)
    return None


# ── what beacons give ────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=256)
def coefficients(key: bytes, label: str, count: int) -> tuple[int, ...]:
    """The first coefficients that a beacon gives for one use."""
    return tuple(map(int, uniform(expand(key, label), count)))


def combination(row: Sequence[int], key: bytes, label: str, start: int = 0, blinded: bool = False) -> int:
    """Σ r_(start + k) · row_k, with the coefficient 1 for the blind at the end."""
    factors = list(coefficients(key, label, start + len(row))[start:])
    if blinded:
        factors[-1] = 1
    return sum(r * value for r, value in zip(factors, row, strict=True)) % PRIME


@lru_cache(maxsize=64)
def buckets(beacon: bytes, count: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Row by row of the sketch, the bucket and the sign of each element."""
    rows = []
    for row in range(ROWS):
        data = buffer_for(2 * count)
        Keystream(expand(beacon, SKETCH, row)).fill(data.data, 2 * count)
        words = [int(low) + 256 * int(high) for low, high in data[: 2 * count].reshape(-1, 2)]
        rows.append(tuple((word % BUCKETS, -1 if word & BUCKETS else 1) for word in words))
    return tuple(rows)


def sketched(row: Sequence[int], beacon: bytes) -> Sketched:
    """The sketch of a vector of elements, or of one slot's integers."""
    out: Sketched = {}
    for number, places in enumerate(buckets(beacon, len(row))):
        for (bucket, sign), value in zip(places, row, strict=True):
            place = BUCKETS * number + bucket
            out[place] = out.get(place, 0) + sign * value
    return out


def inner(one: Sketched, other: Sketched) -> int:
    """The sum of the products of two sketches, in integers."""
    return sum(value * other[place] for place, value in one.items() if place in other)


# ── vectors and matrices ─────────────────────────────────────────────────────────────────────────────────────────────


def by_slot(vector: Sequence[int], slots: int) -> list[list[int]]:
    """A vector's coordinates, a row a slot, the last element filled up with zeros."""
    padded = [*vector, *[0] * (-len(vector) % slots)]
    return [padded[slot::slots] for slot in range(slots)]


def slots_sketched(vector: Sequence[int], beacon: bytes, slots: int) -> list[Sketched]:
    """The sketch of each slot of a vector, in integers."""
    return [sketched(row, beacon) for row in by_slot(vector, slots)]


def product(x: Sequence[Sketched], y: Sequence[Sketched]) -> int:
    """What is opened of two vectors: the signed sum over slots of the products of their sketches."""
    return signed(sum(inner(a, b) for a, b in zip(x, y, strict=True)))


def matrix(
    words: Mapping[int, Sequence[int]], count: int, degree: int, slots: int, liars: int
) -> tuple[Gram, tuple[int, ...]] | None:
    """The entries i ≤ j that holders' words give, and whose were false; None where that can't be told."""
    named: set[int] = set()
    entries: Gram = {}
    for place, pair in enumerate((i, j) for i in range(count) for j in range(i, count)):
        found = decoded({x: word[place] for x, word in words.items() if x not in named}, degree, liars - len(named))
        if found is None:
            return None
        named.update(found.wrong)
        entries[pair] = signed(sum(value_at(found.values, degree, at) for at in slot_points(slots)))
    return entries, tuple(sorted(named))


def short(gram: Gram, count: int, f: int) -> list[int]:
    """Whose products may be those of short vectors."""
    at = {(i, j): gram[min(i, j), max(i, j)] for i in range(count) for j in range(count)}
    left = [i for i in range(count) if 0 <= at[i, i] <= 12 * RADIUS**2]
    return [i for i in left if sum(at[i, j] ** 2 > at[i, i] * at[j, j] for j in left) <= f]


def gram_hash(gram: Gram, left: Sequence[int]) -> bytes:
    """The hash of a matrix's entries between those that are left."""
    entries = [gram[i, j] for place, i in enumerate(left) for j in left[place:]]
    return digest("gram", len(left), b"".join(entry.to_bytes(8, "little", signed=True) for entry in entries))
