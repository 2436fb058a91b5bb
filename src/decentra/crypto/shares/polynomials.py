"""Polynomials over p = 2^61 − 1 in Python integers: lowest coefficient first, no zeros at the end, [] for zero."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from decentra.crypto.shares.field61 import PRIME

Polynomial = list[int]


def evaluate(polynomial: Sequence[int], x: int) -> int:
    """Its value at x."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value


def trimmed(coefficients: list[int]) -> Polynomial:
    """The same without zeros at the end; in place."""
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    return coefficients


def product(left: Polynomial, right: Polynomial) -> Polynomial:
    """left · right."""
    out = [0] * max(0, len(left) + len(right) - 1)
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            out[i + j] += one * other
    return trimmed([value % PRIME for value in out])


def difference(left: Polynomial, right: Polynomial) -> Polynomial:
    """left − right."""
    size = max(len(left), len(right))
    padded = ([*part, *[0] * (size - len(part))] for part in (left, right))
    return trimmed([(one - other) % PRIME for one, other in zip(*padded, strict=True)])


def divide(above: Polynomial, below: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder; ``below`` is not zero."""
    rest, quotient = list(above), [0] * max(0, len(above) - len(below) + 1)
    inverse = pow(below[-1], -1, PRIME)
    for shift in range(len(quotient) - 1, -1, -1):
        factor = rest[shift + len(below) - 1] * inverse % PRIME
        quotient[shift] = factor
        if factor:
            for index, coefficient in enumerate(below):
                rest[shift + index] = (rest[shift + index] - factor * coefficient) % PRIME
    return trimmed(quotient), trimmed(rest)


@lru_cache(maxsize=256)
def vanishing(points: tuple[int, ...]) -> tuple[int, ...]:
    """Π (X − x) over the points."""
    out = [1]
    for x in points:
        out = [(low - x * same) % PRIME for low, same in zip([0, *out], [*out, 0], strict=True)]
    return tuple(out)


@lru_cache(maxsize=256)
def weights_below(points: tuple[int, ...]) -> tuple[int, ...]:
    """1 / Π_{j≠i} (x_i − x_j) for each point.

    Raises:
        ValueError: two points are equal.
    """
    out = []
    for i, x in enumerate(points):
        below = 1
        for other in points[:i] + points[i + 1 :]:
            below = below * (x - other) % PRIME
        out.append(pow(below, -1, PRIME))
    return tuple(out)


@lru_cache(maxsize=256)
def lagrange(points: tuple[int, ...], at: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """For each place in ``at`` the weights that give f there from f at the points, deg f < len(points).

    Raises:
        ValueError: two points are equal.
    """
    below = weights_below(points)
    rows = []
    for place in at:
        place %= PRIME
        if place in points:
            rows.append(tuple(int(x == place) for x in points))
            continue
        above = evaluate(vanishing(points), place)
        rows.append(
            tuple(above * pow(place - x, -1, PRIME) % PRIME * one % PRIME for x, one in zip(points, below, strict=True))
        )
    return tuple(rows)


def interpolate(points: tuple[int, ...], values: Sequence[int]) -> Polynomial:
    """The polynomial of degree < len(points) through the values."""
    whole, out = list(vanishing(points)), [0] * len(points)
    for x, below, value in zip(points, weights_below(points), values, strict=True):
        factor, carried = value * below % PRIME, 0
        # Horner's division by X − x gives the coefficients of Π (X − x_j) without x, from the highest down.
        for index in range(len(points) - 1, -1, -1):
            carried = (whole[index + 1] + carried * x) % PRIME
            out[index] = (out[index] + factor * carried) % PRIME
    return trimmed(out)


@lru_cache(maxsize=256)
def parity(points: tuple[int, ...], degree: int) -> tuple[tuple[int, ...], ...]:
    """Rows that are 0 on the values of every polynomial of this degree, and on nothing else.

    With u_i = 1 / Π_{j≠i} (x_i − x_j), row k is u_i · x_i^k for k < len(points) − degree − 1 (the dual of a generalised
    Reed–Solomon code is one; MacWilliams and Sloane 1977, ch. 10, §8).
    """
    below = weights_below(points)
    return tuple(
        tuple(weight * pow(x, power, PRIME) % PRIME for x, weight in zip(points, below, strict=True))
        for power in range(len(points) - degree - 1)
    )
