"""The parameters of BFV: one set, fixed, and the hash that a charter holds them by.

Security: ring learning with errors at degree 8192 with 120 bits of modulus in the public key, below the 218 that the
Homomorphic Encryption Standard (2018, table 1) gives for 128 bits with ternary secrets. SEAL keeps the last modulus for
its keys: it encrypts under both and switches down to the first, so a ciphertext is two polynomials mod one 60-bit
prime, 16 bytes a slot, and almost all of its noise is the rounding of that switch.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from decentra.crypto.hashing import digest

_LABEL = "decentra/he/parameters"
_SEAL_BFV = 1
WORD = 8
"""Bytes of a coefficient: a little-endian word, as in SEAL's memory."""


@dataclass(frozen=True)
class Parameters:
    """BFV's parameters; slots are coordinates, each mod ``plain_modulus``.

    Attributes:
        degree: N, the ring's degree and the number of slots.
        modulus_bits: what TenSEAL is asked for; it answers with the primes in ``moduli``.
        moduli: primes that are 1 mod 2N: the ciphertexts', and the one for keys alone.
        plain_modulus: t, the largest prime below 2^32 that is 1 mod 2N, so that there are N slots.
        range_bits: sums lie below 2^range_bits in magnitude, so their whole range is a sixteenth of t at most, and an
            accident or an attack that makes slots uniform is out of range in 15 of 16 slots.
        min_budget: bits of noise budget that a sum must have left: below it a decryption is not believed.
    """

    degree: int = 8192
    modulus_bits: tuple[int, int] = (60, 60)
    moduli: tuple[int, int] = (1152921504606748673, 1152921504606830593)
    plain_modulus: int = 4294475777
    range_bits: int = 27
    min_budget: int = 9

    @property
    def ciphertext_bytes(self) -> int:
        """Two polynomials mod the first modulus: 131,072 bytes."""
        return 2 * self.degree * WORD

    @property
    def key_bytes(self) -> int:
        """A public key: two polynomials mod both moduli: 262,144 bytes."""
        return 2 * len(self.moduli) * self.degree * WORD

    @property
    def slot_bytes(self) -> int:
        """A ciphertext's worth of residues, 4 bytes each."""
        return 4 * self.degree

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for these parameters in a charter, and at the head of a public key."""
        return digest(_LABEL, self.degree, *self.moduli, self.plain_modulus, self.range_bits, self.min_budget)

    def parms_id(self, moduli: int) -> bytes:
        """The name that SEAL itself gives these parameters with the first ``moduli`` of the moduli (its
        ``EncryptionParameters``: BLAKE2b over scheme, degree, moduli and plain modulus)."""
        words = (_SEAL_BFV, self.degree, *self.moduli[:moduli], self.plain_modulus)
        return hashlib.blake2b(struct.pack(f"<{len(words)}Q", *words), digest_size=32).digest()

    def batches(self, d: int) -> int:
        """The ciphertexts that d coordinates take: ⌈d / N⌉."""
        return -(-d // self.degree)


PARAMETERS = Parameters()
"""The only ones: a protocol has nothing to choose here."""


class Malformed(ValueError):
    """Bytes from outside that can't be what they are said to be: refused before SEAL sees them."""
