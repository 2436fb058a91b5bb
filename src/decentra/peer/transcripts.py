"""The transcripts in a peer's folder: of each session what the peer signed, and what it heard from the others.

What others signed is what shows a fork, two histories that two peers were shown. It goes to files as it comes, those of
each author apart, and nothing waits for it: a loss of power may cut the last entry, which the next start mends.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from decentra.audit import transcript
from decentra.charter import Charter
from decentra.errors import LocalError
from decentra.types import PeerId

PIECE = 8 << 20
"""Bytes of what was heard of one author in one file at most; the next file begins behind that."""

_PIECES = 4
"""Files that an author's part of the folder is made of at least: the oldest goes, and the others stay."""

_NUMBERED = re.compile(r".*-([0-9]{6,})\.log")


class Transcripts:
    """The folder of one peer's transcripts, which holds no more than it may.

    Half of it is for what the peer itself signs, half for what the others do, in equal parts, so that nobody who says
    much has another's words removed. Files of earlier sessions go first, the oldest before the others.

    Args:
        folder: where they are; made when there is something to write.
        me: whose they are.
        keep: bytes that all of them may take.
        sessions: how many sessions the peer has at a time.
    """

    def __init__(self, folder: Path, me: PeerId, keep: int, sessions: int = 1) -> None:
        self._folder, self._me, self._keep, self._sessions = folder, me, keep, sessions
        self._open: set[str] = set()
        """How the names of the files of this process's sessions begin."""
        self._lock = Lock()

    @property
    def most_own(self) -> int:
        """Bytes that the own entries of one session may take."""
        return self._keep // (2 * self._sessions)

    def path(self, session: bytes) -> Path:
        """Where what the peer itself signed in a session is written."""
        return self._folder / f"{self._stem(session)}.log"

    def write(self, session: bytes, charter: Charter, log: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Write what the peer itself signed in a session of a charter.

        Raises:
            LocalError: the folder or the disk does not take it.
        """
        self._open.add(self._stem(session))
        transcript.write(self.path(session), charter.to_toml(), log)
        self.prune()

    def heard(self, session: bytes, charter: Charter) -> Heard:
        """Where what the others signed in a session of a charter is appended."""
        self._open.add(self._stem(session))
        share = self.most_own // max(1, len(charter.members) - 1)
        return Heard(self, self._folder, self._stem(session), charter.to_toml(), share)

    def prune(self) -> None:
        """Remove files of earlier sessions, the oldest first, until all of it fits.

        Raises:
            LocalError: the folder can't be read, or a file can't be removed.
        """
        try:
            with self._lock:
                found = [(one.stat().st_mtime_ns, one.stat().st_size, one) for one in self._folder.glob("*.log")]
                excess = sum(size for _, size, _ in found) - self._keep
                for _, size, path in sorted(found):
                    if excess > 0 and not path.name.startswith(tuple(self._open)):
                        path.unlink()
                        excess -= size
        except OSError as error:
            raise LocalError(
                f"old transcripts in {self._folder} can't be removed ({error.strerror}); check who owns the folder"
            ) from error

    def _stem(self, session: bytes) -> str:
        return f"{session.hex()[:16]}-{self._me}"


class Heard:
    """Appends what others signed in a session to files, those of each author apart, each a transcript of its own.

    Only one thread may use it.

    Args:
        share: bytes that the files of one author may take.
    """

    def __init__(self, room: Transcripts, folder: Path, stem: str, charter: str, share: int) -> None:
        self._room, self._folder, self._stem, self._share = room, folder, stem, share
        self._head = transcript.headed(charter)
        self._piece = min(PIECE, share // _PIECES)
        self._files: dict[PeerId, tuple[Path, int]] = {}
        """Of each author the file that is written to, and its size."""

    def append(self, log: Iterable[tuple[PeerId, bytes, bytes]]) -> None:
        """Write entries by author, each with its body, or with none where the spec logs that by hash.

        Raises:
            LocalError: the folder or the disk does not take them.
        """
        added: dict[PeerId, list[bytes]] = defaultdict(list)
        for author, entry, body in log:
            added[author].append(transcript.recorded(entry, body))
        try:
            for author, records in added.items():
                self._append(author, b"".join(records))
        except OSError as error:
            raise LocalError(
                f"what the others say can't be written to {self._folder} ({error.strerror}), so the transcripts go on "
                "without it; free the disk and start this peer again"
            ) from error

    def _append(self, author: PeerId, data: bytes) -> None:
        path, size = self._files.get(author, (None, 0))
        if path is None or size >= self._piece:
            path, size, data = self._next(author, path is None), 0, self._head + data
        with path.open("ab") as file:
            file.write(data)
        self._files[author] = path, size + len(data)

    def _next(self, author: PeerId, mend: bool) -> Path:
        """A file that is not there yet, behind all that are; the oldest make room for it. The last of another run may
        have been cut."""
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self._stem}.heard-{author}"
        numbered = ((_NUMBERED.fullmatch(path.name), path) for path in self._folder.glob(f"{stem}-*.log"))
        before = sorted((int(found[1]), path) for found, path in numbered if found is not None)
        if before and mend:
            transcript.mend(before[-1][1])
        sizes = [path.stat().st_size for _, path in before]
        while before and sum(sizes) > self._share - self._piece:
            before.pop(0)[1].unlink()
            sizes.pop(0)
        self._room.prune()
        return self._folder / f"{stem}-{before[-1][0] + 1 if before else 1:06d}.log"
