"""What an attacker computes with: polynomials mod X^N + 1 in the order in which SEAL keeps their transforms.

Slot i of SEAL's transform mod q is the value at ψ^(2·rev(i) + 1), ψ the least primitive 2N-th root of unity mod q and
rev the reversal of log2 N bits (Longa and Naehrig 2016, algorithms 1 and 2). In exact Python integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.object_]


@lru_cache(maxsize=8)
def _reversal(n: int) -> NDArray[np.int64]:
    bits = n.bit_length() - 1
    return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)])


@lru_cache(maxsize=8)
def _root(q: int, n: int) -> int:
    """The least primitive 2n-th root of unity."""
    base = next(x for x in range(2, q) if pow(pow(x, (q - 1) // (2 * n), q), n, q) == q - 1)
    psi = pow(base, (q - 1) // (2 * n), q)
    square, power, least = psi * psi % q, psi, psi
    for _ in range(n):
        least, power = min(least, power), power * square % q
    return least


@lru_cache(maxsize=8)
def _powers(base: int, q: int, n: int) -> Words:
    out = [1]
    for _ in range(n - 1):
        out.append(out[-1] * base % q)
    return np.array(out, dtype=object)


def _cyclic(values: Words, root: int, q: int) -> Words:
    """Σ_k values_k root^(jk) for each j, in natural order."""
    n = values.size
    out, size = values[_reversal(n)], 2
    while size <= n:
        half = size // 2
        powers = _powers(pow(root, n // size, q), q, half)
        blocks = out.reshape(-1, size)
        low, high = blocks[:, :half], blocks[:, half:] * powers % q
        out = np.concatenate(((low + high) % q, (low - high) % q), axis=1).reshape(-1)
        size *= 2
    return out


def transform(coefficients: Sequence[int] | Words, q: int) -> Words:
    """A polynomial's values, in SEAL's order."""
    values = np.array([int(c) for c in coefficients], dtype=object)
    psi = _root(q, values.size)
    natural = _cyclic(values * _powers(psi, q, values.size) % q, psi * psi % q, q)
    return natural[_reversal(values.size)]


def back(values: Sequence[int] | Words, q: int) -> Words:
    """The polynomial with these values, its coefficients nearest to zero."""
    slots = np.array([int(v) for v in values], dtype=object)
    n = slots.size
    psi = _root(q, n)
    twisted = _cyclic(slots[_reversal(n)], pow(psi * psi, -1, q), q)
    coefficients = twisted * pow(n, -1, q) % q * _powers(pow(psi, -1, q), q, n) % q
    return np.where(coefficients > q // 2, coefficients - q, coefficients)


def batch_order(n: int) -> NDArray[np.int64]:
    """At which place of SEAL's transform mod t each slot of its batching stands: 3^i in one row, −3^i in the other."""
    reversal, places, power = _reversal(n), np.empty(n, dtype=np.int64), 1
    for slot in range(n // 2):
        places[slot] = reversal[(power - 1) // 2]
        places[slot + n // 2] = reversal[(2 * n - power - 1) // 2]
        power = power * 3 % (2 * n)
    return places
