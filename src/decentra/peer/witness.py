"""The witness of a leak check: what this peer encoded, and everything that it received, on disk.

Whoever reads the folder sees this peer's updates, so it is for demonstrations and tests; ``decentra demo`` uses it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decentra.transfer import Announcement
from decentra.transport.base import Lane, Receive
from decentra.types import PeerId, RoundId
from decentra.wire.codec import Malformed
from decentra.wire.entry import parse as parse_entry
from decentra.wire.frame import FrameKind
from decentra.wire.frame import parse as parse_frame

_LENGTH = struct.Struct("<I")
RECEIVED = "received.bin"
"""Everything that came, but for the sums."""

RESULTS = "results.bin"
"""The pieces of the sums. A sum shows a coordinate that one peer alone moved as it is: that is what a sum tells."""


def update_file(folder: Path, number: int) -> Path:
    """Where the encoded update of a round lies."""
    return folder / f"update-{number}.npy"


class Witness:
    """Writes ``received.bin`` and ``results.bin`` (records, each after its length as four little-endian bytes), and one
    ``update-N.npy`` a round."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = (folder / RECEIVED).open("wb")
        self._results = (folder / RESULTS).open("wb")
        self._sums: set[tuple[PeerId, int]] = set()

    def update(self, round_id: RoundId, encoded: NDArray[Any]) -> None:
        """Keep an encoded update, before any mask is on it."""
        np.save(update_file(self._folder, round_id.number), encoded)

    def wrap(self, receive: Receive) -> Receive:
        """The same receiver, after writing down what came."""

        def tapped(peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
            file = self._results if self._is_result(peer, lane, header, buffers) else self._file
            file.write(_LENGTH.pack(len(header) + sum(part.nbytes for part in buffers)) + header)
            for part in buffers:
                file.write(part)
            receive(peer, lane, header, buffers)

        return tapped

    def _is_result(self, peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> bool:
        """Whether this is a piece of a slice's sum: a transfer that an entry of the kind ``*.sum`` announced."""
        try:
            frame = parse_frame(lane, header, [buffer.nbytes for buffer in buffers])
            if frame.kind is FrameKind.ENTRY_BLOB and parse_entry(bytes(buffers[1])).kind.endswith(".sum"):
                self._sums.add((peer, Announcement.parse(buffers[0]).transfer))
        except (ValueError, Malformed):
            return False
        return frame.kind is FrameKind.PIECE and (peer, frame.number) in self._sums

    def close(self) -> None:
        self._file.close()
        self._results.close()
