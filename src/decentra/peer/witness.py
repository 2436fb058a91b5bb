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

from decentra.transport.base import Lane, Receive
from decentra.types import PeerId, RoundId

_LENGTH = struct.Struct("<I")
RECEIVED = "received.bin"


def update_file(folder: Path, number: int) -> Path:
    """Where the encoded update of a round lies."""
    return folder / f"update-{number}.npy"


class Witness:
    """Writes ``received.bin`` (records, each after its length as four little-endian bytes) and ``update-N.npy``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = (folder / RECEIVED).open("wb")

    def update(self, round_id: RoundId, encoded: NDArray[Any]) -> None:
        """Keep an encoded update, before any mask is on it."""
        np.save(update_file(self._folder, round_id.number), encoded)

    def wrap(self, receive: Receive) -> Receive:
        """The same receiver, after writing down what came."""

        def tapped(peer: PeerId, lane: Lane, header: bytes, buffers: Sequence[memoryview]) -> None:
            record = (header, *buffers)
            self._file.write(_LENGTH.pack(sum(memoryview(part).nbytes for part in record)))
            for part in record:
                self._file.write(part)
            receive(peer, lane, header, buffers)

        return tapped

    def close(self) -> None:
        self._file.close()
