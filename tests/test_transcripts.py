"""A peer's folder of transcripts: what it signed and what it heard, in pieces, and never more than it may take."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from decentra.audit.auditor import Auditor
from decentra.audit.transcript import read
from decentra.crypto.keys import Identity
from decentra.driver.session import session_name
from decentra.machine.events import Blob
from decentra.peer import journal as journals
from decentra.peer import transcripts
from decentra.peer.journal import SqliteJournal
from decentra.peer.transcripts import Transcripts
from decentra.protocols.rendezvous.messages import Leave
from decentra.simulation.group import charter_for, identities
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Signed
from decentra.wire.entry import Chain
from decentra.wire.message import Verified
from helpers import ids, play, simulate, small

MEMBERS = identities(3, 0)
CHARTER = charter_for(MEMBERS, "secagg")
SESSION = session_name(CHARTER)
ME = MEMBERS[0].id


def signed(identity: Identity, count: int, number: int = 1, body: bytes = b"\x90") -> Iterator[Signed]:
    chain = Chain(identity, SESSION, 1)
    for _ in range(count):
        yield Signed(chain.sign(RoundId(1, number), Leave.kind, body).packed, body)


def room(folder: Path, keep: int = 1 << 30) -> Transcripts:
    return Transcripts(folder / "transcripts", ME, keep)


class Kept:
    """A journal with a place for what is heard; callbacks run when the test says."""

    def __init__(self, folder: Path, keep: int = 1 << 30, most: int = 1 << 40) -> None:
        self.later: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.room = room(folder, keep)
        self.journal = SqliteJournal(
            folder / "journal.db", SESSION, self.later.put, print, heard=self.room.heard(SESSION, CHARTER), most=most
        )
        self.chain = Chain(MEMBERS[0], SESSION, self.journal.boot)

    def hear(self, author: PeerId, entries: Iterator[Signed], log_body: bool = True) -> None:
        for one in entries:
            self.journal.heard(author, one, log_body)

    def say(self, number: int = 1, body: bytes = b"\x90") -> None:
        """Write an own entry, and wait until it is durable."""
        done: list[bool] = []
        entry = self.chain.sign(RoundId(1, number), Leave.kind, body)
        self.journal.entry(Signed(entry.packed, body), True, lambda: done.append(True))
        while not done:
            self.later.get(timeout=10.0)()

    def end(self) -> list[Path]:
        self.journal.close()
        return sorted(self.room._folder.glob("*.heard-*.log"))


def test_what_is_heard_is_a_transcript_of_its_own_with_bodies_only_where_the_spec_logs_them(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    first, second = list(signed(MEMBERS[1], 2))
    kept.hear(MEMBERS[1].id, iter([first]))
    kept.hear(MEMBERS[1].id, iter([second]), log_body=False)
    (path,) = kept.end()
    heads: list[str] = []
    assert [(one.entry, one.body) for one in read(path, heads.append)] == [(first.entry, b"\x90"), (second.entry, b"")]
    assert heads == [CHARTER.to_toml()]


def test_what_is_heard_is_written_with_the_next_own_entry_and_by_itself_where_much_waits(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.hear(MEMBERS[1].id, signed(MEMBERS[1], 3))
    kept.say()
    kept.journal.finish()
    assert len(list(read(kept.end()[0]))) == 3
    kept = Kept(tmp_path)
    kept.hear(MEMBERS[1].id, signed(MEMBERS[1], journals.WAITING))
    kept.later.get(timeout=10.0)()  # it was woken, and nobody signed anything
    assert len(kept.end()) == 2


def test_a_start_begins_another_file_and_mends_the_one_that_a_crash_cut(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.hear(MEMBERS[1].id, signed(MEMBERS[1], 3))
    (path,) = kept.end()
    os.truncate(path, path.stat().st_size - 5)
    kept = Kept(tmp_path)
    kept.hear(MEMBERS[1].id, signed(MEMBERS[1], 1))
    assert [len(list(read(one))) for one in kept.end()] == [2, 1]


def test_files_are_so_large_at_most_and_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "PIECE", 4096)
    keep = 30_000
    kept = Kept(tmp_path, keep)
    for _ in range(20):
        kept.hear(MEMBERS[1].id, signed(MEMBERS[1], 8))
        kept.say()
    kept.journal.finish()
    kept.room.write(SESSION, CHARTER, kept.journal.log())
    files = kept.end()
    numbers = [int(path.stem.rpartition("-")[2]) for path in files]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] > 1
    assert all(path.stat().st_size < 3 * 4096 for path in files)
    own = kept.room.path(SESSION)
    assert own.is_file()
    assert keep // 2 < own.stat().st_size + sum(path.stat().st_size for path in files) <= keep


def test_who_floods_has_nobody_elses_words_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_HEARD", 10_000)
    kept = Kept(tmp_path)
    kept.hear(MEMBERS[1].id, signed(MEMBERS[1], 200))
    kept.hear(MEMBERS[2].id, signed(MEMBERS[2], 5))
    (path,) = kept.end()
    sizes = [len(one.entry) + 1 for one in read(path)]
    assert sum(sizes[:-5]) <= 10_000 < sum(sizes)


def test_own_entries_of_the_oldest_rounds_go_and_the_last_round_stays_known(tmp_path: Path) -> None:
    kept = Kept(tmp_path, most=16_000)
    for number in range(1, 40):
        kept.say(number, bytes(1000))
    kept.journal.finish()
    left = sum(len(entry) + len(body or b"") for entry, body in kept.journal.log())
    assert 1000 < left < 16_000 + 16_000 // 8 + 2000
    kept.end()
    again = Kept(tmp_path, most=100)
    assert again.journal.last_round == 39
    assert len(list(again.journal.log())) == 1
    again.end()


def test_a_disk_that_takes_no_transcripts_ends_them_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "transcripts").write_bytes(b"")
    kept = Kept(tmp_path)
    kept.hear(MEMBERS[1].id, signed(MEMBERS[1], 1))
    with caplog.at_level(logging.WARNING, "decentra"):
        kept.say()
        kept.later.get(timeout=10.0)()
    assert "what the others say can't be written" in caplog.text and "free the disk" in caplog.text
    kept.hear(MEMBERS[1].id, signed(MEMBERS[1], 1))
    kept.say(2)
    kept.journal.close()


def test_nothing_is_kept_twice_and_what_is_refused_as_behind_is_kept_too() -> None:
    group = simulate(3)
    heard: dict[PeerId, list[Signed]] = {peer: [] for peer in ids(group)}
    for peer in group.peers:
        peer.journal.heard = lambda author, signed, log_body: heard[author].append(signed)  # type: ignore[method-assign]
    play(group, small(group))
    said = {peer.session.me: [one.entry for one in peer.journal.entries] for peer in group.peers}
    for peer in ids(group):
        entries = [one.entry for one in heard[peer]]
        assert set(entries) <= set(said[peer])
        assert max(map(entries.count, entries)) == len(group.peers) - 1
    liar, honest = group.peers[0], group.peers[1]
    before = len(heard[liar.session.me])
    fork = Chain(liar.identity, liar.session.session, 1)
    body = liar.driver.registry.encode(Leave())
    entry = fork.sign(RoundId(1, 1), Leave.kind, body)
    with pytest.raises(Exception, match="behind what it signed before"):
        honest.driver._admission.admit(liar.session.me, (entry.packed, body))
    assert [one.entry for one in heard[liar.session.me][before:]] == [entry.packed]


def test_two_histories_that_two_peers_were_shown_are_found_as_soon_as_the_logs_of_both_meet() -> None:
    """Nobody's own log has both: the forker's is not there, and each of the others was shown one."""
    group = simulate(4)
    liar, victim = group.peers[0], ids(group)[1]
    logs: dict[PeerId, list[Signed]] = {}
    for peer in group.peers:
        mine = logs.setdefault(peer.session.me, [])
        peer.journal.heard = partial(_listen, mine)  # type: ignore[method-assign]
    post = liar.driver._post_to

    def shows(target: PeerId, verified: Verified, blob: Blob | None) -> None:
        if target == victim and verified.entry.kind == "certify.prepare":
            message = replace(verified.message, value=bytes(32))  # type: ignore[type-var]
            body = liar.driver.registry.encode(message)
            entry = verified.entry
            other = Chain(liar.identity, entry.session, entry.boot, entry.seq - 1, entry.prev)
            forked = other.sign(entry.round_id, entry.kind, body, entry.after, entry.receiver)
            verified = Verified(forked, message, Signed(forked.packed, body))
        post(target, verified, blob)

    liar.driver._post_to = shows  # type: ignore[method-assign]
    play(group, small(group))
    own = {peer.session.me: peer.journal.entries for peer in group.peers}
    first, second = ids(group)[1:3]

    def found(*peers: PeerId) -> set[tuple[str, PeerId]]:
        auditor = Auditor()
        try:
            auditor.know(group.charter)
            for peer in peers:
                auditor.add([*own[peer], *logs[peer]])
            return {(one.clause, one.who) for one in auditor.judge().violations}
        finally:
            auditor.close()

    assert ("FORK", liar.session.me) not in found(first) | found(second)
    assert ("FORK", liar.session.me) in found(first, second)


def _listen(log: list[Signed], author: PeerId, one: Signed, log_body: bool) -> None:
    log.append(one if log_body else Signed(one.entry, b""))
