"""The demo's processes: started, listened to, one of them killed and started again, and none left behind.

What happens when is said by the processes, never by a clock. The peer that is to be killed stands still in the middle
of a round; once every other peer has encoded its update of that round too, nobody waits for a word of it that is still
on its way, and it is killed. When the others have told that the round ended for them, it is started again.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

from decentra.demo.figures import means
from decentra.errors import LocalError

LEAVE_SECONDS = 20.0
"""How long processes have to leave their group after an interrupt before they are ended."""

SILENCE_SECONDS = 600.0
"""How long the launcher waits for any news: longer than every deadline of the demo's charter together."""

_COUNTS = ("rounds", "failed", "bytes", "seconds")
"""What every process of a peer counts from nothing."""


@dataclass
class Told:
    """One peer of the demo, and what its processes told.

    Attributes:
        before: the loss on each held-out text, by silo; so ``after``, and ``alone``.
        spent: seconds of steps and measuring so far, and ``left``, those that it expects still to take.
        progress: the latest facts, counted over all processes of the peer.
        encoded: the number of the last round whose update it encoded.
        still: whether it stands still in that round, to be killed.
        killed_in: the round of training in which it was killed.
        started_again: whether it was started after that.
        back_in: the first round that it completed since then.
    """

    name: str
    id: str
    silo: str
    folder: Path
    command: Sequence[str] = field(repr=False)
    process: subprocess.Popen[str] | None = field(default=None, repr=False)
    before: dict[str, list[float]] = field(default_factory=dict)
    after: dict[str, list[float]] = field(default_factory=dict)
    alone: dict[str, list[float]] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    spent: float = 0.0
    left: float | None = None
    done: bool = False
    exit_code: int | None = None
    encoded: int = 0
    still: bool = False
    killed_in: int | None = None
    started_again: bool = False
    back_in: int | None = None
    _earlier: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def witness(self) -> Path:
        return self.folder / "witness"

    @property
    def round(self) -> int:
        """The group's last round of training, as far as this peer knows."""
        return int(self.progress.get("round", 0))

    def take(self, fact: dict[str, Any]) -> None:
        """One line of the process's."""
        match fact.get("event"):
            case "pace":
                self.spent, self.left = fact["spent"], fact["left"]
            case "encoded":
                self.encoded, self.still = fact["number"], fact["still"]
            case "joined":
                self._count(fact)
                self.before = self.before or fact["before"]
            case "round":
                self._count(fact)
            case "done":
                self._count(fact)
                self.after, self.done = fact["after"], True
            case "alone":
                self.alone = fact["alone"]

    def _count(self, fact: dict[str, Any]) -> None:
        if self.started_again and self.back_in is None and fact["rounds"]:
            self.back_in = fact["round"]
        summed = {name: fact[name] + self._earlier.get(name, 0) for name in _COUNTS}
        self.progress = {**self.progress, **fact, **summed}

    def record(self) -> dict[str, Any]:
        """What ``result.json`` says of this peer."""
        told = self.progress
        return {
            "name": self.name,
            "id": self.id,
            "silo": self.silo,
            "rounds": told.get("rounds", 0),
            "failed": told.get("failed", 0),
            "before": means(self.before),
            "after": means(self.after),
            "alone": means(self.alone),
            "bytes_sent": told.get("bytes", 0),
            "round_seconds": round(told.get("seconds", 0.0), 3),
            "parameters": told.get("parameters", ""),
            "transcript": told.get("transcript", ""),
            "exit_code": self.exit_code,
        }

    def start(self, more: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start its process, in a session of its own, so that a terminal's Ctrl-C comes to the launcher alone."""
        with (self.folder / "stderr.txt").open("a") as errors:
            self.process = subprocess.Popen(
                [*self.command, *more],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        return self.process

    def kill(self) -> None:
        """End its process as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.exit_code = self.process.wait()
        self.killed_in, self.still = self.round + 1, False
        self._earlier = {name: self.progress.get(name, 0) for name in _COUNTS}

    def start_again(self) -> subprocess.Popen[str]:
        """Start it with the same command, in the same folder."""
        self.started_again, self.exit_code = True, None
        return self.start()


class Processes:
    """Every peer's process; within a ``with``, which leaves none behind, however it ends.

    Args:
        told: the peers.
        victim: who is to be killed, if anybody.
        stop_in: in which round, by its number.
    """

    def __init__(self, told: Sequence[Told], victim: Told | None = None, stop_in: int = 0) -> None:
        self._told, self._victim, self._stop_in = told, victim, stop_in
        self._news: SimpleQueue[tuple[Told, subprocess.Popen[str], str]] = SimpleQueue()
        self._listening = 0

    def __enter__(self) -> Processes:
        with ExitStack() as undo:
            undo.callback(self._end)
            for one in self._told:
                self._listen(one, one.start(["--stop-in", str(self._stop_in)] if one is self._victim else []))
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def follow(self, show: Callable[[], None]) -> None:
        """Read what the processes tell until all have ended; ``show`` is called after every line.

        Raises:
            LocalError: nobody said anything for too long.
        """
        while self._listening:
            try:
                one, process, line = self._news.get(timeout=SILENCE_SECONDS)
            except Empty:
                names = ", ".join(one.name for one in self._told if one.exit_code is None)
                raise LocalError(
                    f"{names} said nothing for {SILENCE_SECONDS:.0f} s; see stderr.txt in their folders"
                ) from None
            if line:
                one.take(_fact(line))
            else:
                self._listening -= 1
                if process is one.process:  # and not one that was killed
                    with suppress(subprocess.TimeoutExpired):  # else it hangs at its end, and is ended with the others
                        one.exit_code = process.wait(LEAVE_SECONDS)
            self._kill_and_start_again()
            show()

    def _kill_and_start_again(self) -> None:
        victim = self._victim
        others = [one for one in self._told if one is not victim and one.exit_code is None]
        if victim is None:
            return
        if victim.still and all(one.encoded >= victim.encoded for one in others):
            victim.kill()
        killed_in = victim.killed_in
        if killed_in is None or victim.started_again or not others:
            return
        if all(one.round >= killed_in for one in others):
            self._listen(victim, victim.start_again())

    def _listen(self, one: Told, process: subprocess.Popen[str]) -> None:
        self._listening += 1
        Thread(target=self._read, args=(one, process), name=f"demo-{one.name}", daemon=True).start()

    def _read(self, one: Told, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            with process.stdout as lines:
                for line in lines:
                    self._news.put((one, process, line))
        self._news.put((one, process, ""))

    def _end(self) -> None:
        """Ask who still runs to leave; end who doesn't, or everybody at once where this is interrupted again."""
        processes = [one.process for one in self._told if one.process is not None]
        try:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            deadline = time.monotonic() + LEAVE_SECONDS
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()


def _fact(line: str) -> dict[str, Any]:
    """A line of a peer's; what is no report of the demo's program says nothing."""
    try:
        fact = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return fact if isinstance(fact, dict) else {}
