"""The witness of a leak check: what this peer encoded, and everything that it received, on disk.

Whoever reads the folder sees this peer's updates, so it is for demonstrations and tests; ``decentra demo`` uses it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from decentra.errors import LocalError
from decentra.transfer import Announcement
from decentra.transport.base import Lane, Receive
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed
from decentra.wire.entry import parse as parse_entry
from decentra.wire.frame import FrameKind
from decentra.wire.frame import parse as parse_frame

CAPTURE = "received.bin"
"""Everything that came, but for the sums."""

RESULTS = "results.bin"
"""The pieces of the sums. A sum shows a coordinate that one peer alone moved as it is: that is what a sum tells."""

RESULT_KINDS = (".sum", "bucketed.mean", "bucketed.relay", "shamir-gram.slice")

UPDATES = "update-*.npy"
"""The encoded updates, one a round."""

_LENGTH = struct.Struct("<I")  # before each record of a capture


def write_record(file: BinaryIO, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
    """Appends one received message to a capture: its length as u32, little-endian, then its frames in order."""
    views = [memoryview(buffer) for buffer in buffers]
    file.write(_LENGTH.pack(sum(view.nbytes for view in views)))
    for view in views:
        file.write(view)


def read_capture(path: Path) -> Iterator[bytes]:
    """The records of a capture, in the order of receipt.

    Raises:
        LocalError: no such file, or it ends inside a record.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise LocalError(f"the capture {path} cannot be read ({error.strerror}); run the demo again") from error
    with file:
        while head := file.read(_LENGTH.size):
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else None
            record = file.read(length) if length is not None else b""
            if length != len(record):
                raise LocalError(f"the capture {path} ends inside a record; run the demo again")
            yield record


def _reopen(path: Path) -> BinaryIO:
    """A capture to be written on; a last record that was cut is given the length that it has."""
    path.touch()
    file = path.open("r+b")
    at, end = 0, file.seek(0, os.SEEK_END)
    while at < end:
        file.seek(at)
        head = file.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            file.truncate(at)
            break
        length, rest = _LENGTH.unpack(head)[0], end - at - _LENGTH.size
        if length > rest:
            file.seek(at)
            file.write(_LENGTH.pack(rest))
        at += _LENGTH.size + min(length, rest)
    file.seek(0, os.SEEK_END)
    return file


class Witness:
    """Writes captures of what came, ``received.bin`` and ``results.bin``, and one ``update-N.npy`` a round.

    Where a peer's earlier process left captures it goes on, even if that one was killed in the middle of a record.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = _reopen(folder / CAPTURE)
        self._results = _reopen(folder / RESULTS)
        self._sums: set[tuple[PeerId, int]] = set()

    def update(self, round_id: RoundId, encoded: NDArray[Any]) -> None:
        """Keep an encoded update, before any mask is on it."""
        np.save(self._folder / UPDATES.replace("*", str(round_id.number)), encoded)

    def wrap(self, receive: Receive) -> Receive:
        """The same receiver, after writing down what came."""

        def tapped(peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
            file = self._results if self._is_result(peer, lane, header, buffers) else self._file
            write_record(file, (header, *buffers))
            file.flush()  # a kill must not lose what came before it
            receive(peer, lane, header, buffers)

        return tapped

    def _is_result(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> bool:
        """Whether this is a piece of a sum or of a bucket's mean: a transfer that such an entry announced."""
        try:
            frame = parse_frame(lane, header, [buffer.nbytes for buffer in buffers])
            if frame.kind is FrameKind.ENTRY_BLOB and parse_entry(bytes(buffers[1])).kind.endswith(RESULT_KINDS):
                self._sums.add((peer, Announcement.parse(buffers[0]).transfer))
        except (ValueError, Malformed):
            return False
        return frame.kind is FrameKind.PIECE and (peer, frame.number) in self._sums

    def close(self) -> None:
        """Write out what came."""
        self._file.close()
        self._results.close()
