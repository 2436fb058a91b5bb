"""Shamir's secret sharing over 2^255 − 19 (Shamir 1979, "How to share a secret").

A secret is the constant term of a polynomial of degree threshold − 1 whose other coefficients are uniform; share x is
its value at x = 1, 2, …. Any ``threshold`` shares give the secret and every other share; fewer say nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from decentra.crypto.field import PRIME, draw_secret, element, element_bytes

MAX_SHARES = 1024
"""A bound on x, far above any roster, so that a share's index from elsewhere cannot cost unbounded work."""


def split(secret: bytes, threshold: int, count: int, random: Callable[[int], bytes]) -> tuple[bytes, ...]:
    """Shares of ``secret`` for x = 1..count, any ``threshold`` of which give it back.

    Args:
        secret: 32 canonical bytes below 2^255 − 19.
        random: called once for each coefficient (threshold − 1 times 32 bytes; again only where a draw is rejected).

    Returns:
        ``count`` shares of 32 canonical little-endian bytes.

    Raises:
        ValueError: the secret is not canonical, or not 2 ≤ threshold ≤ count ≤ 1024 (one share must not be the secret).
        LocalError: the random source is broken.
    """
    constant = element(secret)
    _check_sizes(threshold, count)
    coefficients = [int.from_bytes(draw_secret(random), "little") for _ in range(threshold - 1)]
    shares = []
    for x in range(1, count + 1):
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * x % PRIME
        shares.append(element_bytes(value + constant))
    return tuple(shares)


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, from the ``threshold`` shares of lowest x; each share is keyed by its x.

    Shares that were not dealt give some other element: whoever needs to know compares hashes first.

    Raises:
        ValueError: too few shares, an x outside 1..1024, or a share that is not canonical.
    """
    xs, values = _lowest(shares, threshold)
    return element_bytes(sum(map(int.__mul__, lagrange_at_zero(xs), values)))


def extend(shares: Mapping[int, bytes], threshold: int, count: int) -> tuple[bytes, ...]:
    """All shares for x = 1..count on the polynomial through the ``threshold`` shares of lowest x.

    For blame: shares that match their hashes are extended, and all hashes are compared. If every hash then matches, any
    other subset gives the same; if one does not, the deal was bad whatever subset is taken.

    Raises:
        ValueError: as ``combine``, or not 2 ≤ threshold ≤ count ≤ 1024.
    """
    _check_sizes(threshold, count)
    xs, values = _lowest(shares, threshold)
    return tuple(element_bytes(sum(map(int.__mul__, row, values))) for row in _extension(xs, count))


@lru_cache(maxsize=64)
def lagrange_at_zero(xs: tuple[int, ...]) -> tuple[int, ...]:
    """The weights that give f(0) from f(xs); kept, since a round rebuilds many secrets from one set of peers.

    Raises:
        ValueError: two points are equal.
    """
    weights = []
    for i, x in enumerate(xs):
        above = below = 1
        for other in xs[:i] + xs[i + 1 :]:
            above = above * other % PRIME
            below = below * (other - x) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)


@lru_cache(maxsize=8)
def _extension(xs: tuple[int, ...], count: int) -> tuple[tuple[int, ...], ...]:
    """A row of Lagrange's weights for each x = 1..count.

    Weight i of row x is Π_j (x − x_j) / (x − x_i) / Π_{j≠i} (x_i − x_j): the last factor does not depend on the row,
    and the differences are few, so all inverses are taken once.
    """
    bases = []
    for i, x in enumerate(xs):
        below = 1
        for other in xs[:i] + xs[i + 1 :]:
            below = below * (x - other) % PRIME
        bases.append(pow(below, -1, PRIME))
    inverses = {gap: pow(gap, -1, PRIME) for gap in range(1, max(count, *xs) + 1)}
    rows = []
    for at in range(1, count + 1):
        if at in xs:
            rows.append(tuple(int(x == at) for x in xs))
            continue
        above = 1
        for x in xs:
            above = above * (at - x) % PRIME
        gaps = (inverses[at - x] if at > x else -inverses[x - at] for x in xs)
        rows.append(tuple(above * base * gap % PRIME for base, gap in zip(bases, gaps, strict=True)))
    return tuple(rows)


def _check_sizes(threshold: int, count: int) -> None:
    if not 2 <= threshold <= count <= MAX_SHARES:
        raise ValueError(f"sharing needs 2 ≤ threshold ≤ count ≤ {MAX_SHARES}, not {threshold} and {count}")


def _lowest(shares: Mapping[int, bytes], threshold: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The lowest ``threshold`` points and values of the shares, all of them checked."""
    if len(shares) < threshold:
        raise ValueError(f"{threshold} shares give the secret, these are {len(shares)}")
    if threshold < 2:
        raise ValueError(f"the threshold is at least 2, not {threshold}")
    for x in shares:
        if not 1 <= x <= MAX_SHARES:
            raise ValueError(f"a share's x lies in 1..{MAX_SHARES}, not at {x}")
    values = {x: element(share) for x, share in shares.items()}
    xs = tuple(sorted(values)[:threshold])
    return xs, tuple(values[x] for x in xs)
