"""Sealed boxes: bytes that only the holder of an epoch's sealing key can open.

An ephemeral X25519 key, HKDF over both public keys and the context, and ChaCha20-Poly1305 (RFC 8439) with the context
as associated data. A key seals one message, so the nonce is zero. A sealing key is drawn fresh every epoch and
erased at its end: a stolen identity opens no old share.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from decentra.crypto.agreement import check_public
from decentra.crypto.field import RandomBytes, draw
from decentra.crypto.hashing import expand
from decentra.errors import LocalError

_LABEL = "decentra/seal"
_NONCE = bytes(12)
_PUBLIC_BYTES = 32
_TAG_BYTES = 16

SEAL_OVERHEAD = _PUBLIC_BYTES + _TAG_BYTES
"""How many bytes sealing adds."""

MAX_PLAINTEXT = 2**20
"""Bytes in one box: one-shot AEAD holds the interpreter lock, and shares are far smaller."""


class SealError(ValueError):
    """A box that does not open: damaged, made for another key, or shown under another context."""


def _key(shared: bytes, ephemeral: bytes, public: bytes, context: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(expand(shared, _LABEL, ephemeral, public, context))


def seal(public: bytes, plaintext: bytes, context: bytes, random: RandomBytes) -> bytes:
    """Seals ``plaintext`` to ``public``: the ephemeral public key (32 bytes), then ciphertext and tag (length + 16).

    Raises:
        ValueError: ``check_public`` refuses ``public``, or the plaintext is above 1 MiB.
        LocalError: the random source is broken.
    """
    check_public(public)
    if len(plaintext) > MAX_PLAINTEXT:
        raise ValueError(f"a box holds at most {MAX_PLAINTEXT} bytes, not {len(plaintext)}; split it")
    private = X25519PrivateKey.from_private_bytes(draw(random, 32))
    ephemeral = private.public_key().public_bytes_raw()
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    return ephemeral + _key(shared, ephemeral, public, context).encrypt(_NONCE, plaintext, context)


class SealingKey:
    """One epoch's key for opening boxes; ``public`` is what others seal to (32 bytes)."""

    __slots__ = ("_private", "public")

    public: bytes

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError(f"a sealing key has 32 secret bytes, not {len(secret)}")
        self._private: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, random: RandomBytes) -> SealingKey:
        """A fresh key from 32 bytes of ``random``.

        Raises:
            LocalError: the random source is broken.
        """
        return cls(draw(random, 32))

    def __repr__(self) -> str:
        return f"SealingKey(public={self.public.hex()[:8]}…{', erased' if self._private is None else ''})"

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The plaintext of a box sealed to this key under ``context``.

        Raises:
            SealError: the box is damaged, for another key, or from another context; which of them cannot be told.
            LocalError: this key was erased.
        """
        if self._private is None:
            raise LocalError("this epoch's sealing key is erased; open its shares before the epoch ends")
        if not SEAL_OVERHEAD <= len(sealed) <= SEAL_OVERHEAD + MAX_PLAINTEXT:
            raise SealError(f"a box has {SEAL_OVERHEAD} to {SEAL_OVERHEAD + MAX_PLAINTEXT} bytes, not {len(sealed)}")
        ephemeral = sealed[:_PUBLIC_BYTES]
        try:
            check_public(ephemeral)
        except ValueError as error:
            raise SealError(f"the box names no usable key: {error}") from None
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        try:
            return _key(shared, ephemeral, self.public, context).decrypt(_NONCE, sealed[_PUBLIC_BYTES:], context)
        except InvalidTag:
            raise SealError("the box does not open: damaged, for another key, or from another context") from None

    def erase(self) -> None:
        """Forgets the secret, as far as Python can: the reference is dropped and the library frees the key."""
        self._private = None
