"""Ideal cryptography: keyed hashes in place of signatures, sealed boxes and key agreement, for simulations alone.

One secret of the simulation stands under everything, so that whoever holds it could forge, open and agree; the machines
and the adversaries of a simulation are never given it, and to them it behaves as what it stands for. It is no
cryptography: `simulation` is a room that the network runtime may not import, and the runtime takes no suite at all.
"""

from __future__ import annotations

from hashlib import blake2b, sha256

from decentra.crypto.agreement import check_public
from decentra.crypto.field import RandomBytes, draw, element
from decentra.crypto.hashing import Part, encode_parts
from decentra.crypto.seal import SEAL_OVERHEAD, SealError
from decentra.errors import LocalError
from decentra.types import PeerId

_TAG = 16


def _public(name: bytes) -> bytes:
    """32 bytes that are a sound X25519 key to whoever looks: canonical, and of low order with no chance."""
    return name[:31] + bytes((name[31] & 0x3F,))


class IdealSigner:
    """Signs as a member, by a keyed hash of its public key and the message."""

    def __init__(self, peer: PeerId, public: bytes, key: bytes) -> None:
        self.id, self._public, self._key = peer, public, key

    def sign(self, message: bytes) -> bytes:
        return blake2b(message, key=self._key, salt=self._public[:16]).digest()


class IdealOpener:
    """An epoch's key for opening boxes (``crypto.suite.Opener``)."""

    def __init__(self, public: bytes, key: bytes) -> None:
        self.public = public
        self._key: bytes | None = key

    def open(self, sealed: bytes, context: bytes) -> bytes:
        if self._key is None:
            raise LocalError("this epoch's sealing key is erased; open its shares before the epoch ends")
        head, body, tag = sealed[:32], sealed[32:-_TAG], sealed[-_TAG:]
        if len(sealed) < SEAL_OVERHEAD or head != self.public or _tag(self._key, head, body, context) != tag:
            raise SealError("the box does not open: damaged, for another key, or from another context")
        return _stream(self._key, head, context, body)

    def erase(self) -> None:
        self._key = None


class IdealAgreement:
    """A mask key (``crypto.suite.Agreement``): both ends hash both names."""

    __slots__ = ("_key", "public")

    def __init__(self, public: bytes, key: bytes) -> None:
        self.public, self._key = public, key

    def agree(self, other_public: bytes, *context: Part) -> bytes:
        check_public(other_public)
        low, high = sorted((self.public, other_public))
        return blake2b(low + high + encode_parts("agree", *context), key=self._key, digest_size=32).digest()


class IdealCrypto:
    """A suite (``crypto.suite.Suite``) of keyed hashes; it costs some hundredths of the real one.

    Args:
        seed: everything follows from it; simulations with one seed can read each other.
    """

    def __init__(self, seed: int) -> None:
        self._key = sha256(b"decentra/ideal" + seed.to_bytes(16, "little", signed=True)).digest()

    def signer(self, peer: PeerId, public: bytes) -> IdealSigner:
        """Signs as the member with this Ed25519 public key."""
        return IdealSigner(peer, public, self._key)

    def verify(self, public: bytes, signature: bytes, message: bytes) -> bool:
        """Whether that member's signer made the signature; never raises."""
        return signature == blake2b(message, key=self._key, salt=public[:16]).digest()

    def sealing_key(self, random: RandomBytes) -> IdealOpener:
        return IdealOpener(_public(draw(random, 32)), self._key)

    def seal(self, public: bytes, plaintext: bytes, context: bytes, random: RandomBytes) -> bytes:
        """A box of the size of a real one. It begins with whom it is for, which a real one does not say."""
        check_public(public)
        body = _stream(self._key, public, context, plaintext)
        return public + body + _tag(self._key, public, body, context)

    def mask_key(self, secret: bytes) -> IdealAgreement:
        element(secret)
        return IdealAgreement(_public(blake2b(secret, key=self._key, digest_size=32).digest()), self._key)


def _stream(key: bytes, public: bytes, context: bytes, data: bytes) -> bytes:
    """The data, exclusive-or a stream that depends on key, receiver and context."""
    blocks = (count.to_bytes(4, "little") for count in range(-(-len(data) // 64)))
    stream = b"".join(blake2b(public + context + block, key=key).digest() for block in blocks)
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(stream[: len(data)], "little")
    return mixed.to_bytes(len(data), "little")


def _tag(key: bytes, public: bytes, body: bytes, context: bytes) -> bytes:
    return blake2b(public + context + body, key=key, digest_size=_TAG).digest()
