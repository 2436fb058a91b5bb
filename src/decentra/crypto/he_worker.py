"""``python -m decentra.crypto.he_worker``: encrypts, adds and decrypts what comes through its pipes, until they end.

``he.pool`` and ``he.keyholder`` start it. It writes no files, dumps no core (a key may be in its memory), and may take
256 MiB of address space beyond what it has when it begins. What it can't refuse ends it, and nobody else.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from decentra.crypto.he import frames
from decentra.crypto.he.bfv import Encryptor, Key
from decentra.crypto.he.ciphertexts import MAX_SUMMANDS, Buffer, Sum
from decentra.crypto.he.frames import MAX_TEXT, NUMBER, Ended, Kind
from decentra.crypto.he.parameters import PARAMETERS, Malformed
from decentra.errors import LocalError

MAX_EXTRA = 256 << 20
"""Bytes of address space: TenSEAL's libraries, its pools and thread stacks take 120 MiB."""

Answer = tuple[Kind, tuple[Buffer, ...]]


class Desk:
    """Answers requests, one after another; what it keeps is a public key or a secret one."""

    def __init__(self, inbox: int) -> None:
        self._inbox = inbox
        self._encryptor: Encryptor | None = None
        self._key: Key | None = None

    def answer(self, kind: Kind, payload: bytearray) -> Answer:
        """What is said to a request.

        Raises:
            Ended: a request that the other side never makes.
        """
        try:
            return self._answer(kind, payload)
        except Malformed as fault:
            return Kind.REFUSED, (NUMBER.pack(0), _text(fault))
        except LocalError as fault:
            return Kind.FAILED, (_text(fault),)

    def _answer(self, kind: Kind, payload: bytearray) -> Answer:
        if kind is Kind.LOAD:
            self._encryptor = None
            self._encryptor = Encryptor(payload)
            return Kind.DONE, ()
        if kind is Kind.ENCRYPT and self._encryptor is not None:
            rows = np.frombuffer(payload, dtype=np.uint32).reshape(-1, PARAMETERS.degree)
            return Kind.CIPHERTEXT, tuple(self._encryptor.encrypt(row) for row in rows)
        if kind is Kind.ADD:
            return self._add(NUMBER.unpack(payload)[0])
        if kind is Kind.KEY and self._key is None:
            self._key = Key()
            return Kind.PUBLIC, (self._key.public,)
        if kind is Kind.DECRYPT and self._key is not None:
            residues, budget = self._key.decrypt(payload)
            return Kind.OPENED, (NUMBER.pack(budget), residues.data)
        raise Ended(f"there is nothing to say to {kind.name} now")

    def _add(self, count: int) -> Answer:
        """Reads them all, also behind one that is malformed: the next request stands behind them."""
        if not 1 <= count <= MAX_SUMMANDS:
            raise Ended(f"there are 1 to {MAX_SUMMANDS} ciphertexts to add, not {count}")
        total, refused = Sum(), None
        for index in range(count):
            frame = frames.read(self._inbox)
            if frame is None or frame[0] is not Kind.CIPHERTEXT:
                raise Ended("a ciphertext to add did not come")
            try:
                total.add(frame[1])
            except Malformed as fault:
                refused = refused or (NUMBER.pack(index), _text(fault))
        return (Kind.CIPHERTEXT, (total.ciphertext(),)) if refused is None else (Kind.REFUSED, refused)


def _text(fault: Exception) -> bytes:
    return str(fault).encode()[:MAX_TEXT]


def _limit() -> None:
    """Bounds memory where the system tells how much there is, and forbids files and core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sizes = Path("/proc/self/statm")
    if sizes.is_file():
        most = int(sizes.read_text().split()[0]) * resource.getpagesize() + MAX_EXTRA
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    """Serves until the pipe ends: 0. A request that the other side never makes, or an answer that nobody reads: 1."""
    # Ctrl-C is for whoever started this process: it ends with its pipes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox, outbox = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    # TenSEAL prints warnings, which must not get among the frames.
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    _limit()
    desk = Desk(inbox)
    try:
        while (frame := frames.read(inbox)) is not None:
            kind, payload = desk.answer(*frame)
            frames.write(outbox, kind, *payload)
    except Ended:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
