"""Journals cut at and within commits: the files of real ones, byte by byte, and peers that start again on them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentra.driver.session import session_name
from decentra.errors import LocalError
from decentra.machine.effects import Record
from decentra.peer.journal import SqliteJournal, _Write
from decentra.simulation.hazards import draw
from decentra.simulation.ports import MemoryJournal
from decentra.simulation.stage import Play, Stage, cast_for
from decentra.types import RoundId
from decentra.wire.codec import Signed

SESSION = b"s" * 32
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where to put files whose bytes matter and not their disk: syncing takes most of these tests' time elsewhere."""

FILES = ("journal.db", "journal.db-wal")

State = tuple[bytes, bytes]
"""The database's bytes, and those of the log beside it."""

Commit = list[tuple[int, int]]
"""The acts of one commit: each has a round of its own, and a value of some bytes."""


@contextmanager
def opened(folder: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(folder / "journal.db", SESSION, lambda callback: callback(), lambda error: None)
    try:
        yield journal
    finally:
        journal.close()


def state_of(folder: Path) -> State:
    database, log = ((folder / name).read_bytes() if (folder / name).exists() else b"" for name in FILES)
    return database, log


def disk(folder: Path, state: State) -> Path:
    """Another disk with these files."""
    other = folder / "after"
    other.mkdir()
    for name, data in zip(FILES, state, strict=True):
        (other / name).write_bytes(data)
    return other


def acts(journal: SqliteJournal) -> list[tuple[int, bytes]]:
    return list(journal._database.execute("SELECT round, value FROM acts ORDER BY round"))


def values(commits: list[Commit]) -> list[tuple[int, bytes]]:
    return [(number, bytes([number]) * size) for commit in commits for number, size in commit]


def over(new: bytes, old: bytes, length: int) -> bytes:
    """A file of which so much was written over."""
    return new[:length] + old[length:]


def committed(folder: Path, commits: list[Commit], pages: int) -> list[State]:
    """What is on the disk before and after each of these commits; ``pages`` of the log are carried into the database
    at a time."""
    with opened(folder) as journal:
        journal._database.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        states = [state_of(folder)]
        for commit in commits:
            rows = [(SESSION, 1, number, "intent", "update", value) for number, value in values([commit])]
            journal._commit([_Write("INSERT INTO acts VALUES (?, ?, ?, ?, ?, ?)", row, lambda: None) for row in rows])
            states.append(state_of(folder))
        return states


@st.composite
def histories(draw: st.DrawFn) -> list[Commit]:
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    numbers = iter(range(1, 100))
    size = st.sampled_from([32, 300, 3000])
    return [[(next(numbers), draw(size)) for _ in range(count)] for count in counts]


@settings(max_examples=60)
@given(commits=histories(), pages=st.sampled_from([1, 4, 1000]), data=st.data())
def test_a_commit_cut_at_any_byte_is_there_whole_or_not_and_all_before_it_is_there(
    commits: list[Commit], pages: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        states = committed(folder, commits, pages)
        cut = data.draw(st.integers(1, len(commits)), label="within commit")
        (database, log), (later_database, later_log) = states[cut - 1], states[cut]
        if data.draw(st.booleans(), label="within the log"):
            length = data.draw(st.integers(0, len(later_log)), label="bytes")
            state, whole = (database, over(later_log, log, length)), length == len(later_log)
        else:  # the log is durable, and is being carried into the database
            length = data.draw(st.integers(0, len(later_database)), label="bytes")
            state, whole = (over(later_database, database, length), later_log), True
        with opened(disk(folder, state)) as journal:
            before, after = values(commits[: cut - 1]), values(commits[:cut])
            assert acts(journal) in ([after] if whole else [before, after])
            assert journal.boot == 2


@settings(max_examples=40)
@given(commits=histories(), pages=st.sampled_from([1, 4, 1000]), data=st.data())
def test_a_log_that_lost_what_it_had_promised_shows_an_earlier_state(
    commits: list[Commit], pages: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        database, log = committed(folder, commits, pages)[-1]
        state = (database, log[: data.draw(st.integers(0, len(log)), label="bytes")])
        with opened(disk(folder, state)) as journal:
            assert acts(journal) in [values(commits[:count]) for count in range(len(commits) + 1)]


@settings(max_examples=40)
@given(commits=histories(), data=st.data())
def test_a_database_shorter_than_it_was_is_refused(commits: list[Commit], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        folder = Path(name)
        committed(folder, commits, 1000)
        database, log = state_of(folder)
        assert not log
        length = data.draw(st.integers(1, len(database) - 1), label="bytes")
        with pytest.raises(LocalError, match="check the disk"), opened(disk(folder, (database[:length], b""))):
            pass


# ── peers that start again on real files ─────────────────────────────────────────────────────────────────────────────


class Files(MemoryJournal):
    """A journal of a simulated peer, in files that its processes share."""

    def __init__(self, folder: Path, session: bytes, opened: list[SqliteJournal]) -> None:
        super().__init__()
        self._folder, self._session, self._opened = folder, session, opened
        self._later: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.real = SqliteJournal(folder / "journal.db", session, self._later.put, lambda error: None)
        opened.append(self.real)
        self._before = 0
        for number, kind, topic, value in self.real._database.execute("SELECT round, kind, topic, value FROM acts"):
            self.record(RoundId(1, number), Record(kind, topic, value), lambda: None, real=False)
        for entry, body in self.real.log():
            super().entry(Signed(entry, body or b""), True, lambda: None)

    @property
    def last_round(self) -> int:
        return self.real.last_round

    def entry(self, signed: Signed, log_body: bool, durable: Callable[[], None]) -> None:
        self._waits(lambda told: self.real.entry(signed, log_body, told))
        super().entry(signed, log_body, durable)

    def record(self, round_id: RoundId, record: Record, durable: Callable[[], None], real: bool = True) -> None:
        if real:
            self._waits(lambda told: self.real.record(round_id, record, told))
        super().record(round_id, record, durable)

    def _waits(self, put: Callable[[Callable[[], None]], None]) -> None:
        self._before = len(state_of(self._folder)[1])
        done: list[bool] = []
        put(lambda: done.append(True))
        while not done:
            self._later.get(timeout=10.0)()

    def torn(self, reached: float) -> Files:
        database, log = state_of(self._folder)
        length = self._before + int(reached * (len(log) - self._before))
        other = Files(disk(self._folder, (database, log[:length])), self._session, self._opened)
        lost = 0 if reached == 1.0 else 1
        assert len(other._writes) == len(self._writes) - lost
        return other


@pytest.mark.parametrize("seed", range(4))
def test_peers_that_start_again_on_real_journals_cut_within_a_commit_repeat_nothing(seed: int) -> None:
    play, opened_ones = Play(n=4, c=1), list[SqliteJournal]()
    hazards = draw(seed, "journals", play.n, play.c)

    def journal(position: int) -> MemoryJournal:
        if position not in hazards.crashes:
            return MemoryJournal()
        folder = Path(tempfile.mkdtemp(dir=root))
        return Files(folder, session_name(cast_for(play.protocol, play.n, play.c).charter), opened_ones)

    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        try:
            stage = Stage(play, seed, hazards, journal=journal)
            stage.run()
        finally:
            for one in opened_ones:
                one.close()
    assert stage.cut and not stage.oracle.violations
    for position in hazards.crashes:
        actor = stage.actors[position]
        assert isinstance(actor.journal, Files) and actor.journal.real.boot == actor.boot + (not actor.alive) > 1
