"""Transcripts: a peer's signed, hash-chained log of one session, as a file that an outsider can check.

The file is a sequence of MessagePack arrays: first ``["charter", its TOML]``, then ``[entry, body]`` for each entry;
the body is empty where the spec logs it by hash (``specs/wire/README.md``). Several, one behind another, are one again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from decentra.errors import LocalError
from decentra.wire.codec import MAX_BODY, MAX_ENTRY, MIN_ENTRY, Malformed, Signed, pack
from decentra.wire.reader import Reader

MAX_RECORD = MAX_ENTRY + MAX_BODY + 16
"""Bytes of the largest entry and body together, and of the lengths that stand before them."""


HEAD = "charter"
"""What the first item of a record says that holds a charter, and no entry."""

MAX_CHARTER = 64 << 10
"""Bytes of the largest charter in a transcript; one of 64 members, signed by all, has a third of them."""


def _record(reader: Reader) -> Signed | str:
    """The next entry, or charter. Raises Malformed."""
    if reader.array(2, "an entry") != 2:
        raise Malformed("an entry and its body are an array of 2")
    if reader.comes() == "bytes":
        return Signed(reader.binary(MIN_ENTRY, MAX_ENTRY, "an entry"), reader.binary(0, MAX_BODY, "a body"))
    if reader.text(len(HEAD), "a charter") != HEAD:
        raise Malformed("neither an entry nor a charter")
    try:
        return reader.binary(0, MAX_CHARTER, "a charter").decode()
    except UnicodeDecodeError:
        raise Malformed("a charter that is no text") from None


def headed(charter: str) -> bytes:
    """What a transcript begins with."""
    return pack((HEAD, charter.encode()))


def recorded(entry: bytes, body: bytes | None) -> bytes:
    """An entry in a transcript, with its body, or with none where the spec logs that by hash."""
    return pack((entry, body or b""))


def write(path: Path, charter: str, log: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Write a session's charter and entries; beside the file first, then in its place.

    Raises:
        LocalError: the folder or the disk does not take it.
    """
    beside = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(headed(charter))
            for entry, body in log:
                file.write(recorded(entry, body))
        beside.replace(path)
    except OSError as error:
        raise LocalError(
            f"the transcript {path} can't be written ({error.strerror}); free the disk: the journal still has all of it"
        ) from error


def read(path: Path, heads: Callable[[str], None] = lambda charter: None) -> Iterator[Signed]:
    """The entries of a transcript in the file's order, not verified. Memory is bounded by a few times the file's size,
    whatever it holds.

    Args:
        heads: told each charter that the file holds, before the entries behind it are given.

    Raises:
        LocalError: the file is missing, or is not a transcript from some place on.
    """
    at = 0
    try:
        for record, end in _records(path):
            at = end
            if isinstance(record, Signed):
                yield record
            else:
                heads(record)
    except Malformed as error:
        what = f"{path} is no transcript from byte {at} on ({error})"
        raise LocalError(f"{what}; ask its peer for a whole copy") from error
    except OSError as error:
        raise LocalError(f"the transcript {path} can't be read ({error.strerror}); check who owns it") from error


def mend(path: Path) -> None:
    """Cut what is behind the last whole record of a transcript, which a crash left there.

    Raises:
        OSError: the file can't be read or written.
    """
    whole = 0
    try:
        for _, end in _records(path):
            whole = end
    except Malformed:
        with path.open("r+b") as file:
            file.truncate(whole)


def _records(path: Path) -> Iterator[tuple[Signed | str, int]]:
    """The entries and charters of a transcript, each with the place in the file behind it. Raises Malformed."""
    at = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            file.seek(at)
            reader = Reader(file.read(min(2 * MAX_RECORD, size - at)), 2 * MAX_RECORD)
            end = at + reader.left
            if reader.left < 2 * MAX_RECORD:
                size = end  # the last of it, also where the file has become shorter
            left = reader.left
            while left >= MAX_RECORD or (left and end == size):
                record = _record(reader)
                left = reader.left
                at = end - left
                yield record, at
