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
from concurrent.futures import Future, InvalidStateError, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.driver.given import describe
from decentra.driver.ports import Ports
from decentra.driver.session import Session, Vector, session_name
from decentra.driver.tally import Counts
from decentra.errors import DecentraError, LocalError, Unavailable
from decentra.machine.state import SharedState
from decentra.peer.clock import LoopClock
from decentra.peer.config import Config, PeerFolder
from decentra.peer.epochs import Epochs
from decentra.peer.journal import SqliteJournal
from decentra.peer.pool import ThreadPool
from decentra.peer.prepared import Ended, Prepared
from decentra.peer.secrets import keeps_for
from decentra.peer.status import EVERY, observe
from decentra.peer.witness import Witness
from decentra.transport.zeromq import ZeroMQTransport
from decentra.types import PeerId, RoundId, RoundResult, TensorSpec
from decentra.wire.entry import ZERO

T = TypeVar("T")

START_DEADLINE = 15.0
"""Seconds for the I/O thread to open its port, or to let go of it."""

FLUSH_DEADLINE = 5.0
"""Seconds that closing waits for others to acknowledge, counted anew whenever a piece of a vector went out: a link asks
again after 2 s, and who is gone is noticed after 3 s."""

FLUSH_PIECE = 256 * 1024
"""Bytes sent that count as a piece."""

FLUSH_POLL = 0.02
"""Seconds between looks at what is still unacknowledged."""

SETTLE_SECONDS = 2.0
"""How long after its start a peer's connections may still be on their way, so that who closes then waits for them."""

LOOK_SECONDS = 3.0
"""Seconds between looks at whom a round waits for. Who is missing at two looks running is told, once."""

INTERRUPT_DEADLINE = 5.0
"""Seconds that an interrupted call waits for its round to end, so that the next one can begin."""


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
        witness: for a leak check it is shown this peer's encoded updates and everything that it receives, and closed
            with the peer. For demonstrations only, since whoever reads its folder sees the updates.

    Raises:
        LocalError: the folder, charter or configuration can't be used, or the port is taken.
    """

    def __init__(self, folder: PeerFolder, *, witness: Witness | None = None) -> None:
        identity, charter, config = folder.ready()
        self.folder = folder
        self.id: PeerId = identity.id
        self.charter: Charter = charter
        self._log = logging.getLogger("decentra")
        self._pid = os.getpid()
        self._began = self._opened = time.monotonic()
        self._completed = self._failed = 0
        self._closed = False
        self._closing = Lock()
        self._broken: LocalError | None = None
        self._rounds: set[Future[Ended]] = set()
        self._up: set[PeerId] = set()
        self._witness = witness
        self._earlier = (0, 0)
        """Bytes sent and received in earlier epochs."""
        self._release = ExitStack()
        """What was opened so far, to be let go of in the opposite order, however this ends."""
        with ExitStack() as undo:
            undo.callback(self._let_go)
            self._open(identity, config, witness)
            undo.pop_all()
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
            LocalError: an argument is wrong, or this peer is closed; nothing was sent.
            RemoteError: a peer broke a clause, and the round ended for all.
            Unavailable: somebody did not answer by the deadline that the charter sets.
        """
        described = describe(tensors, names) if specs is None else tuple(specs)
        return self._run(Vector(tensors, described, weight, fingerprint, state, residual))

    def prepare(
        self, specs: Sequence[TensorSpec], *, state: SharedState | None = None, fingerprint: bytes = ZERO
    ) -> Prepared:
        """Begin a round ahead of its update, and return at once: what the round needs no update for is done meanwhile.

        ``state`` must not change until the round has its update: where the group's is another one, the preparation
        fails, and the state is taken over in the round that begins then. Arguments as for ``average``. Peers that
        prepare and peers that don't may be in one group.

        Raises:
            LocalError: this peer is closed.
        """
        vector = Vector(None, tuple(specs), fingerprint=fingerprint, shared=state)
        prepared = Prepared(vector, self._run, self._give_up)
        self._go_over()
        self._check()
        self._loop.call_soon_threadsafe(self._begin, prepared.vector, prepared.future)
        return prepared

    def _run(self, vector: Vector, prepared: Prepared | None = None) -> RoundResult:
        if prepared is None or prepared.future.done():
            self._go_over()
        ended = self._round(vector, prepared)
        while _unspent(ended) and self._go_over():  # it failed since the group had gone on to another epoch
            ended = self._round(vector)
        if isinstance(ended, DecentraError):
            self._failed += 1
            raise (self._removed or ended) if _unspent(ended) else ended
        self._completed += 1
        return ended

    @property
    def _removed(self) -> LocalError | None:
        """Why this peer begins no round any more, where the group goes on without it."""
        return self._epochs.removed

    def _round(self, vector: Vector, prepared: Prepared | None = None) -> Ended:
        """One round in the epoch that this peer is in, waited for."""
        future: Future[Ended] = Future()
        self._rounds.add(future)  # before the check, so that a close in another thread ends either here or there
        try:
            self._check()
            begin = self._begin if prepared is None else partial(self._supply, prepared)
            self._loop.call_soon_threadsafe(begin, vector, future)
            self._loop.call_soon_threadsafe(self._look, weakref.ref(future), (), ())
            return self._wait(future)
        finally:
            self._rounds.discard(future)

    def align(self, state: SharedState, fingerprint: bytes) -> RoundResult:
        """A round with an empty vector: afterwards everybody holds one common state, the first proposer's."""
        return self.average([], state=state, fingerprint=fingerprint)

    def interrupt(self) -> None:
        """End the round that is on, if any, for everybody; ``average``, in the thread that waits in it, raises."""
        self._check()
        self._later(self._cancel)

    def log(self) -> logging.Logger:
        """The logger named ``decentra``."""
        return self._log

    @property
    def endpoint(self) -> str:
        """Where this peer listens."""
        return self._transport.endpoint

    @property
    def transcript(self) -> Path:
        """Where this session's transcript is written."""
        return self._transcripts.path(self._session.session)

    @property
    def bytes_sent(self) -> int:
        return self._earlier[0] + self._transport.counters.bytes_sent

    @property
    def counts(self) -> Counts:
        """Messages of this peer's, and its CPU for small phases and for bulk work, since its start."""
        return replace(self._session.driver.tally.read(), kept=self._journal.spent)

    @property
    def begun(self) -> RoundId:
        """The last round in which this peer signed anything before it started."""
        return RoundId(self.charter.group.epoch, self._journal.last_round)

    def close(self) -> Closing:
        """Leave the group: end a round that is on, tell the others, write the transcript, free the port.

        A second call gives the same answer. An interrupt cuts short the wait for others, and nothing else.

        Raises:
            LocalError: the transcript can't be written, or this process is a fork of the peer's own.
        """
        if self._pid != os.getpid():
            raise LocalError(_FORKED)
        with self._closing:
            if not self._closed:
                self._closed = True
                _LIVE.discard(self)
                self._seconds = time.monotonic() - self._began
                try:
                    self._leave()
                finally:
                    self._let_go()
        return Closing(
            rounds=self._completed,
            failed=self._failed,
            bytes_sent=self.bytes_sent,
            bytes_received=self._earlier[1] + self._transport.counters.bytes_received,
            seconds=self._seconds,
            transcript=self.transcript,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ── opening and leaving ──────────────────────────────────────────────────────────────────────────────────────────

    def _open(
        self, identity: Identity, config: Config, witness: Witness | None, before: Session | None = None
    ) -> None:
        self._start_loop()
        session = session_name(self.charter)
        self._transcripts = transcripts = self.folder.transcripts_of(identity.id, config)
        journal = SqliteJournal(
            self.folder.journal,
            session,
            self._later,
            self._on_broken,
            heard=transcripts.heard(session, self.charter),
            most=transcripts.most_own,
        )
        self._journal = journal
        self._release.callback(journal.close)
        self._session = Session(
            identity,
            self.charter,
            boot=journal.boot,
            random=os.urandom,
            last_round=journal.last_round,
            witness=None if witness is None else witness.update,
            log=self._log,
            keeps=keeps_for(self.folder.secrets, config.transcripts.keep_secrets),
        )
        if before is not None:
            self._session.follow(before)
        pool = ThreadPool(self._later)
        self._release.callback(pool.close)
        self._epochs = Epochs(self.folder, self.charter, self._session, self._log)
        self._call(lambda: self._listen(identity, config, witness, pool), START_DEADLINE)
        self._release.callback(self._write_transcript)
        self._release.callback(journal.finish)
        self._release.callback(pool.close)
        self._release.callback(lambda: self._call(self._session.driver.close, START_DEADLINE))

    def _start_loop(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_defect)
        self._thread = Thread(target=self._loop.run_forever, name="decentra-io", daemon=True)
        self._thread.start()
        self._release.callback(self._settle, LocalError(_CLOSED))
        self._release.callback(self._stop_loop)

    def _listen(self, identity: Identity, config: Config, witness: Witness | None, pool: ThreadPool) -> None:
        """On the I/O thread: open the port and dial everyone."""
        driver = self._session.driver
        self._transport = ZeroMQTransport(
            self._loop,
            identity.id,
            identity.curve_secret,
            {member.id: member.curve for member in self.charter.members},
            config.peer.bind,
            config.addresses(self.charter, identity.id, str(self.folder.config)),
            driver.on_receive if witness is None else witness.wrap(driver.on_receive),
            self._on_link,
            self._epochs.door,
        )
        with ExitStack() as undo:
            undo.callback(driver.close)
            self._session.open(Ports(LoopClock(self._loop), self._transport, self._journal, pool))
            self._session.attend(os.urandom(32), self._on_double)
            self._epochs.open()
            undo.pop_all()
        self._tell_status()

    def _let_go(self) -> None:
        try:
            self._release.close()
        finally:
            if self._witness is not None:
                self._witness.close()

    def _go_over(self) -> bool:
        """Between two rounds: where the folder's charter was amended, end this epoch's session and begin the next.

        Only members change so; a training loop has read the terms, and is started again for others. While the folder
        is not ready for it, this peer goes on in the epoch that it is in, and says why.
        """
        with self._closing:
            if self._closed or self._broken is not None or self._pid != os.getpid() or self._rounds:
                return False
            found = self._epochs.found()
            if found is None:
                return False
            identity, charter, config = found
            before, epoch = self._session, self.charter.group.epoch
            self._call(partial(self._epochs.leave_for, charter), START_DEADLINE)
            self._leave()
            self._release.close()
            counters = self._transport.counters
            self._earlier = (self._earlier[0] + counters.bytes_sent, self._earlier[1] + counters.bytes_received)
            self._release, self._up, self.charter = ExitStack(), set(), charter
            self._opened = time.monotonic()
            try:
                self._open(identity, config, self._witness, before)
            except BaseException as error:
                self._release.close()
                said = f"this peer can't begin epoch {charter.group.epoch} ({error}); start it again"
                self._broken = LocalError(said)
                raise
            names = ", ".join(sorted(member.name for member in charter.members))
            self._log.info("went over from epoch %d to epoch %d: %s", epoch, charter.group.epoch, names)
            return True

    def _leave(self) -> None:
        """Tell the others, and wait until everybody who can be reached has acknowledged all that was sent to them."""
        if self._broken is not None:
            return
        self._call(self._say_leave, START_DEADLINE)
        done: Future[None] = Future()
        now = time.monotonic()
        latest = now + FLUSH_DEADLINE + self.charter.rounds.phase_deadline
        self._loop.call_soon_threadsafe(self._poll_flushed, done, now + FLUSH_DEADLINE, latest, self.bytes_sent)
        with suppress(FutureTimeout):  # a peer that hangs must not hold this one, and neither must a loop that does
            done.result(latest - now + START_DEADLINE)

    def _say_leave(self) -> None:
        self._session.driver.cancel(LocalError("it left the group; the next round goes on without it"))
        self._session.leave()

    def _poll_flushed(self, done: Future[None], deadline: float, latest: float, sent: int) -> None:
        now = time.monotonic()
        if self.bytes_sent - sent >= FLUSH_PIECE:
            deadline, sent = min(latest, now + FLUSH_DEADLINE), self.bytes_sent
        if self._broken is not None or now > deadline or self._flushed(now):
            done.set_result(None)
        else:
            self._loop.call_later(FLUSH_POLL, self._poll_flushed, done, deadline, latest, sent)

    def _flushed(self, now: float) -> bool:
        driver = self._session.driver
        away = [peer for peer in self.charter.ids if peer not in self._up and peer not in driver.others.left]
        met = now - self._opened > SETTLE_SECONDS or away in ([], [self.id])
        return met and self._journal.idle and driver.flushed

    def _write_transcript(self) -> None:
        try:
            self._transcripts.write(self._session.session, self.charter, self._journal.log())
        except LocalError as error:
            if self._broken is None:
                raise
            self._log.error("%s", error)  # the caller has had the first error already, and it tells more

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_DEADLINE)
        if not self._thread.is_alive():
            self._loop.close()

    # ── between the threads ──────────────────────────────────────────────────────────────────────────────────────────

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise LocalError(_FORKED)
        if self._broken is not None:
            raise self._broken
        if self._closed:
            raise LocalError(_CLOSED)
        if self._removed is not None:
            raise self._removed

    def _wait(self, future: Future[T]) -> T:
        """Wait for a round as long as its own deadlines can take; an interrupt ends the round for all and goes on."""
        terms = self.charter.rounds
        longest = 2 * terms.ready_deadline + 16 * len(self.charter.members) * terms.phase_deadline
        until = time.monotonic() + longest
        try:
            while not wait([future], 1.0).done and time.monotonic() < until:
                pass  # a signal that comes just before a wait begins is handled only when that ends
            return future.result(0)
        except FutureTimeout:
            raise LocalError(f"the round has not ended in {longest:.0f} s; a defect, please report it") from None
        except BaseException:
            self._later(self._cancel)
            wait([future], INTERRUPT_DEADLINE)
            raise

    def _call(self, work: Callable[[], T], deadline: float) -> T:
        """Run something on the I/O thread and wait for it."""

        async def run() -> T:
            return work()

        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result(deadline)
        except FutureTimeout:
            said = f"this peer's I/O thread did not answer within {deadline:.0f} s; start the peer again"
            raise LocalError(said) from None

    def _later(self, callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: whoever waited has been told
            self._loop.call_soon_threadsafe(callback)

    def _give_up(self, prepared: Prepared) -> None:
        """End a round that was prepared, and wait until another can begin."""
        if self._closed or self._broken is not None or self._pid != os.getpid():
            return
        self._later(partial(self._cancel, prepared))
        wait([prepared.future], INTERRUPT_DEADLINE)

    def _settle(self, error: LocalError) -> None:
        """Let nobody wait for a round any more."""
        for future in list(self._rounds):
            resolve(future, error)

    # ── on the I/O thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, vector: Vector, future: Future[Ended]) -> None:
        try:
            self._session.begin(vector, partial(resolve, future))
        except DecentraError as error:
            resolve(future, error)

    def _supply(self, prepared: Prepared, vector: Vector, future: Future[Ended]) -> None:
        """Hand over the update of a round that was prepared; where that came to nothing, begin one with it."""
        if prepared.future.done():
            self._log.info("what was prepared came to nothing: %s", prepared.future.result())
            self._begin(vector, future)
            return
        prepared.future.add_done_callback(lambda ended: resolve(future, ended.result()))
        try:
            self._session.supply(vector.tensors or (), weight=vector.weight, residual=vector.residual)
        except DecentraError as error:
            self._cancel()
            resolve(future, error)

    def _awaited(self) -> tuple[tuple[PeerId, ...], str]:
        """For whom this peer waits, and in what."""
        return self._session.driver.awaited, f"round {self._session.round}"

    def _look(self, waiting: weakref.ref[Future[Ended]], seen: tuple[PeerId, ...], told: tuple[PeerId, ...]) -> None:
        """Say in the log whom the round waits for, whenever that has become somebody else for a while.

        It holds no future: a result is as large as the model, and would stay until the next look."""
        future = waiting()
        if future is None or future.done():
            return
        awaited, what = self._awaited()
        if awaited and awaited == seen and awaited != told:
            names = ", ".join(sorted(self.charter.member(peer).name for peer in awaited))
            self._log.info("waiting for %s (%s)", names, what)
            told = awaited
        self._loop.call_later(LOOK_SECONDS, self._look, waiting, awaited, told)

    def _tell_status(self) -> None:
        if not self._closed and self._broken is None:
            self._epochs.look()
            told = observe(self._session, self._transport, self._up, self._loop.time(), self._completed, self._failed)
            told.write(self.folder.status)
            self._loop.call_later(EVERY, self._tell_status)

    def _on_double(self, error: LocalError) -> None:
        """Another process signs with this peer's key: this one must say nothing more."""
        self._fall_silent(error)

    def _fall_silent(self, error: LocalError) -> None:
        """Nothing may be sent any more; whoever waits is told."""
        error.spent = self._session.busy and not self._session.awaits_update  # what may have left never leaves again
        self._broken = error
        self._log.error("%s", error)
        self._transport.close()
        self._settle(error)

    def _cancel(self, prepared: Prepared | None = None) -> None:
        """End the round that is on, or only if it is this one."""
        if prepared is None or not prepared.future.done():
            self._session.driver.cancel(LocalError("its owner interrupted it; the next round goes on without it"))

    def _on_link(self, peer: PeerId, up: bool, reason: str) -> None:
        (self._up.add if up else self._up.discard)(peer)
        self._session.driver.on_link(peer, up, reason)

    def _on_broken(self, error: LocalError) -> None:
        """The journal can't be written: nothing may be sent any more."""
        self._fall_silent(error)

    def _on_defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Nothing may raise here; if something does, the round ends with it instead of hanging."""
        error = context.get("exception")
        self._log.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
        defect = LocalError(f"this peer has a defect ({error!r}); please report it with the log")
        defect.spent = True
        self._broken = error if isinstance(error, LocalError) else defect
        self._settle(self._broken)


def _unspent(ended: Ended) -> bool:
    """Whether a round was waited for in vain, and nothing of it has left this peer."""
    return isinstance(ended, Unavailable) and not ended.spent


def resolve(future: Future[Ended], ended: Ended) -> None:
    with suppress(InvalidStateError):  # a round ends once; what comes later, such as a second cause, changes nothing
        future.set_result(ended)


_CLOSED = "this peer is closed; join again for another run"
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


def _let_go_of_ports() -> None:
    """A child that lives on must not keep the port from the peer's next process."""
    for peer in list(_LIVE):
        peer._transport.forked()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_let_go_of_ports)
