"""Transcripts: a peer's signed, hash-chained log of one session, as a file that an outsider can check.

The file is a sequence of MessagePack arrays ``[entry, body]``; the body is empty where the spec logs it by hash
(``specs/wire/README.md``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from decentra.errors import LocalError
from decentra.wire.codec import MAX_BODY, MAX_ENTRY, Malformed, Signed, pack, read_signed
from decentra.wire.reader import Reader

MAX_RECORD = MAX_ENTRY + MAX_BODY + 16
"""Bytes of the largest entry and body together, and of the lengths that stand before them."""


def write(path: Path, log: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Write a session's own entries; beside the file first, then in its place.

    Raises:
        LocalError: the folder or the disk does not take it.
    """
    beside = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            for entry, body in log:
                file.write(pack((entry, body or b"")))
        beside.replace(path)
    except OSError as error:
        raise LocalError(
            f"the transcript {path} can't be written ({error.strerror}); free the disk: the journal still has all of it"
        ) from error


def read(path: Path) -> Iterator[Signed]:
    """The entries of a transcript in the file's order, not verified. Memory is bounded by a few times the file's size,
    whatever it holds.

    Raises:
        LocalError: the file is missing, or is not a transcript from some place on.
    """
    at = 0
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while at < size:
                file.seek(at)
                reader = Reader(file.read(min(2 * MAX_RECORD, size - at)), 2 * MAX_RECORD)
                end = at + reader.left
                if reader.left < 2 * MAX_RECORD:
                    size = end  # the last of it, also where the file has become shorter
                while reader.left >= MAX_RECORD or (reader.left and end == size):
                    yield read_signed(reader, "an entry")
                    at = end - reader.left
    except Malformed as error:
        what = f"{path} is no transcript from byte {at} on ({error})"
        raise LocalError(f"{what}; ask its peer for a whole copy") from error
    except OSError as error:
        raise LocalError(f"the transcript {path} can't be read ({error.strerror}); check who owns it") from error
