"""The entry: a signed message, the same object on the wire and in the log (``specs/wire/README.md``).

A *parsed* entry says what its bytes say. A *verified* one was signed by the member it names, over the body beside it,
within this session; the two are different types, and machines accept the second only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

from decentra.spec import KIND_BYTES, LARGEST
from decentra.types import PeerId, RoundId
from decentra.wire.codec import MAX_ENTRY, Signed, pack
from decentra.wire.reader import Malformed, Reader

VERSION = 1
LABEL = b"decentra/entry/v1\0"
FIELDS = 13
FIELDS_MOST = 64
"""What a later version may grow to, so that it is refused by its number and not as garbage."""
_UNSIGNED = bytes((0x90 + FIELDS - 1,))
"""How an entry begins without its signature: an array of one field less."""
_SIGNATURE_BYTES = 2 + 64
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

    @cached_property
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
    reader = Reader(raw, MAX_ENTRY)
    count = reader.array(FIELDS_MOST, "an entry")
    version = reader.natural(LARGEST, "an entry's version")
    if version != VERSION:
        raise Malformed(f"entry version {version}, this peer speaks version {VERSION}; the older side must upgrade")
    if count != FIELDS:
        raise Malformed(f"an entry has {FIELDS} fields, this has {count}")
    fields: dict[str, Any] = {
        "session": reader.binary(32, 32, "an entry's session"),
        "epoch": reader.natural(LARGEST, "an entry's epoch"),
        "round": reader.natural(LARGEST, "an entry's round"),
        "author": PeerId(reader.binary(32, 32, "an entry's author")),
        "boot": reader.natural(LARGEST, "an entry's boot"),
        "seq": reader.natural(LARGEST, "an entry's seq"),
        "prev": reader.binary(32, 32, "an entry's prev"),
        "kind": reader.text(KIND_BYTES, "an entry's kind"),
        "after": reader.binary(32, 32, "an entry's after"),
        "receiver": reader.binary(0, 32, "an entry's receiver"),
        "body": reader.binary(32, 32, "an entry's body"),
        "signature": reader.binary(64, 64, "an entry's signature"),
    }
    reader.end("an entry")
    if len(fields["receiver"]) not in (0, 32):
        raise Malformed("an entry's receiver is neither a peer nor empty for everyone")
    # Set at once: a frozen dataclass sets its fields one by one. The encoding is canonical, so encoding the entry again
    # would give these same bytes.
    entry = Entry.__new__(Entry)
    vars(entry).update(fields, packed=raw, signed_bytes=LABEL + _UNSIGNED + raw[1:-_SIGNATURE_BYTES])
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
        fields = (
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
        )
        entry = Entry(*fields, self._signer.sign(LABEL + pack((VERSION, *fields))))
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
