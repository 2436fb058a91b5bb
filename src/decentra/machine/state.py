"""What a caller's state must do for a group to hold it alike: the vocabulary that training and the driver share."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SharedState(Protocol):
    """State of the caller's that is equal at every peer before a round, or is made equal (training's parameters)."""

    def digest(self) -> bytes:
        """SHA-256 of the exported bytes, one array after another."""
        ...

    def export(self) -> list[NDArray[np.uint8]]:
        """Views of the state's bytes, valid while the state does not change: until ``average`` returns."""
        ...

    def adopt(self, data: memoryview) -> None:
        """Replace the state by another peer's exported bytes; raises LocalError where they are no such state."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that ``export`` gives and ``adopt`` takes."""
        ...
