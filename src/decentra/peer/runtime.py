"""The network runtime: one peer on real ports, behind calls that a training loop can make.

One I/O thread runs the event loop and owns sockets, driver and session; one thread writes the journal; a small pool
works on vectors. The caller's thread waits, and only as long as it asks to.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.driver.common import SharedState
from decentra.driver.ports import Ports
from decentra.driver.session import Session, Vector, describe, session_name
from decentra.errors import DecentraError, LocalError
from decentra.peer import transcript
from decentra.peer.config import Config, PeerFolder
from decentra.peer.journal import SqliteJournal
from decentra.peer.pool import ThreadPool
from decentra.peer.witness import Witness
from decentra.transport.virtual import Handle
from decentra.transport.zeromq import ZeroMQTransport
from decentra.types import PeerId, RoundResult, TensorSpec
from decentra.wire.entry import ZERO

T = TypeVar("T")

START_DEADLINE = 15.0
"""Seconds for the I/O thread to open its port and journal."""

FLUSH_DEADLINE = 10.0
"""Seconds that closing waits for others to acknowledge what was sent to them."""


class LoopClock:
    """The event loop as the driver's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        return self._loop.call_later(max(0.0, delay), callback)


@dataclass(frozen=True)
class Closing:
    """What a peer's run came to: rounds completed and failed, bytes of its whole life, its transcript."""

    rounds: int
    failed: int
    bytes_sent: int
    bytes_received: int
    seconds: float
    transcript: Path


class Peer:
    """One peer of a group, running on the network until ``close``.

    Args:
        folder: the peer's folder, made by ``decentra init``.
        witness: a folder for a leak check: it gets this peer's encoded updates and everything that it receives. For
            demonstrations only, since whoever reads it sees the updates.

    Raises:
        LocalError: the folder, charter or configuration can't be used, or the port is taken.
    """

    def __init__(self, folder: PeerFolder, *, witness: Path | None = None) -> None:
        self.folder = folder
        identity, charter, config = folder.ready()
        self.id: PeerId = identity.id
        self.charter: Charter = charter
        self._log = logging.getLogger("decentra")
        self._pid = os.getpid()
        self._began = time.monotonic()
        self._completed = self._failed = 0
        self._closed = False
        self._broken: LocalError | None = None
        self._witness = None if witness is None else Witness(witness)
        self._round: Future[RoundResult | DecentraError] = Future()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_defect)
        self._thread = Thread(target=self._loop.run_forever, name="decentra-io", daemon=True)
        self._thread.start()
        try:
            self._call(lambda: self._start(identity, config), START_DEADLINE)
        except BaseException:
            self._stop_loop()
            raise
        _LIVE.add(self)

    # ── the caller's side ────────────────────────────────────────────────────────────────────────────────────────────

    def average(
        self,
        tensors: Sequence[NDArray[np.float32]],
        *,
        weight: int = 1,
        names: Sequence[str] | None = None,
        state: SharedState | None = None,
        specs: Sequence[TensorSpec] | None = None,
        fingerprint: bytes = ZERO,
        residual: Sequence[NDArray[np.float32]] | None = None,
    ) -> RoundResult:
        """The group's weighted mean of everybody's tensors, from one round.

        Args:
            tensors: float32 arrays of any shapes, the same at every peer; read during the call only.
            weight: this peer's integer weight, 1 up to the charter's ``max_weight``.
            names: one name a tensor; their places by default.
            state: what all peers must hold alike before the round; a peer that differs takes the group's over.
            specs: names and shapes, where the tensors are computed as they are read; else they are looked at.
            fingerprint: 32 bytes that name the model, where that is more than the vector.
            residual: one array a tensor, added to the update; what clipping cuts is left in it.

        Raises:
            LocalError: an argument is wrong; nothing was sent.
            RemoteError: a peer broke a clause, and the round ended for all.
            Unavailable: somebody did not answer by the deadline that the charter sets.
        """
        described = describe(tensors, names) if specs is None else tuple(specs)
        vector = Vector(tensors, described, weight, fingerprint, state, residual)
        future: Future[RoundResult | DecentraError] = Future()
        self._check()

        def end(ended: RoundResult | DecentraError) -> None:
            if not future.done():
                future.set_result(ended)

        def begin() -> None:
            try:
                self._session.begin(vector, end)
            except DecentraError as error:
                end(error)

        self._round = future
        self._loop.call_soon_threadsafe(begin)
        ended = self._wait(future)
        if isinstance(ended, DecentraError):
            self._failed += 1
            raise ended
        self._completed += 1
        return ended

    def align(self, state: SharedState, fingerprint: bytes) -> RoundResult:
        """A round with an empty vector: afterwards everybody holds one common state, the first proposer's."""
        return self.average([], state=state, fingerprint=fingerprint)

    def log(self) -> logging.Logger:
        """The logger named ``decentra``."""
        return self._log

    @property
    def endpoint(self) -> str:
        """Where this peer listens, with the port that the system gave."""
        return self._transport.endpoint

    @property
    def transcript(self) -> Path:
        """Where this session's transcript is written."""
        return self.folder.transcripts / f"{self._session.session.hex()[:16]}-{self.id}.log"

    @property
    def bytes_sent(self) -> int:
        return self._transport.counters.bytes_sent

    @property
    def largest_frame(self) -> int:
        """Bytes in the largest frame that was sent or received."""
        return self._transport.counters.largest_frame

    def close(self) -> Closing:
        """Leave the group: end a round that is on, tell the others, write the transcript, free the port.

        A second call gives the same answer.
        """
        if self._pid != os.getpid():
            raise LocalError(_FORKED)
        if not self._closed:
            self._closed = True
            _LIVE.discard(self)
            try:
                self._call(self._leave, START_DEADLINE)
                self._flush()
                self._call(self._end, START_DEADLINE)
            finally:
                self._stop_loop()
        counters = self._transport.counters
        return Closing(
            rounds=self._completed,
            failed=self._failed,
            bytes_sent=counters.bytes_sent,
            bytes_received=counters.bytes_received,
            seconds=time.monotonic() - self._began,
            transcript=self.transcript,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── between the threads ──────────────────────────────────────────────────────────────────────────────────────────

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise LocalError(_FORKED)
        if self._closed:
            raise LocalError("this peer is closed; join again for another run")
        if self._broken is not None:
            raise self._broken

    def _wait(self, future: Future[T]) -> T:
        """Wait for a round as long as its own deadlines can take; an interrupt ends the round for all and goes on."""
        terms = self.charter.rounds
        longest = terms.ready_deadline + 16 * len(self.charter.members) * terms.phase_deadline
        try:
            return future.result(longest)
        except FutureTimeout:
            raise LocalError(f"the round has not ended in {longest:.0f} s; a defect of decentra, please report it") from None
        except BaseException:
            self._loop.call_soon_threadsafe(
                self._session.driver.cancel, LocalError("its owner interrupted it; the next round goes on without it")
            )
            raise

    def _call(self, work: Callable[[], T], deadline: float) -> T:
        """Run something on the I/O thread and wait for it."""

        async def run() -> T:
            return work()

        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result(deadline)
        except FutureTimeout:
            raise LocalError(f"this peer's I/O thread did not answer within {deadline:.0f} s; start the peer again") from None

    def _later(self, callback: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    # ── on the I/O thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, identity: Identity, config: Config) -> None:
        charter = self.charter
        witness = self._witness
        name = session_name(charter)
        self._journal = SqliteJournal(self.folder.journal, name, self._later, self._on_broken)
        self._session = Session(
            identity,
            charter,
            boot=self._journal.boot,
            random=os.urandom,
            last_round=self._journal.last_round,
            witness=None if witness is None else witness.update,
            log=self._log,
        )
        driver = self._session.driver
        receive = driver.on_receive if witness is None else witness.wrap(driver.on_receive)
        try:
            self._transport = ZeroMQTransport(
                self._loop,
                identity.id,
                identity.curve_secret,
                {member.id: member.curve for member in charter.members},
                config.peer.bind,
                config.addresses(charter, identity.id, str(self.folder.config)),
                receive,
                driver.on_link,
            )
        except LocalError:
            self._journal.close()
            raise
        self._pool = ThreadPool(self._later)
        self._session.open(Ports(LoopClock(self._loop), self._transport, self._journal, self._pool))

    def _on_broken(self, error: LocalError) -> None:
        """The journal can't be written: nothing may be sent any more."""
        self._broken = error
        self._log.error("%s", error)
        self._transport.close()
        if not self._round.done():
            self._round.set_result(error)

    def _on_defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Nothing may raise here; if something does, the round ends with it instead of hanging."""
        error = context.get("exception")
        self._log.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
        self._broken = LocalError(f"this peer has a defect ({error!r}); please report it with the log")
        if not self._round.done():
            self._round.set_result(self._broken)

    def _leave(self) -> None:
        if self._broken is None:
            self._session.driver.cancel(LocalError("it left the group; the next round goes on without it"))
            self._session.leave()

    def _flush(self) -> None:
        """Wait until everybody reachable has acknowledged, or give up: a peer that hangs must not hold this one."""
        deadline = time.monotonic() + FLUSH_DEADLINE
        while self._broken is None and time.monotonic() < deadline:
            done: Future[bool] = Future()
            self._loop.call_soon_threadsafe(self._poll_flushed, done, deadline)
            if done.result(FLUSH_DEADLINE + START_DEADLINE):
                return

    def _poll_flushed(self, done: Future[bool], deadline: float) -> None:
        if self._session.driver.flushed or time.monotonic() > deadline:
            done.set_result(True)
        else:
            self._loop.call_later(0.02, self._poll_flushed, done, deadline)

    def _end(self) -> None:
        self._session.driver.close()
        self._pool.close()
        self._journal.finish()
        transcript.write(self.transcript, self._journal.log())
        self._journal.close()
        if self._witness is not None:
            self._witness.close()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_DEADLINE)
        if not self._thread.is_alive():
            self._loop.close()


_FORKED = (
    "this process was forked from the peer's own, and a peer lives in one process only; "
    "use it there, or start workers before joining"
)
_LIVE: weakref.WeakSet[Peer] = weakref.WeakSet()


def _close_all() -> None:
    """At the interpreter's end a peer that was not closed still leaves its group."""
    for peer in list(_LIVE):
        if peer._pid == os.getpid():
            peer.close()


atexit.register(_close_all)
