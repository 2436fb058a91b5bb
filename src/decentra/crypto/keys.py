"""A peer's identity: one 32-byte seed, from which come its Ed25519 key, its id and its CURVE key."""

from __future__ import annotations

import contextlib
import os
import stat
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from decentra.crypto.field import PRIME, RandomBytes, draw
from decentra.crypto.hashing import digest, expand
from decentra.durable import sync_folder
from decentra.errors import LocalError
from decentra.types import PeerId

_ID_LABEL = "decentra/peer-id"
_CURVE_LABEL = "decentra/curve-key"

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64

_Y8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_LOW_ORDER_Y = frozenset((0, 1, PRIME - 1, _Y8, PRIME - _Y8))
"""The y-coordinates of the eight points whose order divides 8 on edwards25519."""


def peer_id(public: bytes) -> PeerId:
    """The id of the peer that signs with ``public``: SHA-256 under decentra's label.

    Raises:
        ValueError: the key has not 32 bytes.
    """
    if len(public) != PUBLIC_BYTES:
        raise ValueError(f"an Ed25519 public key has {PUBLIC_BYTES} bytes, this has {len(public)}")
    return PeerId(digest(_ID_LABEL, public))


def _sound(public: bytes) -> bool:
    """Whether a key is canonical and not of low order.

    Under a low-order key one signature fits many messages, so nothing signed with it would be evidence (Chalkias,
    Garillot, Nikolaenko 2020, "Taming the many EdDSAs").
    """
    y = int.from_bytes(public, "little") & (2**255 - 1)
    return y < PRIME and y not in _LOW_ORDER_Y


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is the holder of ``public``'s on ``message`` (Ed25519, RFC 8032).

    Malformed, non-canonical and low-order keys and malformed signatures give False, never an exception.
    """
    key = _public_key(public) if len(signature) == SIGNATURE_BYTES else None
    if key is None:
        return False
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=1024)
def _public_key(public: bytes) -> Ed25519PublicKey | None:
    """The key of these bytes, read once a peer; None where they are no sound key."""
    if len(public) != PUBLIC_BYTES or not _sound(public):
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(public)
    except ValueError:
        return None


class Identity:
    """Who a peer is: it signs with Ed25519 and meets others over CURVE under keys from one seed.

    Attributes:
        id: the peer's name.
        public: its Ed25519 public key, 32 bytes.
        curve_secret: its CURVE secret key, 32 raw bytes, HKDF of the seed under its own label.
        curve_public: the Curve25519 public key of that, 32 raw bytes.
    """

    __slots__ = ("_private", "curve_public", "curve_secret", "id", "public")

    id: PeerId
    public: bytes
    curve_secret: bytes
    curve_public: bytes

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self.id = peer_id(self.public)
        self.curve_secret = expand(private.private_bytes_raw(), _CURVE_LABEL)
        curve = X25519PrivateKey.from_private_bytes(self.curve_secret)
        self.curve_public = curve.public_key().public_bytes_raw()

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of a 32-byte seed.

        Raises:
            ValueError: the seed has not 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an identity's seed has {SEED_BYTES} bytes, this has {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def generate(cls, random: RandomBytes = os.urandom) -> Identity:
        """A fresh identity.

        Raises:
            LocalError: the random source is broken.
        """
        return cls.from_seed(draw(random, SEED_BYTES))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """The identity saved at ``path``.

        Raises:
            LocalError: no such file, not readable, readable by others than its owner, or not 32 bytes long.
        """
        try:
            # O_NONBLOCK: opening a FIFO must not hang; it is refused below as no regular file.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise LocalError(f"no identity at {Path(path)}; make one with `decentra keys`") from None
        except OSError as error:
            raise LocalError(f"cannot read the identity at {Path(path)}: {error.strerror}; check its owner") from None
        try:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise LocalError(f"{Path(path)} is not a file; point to the identity.key that `decentra keys` made")
            if mode & 0o077:
                raise LocalError(f"others may read or change the identity at {Path(path)}; run chmod 600 on it")
            seed = os.read(handle, SEED_BYTES + 1)
        except OSError as error:
            raise LocalError(f"cannot read the identity at {Path(path)}: {error.strerror}; check the disk") from None
        finally:
            os.close(handle)
        if len(seed) != SEED_BYTES:
            raise LocalError(f"{Path(path)} is no identity: it has not {SEED_BYTES} bytes; restore it from a copy")
        return cls.from_seed(seed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the seed to a new file that only its owner may read (0600), durable on return.

        Raises:
            LocalError: something is there already (an identity is never overwritten), or it cannot be written.
        """
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise LocalError(f"{Path(path)} exists and is never overwritten; move it away or load it") from None
        except OSError as error:
            raise LocalError(f"cannot write an identity to {Path(path)}: {error.strerror}; check the folder") from None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._private.private_bytes_raw())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(Path(path).parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                Path(path).unlink()
            raise LocalError(f"cannot write an identity to {Path(path)}: {error.strerror}; check the disk") from None

    def sign(self, message: bytes) -> bytes:
        """The peer's Ed25519 signature on ``message``, 64 bytes."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"Identity({self.id})"
