"""Pairwise mask keys: X25519 between keys that can be rebuilt from a shared secret (protocols, secagg 1 and 3).

The secret is a field element, so that it can be Shamir-shared; the X25519 key is HKDF of it, so that whoever rebuilds
the secret of a dropped peer rebuilds this key and no other.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from decentra.crypto.field import ELEMENT_BYTES, PRIME, draw_secret, element
from decentra.crypto.hashing import Part, expand

__all__ = ["MaskKey", "check_public", "draw_secret"]

_KEY_LABEL = "decentra/mask-key"
_AGREE_LABEL = "decentra/mask-agree"

_LOW_ORDER = frozenset(
    (
        0,
        1,
        PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)
"""The u-coordinates of order dividing 8 on Curve25519 and its twist: X25519 with them is zero whatever the secret
(Bernstein, "Curve25519", 2006; RFC 7748, 6.1)."""


def check_public(public: bytes) -> None:
    """Refuses an X25519 public key that an honest peer cannot have.

    Raises:
        ValueError: wrong length, not canonical (RFC 7748 would reduce it, giving one key two names), or of low order.
    """
    if len(public) != ELEMENT_BYTES:
        raise ValueError(f"an X25519 public key has {ELEMENT_BYTES} bytes, this has {len(public)}")
    number = int.from_bytes(public, "little")
    if number >= PRIME:
        raise ValueError("an X25519 public key is below 2^255 - 19, this is not canonical")
    if number in _LOW_ORDER:
        raise ValueError("this X25519 public key has low order: it would agree on a key that everybody knows")


class MaskKey:
    """A peer's mask key of one deal.

    Args:
        secret: 32 canonical little-endian bytes below 2^255 − 19, as ``draw_secret`` gives.

    Raises:
        ValueError: the secret is not canonical.
    """

    __slots__ = ("_private", "public")

    public: bytes

    def __init__(self, secret: bytes) -> None:
        element(secret)
        self._private = X25519PrivateKey.from_private_bytes(expand(secret, _KEY_LABEL))
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"MaskKey(public={self.public.hex()[:8]}…)"

    def agree(self, other_public: bytes, *context: Part) -> bytes:
        """The 32-byte key that both ends derive: HKDF of the X25519 result under ``context``.

        Both ends must give the same context, so a pair goes into it in roster order.

        Raises:
            ValueError: ``check_public`` refuses ``other_public``.
        """
        check_public(other_public)
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(other_public))
        return expand(shared, _AGREE_LABEL, *context)
