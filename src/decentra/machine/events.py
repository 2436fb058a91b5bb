"""Events: everything that can happen to a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from decentra.wire.message import Verified


@dataclass(frozen=True)
class Blob:
    """A handle of bulk data that the driver holds. ``root`` is the digest that a signed body cites for it."""

    id: int
    size: int
    root: bytes


@dataclass(frozen=True)
class Start:
    """The round begins: the first event of every machine."""


@dataclass(frozen=True)
class Supplied:
    """The update of a round that began ahead of it is here: float32 tensors, which may be computed as they are read."""

    update: Sequence[NDArray[np.float32]] = field(repr=False)
    weight: int = 1
    residual: Sequence[NDArray[np.float32]] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Received:
    """A verified message, with its blob once that is whole; a peer's own broadcasts come back to it so."""

    verified: Verified
    blob: Blob | None = None


@dataclass(frozen=True)
class Expired:
    """A timer that the machine set has run out."""

    timer: str


@dataclass(frozen=True)
class Computed:
    """A job that the machine asked for has its value: an exception as a value where the job refused its input."""

    name: str
    value: object


Event = Start | Supplied | Received | Expired | Computed
