"""Real peers for tests: a group's folders on loopback, and programs started in them as ``decentra run`` starts them.

Nothing here sleeps: a test waits for a line that a program tells, or for its end, and every wait has a deadline.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

import numpy as np

from decentra.charter.charter import Charter
from decentra.groups import fresh_identities, held_ports, write_folder
from decentra.peer.config import PeerFolder
from decentra.peer.runtime import Peer
from decentra.simulation.group import charter_for

PROGRAMS = Path(__file__).with_name("programs")
DEADLINE = 90.0
"""Seconds that a test waits for a line or an end: a loaded machine takes long to load torch four times."""


class Program:
    """A program of ``tests/programs`` under ``decentra run``; it tells what happens as JSON lines on stdout."""

    def __init__(self, name: str, folder: PeerFolder, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.folder = folder
        program, state = str(PROGRAMS / f"{name}.py"), str(folder.path)
        command = ["-m", "decentra.cli", "run", program, "--state", state, "--", *arguments]
        self._begin(command, folder.path / "stderr.txt", environment)

    def _begin(self, command: Sequence[str], errors_to: Path, environment: dict[str, str]) -> None:
        self._errors = errors_to
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
        self.told: list[dict[str, Any]] = []
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process.stdout is not None:
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put("")

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def wait_for(self, event: str | tuple[str, ...], deadline: float = DEADLINE, **facts: object) -> dict[str, Any]:
        """The next line that tells ``event``, or one of several, with these facts."""
        events = (event,) if isinstance(event, str) else event
        end = monotonic() + deadline
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - monotonic()))
            except Empty:
                raise AssertionError(f"no {event!r} within {deadline:.0f} s; told {self.told}; {self.errors}") from None
            if not line:
                self._lines.put("")
                raise AssertionError(f"ended without {event!r}; told {self.told}; {self.errors}")
            fact = json.loads(line)
            self.told.append(fact)
            if fact["event"] in events and facts.items() <= fact.items():
                return dict(fact)

    def say(self, word: str = "go") -> None:
        """Let a program go on that waits for a line."""
        if self.process.stdin is not None:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, deadline: float = DEADLINE) -> int:
        """Its exit code, once it has ended by itself; what it told until then is in ``told``."""
        code = self.process.wait(deadline)
        self._reader.join(deadline)
        while line := self._lines.get():
            self.told.append(json.loads(line))
        self._lines.put("")
        return code

    def last(self, event: str) -> dict[str, Any]:
        return [fact for fact in self.told if fact["event"] == event][-1]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class Group:
    """n peers' folders on loopback, under one charter that all have signed; ports are the system's."""

    def __init__(self, home: Path, n: int, protocol: str, **changes: object) -> None:
        self._open = ExitStack()
        self.identities = fresh_identities(n)
        self.ports = self._open.enter_context(held_ports(n))
        self.charter: Charter = charter_for(self.identities, protocol, template=None, **changes)
        self.folders = [
            write_folder(home / f"peer-{index}", identity, self.charter, self.ports, index)
            for index, identity in enumerate(self.identities)
        ]

    def use_charter(self, index: int, charter: Charter) -> None:
        """Give one peer another charter than the others have."""
        self.folders[index].charter.write_text(charter.to_toml())

    def peer(self, index: int) -> Peer:
        """A peer in this process, closed with the group."""
        peer = Peer(self.folders[index])
        self._open.callback(peer.close)
        return peer

    def start(
        self, name: str, *arguments: str, peers: Sequence[int] | None = None, environment: dict[str, str] | None = None
    ) -> list[Program]:
        """Start a program at every peer, or at some; ``{index}`` in an argument is the peer's number."""
        started = []
        for index in range(len(self.folders)) if peers is None else peers:
            words = [argument.format(index=index) for argument in arguments]
            started.append(Program(name, self.folders[index], words, environment or {}))
            self._open.callback(started[-1].close)
        return started

    def close(self) -> None:
        self._open.close()


def average(peers: Sequence[Peer], size: int = 3) -> list[Any]:
    """What a round of all these peers gives each, or raises; every update is a vector of hundredths."""
    return all_at_once([partial(peer.average, [np.full(size, 0.01, np.float32)]) for peer in peers])


def until(peer: Peer, true: Callable[[], bool]) -> None:
    """Wait for something to become true on a peer's I/O thread, looking between its events."""
    end = monotonic() + DEADLINE
    while not peer._call(true, DEADLINE):
        assert monotonic() < end, "it does not become true"


def all_at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run calls in threads of their own, and give what each returned or raised."""
    ended: list[Any] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        try:
            ended[index] = call()
        except BaseException as error:
            ended[index] = error

    threads = [Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a call hangs"
    return ended
