"""Ciphertexts as they travel: raw coefficients and nothing else, so that one ciphertext has one form.

131,072 bytes: the polynomials c_0 and c_1, 8192 coefficients each, in SEAL's memory as little-endian words below the
first modulus. SEAL's own serialization is compressed by whatever zstd it was built with, carries its version, and has
fields that SEAL believes; this form has no header, and every fault in it is a wrong length or a word that is too large.
Adding is adding coefficients, so an adder runs no foreign code on foreign bytes at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from decentra.crypto.hashing import digest
from decentra.crypto.he.parameters import PARAMETERS, Malformed
from decentra.errors import LocalError

MAX_SUMMANDS = 64
"""The most that are added: as many as a group has, and what the noise budget is measured for."""

_LABEL = "decentra/he/ciphertexts"

Buffer = bytes | bytearray | memoryview
Coefficients = NDArray[np.uint64]
_WORDS = np.dtype("<u8")


def check_words(data: Buffer, shape: tuple[int, ...], moduli: Sequence[int], what: str) -> Coefficients:
    """A view of words, each row along the second last axis below its modulus.

    Raises:
        Malformed: another length, or a word that is not below its modulus.
    """
    size = int(np.prod(shape)) * _WORDS.itemsize
    view = memoryview(data)
    if view.nbytes != size:
        raise Malformed(f"{what} has {size} bytes, this has {view.nbytes}")
    words = np.frombuffer(view, dtype=_WORDS).reshape(shape)
    for row, modulus in enumerate(moduli):
        if int(words[..., row, :].max()) >= modulus:
            raise Malformed(f"{what} holds a coefficient that is not below its modulus")
    return words


def parse(data: Buffer) -> Coefficients:
    """The coefficients of a ciphertext: (2, 1, 8192) uint64, a view.

    Raises:
        Malformed: another length, or a coefficient that is not reduced.
    """
    return check_words(data, (2, 1, PARAMETERS.degree), PARAMETERS.moduli[:1], "a ciphertext")


def split(data: Buffer, d: int) -> list[memoryview]:
    """The ciphertexts of a whole vector that came in one piece, views.

    Raises:
        Malformed: they are not exactly ⌈d/N⌉.
    """
    view, size, count = memoryview(data).cast("B"), PARAMETERS.ciphertext_bytes, PARAMETERS.batches(d)
    if view.nbytes != count * size:
        raise Malformed(f"{d} coordinates take {count} ciphertexts of {size} bytes, not {view.nbytes} bytes")
    return [view[index * size : (index + 1) * size] for index in range(count)]


class Sum:
    """A running sum of ciphertexts, mod q."""

    def __init__(self) -> None:
        self._total = np.zeros((2, 1, PARAMETERS.degree), dtype=np.uint64)
        self._less = np.empty_like(self._total)
        self.count = 0

    def add(self, data: Buffer) -> None:
        """Adds one; a malformed one changes nothing.

        Raises:
            Malformed: as ``parse``.
            LocalError: it would be the 65th.
        """
        words = parse(data)
        if self.count == MAX_SUMMANDS:
            raise LocalError(f"no more than {MAX_SUMMANDS} ciphertexts are added; split the group")
        self.count += 1
        np.add(self._total, words, out=self._total)
        # Below 2q < 2^61; where it is below q already, subtracting q wraps around to something larger.
        np.subtract(self._total, np.uint64(PARAMETERS.moduli[0]), out=self._less)
        np.minimum(self._total, self._less, out=self._total)

    def ciphertext(self) -> memoryview:
        """The sum as it travels; a view that the next ``add`` changes."""
        return self._total.astype(_WORDS, copy=False).reshape(-1).data.cast("B")


def digest_of(parts: Sequence[Buffer]) -> bytes:
    """The hash that the adders of a slice compare: over the raw coefficients of all its ciphertexts, in order.

    Views are hashed in place.
    """
    return digest(_LABEL, PARAMETERS.digest, len(parts), *parts)
