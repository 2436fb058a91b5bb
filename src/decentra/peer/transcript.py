"""Transcripts: a peer's signed, hash-chained log of one session, as a file that an outsider can check.

The file is a sequence of MessagePack arrays ``[entry, body]``; the body is empty where the spec logs it by hash
(``specs/wire/README.md``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgpack

from decentra.errors import LocalError
from decentra.wire.codec import MAX_BODY, MAX_ENTRY, Signed, pack


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
    """The entries of a transcript in the file's order, not verified.

    Raises:
        LocalError: the file is missing, or is not a transcript from some place on.
    """
    try:
        with path.open("rb") as file:
            unpacker = msgpack.Unpacker(file, raw=False, use_list=False, max_buffer_size=MAX_BODY + MAX_ENTRY + 64)
            end = 0
            for item in unpacker:
                end = unpacker.tell()
                match item:
                    case (bytes(entry), bytes(body)):
                        yield Signed(entry, body)
                    case _:
                        raise LocalError(f"{path} is not a transcript: it holds something else than signed entries")
            if end != path.stat().st_size:
                raise LocalError(f"the transcript {path} ends inside an entry; ask its peer for a whole copy")
    except (OSError, ValueError, msgpack.UnpackException) as error:
        raise LocalError(f"{path} can't be read as a transcript ({error})") from error
