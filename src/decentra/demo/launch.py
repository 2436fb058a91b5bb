"""``decentra demo``: real processes, private texts, one model, and a check that no update was seen.

Each process is started as ``decentra run`` starts it, from a folder of its own; addresses are in ``decentra.toml``
only. The launcher reads what they tell, draws it, and judges the run at its end.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType
from typing import Any

from decentra.demo import leak
from decentra.demo.screen import Screen, summary_lines
from decentra.demo.silos import load, silo_names
from decentra.errors import LocalError
from decentra.groups import free_ports, fresh_identities, write_folder
from decentra.simulation.group import charter_for

LOCAL_STEPS = 20
INITIAL_RANGE = 0.084
"""Σ of the inner learning rates of a phase at full rate, 20 × 4e-3, and five hundredths more: AdamW moves a coordinate
by about one rate a step."""

LEAVE_SECONDS = 20.0
"""How long processes have to leave their group after an interrupt before they are ended."""

SILENCE_SECONDS = 600.0
"""How long the launcher waits for any news: longer than every deadline of the demo's charter together."""


@dataclass
class Told:
    """One peer of the demo, and what its process told."""

    name: str
    id: str
    silo: str
    folder: Path
    process: subprocess.Popen[str] = field(repr=False)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    exit_code: int | None = None

    @property
    def witness(self) -> Path:
        return self.folder / "witness"

    def take(self, fact: dict[str, Any]) -> None:
        """One line of the process's."""
        match fact.get("event"):
            case "joined":
                self.before = fact["before"]
            case "round":
                self.progress = fact
            case "done":
                self.progress = {**self.progress, **fact}
                self.after, self.done = fact["after"], True
            case "alone":
                self.alone = fact["alone"]

    def record(self) -> dict[str, Any]:
        """What ``result.json`` says of this peer."""
        told = self.progress
        return {
            "name": self.name,
            "id": self.id,
            "silo": self.silo,
            "rounds": told.get("rounds", 0),
            "failed": told.get("failed", 0),
            "before": self.before,
            "after": self.after,
            "alone": self.alone,
            "bytes_sent": told.get("bytes", 0),
            "round_seconds": told.get("seconds", 0.0),
            "parameters": told.get("parameters", ""),
            "transcript": told.get("transcript", ""),
            "exit_code": self.exit_code,
        }


def main(
    *, peers: int, rounds: int, protocol: str, seed: int, compare: bool, out: Path, as_json: bool
) -> int:
    """Run the demo; see ``decentra demo --help``.

    Returns:
        0 if every peer came through, all hold the same parameters, and the leak check says what it must.

    Raises:
        LocalError: an option is wrong, or the folder is in use.
    """
    began = time.monotonic()
    if rounds < 1:
        raise LocalError(f"--rounds must be 1 or more, not {rounds}")
    silos = silo_names(peers)
    _clear(out)
    told = _prepare(out, silos, protocol)
    commands = [_command(one, index, rounds, seed, compare, out) for index, one in enumerate(told)]
    with Screen(told, rounds, quiet=as_json or not sys.stdout.isatty()) as screen, _processes(told, commands):
        _follow(told, screen)
    result = _judge(told, rounds, protocol, seed, began)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    _forget_witnesses(told)
    print(json.dumps(result) if as_json else "\n".join(summary_lines(result, out)))
    return 0 if result["ok"] else 1


# ── before ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _clear(out: Path) -> None:
    """Make the folder; an earlier demo's is emptied, anything else is left alone."""
    if out.is_dir() and any(out.iterdir()):
        if not (out / "held-out").is_dir():
            raise LocalError(f"{out} holds other files than an earlier demo's; choose another folder with --out")
        shutil.rmtree(out)
    elif out.exists() and not out.is_dir():
        raise LocalError(f"{out} is a file; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "held-out").mkdir()


def _prepare(out: Path, silos: Sequence[str], protocol: str) -> list[Told]:
    """One folder a peer, with keys, a charter that all have signed, and everybody's address."""
    identities = fresh_identities(len(silos))
    charter = charter_for(
        identities,
        protocol,
        group__name="decentra demo",
        protocol__width=16,
        protocol__initial_range=INITIAL_RANGE,
        rounds__ready_deadline=60.0,
        training__steps=LOCAL_STEPS,
    )
    ports = free_ports(len(silos))
    told = []
    for index, (identity, silo) in enumerate(zip(identities, silos, strict=True)):
        folder = write_folder(out / f"peer-{index}", identity, charter, ports, index)
        (out / "held-out" / f"{silo}.txt").write_bytes(load(silo).held_out)
        told.append(Told(f"peer-{index}", str(identity.id), silo, folder.path, _NOT_STARTED))
    return told


def _command(one: Told, index: int, rounds: int, seed: int, compare: bool, out: Path) -> list[str]:
    """The command line of one peer: ``decentra run`` on the demo's program. Every peer starts from its own model."""
    program = Path(__file__).with_name("program.py")
    options = ["--silo", one.silo, "--held-out", str(out / "held-out"), "--rounds", str(rounds)]
    options += ["--seed", str(1000 * seed + index), "--witness", str(one.witness), *(["--compare"] * compare)]
    return [sys.executable, "-m", "decentra.cli", "run", str(program), "--state", str(one.folder), "--", *options]


# ── during ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _processes(told: Sequence[Told], commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Start every peer's process, and leave none behind, however this ends."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        for one, command in zip(told, commands, strict=True):
            with (one.folder / "stderr.txt").open("w") as errors:
                one.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        _end([one.process for one in told if one.process is not _NOT_STARTED])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask who still runs to leave; end who doesn't."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + LEAVE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _follow(told: Sequence[Told], screen: Screen) -> None:
    """Read what the processes tell until all have ended."""
    news: SimpleQueue[tuple[Told, str]] = SimpleQueue()
    for one in told:
        Thread(target=_read, args=(one, news), daemon=True).start()
    running = len(told)
    while running:
        try:
            one, line = news.get(timeout=SILENCE_SECONDS)
        except Empty:
            names = ", ".join(one.name for one in told if one.exit_code is None)
            raise LocalError(f"{names} said nothing for {SILENCE_SECONDS:.0f} s; see stderr.txt in their folders") from None
        if line:
            one.take(_fact(line))
        else:
            one.exit_code = one.process.wait()
            running -= 1
        screen.show()


def _read(one: Told, news: SimpleQueue[tuple[Told, str]]) -> None:
    if one.process.stdout is not None:
        for line in one.process.stdout:
            news.put((one, line))
    news.put((one, ""))


def _fact(line: str) -> dict[str, Any]:
    """A line of a peer's; what is no report of the demo's program says nothing."""
    try:
        fact = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return fact if isinstance(fact, dict) else {}


# ── after ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _judge(told: Sequence[Told], rounds: int, protocol: str, seed: int, began: float) -> dict[str, Any]:
    """Put the result together: losses, hashes, and the leak check over everybody who came through."""
    through = [one for one in told if one.done and one.exit_code == 0]
    hashes = {one.progress.get("parameters") for one in through}
    found = leak.check([one.witness for one in through]) if len(through) > 1 else None
    equal = len(hashes) == 1 and len(through) == len(told)
    as_expected = found is not None and found.planted == len(through)
    if found is not None:
        as_expected = as_expected and (found.found == 0 if protocol == "secagg" else found.found > 0)
    completed = all(one.progress.get("rounds", 0) == rounds for one in through)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "peers": [one.record() for one in told],
        "rounds": rounds,
        "protocol": protocol,
        "seed": seed,
        "equal_parameters": equal,
        "leak": None if found is None else asdict(found),
        "lost": [one.name for one in told if one not in through],
        "wall_seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in usage), 1),
        "ok": equal and as_expected and completed,
    }


def _forget_witnesses(told: Sequence[Told]) -> None:
    """The captured updates and traffic were for the leak check alone."""
    for one in told:
        shutil.rmtree(one.witness, ignore_errors=True)


_NOT_STARTED: Any = object()
