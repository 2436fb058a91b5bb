"""A peer's folder of transcripts: what it signed and what it heard, in pieces, and never more than it may take."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from decentra.audit.auditor import Auditor
from decentra.audit.transcript import read
from decentra.crypto.keys import Identity
from decentra.driver.session import session_name
from decentra.errors import LocalError, RemoteError
from decentra.machine.events import Blob
from decentra.peer import journal as journals
from decentra.peer import transcripts
from decentra.peer.journal import SqliteJournal
from decentra.peer.transcripts import Transcripts
from decentra.protocols.rendezvous.messages import Leave
from decentra.protocols.secagg.messages import Endorse
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


def signed(identity: Identity, count: int, number: int = 1, body: bytes = b"\x90") -> Iterator[Verified]:
    chain = Chain(identity, SESSION, 1)
    for _ in range(count):
        entry = chain.sign(RoundId(1, number), Leave.kind, body)
        yield Verified(entry, Leave(), Signed(entry.packed, body))


class Kept:
    """A journal with a place for what is heard; callbacks run when the test says."""

    def __init__(self, folder: Path, keep: int = 1 << 30, most: int = 1 << 40) -> None:
        self.later: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.failed: list[LocalError] = []
        self.room = Transcripts(folder / "transcripts", ME, keep)
        heard = self.room.heard(SESSION, CHARTER)
        self.journal = SqliteJournal(
            folder / "journal.db", SESSION, self.later.put, self.failed.append, heard=heard, most=most
        )
        self.chain = Chain(MEMBERS[0], SESSION, self.journal.boot)

    def hear(self, entries: Iterable[Verified], log_body: bool = True) -> list[bool]:
        return [self.journal.heard(one, log_body) for one in entries]

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
    first, second = signed(MEMBERS[1], 2)
    kept.hear([first])
    kept.hear([second], log_body=False)
    (path,) = kept.end()
    heads: list[str] = []
    told = [(one.entry, one.body) for one in read(path, heads.append)]
    assert told == [(first.signed.entry, b"\x90"), (second.signed.entry, b"")]
    assert heads == [CHARTER.to_toml()] and str(MEMBERS[1].id) in path.name


def test_what_is_heard_is_written_with_the_next_own_entry_and_by_itself_where_much_waits(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.hear(signed(MEMBERS[1], 3))
    kept.say()
    kept.journal.finish()
    assert len(list(read(kept.end()[0]))) == 3
    kept = Kept(tmp_path)
    kept.hear(signed(MEMBERS[1], journals.WAITING))
    kept.later.get(timeout=10.0)()  # it was woken, and nobody signed anything
    assert len(kept.end()) == 2


def test_a_start_begins_another_file_and_mends_the_one_that_a_crash_cut(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.hear(signed(MEMBERS[1], 3))
    (path,) = kept.end()
    os.truncate(path, path.stat().st_size - 5)
    (path.parent / path.name.replace("000001", "old")).write_bytes(b"a copy that somebody made")
    kept = Kept(tmp_path)
    kept.hear(signed(MEMBERS[1], 1))
    files = [one for one in kept.end() if not one.stem.endswith("old")]
    assert [len(list(read(one))) for one in files] == [2, 1] and not kept.failed


def test_an_authors_files_make_room_for_its_own_and_for_nobody_elses(tmp_path: Path) -> None:
    keep, few = 60_000, list(signed(MEMBERS[2], 3))
    kept = Kept(tmp_path, keep)
    kept.hear(few)
    for number in range(1, 40):
        assert all(kept.hear(signed(MEMBERS[1], 8, number)))
        kept.say(number)
    kept.journal.finish()
    kept.room.write(SESSION, CHARTER, kept.journal.log())
    files = kept.end()
    loud = [path for path in files if str(MEMBERS[1].id) in path.name]
    (quiet,) = [path for path in files if str(MEMBERS[2].id) in path.name]
    assert [one.entry for one in read(quiet)] == [one.signed.entry for one in few]
    numbers = [int(path.stem.rpartition("-")[2]) for path in loud]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)) and numbers[0] > 1
    share = keep // 2 // (len(MEMBERS) - 1)
    assert share // 2 < sum(path.stat().st_size for path in loud) <= 2 * share
    assert kept.room.path(SESSION).is_file()


def test_files_of_earlier_sessions_go_first_the_oldest_before_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "transcripts"
    folder.mkdir()
    for age, name in enumerate(("newer", "older")):
        (folder / f"{name}.log").write_bytes(bytes(20_000))
        os.utime(folder / f"{name}.log", (1e9 - age, 1e9 - age))
    kept = Kept(tmp_path, 40_000)
    kept.hear(signed(MEMBERS[1], 3))
    kept.say()
    kept.journal.finish()
    kept.room.write(SESSION, CHARTER, kept.journal.log())
    assert not (folder / "older.log").exists() and (folder / "newer.log").exists()
    assert kept.room.path(SESSION).is_file() and len(kept.end()) == 1


def test_who_says_more_in_a_round_than_is_kept_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MOST_HEARD", 10_000)
    kept = Kept(tmp_path)
    answers = kept.hear(signed(MEMBERS[1], 200))
    assert answers == sorted(answers, reverse=True) and 20 < sum(answers) < 60
    assert all(kept.hear(signed(MEMBERS[2], 5)))
    assert not any(kept.hear(signed(MEMBERS[1], 3, number=0)))
    assert all(kept.hear(signed(MEMBERS[1], 3, number=2)))  # another round has room of its own
    assert sum(len(list(read(path))) for path in kept.end()) == sum(answers) + 5 + 3


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
    kept.hear(signed(MEMBERS[1], 1))
    with caplog.at_level(logging.WARNING, "decentra"):
        kept.say()
        kept.later.get(timeout=10.0)()
    assert "what the others say can't be written" in caplog.text and "free the disk" in caplog.text
    assert kept.hear(signed(MEMBERS[1], 1)) == [True]
    kept.say(2)
    kept.journal.close()
    assert not kept.failed


def test_whatever_ends_the_journals_thread_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path)
    monkeypatch.setattr(transcripts.Heard, "append", lambda self, log: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda told: None)
    kept.hear(signed(MEMBERS[1], 1))
    kept.say()
    kept.later.get(timeout=10.0)()
    assert "not written any more, by a defect" in str(kept.failed[0])
    kept.journal.close()


def test_nothing_is_kept_twice_and_what_is_refused_as_behind_is_kept_too() -> None:
    group = simulate(3)
    heard: dict[PeerId, list[bytes]] = {peer: [] for peer in ids(group)}

    def listen(verified: Verified, log_body: bool) -> bool:
        heard[verified.sender].append(verified.signed.entry)
        return True

    for peer in group.peers:
        peer.journal.heard = listen  # type: ignore[method-assign]
    play(group, small(group))
    said = {peer.session.me: [one.entry for one in peer.journal.entries] for peer in group.peers}
    for peer in ids(group):
        assert set(heard[peer]) <= set(said[peer])
        assert max(map(heard[peer].count, heard[peer])) == len(group.peers) - 1
    liar, honest = group.peers[0], group.peers[1]
    before = len(heard[liar.session.me])
    fork = Chain(liar.identity, liar.session.session, 1)
    body = liar.driver.registry.encode(Leave())
    entry = fork.sign(RoundId(1, 1), Leave.kind, body)
    with pytest.raises(RemoteError, match="behind what it signed before"):
        honest.driver._admission.admit(liar.session.me, (entry.packed, body))
    assert heard[liar.session.me][before:] == [entry.packed]


def test_nobody_acts_on_what_no_transcript_holds_or_on_a_word_of_no_round() -> None:
    group = simulate(3)
    liar, honest = group.peers[0], group.peers[1]
    body = liar.driver.registry.encode(Endorse(bytes(32)))
    entry = liar.driver.chain.sign(RoundId(1, 0), Endorse.kind, body)
    with pytest.raises(RemoteError, match=r"signed a secagg.endorse for no round"):
        honest.driver._admission.admit(liar.session.me, (entry.packed, body))
    honest.journal.heard = lambda verified, log_body: False  # type: ignore[method-assign]
    entry = liar.driver.chain.sign(RoundId(1, 1), Endorse.kind, body)
    with pytest.raises(RemoteError, match="more in one round than anybody honest"):
        honest.driver._admission.admit(liar.session.me, (entry.packed, body))


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


def _listen(log: list[Signed], verified: Verified, log_body: bool) -> bool:
    log.append(verified.signed if log_body else Signed(verified.signed.entry, b""))
    return True
