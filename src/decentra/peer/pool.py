"""The pool of the network runtime: a few threads for jobs that let go of the interpreter lock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from decentra.driver.blobs import Workbench
from decentra.errors import DecentraError, LocalError
from decentra.machine.effects import Job

THREADS = 2
"""Jobs at once: one round has one or two, and peers share machines with training."""

_log = logging.getLogger("decentra")


class ThreadPool:
    """Runs jobs on threads and hands their values back on the driver's thread.

    Args:
        later: runs a callback on the driver's thread.
    """

    def __init__(self, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="decentra-pool")

    def submit(self, job: Job, bench: Workbench, done: Callable[[object], None]) -> None:
        def work() -> None:
            value: object
            try:
                value = bench.run(job)
            except (DecentraError, ValueError) as error:
                value = error
            except MemoryError:
                what = type(job).__name__.lower()
                value = LocalError(f"not enough memory for {what}; give this peer more, or a smaller model")
            self._later(lambda: done(value))

        def report(ran: Future[None]) -> None:
            """A defect must not become a hang: what no job may raise ends the round that waits for it."""
            error = None if ran.cancelled() else ran.exception()
            if error is not None:
                _log.error("a job failed", exc_info=error)
                what = f"{type(job).__name__.lower()} failed with {type(error).__name__}: {error}"
                self._later(lambda: done(LocalError(f"{what}; a defect of decentra: report it")))

        try:
            self._threads.submit(work).add_done_callback(report)
        except RuntimeError:  # the interpreter is ending, and joins pools before it lets peers leave their groups
            self._later(lambda: done(LocalError("this peer is closing; start the round again in another run")))

    def close(self) -> None:
        """Wait for running jobs and start no more."""
        self._threads.shutdown(wait=True, cancel_futures=True)
