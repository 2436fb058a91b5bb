"""What peers of different epochs hear of each other: frames that belong to no session, and greetings of another one."""

from __future__ import annotations

from collections.abc import Sequence

from decentra.transfer.events import Elsewhere, Handed, Holds
from decentra.types import EpochName
from decentra.wire.frame import ADDRESSES_LIMIT, CHARTER_LIMIT, Frame, FrameKind

HASHES = 64
"""Bytes of a charter's hash and an outcome's, side by side."""


class Abroad:
    """What one neighbour says from outside of a link's session.

    Args:
        epoch: which epoch's session the link's is.
    """

    def __init__(self, epoch: EpochName) -> None:
        self._epoch = epoch
        self._greeted: tuple[bytes, EpochName] | None = None
        """The other session that the neighbour greeted from last, and its epoch."""

    def elsewhere(self, frame: Frame) -> Elsewhere:
        """A frame of another session. What greets says of which; what does not has no place here.

        Raises:
            ValueError: it does not greet.
        """
        if frame.kind in (FrameKind.HELLO, FrameKind.WELCOME):
            self._greeted = frame.session, frame.epoch
            return Elsewhere(frame.epoch)
        if self._greeted is not None and self._greeted[0] == frame.session:
            raise ValueError(f"its frames are of {self._greeted[1]}, and this peer is in {self._epoch}")
        raise ValueError(f"its frames belong to another session than that of {self._epoch}: compare its charter")

    def told(self, frame: Frame, buffers: Sequence[memoryview]) -> Holds | Handed:
        """A frame of no session.

        Raises:
            ValueError: its parts have not the sizes that it needs.
        """
        parts = [bytes(buffer) for buffer in buffers]
        if frame.kind is FrameKind.HOLDS:
            if len(parts[0]) != HASHES:
                raise ValueError(f"what it holds is named by two hashes, and not by {len(parts[0])} bytes")
            return Holds(EpochName(frame.number, parts[0][:32]), frame.session, frame.round, parts[0][32:])
        if len(parts[0]) > CHARTER_LIMIT or len(parts[1]) > ADDRESSES_LIMIT:
            raise ValueError(f"it handed over a charter of {len(parts[0])} bytes")
        return Handed(*parts)
