"""Where blobs live: machines name them, jobs read and write them, transfers send them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock, local
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from decentra.driver.tally import BULK, SMALL, Tally
from decentra.errors import LocalError
from decentra.machine.effects import Job
from decentra.machine.events import Blob
from decentra.transfer import blob_root, piece_digests
from decentra.types import RoundId
from decentra.wire.entry import ZERO

Random = Callable[[int], bytes]
Witness = Callable[[RoundId, NDArray[Any]], None]


class Keeper(Protocol):
    """Keeps a session's secrets for self-audit, where this peer's owner asked for it. Called on threads of the pool."""

    def ran(self, job: Job, drawn: bytes) -> None:
        """A job has run, with this randomness."""
        ...

    def encoded(self, round_id: RoundId, vector: NDArray[Any]) -> None:
        """This is an encoded update, before any mask is on it."""
        ...


Keeps = Callable[[bytes], Keeper]
"""Gives what keeps the secrets of a session."""


@dataclass
class _Held:
    data: NDArray[np.uint8]
    digests: tuple[bytes, ...]
    transfers: int = 0
    released: bool = False


class BlobStore:
    """Holds every blob of a peer until its machine has released it and no transfer needs it. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: dict[int, _Held] = {}
        self._next = 0

    @property
    def bytes_held(self) -> int:
        """Bytes in all blobs; slices of one array count once each."""
        with self._lock:
            return sum(held.data.nbytes for held in self._held.values())

    def put(self, data: NDArray[Any], digests: tuple[bytes, ...]) -> Blob:
        """Take a contiguous array; ``digests`` are those of its pieces, none if nobody will cite it."""
        raw = data.reshape(-1).view(np.uint8)
        with self._lock:
            self._next += 1
            self._held[self._next] = _Held(raw, digests)
            return Blob(self._next, raw.nbytes, blob_root(raw.nbytes, digests) if digests else ZERO)

    def view(self, blob: Blob) -> NDArray[np.uint8]:
        """A blob's bytes. Raises LocalError where it was released: a job outlived the round that asked for it."""
        with self._lock:
            held = self._held.get(blob.id)
        if held is None:
            raise LocalError("a job reads a blob that was released: its round is over")
        return held.data

    def digests(self, blob: Blob) -> tuple[bytes, ...]:
        with self._lock:
            digests = self._held[blob.id].digests
        if not digests:
            raise LocalError("a blob is sent that was not to be cited; a defect of decentra")
        return digests

    def lend(self, blob: Blob) -> None:
        """A transfer begins to need the blob."""
        with self._lock:
            self._held[blob.id].transfers += 1

    def give_back(self, blob: Blob) -> None:
        """A transfer needs the blob no more."""
        with self._lock:
            held = self._held.get(blob.id)
            if held is not None:
                held.transfers -= 1
                self._forget(blob.id, held)

    def release(self, blob: Blob) -> None:
        """The machine needs the blob no more. A second release does nothing."""
        with self._lock:
            held = self._held.get(blob.id)
            if held is not None:
                held.released = True
                self._forget(blob.id, held)

    def _forget(self, key: int, held: _Held) -> None:
        if held.released and held.transfers <= 0:
            del self._held[key]


class Workbench:
    """The tools of a job (``machine.effects.Tools``) over a store of blobs; remembers what a round made, to free it."""

    def __init__(
        self,
        store: BlobStore,
        random: Random,
        witness: Witness | None = None,
        tally: Tally | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._store, self._random, self._witness, self._keeper = store, random, witness, keeper
        self._tally = tally or Tally()
        self._at = local()
        self._lock = Lock()
        self._made: list[Blob] = []
        self._over = False

    def run(self, job: Job) -> object:
        """Run a job here, as a pool does, and count its CPU: as bulk where it touches a blob. Raises what it raises."""
        self._at.work, began = SMALL, self._tally.now()
        self._at.drawn = bytearray()
        try:
            value = job.run(self)
        finally:
            self._tally.job(began, self._at.work)
        if self._keeper is not None:
            self._keeper.ran(job, bytes(self._at.drawn))
        return value

    def random(self, count: int) -> bytes:
        drawn = self._random(count)
        if self._keeper is not None:
            self._at.drawn += drawn
        return drawn

    def view(self, blob: Blob) -> NDArray[np.uint8]:
        self._at.work = BULK
        return self._store.view(blob)

    def keep(self, data: NDArray[Any], cite: bool = True) -> Blob:
        flat = data.reshape(-1)
        digests = piece_digests(flat.view(np.uint8).data) if cite else ()
        return self.adopt(flat, digests)

    def adopt(self, data: NDArray[Any], digests: tuple[bytes, ...]) -> Blob:
        """A blob whose pieces' digests are known already."""
        self._at.work = BULK
        blob = self._store.put(data, digests)
        with self._lock:
            self._made.append(blob)
            over = self._over
        if over:  # a job of a round that has ended: nobody will ever ask for this, or release it
            self._store.release(blob)
        return blob

    def drop(self, blob: Blob) -> None:
        self._store.release(blob)

    def witness(self, round_id: RoundId, encoded: NDArray[Any]) -> None:
        if self._witness is not None:
            self._witness(round_id, encoded)
        if self._keeper is not None:
            self._keeper.encoded(round_id, encoded)

    def clear(self, keep: Blob | None = None) -> None:
        """Release everything that the round made, but for its result; what is still being sent stays until it is."""
        with self._lock:
            made, self._made, self._over = self._made, [], True
        for blob in made:
            if keep is None or blob.id != keep.id:
                self._store.release(blob)
