"""Opening vectors: decoding every element exactly, at the cost of a matrix product where nobody lies.

The values of n holders lie on polynomials of degree D where all N − D − 1 parities are 0; these are taken of every
element, so nothing hangs on a random combination that a liar might foresee, and everybody who has the same words gets
the same result. Where a parity is not 0, that element alone is decoded; it names at least one holder, who is left out
of the elements that follow, and the parities are taken once more: at most once a liar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from decentra.crypto.shares.decoding import decode
from decentra.crypto.shares.field61 import CHUNK, Elements, Matrix, check_elements
from decentra.crypto.shares.polynomials import lagrange, parity


@dataclass(frozen=True)
class Opened:
    """What n holders' vectors open to.

    Attributes:
        values: (places, m) uint64 below p.
        wrong: the points of holders with a false element, ascending.
    """

    values: Elements = field(repr=False)
    wrong: tuple[int, ...]


def open_vectors(
    words: Mapping[int, Elements], length: int, degree: int, liars: int, places: tuple[int, ...]
) -> Opened:
    """Opens a vector at the places.

    Args:
        words: point → that holder's share, (length,) uint64.
        length: m.
        degree, liars: as for ``decoding.decode``.
        places: where on the polynomials, one or more, such as ``Sharing.secret_points``.

    Raises:
        Undecided: too few holders, or an element with more lies than can be corrected.
        ValueError: a share of another shape or dtype, or with a number not below p.
    """
    for x, word in words.items():
        check_elements(word, f"the share of point {x}", (length,))
    left = tuple(sorted(words))
    wrong: set[int] = set()
    decode(dict.fromkeys(left, 0), degree, liars)  # refuses too few holders, whatever they hold
    at = 0
    while (at := _first_bad(words, left, degree, length, at)) < length:
        found = decode({x: int(words[x][at]) for x in left}, degree, liars - len(wrong))
        wrong.update(found.wrong)
        left = tuple(x for x in left if x not in wrong)
    some = left[: degree + 1]
    values = Matrix(lagrange(some, places)).apply([words[x] for x in some])
    return Opened(values, tuple(sorted(wrong)))


def _first_bad(
    words: Mapping[int, Elements], left: tuple[int, ...], degree: int, length: int, start: int
) -> int:
    """The first element from ``start`` on that lies on no polynomial of this degree; ``length`` where all do."""
    rows = parity(left, degree)
    if not rows:
        return length
    checks = Matrix(rows)
    for low in range(start, length, CHUNK):
        found = checks.apply([words[x][low : low + CHUNK] for x in left]).any(axis=0)
        if found.any():
            return low + int(np.argmax(found))
    return length
