"""Integers in slots: a vector mod t, padded with zeros to whole ciphertexts, and the check of an opened sum.

Nobody learns a key from what this check lets pass. Whoever contributes and is an adder too may send (c_0, c_1) =
(0, Δ), Δ = ⌊q/t⌋, which decrypts to the key itself: its noise is small, so the noise budget doesn't see it. But what is
published are slots, and the slots of a secret key are its number theoretic transform mod t: as good as uniform, so each
lies within ±2^27 with probability 1/16 at most, and every padding slot is nonzero but for 1/t. With (0, Δ·f), f
chosen to have k slots that are not zero, an attacker reads k slots of the key with probability 16^−k, and makes the
round fail otherwise; a key serves one round and one slice, so it has one try. At w = 16 it is 2^−16k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.he.parameters import PARAMETERS
from decentra.errors import LocalError

WIDTHS = (16, PARAMETERS.range_bits + 1)
"""Bits of a sum in two's complement: those of the narrow ring, and all that the plain modulus leaves."""

Residues = NDArray[np.uint32]
"""Whole ciphertexts' worth of slots, each in [0, t)."""


class Unsound(ValueError):
    """An opened sum that honest contributors can't have given: of it nothing but ``fail`` may be told."""


def limit(n: int, width: int) -> int:
    """The largest |q| with n · |q| < 2^(width − 1): 511 for n = 64 at 16 bits, 2,097,151 at 28.

    Raises:
        LocalError: another width, n < 1, or no q ≥ 1 is left.
    """
    if width not in WIDTHS:
        raise LocalError(f"sums under encryption have {WIDTHS[0]} or {WIDTHS[1]} bits, not {width}")
    most = (2 ** (width - 1) - 1) // n if n >= 1 else 0
    if most < 1:
        raise LocalError(f"{n} peers cannot be summed in {width} bits; check the roster or widen the ring")
    return most


def encode(values: NDArray[Any], n: int, width: int) -> Residues:
    """A vector as slots: (⌈d/N⌉ · N,) uint32 mod t, zeros behind the last coordinate.

    Args:
        values: (d,) signed integers of any width.
        n: contributors whose sum must not overflow.
        width: 16 or 28.

    Raises:
        LocalError: n · max|q| ≥ 2^(width − 1), or what is no vector of signed integers.
    """
    most = limit(n, width)
    if values.ndim != 1 or values.dtype.kind != "i" or not values.size:
        raise LocalError(f"what is encrypted is a vector of signed integers, not {values.dtype} of {values.shape}")
    peak = max(int(values.max()), -int(values.min()))
    if peak > most:
        raise LocalError(
            f"a coordinate of {peak} times {n} peers does not fit a sum of {width} bits: at most {most}; clip before"
        )
    residues = np.zeros(PARAMETERS.batches(values.size) * PARAMETERS.degree, dtype=np.uint32)
    used = residues[: values.size]
    np.copyto(used, values, casting="unsafe")
    # −q is 2^32 − q as a word, and t − q mod t.
    np.subtract(used, np.uint32(2**32 - PARAMETERS.plain_modulus), out=used, where=values < 0)
    return residues


def check_residues(residues: Residues) -> None:
    """Refuses what are no slots.

    Raises:
        LocalError: another shape or dtype, not whole ciphertexts, or a number not below t.
    """
    if residues.dtype != np.uint32 or residues.ndim != 1 or not residues.flags.c_contiguous:
        raise LocalError(f"slots are a contiguous vector of uint32, not {residues.dtype} of {residues.shape}")
    if not residues.size or residues.size % PARAMETERS.degree:
        raise LocalError(f"{residues.size} slots are not whole ciphertexts of {PARAMETERS.degree}")
    if int(residues.max()) >= PARAMETERS.plain_modulus:
        raise LocalError("a slot is not below the plain modulus; reduce it")


def centred(residues: Residues) -> NDArray[np.int32]:
    """Slots as the integers nearest to zero, int32: t < 2^32, so both halves fit."""
    words = residues.copy()
    np.add(words, np.uint32(2**32 - PARAMETERS.plain_modulus), out=words, where=words > PARAMETERS.plain_modulus // 2)
    return words.view(np.int32)


def open_sum(residues: Residues, d: int, *, survivors: int, most: int, budget: int) -> NDArray[np.int32]:
    """What a key holder may publish of a decrypted (and unmasked) sum: (d,) int32, the used slots alone.

    Args:
        residues: all slots of the slice's ciphertexts, in order.
        d: the slice's coordinates.
        survivors: |U|, how many updates are in it.
        most: the largest |q| that an honest contributor encodes.
        budget: the least noise budget, in bits, of its ciphertexts.

    Raises:
        Unsound: a padding slot that is not 0, a coordinate beyond survivors · most, or a budget below 9 bits.
        LocalError: slots, d or numbers that do not fit together.
    """
    check_residues(residues)
    bound = survivors * most
    if residues.size != PARAMETERS.batches(d) * PARAMETERS.degree:
        raise LocalError(f"{residues.size} slots do not hold {d} coordinates, packed full")
    if survivors < 1 or not 0 < bound < 2**PARAMETERS.range_bits:
        raise LocalError(f"{survivors} updates within ±{most} have no range below 2^{PARAMETERS.range_bits}")
    if budget < PARAMETERS.min_budget:
        raise Unsound(f"the sum has {budget} bits of noise budget left, below {PARAMETERS.min_budget}")
    if residues[d:].any():
        raise Unsound("a slot of the padding is not 0")
    values = centred(residues[:d])
    if max(int(values.max()), -int(values.min())) > bound:
        raise Unsound(f"a coordinate lies beyond ±{bound}")
    return values
