"""A key in a process of its own: it never leaves that process, and is erased by ending it."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

import numpy as np

from decentra.crypto.he.bfv import PUBLIC_BYTES, Opened
from decentra.crypto.he.ciphertexts import Buffer
from decentra.crypto.he.frames import NUMBER, Ended, Kind
from decentra.crypto.he.parameters import PARAMETERS
from decentra.crypto.he.process import SECONDS, Origin, Worker, WorkerLost
from decentra.errors import LocalError

_MEND = "its key is gone with it, and nothing sent under it can be opened: the round fails"


class KeyHolder:
    """A fresh key for one slice of one round. Use it in a ``with``, or call ``erase``.

    Attributes:
        public: the public key as it travels: 262,176 bytes.

    Raises:
        LocalError: TenSEAL isn't installed; WorkerLost: its process ended.
    """

    def __init__(self, *, seconds: float = SECONDS) -> None:
        self._worker: Worker | None = Worker(seconds)
        self.public = bytes(self._ask(Kind.KEY, b"", Kind.PUBLIC, PUBLIC_BYTES, ()))

    def decrypt(self, sums: Iterable[Buffer], adder: Origin) -> Opened:
        """The slots of a slice's ciphertexts, in order, and the least noise budget among them.

        Nothing of it may leave before ``slots.open_sum`` has passed it.

        Args:
            sums: the slice's summed ciphertexts, on which both adders' hashes agree.
            adder: who sent them.

        Raises:
            RemoteError: one is malformed.
            WorkerLost: the process ended, and the key with it.
            LocalError: there are none, or the key was erased.
        """
        residues, budgets = [], []
        for data in sums:
            size = memoryview(data).nbytes
            if size != PARAMETERS.ciphertext_bytes:
                raise adder.broke(f"a ciphertext has {PARAMETERS.ciphertext_bytes} bytes, this has {size}")
            payload = self._ask(Kind.DECRYPT, data, Kind.OPENED, NUMBER.size + PARAMETERS.slot_bytes, (adder,))
            budgets.append(NUMBER.unpack_from(payload)[0])
            residues.append(np.frombuffer(payload, dtype=np.uint32, offset=NUMBER.size))
        if not residues:
            raise LocalError("there is no ciphertext to open")
        return Opened(np.concatenate(residues), min(budgets))

    def erase(self) -> None:
        """Ends the process that holds the key; a second time it does nothing."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(self, kind: Kind, payload: Buffer, expected: Kind, size: int, origins: tuple[Origin, ...]) -> bytearray:
        if self._worker is None:
            raise LocalError("this key was erased; a key serves one slice of one round")
        try:
            self._worker.send(((kind, payload),))
            return self._worker.receive(expected, size, origins)
        except Ended as fault:
            self._worker = None
            raise WorkerLost(str(fault), origins, _MEND) from fault

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.erase()
