"""Every place where bytes that somebody else made are read: how, from what, and what it may raise.

``test_fuzz`` gives them arbitrary and changed bytes; ``benches/fuzz.py`` does so for hours, guided by coverage.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from decentra.audit import transcript
from decentra.charter import Charter
from decentra.charter.invite import Invite, Request
from decentra.cli.members import read_members
from decentra.crypto.keys import Identity
from decentra.derive import session
from decentra.errors import DecentraError, LocalError
from decentra.machine.effects import Record
from decentra.peer.addresses import Addresses
from decentra.peer.config import Config, write_config
from decentra.peer.journal import SqliteJournal
from decentra.protocols.catalogue import registry
from decentra.simulation.group import charter_for, identities
from decentra.transfer.blob import Announcement, blob_root
from decentra.transport.base import Lane
from decentra.transport.envelope import seal, unseal
from decentra.types import RoundId
from decentra.wire.codec import Malformed, Signed, pack, unpack
from decentra.wire.door import Answer, Question, Says
from decentra.wire.entry import Chain, parse
from decentra.wire.frame import HEADER_BYTES, PIECE_BYTES, Frame, FrameKind
from decentra.wire.frame import parse as parse_frame

ME = RoundId(1, 1)


@dataclass(frozen=True)
class Decoder:
    """What reads bytes.

    Attributes:
        decode: reads them, and gives what it read.
        raises: the documented errors, of these types exactly or below.
        examples: valid bytes, to be changed.
        beyond: bytes of memory that it may take besides four times those that it reads: a reader of TOML has models.
        encode: gives the bytes of what was read, where bytes and values are one to one.
    """

    decode: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    examples: tuple[bytes, ...]
    beyond: int = 16 * 1024
    encode: Callable[[object], bytes] | None = None


def frames(raw: bytes) -> object:
    """A frame's header, with the sizes of parts behind it as they would have arrived."""
    sizes = list(raw[HEADER_BYTES : HEADER_BYTES + 10])
    code = raw[1] if len(raw) > 1 else 0
    return parse_frame(Lane.BULK if code == FrameKind.PIECE else Lane.CONTROL, raw[:HEADER_BYTES], sizes)


def headers() -> tuple[bytes, ...]:
    shapes = ((FrameKind.HELLO, 0, 0), (FrameKind.ENTRY, 2, 7), (FrameKind.PIECE, 1, 9))
    return tuple(
        Frame(kind, parts, 1, 1, bytes(32), 1, 1, 0, 0, size).pack() + bytes([size - parts + 1, 1])[:parts]
        for kind, parts, size in shapes
    )


@cache
def entry() -> Signed:
    body = registry("secagg").codec.encode("secagg.endorse", (bytes(32),))
    return Signed(Chain(identities(3, 0)[0], bytes(32), 1).sign(ME, "secagg.endorse", body).packed, body)


@contextmanager
def file_of(raw: bytes) -> Iterator[Path]:
    """A file that holds these bytes, readable by its owner."""
    handle, name = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        yield Path(name)
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            Path(name + end).unlink(missing_ok=True)


def from_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def decode(raw: bytes) -> object:
        with file_of(raw) as path:
            return read(path)

    return decode


def journal(path: Path) -> object:
    opened = SqliteJournal(path, bytes(32), lambda call: call(), lambda error: None)
    try:
        return opened.last_round, list(opened.log())
    finally:
        opened.close()


@cache
def journal_file() -> bytes:
    with file_of(b"") as path:
        made = SqliteJournal(path, bytes(32), lambda call: call(), lambda error: None)
        made.entry(entry(), True, lambda: None)  # of the session that `journal` reads
        made.record(ME, Record("act", "topic", b"value"), lambda: None)
        made.close()
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode = DELETE")
        database.close()
        return path.read_bytes()


def text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """Of bytes that are no UTF-8 the reader of a file says so; the rest reaches these."""
    return lambda raw: read(raw.decode(errors="replace"))


def charter() -> Charter:
    return charter_for(identities(3, 0), "secagg", template=None)


def announcement() -> bytes:
    return Announcement(1, 3 * PIECE_BYTES, tuple(bytes([i]) * 32 for i in range(3))).pack()


def request() -> Request:
    inviter, newcomer, _ = identities(3, 0)
    made = Invite("group", bytes(32), inviter.id, "a", inviter.curve_public, "tcp://h:1", bytes(32), 1)
    return Request.of(made, newcomer, "b", "tcp://h:2")


def derived(raw: bytes) -> object:
    """Where derived values take bytes of any length in."""
    return session(raw, raw[:32], 1), blob_root(len(raw), (raw,))


CODEC = registry("secagg").codec


def bodies() -> dict[str, Decoder]:
    """A decoder a kind of message."""
    return {
        kind: Decoder(lambda raw, kind=kind: CODEC.decode(kind, raw), (Malformed,), _valid(kind))
        for kind in sorted(CODEC.kinds)
    }


def _valid(kind: str) -> tuple[bytes, ...]:
    return (entry().body,) if kind == "secagg.endorse" else ()


DECODERS: dict[str, Decoder] = {
    **bodies(),
    "frame header": Decoder(frames, (ValueError,), headers()),
    "message": Decoder(
        lambda raw: unseal(memoryview(raw)), (ValueError,), (seal(Lane.BULK, b"header", [b"1", b"23"], [6, 1, 2]),)
    ),
    "entry": Decoder(parse, (Malformed,), (entry().entry,), encode=lambda read: read.packed),
    "value": Decoder(lambda raw: unpack(raw, 512), (Malformed,), (b"\x93\x01\xc4\x01x\xa1y",), beyond=64 * 1024),
    "announcement": Decoder(
        lambda raw: Announcement.parse(memoryview(raw)), (ValueError,), (announcement(),), encode=lambda one: one.pack()
    ),
    "question": Decoder(Question.parse, (ValueError,), (Question(request="r").pack(),), encode=lambda one: one.pack()),
    "answer": Decoder(
        Answer.parse, (ValueError,), (Answer(Says.CHARTER, "c", "a").pack(),), encode=lambda one: one.pack()
    ),
    "addresses.toml": Decoder(
        text(Addresses.parse), (LocalError,), (f'[peers]\n"{"ab" * 32}" = "tcp://h:1"\n'.encode(),), beyond=2 << 20
    ),
    "request.toml": Decoder(text(Request.parse), (LocalError,), (request().to_toml().encode(),), beyond=2 << 20),
    "transcript": Decoder(
        from_file(lambda path: list(transcript.read(path))),
        (LocalError,),
        (b"".join(pack((entry().entry, body)) for body in (b"", entry().body)),),
    ),
    "charter": Decoder(
        text(Charter.parse), (LocalError,), (charter().to_toml().encode(),), beyond=2 << 20
    ),
    "decentra.toml": Decoder(
        text(Config.parse), (LocalError,), (write_config("a", "tcp://h:1", None).encode(),), beyond=2 << 20
    ),
    "member.toml": Decoder(
        from_file(read_members), (LocalError,), (charter().members[0].to_toml().encode(),), beyond=2 << 20
    ),
    "identity.key": Decoder(from_file(Identity.load), (LocalError,), (bytes(range(32)),), beyond=64 * 1024),
    "journal": Decoder(from_file(journal), (LocalError,), (journal_file(),), beyond=2 << 20),
    "derived": Decoder(derived, (ValueError,), (bytes(64),)),
}

LOCAL = ("charter", "decentra.toml", "member.toml", "journal", "identity.key", "transcript")
"""Files that this peer's owner named, of bounded size; all others come from the network."""


def read(decoder: Decoder, raw: bytes, again: bool = True) -> bool:
    """Read bytes, and write them again where one can; whether they were taken. Only a documented error is caught."""
    try:
        value = decoder.decode(raw)
    except decoder.raises as error:
        assert isinstance(error, DecentraError) or type(error) is ValueError, repr(error)
        return False
    assert not again or decoder.encode is None or decoder.encode(value) == raw
    return True
