"""The entries of any number of transcripts: each once, with its body where one of them has it, by session and round.

What is kept lies in a private database that goes to the disk as it grows, so a long session takes no more memory than a
short one. Nothing here is believed: signatures are checked where entries are judged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from decentra.audit import transcript
from decentra.audit.record import cited_in
from decentra.errors import LocalError
from decentra.types import PeerId
from decentra.wire.codec import Codec, Signed
from decentra.wire.entry import Entry, parse
from decentra.wire.message import MAX_DEPTH
from decentra.wire.reader import Malformed

_SCHEMA = """
CREATE TABLE entries (
    session BLOB NOT NULL, round INTEGER NOT NULL, hash BLOB NOT NULL, author BLOB NOT NULL, boot INTEGER NOT NULL,
    seq INTEGER NOT NULL, prev BLOB NOT NULL, depth INTEGER NOT NULL, entry BLOB NOT NULL, body BLOB,
    PRIMARY KEY (session, round, hash)) WITHOUT ROWID;
CREATE TABLE unsigned (session BLOB NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (session, hash)) WITHOUT ROWID
"""

_KEEP = """
INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET body = coalesce(body, excluded.body), depth = max(depth, excluded.depth)
WHERE depth < excluded.depth OR (body IS NULL AND excluded.body IS NOT NULL)
"""

_BEHIND = """
SELECT round, hash, entry, body, depth FROM entries
WHERE session = ? AND (round, hash) > (?, ?) ORDER BY round, hash LIMIT 64
"""

Progress = Callable[[int], None]
"""Told how many entries were read so far."""

Reads = Callable[[bytes], Codec | None]
"""What reads the bodies of a session's messages; None where nobody knows its charter."""

TOLD_EVERY = 4096

AT_ONCE = 1024
"""Rows that are written together."""

MOST_KNOWN = 1 << 16
"""Records that are known to have been read, so that the same ones from other transcripts cost next to nothing."""


@dataclass(frozen=True)
class Unreadable:
    """A place in a transcript from which on it could not be read."""

    path: Path
    why: str


class Link(NamedTuple):
    """An entry's place in its author's chain."""

    author: PeerId
    boot: int
    seq: int
    round: int
    hash: bytes
    prev: bytes


class Unsigned:
    """Entries without the signature of the member that they name: they are in no chain."""

    def __init__(self, database: sqlite3.Connection, session: bytes) -> None:
        self._database, self._session = database, session
        self._hashes: list[bytes] = []
        self.count = 0

    def add(self, entry: Entry) -> None:
        """This one is none of its author's."""
        self.count += 1
        self._hashes.append(entry.hash)
        if len(self._hashes) == AT_ONCE:
            self.flush()

    def flush(self) -> None:
        rows = [(self._session, hashed) for hashed in self._hashes]
        self._database.executemany("INSERT OR IGNORE INTO unsigned VALUES (?, ?)", rows)
        self._hashes.clear()


class Archive:
    """A bag of entries, and of those that they cite."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        self.read = 0
        """Entries read, with those that several transcripts hold counted as often."""
        self.garbled = 0
        """Entries whose bytes are none, or whose body is another one's: these accuse nobody."""
        self.unreadable: list[Unreadable] = []
        self._known: dict[bytes, int] = {}
        """Of each record that was read lately, how deep its citations were followed."""
        self._unread: set[bytes] = set()
        """Sessions of which entries came before their charter was known."""

    def close(self) -> None:
        """Let go of everything."""
        self._database.close()

    def add_file(self, path: Path, heads: Callable[[str], None], codec: Reads, progress: Progress | None) -> None:
        """Take in a transcript; what can't be read of it is noted.

        Args:
            heads: told each charter that the file holds, before the entries behind it are taken in.
            codec: reads the bodies of a session's messages; None for a session of no known charter.
            progress: told how many entries were read so far.

        Raises:
            LocalError: there is no room for what was read.
        """
        try:
            self.add(transcript.read(path, heads), codec, progress)
        except LocalError as error:
            self.unreadable.append(Unreadable(path, str(error)))
        except sqlite3.Error as error:
            raise LocalError(
                f"what transcripts hold can't be kept while it is judged ({error}); free the disk that temporary files "
                "go to, or set TMPDIR to another"
            ) from error

    def add(self, signed: Iterable[Signed], codec: Reads, progress: Progress | None = None) -> None:
        """Take in entries, and those that they cite."""
        self._database.execute("BEGIN")
        try:
            for one in signed:
                self.read += 1
                self._add(one, codec, MAX_DEPTH)
                if progress is not None and self.read % TOLD_EVERY == 0:
                    progress(self.read)
        finally:
            self._database.execute("COMMIT")

    def follow(self, codec: Reads) -> None:
        """Take in what is cited by entries that came before anyone knew their session's charter."""
        for session in sorted(self._unread):
            reads, last = codec(session), (-1, b"")
            while reads is not None:  # some at a time: what they cite goes into the same table
                rows = self._database.execute(_BEHIND, (session, *last)).fetchall()
                for _, _, raw, body, depth in rows:
                    self._cited(reads, parse(raw).kind, body, codec, depth)
                if not rows:
                    break
                last = rows[-1][:2]
        self._unread.clear()

    def _add(self, signed: Signed, codec: Reads, depth: int) -> None:
        hashed, found = sha256(signed.entry).digest(), sha256(signed.body).digest()
        if self._known.get(hashed + found, -1) >= depth:
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[hashed + found] = depth
        try:
            entry = parse(signed.entry)
        except Malformed:
            self.garbled += 1
            return
        body: bytes | None = signed.body
        if found != entry.body:
            self.garbled += bool(body)
            body = None
        place = (entry.author, entry.boot, entry.seq, entry.prev)
        self._database.execute(_KEEP, (entry.session, entry.round, hashed, *place, depth, signed.entry, body))
        reads = codec(entry.session)
        if reads is None:
            self._unread.add(entry.session)
        else:
            self._cited(reads, entry.kind, body, codec, depth)

    def _cited(self, reads: Codec, kind: str, body: bytes | None, codec: Reads, depth: int) -> None:
        """Take in what a body cites."""
        if body is None or depth == 0 or not reads.cites(kind):
            return
        try:
            fields = reads.decode(kind, body)
        except Malformed:
            return  # its author signed it all the same: the judge says so
        for cited in cited_in(fields):
            self._add(cited, codec, depth - 1)

    # ── what is in it ────────────────────────────────────────────────────────────────────────────────────────────────

    def sessions(self) -> dict[bytes, int]:
        """The sessions that any entry names, and how many do."""
        rows = self._database.execute("SELECT session, COUNT(*) FROM entries GROUP BY session ORDER BY session")
        return {bytes(session): count for session, count in rows}

    def rounds(self, session: bytes) -> list[int]:
        """The rounds of a session, ascending."""
        rows = self._database.execute("SELECT DISTINCT round FROM entries WHERE session = ? ORDER BY round", (session,))
        return [number for (number,) in rows]

    def entries(self, session: bytes, number: int) -> Iterator[tuple[Entry, bytes | None]]:
        """The entries of a round, one by one: most of what a hostile log holds is signed by nobody."""
        rows = self._database.execute(
            "SELECT entry, body, hash FROM entries WHERE session = ? AND round = ? ORDER BY author, boot, seq, hash",
            (session, number),
        )
        for raw, body, hashed in rows:
            entry = parse(raw)
            vars(entry)["hash"] = hashed
            yield entry, body

    @contextmanager
    def leaving_out(self, session: bytes) -> Iterator[Unsigned]:
        """Takes down which of a round's entries carry no signature of their author's, for `chains`."""
        unsigned = Unsigned(self._database, session)
        yield unsigned
        unsigned.flush()

    def chains(self, session: bytes) -> Iterator[Link]:
        """The places of a session's signed entries in their authors' chains, by author, boot and number."""
        rows = self._database.execute(
            "SELECT author, boot, seq, round, hash, prev FROM entries WHERE session = ?1 "
            "AND hash NOT IN (SELECT hash FROM unsigned WHERE session = ?1) ORDER BY author, boot, seq, hash",
            (session,),
        )
        for author, *numbers in rows:
            yield Link(PeerId(author), *numbers)

    def entry(self, session: bytes, number: int, hashed: bytes) -> tuple[Entry, bytes | None]:
        """An entry that is here, with its body."""
        row = self._database.execute(
            "SELECT entry, body FROM entries WHERE session = ? AND round = ? AND hash = ?", (session, number, hashed)
        ).fetchone()
        return parse(row[0]), row[1]
