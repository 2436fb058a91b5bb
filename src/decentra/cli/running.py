"""The body of ``decentra run``: a user's program, in this process and its main thread, as ``__main__``."""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from decentra.errors import LocalError
from decentra.peer.config import STATE_VARIABLE, PeerFolder

_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: the program is interrupted as by Ctrl-C, so that a waiting call leaves its group."""


def run(program: Path, arguments: Sequence[str], state: Path, as_json: bool) -> int:
    """Run a program as the peer of a folder, once folder and charter are in order.

    Args:
        program: a Python file.
        arguments: its arguments.
        state: the peer's folder.
        as_json: log as JSON lines.

    Returns:
        The program's exit code; 130 after Ctrl-C and 143 after SIGTERM.

    Raises:
        LocalError: there is no such program, or the folder is not ready.
        DecentraError: the program let one pass.
    """
    if program.is_dir():
        raise LocalError(f"{program} is a folder; name a Python file")
    if not program.is_file():
        raise LocalError(f"there is no program {program}; name a Python file")
    _, _, config = PeerFolder(state).ready()
    # OpenMP reads it when torch loads: peers that share a machine slow each other down with more threads than cores
    os.environ.setdefault("OMP_NUM_THREADS", str(config.run.threads))
    _configure_logs(as_json)
    with _as_main(program, arguments, state):
        try:
            runpy.run_path(str(program), run_name="__main__")
        except SystemExit as end:
            return _code(end)
        except Terminated:
            return _TERMINATED
        except KeyboardInterrupt:
            return _INTERRUPTED
    return 0


@contextmanager
def _as_main(program: Path, arguments: Sequence[str], state: Path) -> Iterator[None]:
    """What a program finds when Python starts it, DECENTRA_STATE, and a SIGTERM that interrupts."""
    folder, argv, path = os.environ.get(STATE_VARIABLE), sys.argv, list(sys.path)
    previous = signal.signal(signal.SIGTERM, _on_terminate)
    os.environ[STATE_VARIABLE] = str(state.resolve())
    sys.argv = [str(program), *arguments]
    sys.path.insert(0, str(program.resolve().parent))
    hook, sys.excepthook = sys.excepthook, _ProgramTraceback(program)
    try:
        yield
        sys.excepthook = hook  # an error of the program's keeps ours, which prints it when the process ends
    finally:
        signal.signal(signal.SIGTERM, previous)
        sys.argv, sys.path[:] = argv, path
        if folder is None:
            os.environ.pop(STATE_VARIABLE, None)
        else:
            os.environ[STATE_VARIABLE] = folder


def _on_terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    raise Terminated


def _code(end: SystemExit) -> int:
    """What Python makes of ``sys.exit``'s argument."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    print(end.code, file=sys.stderr)
    return 1


class _JsonLines(logging.Formatter):
    """A record as one JSON object a line: time in seconds, level, logger, message, and where it failed."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _configure_logs(as_json: bool) -> None:
    """From INFO on: what leaves, whom a round waits for, and what came of it. A program may set the level higher."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if as_json else logging.Formatter("decentra: %(message)s"))
    logger = logging.getLogger("decentra")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _ProgramTraceback:
    """Prints an uncaught error of the program as Python would, without the frames of ``decentra run`` above it."""

    def __init__(self, program: Path) -> None:
        self.program = str(program)

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        first = trace
        while first is not None and first.tb_frame.f_code.co_filename != self.program:
            first = first.tb_next
        traceback.print_exception(kind, error, first or trace)
