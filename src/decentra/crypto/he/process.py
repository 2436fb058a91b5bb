"""A worker process from outside: started, asked, and ended for certain."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from decentra.crypto.he import frames
from decentra.crypto.he.bfv import require
from decentra.crypto.he.ciphertexts import Buffer
from decentra.crypto.he.frames import NUMBER, Closed, Ended, Kind
from decentra.errors import LocalError, RemoteError
from decentra.types import PeerId

SECONDS = 60.0
"""How long an answer may take: a batch takes milliseconds, and the libraries load in seconds on a slow disk."""
_PIPE_BYTES = 1 << 20
"""A whole answer fits, so a worker goes on without waiting for its reader; as much as Linux gives without asking."""

_ARGUMENTS = ("-P", "-m", "decentra.crypto.he_worker")
"""-P: whatever lies in the folder that a peer happens to run in is not for a process with a key to import."""
_ROOT = Path(__file__).resolve().parents[3]
"""Where this package is, so that the worker is of the same."""


class Origin(NamedTuple):
    """Where bytes came from: the peer that signed them, and the clause that they break if they are malformed."""

    peer: PeerId | None
    clause: str

    def broke(self, reason: str) -> RemoteError:
        """The error that says so."""
        return RemoteError(self.peer, self.clause, reason)


class WorkerLost(LocalError):
    """A worker ended, on a fresh one as well where the work could be repeated.

    That proves nothing against anybody: it may be memory that ran out. Whoever sent what it worked on may be left out,
    and not be blamed.

    Attributes:
        origins: where that came from.
    """

    def __init__(self, how: str, origins: Sequence[Origin], mend: str) -> None:
        super().__init__(f"a worker of homomorphic encryption ended ({how}); {mend}")
        self.origins = tuple(origins)


_KEPT = str(32 << 20)
"""glibc keeps so many freed bytes: it would hand a batch's buffers back to the system after each, and fault them in
again, which costs several per cent. Elsewhere the names mean nothing."""

Request = Sequence[tuple[Kind, Buffer]]
"""The frames of one request."""


class Worker:
    """One process of ``decentra.crypto.he_worker``; one request at a time.

    Args:
        seconds: how long an answer may take.

    Raises:
        LocalError: TenSEAL isn't installed, or no process can be started.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        require()
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_TRIM_THRESHOLD_": _KEPT,
            "MALLOC_MMAP_THRESHOLD_": _KEPT,
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, *_ARGUMENTS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment,
            )
        except OSError as fault:
            raise LocalError(f"no process for homomorphic encryption can be started: {fault}") from fault
        self._inbox, self._outbox = (stream.fileno() for stream in _streams(self._process))
        for descriptor in (self._inbox, self._outbox):
            os.set_blocking(descriptor, False)
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                # A system that is short of pipe buffers gives what it has, and that is enough.
                with contextlib.suppress(OSError):
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._seconds = seconds
        self._deadline = 0.0
        self.close = weakref.finalize(self, _end, self._process, os.getpid())
        """Kills the process and waits for it; a second time it does nothing. Also done when the worker is forgotten."""

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def send(self, request: Request) -> None:
        """Hands a request over; the worker must have answered the one before.

        Raises:
            Ended: the worker did.
        """
        self._deadline = time.monotonic() + self._seconds
        try:
            for kind, payload in request:
                frames.write(self._inbox, kind, payload, deadline=self._deadline)
        except Ended as fault:
            self._ended(fault)

    def receive(self, expected: Kind, size: int, origins: Sequence[Origin]) -> bytearray:
        """The answer's payload.

        Args:
            expected: the kind of a good answer.
            size: its bytes.
            origins: where what was sent came from, one for each thing that can be refused.

        Raises:
            Ended: the worker did, before its answer, or answered what is none.
            RemoteError: what came from there is malformed.
            LocalError: this machine can't do it.
        """
        self._deadline = time.monotonic() + self._seconds
        try:
            frame = frames.read(self._outbox, deadline=self._deadline)
            if frame is None:
                raise Closed("it closed its pipe")
            kind, payload = frame
            if kind is Kind.REFUSED:
                index, reason = NUMBER.unpack_from(payload)[0], payload[NUMBER.size :].decode(errors="replace")
                if index >= len(origins):
                    raise Ended("it refused what it wasn't asked for")
                raise origins[index].broke(reason)
            if kind is Kind.FAILED:
                raise LocalError(payload.decode(errors="replace"))
            if (kind, len(payload)) != (expected, size):
                raise Ended(f"it answered {kind.name} instead of {expected.name}, or of another size")
        except Ended as fault:
            self._ended(fault)
        return payload

    def _ended(self, fault: Ended) -> NoReturn:
        """Makes sure that it has, and says how."""
        if isinstance(fault, Closed):
            # It is about to exit by itself, and its own exit code tells more than ours.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        code = self._process.poll()
        self.close()
        if code is not None and code < 0:
            raise Ended(f"it was ended by {signal.Signals(-code).name}") from fault
        raise Ended(str(fault) if code is None else f"{fault}, exit code {code}") from fault


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], ...]:
    return tuple(stream for stream in (process.stdin, process.stdout) if stream is not None)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    # A fork of the peer's process forgets its workers as well, and they are not its own to end.
    if os.getpid() == owner:
        process.kill()
        process.wait()
    for stream in _streams(process):
        stream.close()
