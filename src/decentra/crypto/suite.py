"""What a session asks of public-key cryptography, so that the simulator can put a cheaper ideal in its place.

Only who makes a session chooses its suite, and the network runtime chooses none: `REAL` is the default, and the ideal
one lives in the simulator, which the runtime may not import.
"""

from __future__ import annotations

from typing import Protocol

from decentra.crypto.agreement import MaskKey
from decentra.crypto.field import RandomBytes
from decentra.crypto.hashing import Part
from decentra.crypto.keys import verify
from decentra.crypto.seal import SealingKey, seal


class Opener(Protocol):
    """An epoch's key for opening sealed shares; ``public``, 32 bytes, is what others seal to."""

    @property
    def public(self) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The plaintext of a box. Raises SealError where it does not open."""
        ...

    def erase(self) -> None:
        """Forget the secret."""
        ...


class Agreement(Protocol):
    """A mask key of one deal; ``public``, 32 bytes, is what others agree with."""

    @property
    def public(self) -> bytes: ...

    def agree(self, other_public: bytes, *context: Part) -> bytes:
        """The 32-byte key that both ends derive under a context. Raises ValueError for an unsound public key."""
        ...


class Suite(Protocol):
    """Signatures, sealed boxes and key agreement; hashes, masks and sharing are the same in every suite."""

    def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        """Whether the signature is the key's on the message; never raises."""
        ...

    def sealing_key(self, random: RandomBytes) -> Opener: ...

    def seal(self, public: bytes, plaintext: bytes, context: bytes, random: RandomBytes) -> bytes: ...

    def mask_key(self, secret: bytes) -> Agreement:
        """The mask key of a secret field element. Raises ValueError where that is not canonical."""
        ...


class _Real:
    """Ed25519, X25519 with HKDF-SHA256, ChaCha20-Poly1305: what the specs say."""

    def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        return verify(public, signature, message)

    def sealing_key(self, random: RandomBytes) -> Opener:
        return SealingKey.generate(random)

    def seal(self, public: bytes, plaintext: bytes, context: bytes, random: RandomBytes) -> bytes:
        return seal(public, plaintext, context, random)

    def mask_key(self, secret: bytes) -> Agreement:
        return MaskKey(secret)


REAL: Suite = _Real()
