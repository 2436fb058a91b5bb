"""The entry: a signed message, the same object on the wire and in the log (``specs/wire/README.md``).

A *parsed* entry says what its bytes say. A *verified* one was signed by the member it names, over the body beside it,
within this session; the two are different types, and machines accept the second only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Protocol

from decentra.types import PeerId, RoundId
from decentra.wire.codec import MAX_ENTRY, Malformed, Signed, pack, unpack

VERSION = 1
LABEL = b"decentra/entry/v1\0"
ZERO = bytes(32)
"""What ``prev`` holds in a chain's first entry, and ``after`` where no entry opened the phase."""

EVERYONE = b""
"""The receiver of an entry that is addressed to all."""


@dataclass(frozen=True)
class Entry:
    """What an author signs. ``prev`` is the hash of the author's entry before this one in the session; ``after`` the
    hash of the entry that opened the phase; ``receiver`` a peer id, or empty for everyone; ``body`` the body's hash."""

    session: bytes
    epoch: int
    round: int
    author: PeerId
    boot: int
    seq: int
    prev: bytes
    kind: str
    after: bytes
    receiver: bytes
    body: bytes
    signature: bytes

    @cached_property
    def signed_bytes(self) -> bytes:
        """The bytes under the signature."""
        return LABEL + pack(self._fields())

    @cached_property
    def packed(self) -> bytes:
        """The entry as it travels."""
        return pack((*self._fields(), self.signature))

    @cached_property
    def hash(self) -> bytes:
        """The entry's name in ``prev``, ``after`` and citations: SHA-256 of the packed entry."""
        return sha256(self.packed).digest()

    @property
    def round_id(self) -> RoundId:
        return RoundId(self.epoch, self.round)

    def _fields(self) -> tuple[object, ...]:
        return (
            VERSION,
            self.session,
            self.epoch,
            self.round,
            bytes(self.author),
            self.boot,
            self.seq,
            self.prev,
            self.kind,
            self.after,
            self.receiver,
            self.body,
        )


def parse(raw: bytes) -> Entry:
    """Read an entry, believing nothing of it.

    Raises:
        Malformed: not the canonical encoding of an entry of this version.
    """
    values = unpack(raw, MAX_ENTRY)
    if type(values) is not tuple or len(values) != 13:
        raise Malformed("an entry has 13 fields")
    version, session, epoch, round_, author, boot, seq, prev, kind, after, receiver, body, signature = values
    if version != VERSION or type(version) is not int:
        raise Malformed(f"entry version {version!r} where this peer speaks version {VERSION}; the older side must upgrade")
    for value, lengths in (
        (session, (32,)),
        (author, (32,)),
        (prev, (32,)),
        (after, (32,)),
        (receiver, (0, 32)),
        (body, (32,)),
        (signature, (64,)),
    ):
        if type(value) is not bytes or len(value) not in lengths:
            raise Malformed("an entry's field has a wrong type or length")
    for number in (epoch, round_, boot, seq):
        if type(number) is not int or not 0 <= number < 1 << 63:
            raise Malformed("an entry's number is out of range")
    if type(kind) is not str or not 1 <= len(kind) <= 48 or not kind.isascii():
        raise Malformed("an entry's kind is not a short text")
    entry = Entry(session, epoch, round_, PeerId(author), boot, seq, prev, kind, after, receiver, body, signature)
    if entry.packed != raw:
        raise Malformed("the entry's encoding is not the canonical one")
    return entry


class Signer(Protocol):
    """What signs: an identity, or the simulator's ideal one."""

    @property
    def id(self) -> PeerId: ...

    def sign(self, message: bytes) -> bytes: ...


Checker = Callable[[PeerId, bytes, bytes], bool]
"""Says whether a signature by a member over a message is valid; False for who is no member."""


class Chain:
    """One author's hash-chained entries of a session: numbers, links and signs them."""

    def __init__(self, signer: Signer, session: bytes, boot: int, seq: int = 0, head: bytes = ZERO) -> None:
        self._signer = signer
        self.session = session
        self.boot = boot
        self.seq = seq
        self.head = head

    def sign(self, round_id: RoundId, kind: str, body: bytes, after: bytes = ZERO, receiver: bytes = EVERYONE) -> Entry:
        """The next entry of the chain over ``body``."""
        self.seq += 1
        draft = Entry(
            self.session,
            round_id.epoch,
            round_id.number,
            self._signer.id,
            self.boot,
            self.seq,
            self.head,
            kind,
            after,
            receiver,
            sha256(body).digest(),
            b"",
        )
        entry = replace(draft, signature=self._signer.sign(draft.signed_bytes))
        self.head = entry.hash
        return entry


@dataclass(frozen=True)
class Parsed:
    """An entry whose bytes are canonical and whose body hashes to what it says; nobody has checked who signed it."""

    entry: Entry
    body: bytes

    @classmethod
    def read(cls, signed: Signed) -> Parsed:
        entry = parse(signed.entry)
        if sha256(signed.body).digest() != entry.body:
            raise Malformed("the body is not the one that the entry names")
        return cls(entry, signed.body)
