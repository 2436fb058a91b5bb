"""Holds the entries of transcripts against the published rules: by round, then along each author's chain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path

from decentra.audit import generic, transcript
from decentra.audit.archive import Archive, Link, Progress
from decentra.audit.evidence import portable
from decentra.audit.findings import Finding, Violation
from decentra.audit.ground import Ground
from decentra.audit.record import Record, Round
from decentra.audit.report import Report, SessionReport
from decentra.audit.rules import BOOKS, Book
from decentra.charter.charter import FILE, Charter
from decentra.errors import LocalError
from decentra.types import PeerId
from decentra.wire.codec import Codec, Signed

SUFFIX = ".log"
"""How the names of transcripts in a folder end."""

MOST_CHARTERS = 4096
"""Charters that are read, of all that transcripts begin with: one an epoch, and one a group and axis of a grid."""

Watch = Callable[[Round, Sequence[Finding]], None]
"""Told each round as soon as it is judged, with what it came to; and once more, behind a session's last round, each in
which an author's chain is broken, with what shows that."""


def audit(
    paths: Iterable[Path],
    *,
    charters: Iterable[Charter] = (),
    room: Path | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Report:
    """Tell from transcripts who broke which clause.

    It never raises for what a transcript holds: what can't be read accuses nobody, and leaves the audit undecided.

    Args:
        paths: transcripts, and folders that hold them, such as peers' folders; a ``charter.toml`` beside them counts.
        charters: charters beside those.
        room: the folder of the specs; the published ones by default.
        progress: told how many entries were read so far, now and then.
        watch: told each round as it is judged; nothing of it is kept here.

    Raises:
        LocalError: a path does not exist, or there is no transcript in any of them.
    """
    auditor = Auditor(room)
    try:
        for charter in charters:
            auditor.know(charter)
        files, found = _files(paths)
        for text in found:
            auditor.know_text(text)
        for path in files:
            auditor.archive.add_file(path, auditor.know_text, auditor.codec, progress)
        auditor.archive.follow(auditor.codec)  # a charter may stand behind its entries, or in a later file
        return auditor.judge(watch)
    finally:
        auditor.close()


def _files(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The transcripts in some paths, and the charters beside them."""
    files: dict[Path, None] = {}
    charters: list[str] = []
    for path in paths:
        try:
            is_there, is_folder = path.exists(), path.is_dir()
        except OSError as error:
            raise LocalError(f"{path} can't be looked at ({error.strerror}); give a transcript, or a folder") from error
        if not is_there:
            raise LocalError(f"{path} does not exist; give a transcript, or a folder that holds some")
        if not is_folder:
            files[path] = None
            continue
        files |= dict.fromkeys(one for one in sorted(path.rglob(f"*{SUFFIX}")) if one.is_file())
        charters += [text for one in sorted(path.rglob(FILE)) if (text := _text(one))]
    if not files:
        raise LocalError(f"there is no transcript (*{SUFFIX}) in what was given; peers write them when they close")
    return list(files), charters


def _text(path: Path) -> str:
    """A charter's text; nothing where it can't be read: its sessions are undecided then."""
    if not path.is_file():  # to open a pipe would wait for whoever writes to it
        return ""
    try:
        with path.open("rb") as file:
            return file.read(transcript.MAX_CHARTER).decode("utf-8", "replace")
    except OSError:
        return ""


class Auditor:
    """An archive, the charters that are known, and the judgement of the one by the other."""

    def __init__(self, room: Path | None = None, grounds: Iterable[Ground] = ()) -> None:
        self.archive = Archive()
        self._room = room
        self._texts: set[bytes] = set()
        self._grounds: dict[bytes, Ground] = {ground.session: ground for ground in grounds}

    def close(self) -> None:
        self.archive.close()

    def know(self, charter: Charter) -> None:
        """Judge the sessions of this charter. A forged one harms nobody: other members' signatures make no session of
        it, since a session's name hashes its charter."""
        ground = Ground.of(charter, self._room)
        self._grounds[ground.session] = ground

    def know_text(self, text: str) -> None:
        """Judge the sessions of a charter, if the text is one."""
        name = sha256(text.encode()).digest()
        if name in self._texts or len(self._texts) >= MOST_CHARTERS:
            return
        self._texts.add(name)
        try:
            self.know(Charter.parse(text))
        except (LocalError, OSError):  # a protocol's name may be none that a file can have
            return

    def codec(self, session: bytes) -> Codec | None:
        """What reads the bodies of a session's messages."""
        ground = self._grounds.get(session)
        return None if ground is None else ground.codec

    def add(self, signed: Iterable[Signed]) -> None:
        """Take in entries from elsewhere than files, of charters that are known."""
        self.archive.add(signed, self.codec)

    def judge(self, watch: Watch | None = None) -> Report:
        """What everything that was taken in comes to."""
        told = watch or (lambda round_, found: None)
        sessions = tuple(self._session(name, count, told) for name, count in self.archive.sessions().items())
        archive = self.archive
        return Report(sessions, archive.read, archive.garbled, tuple(archive.unreadable))

    def _session(self, name: bytes, count: int, watch: Watch) -> SessionReport:
        ground = self._grounds.get(name)
        if ground is None or ground.spec.name not in BOOKS:
            return SessionReport(name, None, count, 0, (), ())
        rounds, findings, unsigned = [], list[Finding](), 0
        for number in self.archive.rounds(name):
            with self.archive.leaving_out(name) as left_out:
                records, found = generic.admit(ground, self.archive.entries(name, number), number, left_out.add)
            unsigned += left_out.count
            if not records:
                continue
            rounds.append(number)
            round_ = Round(ground, number, records)
            found += self._judged(round_)
            findings += found
            watch(round_, found)

        def at(link: Link) -> Record:
            return Record(*self.archive.entry(name, link.round, link.hash))

        chained = list(_firsts(generic.chains(self.archive.chains(name), at)))
        broken = [one for one in chained if isinstance(one, Violation)]
        for number in sorted({one.round for one in broken}):
            records, _ = generic.admit(ground, self.archive.entries(name, number), number)
            watch(Round(ground, number, records), [one for one in broken if one.round == number])
        return SessionReport(name, ground, count, unsigned, tuple(rounds), tuple(_once([*findings, *chained])))

    @staticmethod
    def _judged(round_: Round) -> Iterator[Finding]:
        """What a round comes to, each violation once, with evidence that convinces by itself."""
        book, shown = BOOKS[round_.ground.spec.name], set[tuple[str, bytes]]()

        def judge(kept: Round) -> list[Finding]:
            return list(judge_round(kept, book))

        for one in judge(round_):
            if not isinstance(one, Violation):
                yield one
            elif (one.clause, one.who) not in shown:
                shown.add((one.clause, one.who))
                yield portable(one, round_, judge)


def judge_round(round_: Round, book: Book) -> Iterator[Finding]:
    """What the entries of one round come to."""
    yield from generic.citations(round_)
    yield from generic.roles(round_)
    yield from generic.order(round_, book.opens)
    yield from generic.once(round_, book.once)
    yield from chain.from_iterable(rule(round_) for rule in book.rules)


def _firsts(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Of an author's broken or open chain the first place in each round: a liar may leave as many as it likes."""
    seen: set[tuple[str, PeerId | None, int]] = set()
    for one in findings:
        what = (one.clause, one.who) if isinstance(one, Violation) else ("", one.whose)
        if (*what, one.round) not in seen:
            seen.add((*what, one.round))
            yield one


def _once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Each finding once; of what is missing, several entries may cite the same."""
    return iter(dict.fromkeys(findings))
