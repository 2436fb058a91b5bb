"""A few workers that encrypt and add, batch by batch, in order.

Each has one request under way, so memory does not grow with the vector. A request whose worker ends is made once more
to a fresh one: a ciphertext that was lost was never sent, so encrypting again is no second encryption.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from decentra.crypto.he.bfv import PUBLIC_BYTES
from decentra.crypto.he.ciphertexts import MAX_SUMMANDS, Buffer
from decentra.crypto.he.frames import BLOCK, NUMBER, Ended, Kind
from decentra.crypto.he.parameters import PARAMETERS
from decentra.crypto.he.process import SECONDS, Origin, Request, Worker, WorkerLost
from decentra.crypto.he.slots import Residues, check_residues
from decentra.errors import LocalError


class _Task(NamedTuple):
    request: Request
    ciphertexts: int
    """How many the answer holds."""
    origins: Sequence[Origin]


class Pool:
    """Workers that are started when they are first needed, and replaced when they end.

    Not for several threads at once. Use it in a ``with``, or call ``close``.

    Args:
        size: how many; more than there are cores gains nothing.
        seconds: how long one batch may take before its worker counts as lost.

    Raises:
        LocalError: a size below 1.
    """

    def __init__(self, size: int = 1, *, seconds: float = SECONDS) -> None:
        if size < 1:
            raise LocalError(f"a pool has at least one worker, not {size}")
        self._seconds = seconds
        self._workers: list[Worker | None] = [None] * size
        self._loaded: list[bytes | None] = [None] * size
        self._busy = False

    def encrypt(self, public: Buffer, residues: Residues, holder: Origin) -> Iterator[memoryview]:
        """Encrypts slots: a ciphertext of 131,072 bytes for each 8192, in order.

        Args:
            public: the key holder's public key, as it came.
            residues: as ``slots.encode`` gives them, masked or not.
            holder: whose key it is.

        Raises:
            RemoteError: the key is malformed, or no key at all.
            WorkerLost: workers ended.
            LocalError: slots that are not so, TenSEAL isn't installed, or the pool is at work.
        """
        check_residues(residues)
        if memoryview(public).nbytes != PUBLIC_BYTES:
            raise holder.broke(f"a public key has {PUBLIC_BYTES} bytes, not {memoryview(public).nbytes}")
        step = BLOCK * PARAMETERS.degree
        parts = (residues[low : low + step] for low in range(0, residues.size, step))
        tasks = (_Task(((Kind.ENCRYPT, part.data),), part.size // PARAMETERS.degree, (holder,)) for part in parts)
        return self._run(tasks, bytes(public), holder)

    def add(self, batches: Iterable[Sequence[Buffer]], origins: Sequence[Origin]) -> Iterator[memoryview]:
        """Adds ciphertexts: for each batch the sum of one from every contributor, in order.

        Args:
            batches: for each 8192 coordinates, the contributors' ciphertexts; ``zip(*map(split, vectors))``.
            origins: the contributors.

        Raises:
            RemoteError: a ciphertext is malformed; names its contributor.
            WorkerLost: workers ended.
            LocalError: a batch that has not one from each, more than 64, or the pool is at work.
        """
        if not 1 <= len(origins) <= MAX_SUMMANDS:
            raise LocalError(f"the ciphertexts of 1 to {MAX_SUMMANDS} contributors are added, not of {len(origins)}")
        return self._run((_sum_task(batch, origins) for batch in batches), None, None)

    def _run(self, tasks: Iterator[_Task], public: bytes | None, holder: Origin | None) -> Iterator[memoryview]:
        """The ciphertexts of every task's answer, in order; whoever is asked next was asked longest ago."""
        if self._busy:
            raise LocalError("this pool is still at work; read its answers to the end before the next call")
        self._busy = True
        waiting: deque[tuple[int, _Task]] = deque()
        try:
            for number, task in enumerate(tasks):
                index = number % len(self._workers)
                if len(waiting) == len(self._workers):
                    yield from self._answer(*waiting.popleft(), public, holder)
                waiting.append((index, task))
                self._ask(index, task, public, holder)
            while waiting:
                yield from self._answer(*waiting.popleft(), public, holder)
        finally:
            # Answers that nobody waits for any more would be taken for those to the next requests.
            for index, _ in waiting:
                self._drop(index)
            self._busy = False

    def _ask(self, index: int, task: _Task, public: bytes | None, holder: Origin | None) -> None:
        """Hands a task over; where the worker has ended meanwhile, that is noticed when it should answer."""
        try:
            self._ready(index, public, holder).send(task.request)
        except Ended:
            self._drop(index)

    def _answer(self, index: int, task: _Task, public: bytes | None, holder: Origin | None) -> list[memoryview]:
        size = PARAMETERS.ciphertext_bytes
        for again in (False, True):
            try:
                worker = self._workers[index]
                if again or worker is None:
                    worker = self._ready(index, public, holder)
                    worker.send(task.request)
                view = memoryview(worker.receive(Kind.CIPHERTEXT, task.ciphertexts * size, task.origins))
                return [view[low : low + size] for low in range(0, view.nbytes, size)]
            except Ended as fault:
                self._drop(index)
                how = str(fault)
        raise WorkerLost(how, task.origins, "is there memory left? Leave out whose bytes these are, or try again")

    def _ready(self, index: int, public: bytes | None, holder: Origin | None) -> Worker:
        """A worker that lives, with this public key."""
        worker = self._workers[index]
        if worker is None:
            worker = self._workers[index] = Worker(self._seconds)
        if public is not None and holder is not None and self._loaded[index] != public:
            worker.send(((Kind.LOAD, public),))
            worker.receive(Kind.DONE, 0, (holder,))
            self._loaded[index] = public
        return worker

    def _drop(self, index: int) -> None:
        worker, self._workers[index], self._loaded[index] = self._workers[index], None, None
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """Ends all workers."""
        for index in range(len(self._workers)):
            self._drop(index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sum_task(batch: Sequence[Buffer], origins: Sequence[Origin]) -> _Task:
    if len(batch) != len(origins):
        raise LocalError(f"there are {len(batch)} ciphertexts of {len(origins)} contributors; give one of each")
    for data, origin in zip(batch, origins, strict=True):
        if memoryview(data).nbytes != PARAMETERS.ciphertext_bytes:
            size = memoryview(data).nbytes
            raise origin.broke(f"a ciphertext has {PARAMETERS.ciphertext_bytes} bytes, this has {size}")
    frames = ((Kind.CIPHERTEXT, data) for data in batch)
    return _Task(((Kind.ADD, NUMBER.pack(len(batch))), *frames), 1, origins)
