"""The transcripts in a peer's folder: of each session what the peer signed, and what it heard from the others.

What others signed is what shows a fork, two histories that two peers were shown. It goes to files as it comes, piece by
piece, and nothing waits for it: a loss of power may cut the last entry, which the next start mends.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from decentra.audit import transcript
from decentra.charter import Charter
from decentra.errors import LocalError
from decentra.types import PeerId

PIECE = 8 << 20
"""Bytes of what was heard in one file; the next file begins behind that."""


class Transcripts:
    """The folder of one peer's transcripts, which holds no more than it may: what is oldest goes first.

    Args:
        folder: where they are; made when there is something to write.
        me: whose they are.
        keep: bytes that all of them may take.
    """

    def __init__(self, folder: Path, me: PeerId, keep: int) -> None:
        self._folder, self._me, self._keep = folder, me, keep

    @property
    def most_own(self) -> int:
        """Bytes that the own entries of one session may take: half, so that there is room for what others said."""
        return self._keep // 2

    def path(self, session: bytes) -> Path:
        """Where what the peer itself signed in a session is written."""
        return self._folder / f"{self._stem(session)}.log"

    def write(self, session: bytes, charter: Charter, log: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Write what the peer itself signed in a session of a charter.

        Raises:
            LocalError: the folder or the disk does not take it.
        """
        path = self.path(session)
        transcript.write(path, charter.to_toml(), log)
        self.prune(path)

    def heard(self, session: bytes, charter: Charter) -> Heard:
        """Where what the others signed in a session of a charter is appended."""
        return Heard(self, self._folder, self._stem(session), charter.to_toml())

    def prune(self, sparing: Path) -> None:
        """Remove what is oldest, until all of it fits; but not the file that was written just now.

        Raises:
            LocalError: the folder can't be read, or a file can't be removed.
        """
        try:
            found = [(one.stat().st_mtime_ns, one.stat().st_size, one) for one in self._folder.glob("*.log")]
            excess = sum(size for _, size, _ in found) - self._keep
            for _, size, path in sorted(found):
                if excess > 0 and path != sparing:
                    path.unlink()
                    excess -= size
        except OSError as error:
            raise LocalError(
                f"old transcripts in {self._folder} can't be removed ({error.strerror}); check who owns the folder"
            ) from error

    def _stem(self, session: bytes) -> str:
        return f"{session.hex()[:16]}-{self._me}"


class Heard:
    """Appends what others signed in a session to files of `PIECE` bytes, each a transcript of its own.

    Only one thread may use it.
    """

    def __init__(self, room: Transcripts, folder: Path, stem: str, charter: str) -> None:
        self._room, self._folder, self._stem = room, folder, stem
        self._head = transcript.headed(charter)
        self._path: Path | None = None
        self._size = 0

    def append(self, log: Iterable[tuple[bytes, bytes]]) -> None:
        """Write entries, each with its body, or with none where the spec logs that by hash.

        Raises:
            LocalError: the folder or the disk does not take them.
        """
        added = b"".join(transcript.recorded(entry, body) for entry, body in log)
        try:
            begun = self._path is None or self._size >= PIECE or not self._path.exists()
            path = self._next() if begun or self._path is None else self._path
            data = self._head + added if begun else added
            with path.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise LocalError(
                f"what the others say can't be written to {self._folder} ({error.strerror}), so the transcripts go on "
                "without it; free the disk and start this peer again"
            ) from error
        self._path, self._size = path, (0 if begun else self._size) + len(data)
        if begun:
            self._room.prune(path)

    def _next(self) -> Path:
        """A file that is not there yet, behind all that are. The last of another run may have been cut."""
        self._folder.mkdir(parents=True, exist_ok=True)
        before = sorted(self._folder.glob(f"{self._stem}.heard-*.log"))
        if before and self._path is None:
            transcript.mend(before[-1])
        number = 1 + int(before[-1].name.rpartition("-")[2].removesuffix(".log")) if before else 1
        return self._folder / f"{self._stem}.heard-{number:06d}.log"
