"""What must survive a crash: own entries and one-time acts, in SQLite, written by a thread of its own.

Everything that waits when a transaction begins shares its commit. WAL with synchronous FULL: once ``durable`` is
called, the write is on disk. A one-time act has one row a round, so a second, different one cannot even be written
down. What others signed goes to the transcripts by the same thread, behind the next commit.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from decentra.errors import LocalError
from decentra.machine.effects import Record
from decentra.peer.transcripts import Heard
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed
from decentra.wire.entry import parse
from decentra.wire.message import Verified

SCHEMA = """
CREATE TABLE IF NOT EXISTS starts (boot INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE IF NOT EXISTS entries (
    session BLOB NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL, round INTEGER NOT NULL,
    entry BLOB NOT NULL, body BLOB, PRIMARY KEY (session, boot, seq));
CREATE TABLE IF NOT EXISTS acts (
    session BLOB NOT NULL, epoch INTEGER NOT NULL, round INTEGER NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL,
    value BLOB NOT NULL, PRIMARY KEY (session, epoch, round, kind, topic));
"""

BATCH = 256
"""Writes that share one commit at most: a round's own entries and acts are some twenty."""

WAITING = 256
"""Entries of others that wait for the next own one to be written with; with so many, they are written by themselves."""

MOST_HEARD = 8 << 20
"""Bytes that one author may sign for this peer in one round. Of an honest one of 64 they are less than two mebibytes:
what it proposes, and its votes and what they cite."""

LEAST_PAGE = 512
"""Bytes of the smallest page that SQLite knows; the header says, at byte 16, how large a file's are."""

FINISH_DEADLINE = 10.0
"""Seconds for the last writes when a peer closes."""

_NOT_OURS = "a value has another type than decentra writes"

Later = Callable[[Callable[[], None]], None]
"""Runs a callback on the driver's thread."""


class _Write(NamedTuple):
    statement: str
    values: tuple[object, ...]
    durable: Callable[[], None]


_WAKE = _Write("", (), lambda: None)
"""Nothing to make durable: what was heard is to be written."""


class SqliteJournal:
    """One peer's journal for one session.

    Args:
        path: ``journal.db``; made if it is absent.
        session: the session whose entries and acts these are.
        later: runs a callback on the driver's thread.
        failed: told on the driver's thread, once, why nothing can be written any more.
        heard: where what others signed is appended; None to let go of it.
        most: bytes of own entries that are kept: whole rounds, the oldest go first, and the last one stays.

    Raises:
        LocalError: the file is no journal, or can't be opened.
    """

    def __init__(
        self,
        path: Path,
        session: bytes,
        later: Later,
        failed: Callable[[LocalError], None],
        *,
        heard: Heard | None = None,
        most: int = 1 << 40,
    ) -> None:
        self._session, self._later, self._failed, self._path = session, later, failed, path
        self._heard, self._most, self._grown = heard, most, 0
        self._words: deque[tuple[PeerId, bytes, bytes]] = deque()
        """What others signed, by author, until it is written."""
        self._of: dict[PeerId, tuple[int, int]] = {}
        """Of each author the latest round that it signed in, and the bytes of what it signed there."""
        self.spent = 0.0
        """CPU seconds of the journal's thread, for what is made durable and for transcripts."""
        try:
            _check_pages(path)
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(SCHEMA)
            self.boot = int(self._database.execute("INSERT INTO starts DEFAULT VALUES").lastrowid or 0)
            self._prune()
            found = self._database.execute("SELECT MAX(round) FROM entries WHERE session = ?", (session,)).fetchone()
        except (sqlite3.Error, OSError) as error:
            raise LocalError(
                f"the journal {path} can't be used ({error}); check the disk and who owns the file"
            ) from error
        if not isinstance(found[0], int | None):  # SQLite stores any type in any column
            self._database.close()
            raise LocalError(f"the journal {path} is damaged ({_NOT_OURS}); restore the folder, or begin a new one")
        self.last_round = found[0] or 0
        """The last round in which this peer signed anything in this session; it never takes part in it again."""
        self._waiting = 0
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="decentra-journal", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether everything that was handed over is durable, and whoever waited for it has gone on."""
        return self._waiting == 0

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        entry = parse(signed.entry)
        values = (entry.session, entry.boot, entry.seq, entry.round, signed.entry, signed.body if log_body else None)
        self._put(_Write("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", values, durable))

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None]) -> None:
        values = (self._session, round_id.epoch, round_id.number, record.kind, record.topic, record.value)
        self._put(_Write("INSERT INTO acts VALUES (?, ?, ?, ?, ?, ?)", values, durable))

    def heard(self, verified: Verified, log_body: bool) -> bool:
        author, signed, number = verified.sender, verified.signed, verified.entry.round
        latest, size = self._of.get(author, (0, 0))
        size = (size if number <= latest else 0) + len(signed.entry) + len(signed.body)
        self._of[author] = max(latest, number), size
        if size > MOST_HEARD:
            return False
        if self._heard is not None:
            self._words.append((author, signed.entry, signed.body if log_body else b""))
            if len(self._words) == WAITING:
                self._put(_WAKE)
        return True

    def log(self) -> Iterator[tuple[bytes, bytes | None]]:
        """This session's own entries in order, each with its body unless the spec logs that by hash.

        Raises:
            LocalError: the file can't be read.
        """
        try:
            rows = self._database.execute(
                "SELECT entry, body FROM entries WHERE session = ? ORDER BY boot, seq", (self._session,)
            )
            for entry, body in rows:
                if not isinstance(entry, bytes) or not isinstance(body, bytes | None):
                    raise LocalError(f"the journal {self._path} is damaged ({_NOT_OURS}); check the disk")
                yield entry, body
        except sqlite3.Error as error:
            raise LocalError(f"the journal {self._path} can't be read ({error}); check the disk") from error

    def finish(self) -> None:
        """Write what waits and end the thread; what was written can still be read."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(FINISH_DEADLINE)

    def close(self) -> None:
        """Finish, and let go of the file."""
        self.finish()
        with suppress(sqlite3.Error):  # a full disk refuses the last checkpoint; the WAL beside the file has it all
            self._database.close()

    def _put(self, write: _Write) -> None:
        self._waiting += 1
        self._queue.put(write)

    def _run(self) -> None:
        """Work to the end; whatever else ends it is told, since the peer would wait for ever for what is written."""
        ended = False
        try:
            self._work()
            ended = True
        finally:
            if not ended:
                said = f"the journal {self._path} is not written any more, by a defect of decentra"
                self._later(partial(self._failed, LocalError(f"{said}; start this peer again")))

    def _work(self) -> None:
        last = False
        while not last:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            last = None in batch
            writes = [write for write in batch if write is not None]
            try:
                self._commit([write for write in writes if write is not _WAKE])
            except sqlite3.Error as error:
                self._later(partial(self._failed, self._reason(error)))
                return
            if writes:
                self._later(partial(self._tell, writes))
            self._write_down()
            self.spent = time.thread_time()

    def _write_down(self) -> None:
        """Append what others signed to the transcripts: a disk that takes no more of it ends that, and nothing else."""
        words = [self._words.popleft() for _ in range(len(self._words))]
        if not words or self._heard is None:
            return
        try:
            self._heard.append(words)
        except LocalError as error:
            self._heard = None
            self._later(partial(logging.getLogger("decentra").warning, "%s", error))

    def _reason(self, error: sqlite3.Error) -> LocalError:
        return LocalError(
            f"the journal {self._path} can't be written ({error}); nothing more is sent until it can: "
            "free the disk and start this peer again"
        )

    def _commit(self, writes: Sequence[_Write]) -> None:
        if not writes:
            return
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                self._database.execute(write.statement, write.values)
                self._grown += sum(len(value) for value in write.values if isinstance(value, bytes))
            if self._grown > self._most // 8:
                self._prune()
            self._database.execute("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back itself, and the first error tells the cause
                self._database.execute("ROLLBACK")
            raise

    def _prune(self) -> None:
        """Forget the own entries of the oldest rounds, where those of the session take more than they may."""
        self._grown, kept = 0, 0
        rounds = self._database.execute(
            "SELECT round, SUM(LENGTH(entry) + LENGTH(COALESCE(body, ''))) FROM entries WHERE session = ? "
            "GROUP BY round ORDER BY round DESC",
            (self._session,),
        ).fetchall()
        for place, (number, size) in enumerate(rounds):
            kept += size
            if place and kept > self._most:
                self._database.execute(
                    "DELETE FROM entries WHERE session = ? AND round <= ?", (self._session, number)
                )
                return

    def _tell(self, writes: Sequence[_Write]) -> None:
        """On the driver's thread: whoever waited goes on, and may hand over more before it counts as served."""
        for write in writes:
            try:
                write.durable()
            finally:
                self._waiting -= 1


def _check_pages(path: Path) -> None:
    """Refuse a file that was cut within a page: SQLite takes what is missing of the last one for zeros, and a file that
    lacks most of its first one for a new database. Where there is a log beside it, that may have the page yet.

    Raises:
        sqlite3.DatabaseError: the file does not end with a page.
    """
    log = path.with_name(f"{path.name}-wal")
    if not path.exists() or (log.exists() and log.stat().st_size):
        return
    with path.open("rb") as file:
        header = file.read(LEAST_PAGE)
        size = file.seek(0, 2)
    page = int.from_bytes(header[16:18], "big") or LEAST_PAGE
    if size % max(page, LEAST_PAGE):
        raise sqlite3.DatabaseError("it was cut within a page")
