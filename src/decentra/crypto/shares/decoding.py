"""Decoding one word: which polynomial n holders' values lie on although some of them lie.

Unique decoding by Gao (2003, "A new algorithm for decoding Reed–Solomon codes"): the extended Euclidean algorithm on
Π (X − x_i) and the polynomial through all values, stopped half-way. Missing values are erasures: their points are left
out.

N values on a polynomial of degree D differ from those on another in N − D places or more. If no more than c lie, a
polynomial that all but e of the values lie on is the true one as long as e + c < N − D. So e = min(c, N − D − 1 − c)
lies are corrected and named, up to c are always seen, and nothing is ever decoded to a third polynomial. For D = c and
n ≥ 3c + 1 that is e = c; for D = 2c it is e = 0 at n = 3c + 1, and e = c from n = 4c + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from decentra.crypto.shares.field61 import PRIME
from decentra.crypto.shares.polynomials import Polynomial, difference, divide, evaluate, interpolate, product, vanishing
from decentra.errors import DecentraError


class Undecided(DecentraError):
    """Values that lie on no polynomial near enough to name who lies: more lies or gaps than can be told apart."""


@dataclass(frozen=True)
class Decoded:
    """A polynomial that was found.

    Attributes:
        polynomial: its coefficients, lowest first, no zeros at the end.
        wrong: the points whose values don't lie on it, ascending.
    """

    polynomial: tuple[int, ...]
    wrong: tuple[int, ...]

    def at(self, x: int) -> int:
        """Its value."""
        return evaluate(self.polynomial, x)


def correctable(count: int, degree: int, liars: int) -> int:
    """How many lies among ``count`` values are corrected; below 0 where some of ``liars`` could go unseen."""
    return min(liars, count - degree - 1 - liars)


def decode(values: Mapping[int, int], degree: int, liars: int) -> Decoded:
    """The one polynomial that the values can lie on.

    Args:
        values: point → value below p; missing points are erasures.
        degree: the most that the polynomial has.
        liars: how many of the values may be false.

    Raises:
        Undecided: too few values to see every lie, or more lies than can be corrected.
        ValueError: a value or a point that is not in the field, a negative degree or number of liars.
    """
    if degree < 0 or liars < 0:
        raise ValueError(f"a degree and a number of liars are 0 or more, not {degree} and {liars}")
    for x, value in values.items():
        if not 0 <= x < PRIME or not 0 <= value < PRIME:
            raise ValueError(f"the value at point {x} is not in the field; refuse it on receipt")
    most = correctable(len(values), degree, liars)
    if most < 0:
        raise Undecided(
            f"{len(values)} values on a polynomial of degree {degree} do not show every lie of {liars}; "
            f"it takes {degree + liars + 1}: wait for more holders"
        )
    points = tuple(sorted(values))
    through = interpolate(points, [values[x] for x in points])
    found = through if len(through) <= degree + 1 else _gao(points, through, degree)
    if found is None:
        raise _undecided(most, len(points), degree)
    wrong = tuple(x for x in points if evaluate(found, x) != values[x])
    if len(wrong) > most:
        raise _undecided(most, len(points), degree)
    return Decoded(tuple(found), wrong)


def _undecided(most: int, count: int, degree: int) -> Undecided:
    return Undecided(
        f"no polynomial of degree {degree} meets all but {most} of {count} values: more lie than can be named; "
        "the round fails"
    )


def _gao(points: tuple[int, ...], through: Polynomial, degree: int) -> Polynomial | None:
    """The polynomial at most ⌊(N − D − 1)/2⌋ values away, if there is one; it may be farther, which the caller
    counts."""
    before, now = list(vanishing(points)), through
    below: Polynomial = []
    above: Polynomial = [1]
    while 2 * (len(now) - 1) >= len(points) + degree + 1:
        quotient, rest = divide(before, now)
        before, now = now, rest
        below, above = above, difference(below, product(quotient, above))
    found, rest = divide(now, above)
    return found if not rest and len(found) <= degree + 1 else None
