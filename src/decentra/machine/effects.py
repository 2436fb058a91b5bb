"""Effects: everything that a machine can ask for. The driver carries them out strictly in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from decentra.errors import DecentraError, RemoteError
from decentra.machine.events import Blob
from decentra.types import PeerId, RoundId
from decentra.wire.entry import ZERO
from decentra.wire.message import Message


class Tools(Protocol):
    """What a job may use: randomness and blobs. Jobs run on the pool, so everything here is safe in any thread."""

    def random(self, count: int) -> bytes:
        """``count`` bytes of the operating system's randomness; of the seed's in a simulation."""
        ...

    def view(self, blob: Blob) -> NDArray[np.uint8]:
        """A blob's bytes, not to be written to unless the job's machine owns the blob."""
        ...

    def keep(self, data: NDArray[Any], cite: bool = True) -> Blob:
        """Hand a contiguous array over as a new blob. Its digest is computed here, unless nobody will cite it."""
        ...

    def drop(self, blob: Blob) -> None:
        """Release a blob from within a job, as soon as its bytes were used."""
        ...

    def witness(self, round_id: RoundId, encoded: NDArray[Any]) -> None:
        """Show an encoded update, before it is masked, to a leak check that the peer's owner asked for."""
        ...


class Job(Protocol):
    """Heavy or random work, described by plain data. Raises LocalError where this peer's own input is at fault and
    ValueError where a peer's is; the machine that asked knows whose."""

    def run(self, tools: Tools) -> object: ...


@dataclass(frozen=True)
class Send:
    """Sign a message and send it to ``to``, or to everyone in the machine's group where ``to`` is None.

    ``blobs`` go beside it, one a receiver. ``after`` is the hash of the entry that opened the phase. ``lasting`` ones
    others may need to end a round that has ended well here; what is not, is withdrawn then.
    """

    message: Message
    to: PeerId | None = None
    blobs: Mapping[PeerId, Blob] = field(default_factory=dict)
    after: bytes = ZERO
    lasting: bool = False


@dataclass(frozen=True)
class SetTimer:
    """Give ``Expired(name)`` after ``after`` seconds; a second timer of one name replaces the first."""

    name: str
    after: float


@dataclass(frozen=True)
class Record:
    """A one-time act, as the journal keeps it: its kind (``intent``, ``prepare``, ``commit``, ``reveal``, ``done``),
    the topic that can have one such act a round, and what it binds the peer to."""

    kind: str
    topic: str
    value: bytes


@dataclass(frozen=True)
class Persist:
    """Make a record durable before any later effect of the same list is carried out."""

    record: Record


@dataclass(frozen=True)
class Compute:
    """Start a job on the pool; its value is the later event ``Computed(name, value)``."""

    name: str
    job: Job


@dataclass(frozen=True)
class Release:
    """The machine will not name this blob again; it goes once no transfer needs it either."""

    blob: Blob


@dataclass(frozen=True)
class Blame:
    """Take down which clause a peer broke, in a round that goes on without what broke it."""

    error: RemoteError


@dataclass(frozen=True)
class Finish:
    """The machine is done, with this result."""

    result: object


@dataclass(frozen=True)
class Abort:
    """The machine gives up; ``spent`` says whether its update has left this peer."""

    error: DecentraError
    spent: bool


Effect = Send | SetTimer | Persist | Compute | Release | Blame | Finish | Abort
