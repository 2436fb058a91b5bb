"""``decentra demo``: real processes, private texts, one model, and a check that no update was seen.

Each process is started as ``decentra run`` starts it, from a folder of its own; addresses are in ``decentra.toml``
only. The launcher reads what they tell, draws it, and judges the run at its end.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType
from typing import Any

from decentra.charter.charter import Charter
from decentra.crypto.keys import Identity
from decentra.demo import leak
from decentra.demo.screen import Screen, summary_lines
from decentra.demo.silos import load, silo_names
from decentra.errors import LocalError
from decentra.groups import fresh_identities, held_ports, write_folder
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


@dataclass(frozen=True)
class Options:
    """What was asked for, and whose texts it takes."""

    silos: tuple[str, ...]
    rounds: int
    protocol: str
    seed: int
    compare: bool
    out: Path


def main(*, peers: int, rounds: int, protocol: str, seed: int, compare: bool, out: Path, as_json: bool) -> int:
    """Run the demo; see ``decentra demo --help``.

    Returns:
        0 if every peer came through, all hold the same parameters, and the leak check says what it must; 130 after
        Ctrl-C and 143 after SIGTERM, once every peer has ended.

    Raises:
        LocalError: an option is wrong, or the folder is in use.
    """
    began = time.monotonic()
    if rounds < 1:
        raise LocalError(f"--rounds must be 1 or more, not {rounds}")
    options = Options(tuple(silo_names(peers)), rounds, protocol, seed, compare, out)
    identities = fresh_identities(len(options.silos))
    charter = _charter(identities, protocol)
    _clear(out)
    try:
        told = _run(options, identities, charter, quiet=as_json or not sys.stdout.isatty())
        result = _judge(told, options, began)
    except KeyboardInterrupt as interrupt:
        if not as_json:
            print("interrupted; all peers have ended", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT)
    finally:
        _forget_witnesses(out)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result) if as_json else "\n".join(summary_lines(result, out)))
    return 0 if result["ok"] else 1


# ── before ───────────────────────────────────────────────────────────────────────────────────────────────────────────


_OURS = re.compile(r"held-out|result\.json|peer-[0-9]+")


def _clear(out: Path) -> None:
    """Make the folder; an earlier demo's is emptied, anything else is left alone."""
    if out.is_dir():
        found = sorted(out.iterdir())
        strange = [path.name for path in found if not _OURS.fullmatch(path.name)]
        if strange or (found and not (out / "held-out").is_dir()):
            raise LocalError(
                f"{out} holds other files than an earlier demo's ({(strange or [found[0].name])[0]}); "
                "choose another folder with --out"
            )
        for path in found:
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    elif out.exists():
        raise LocalError(f"{out} is a file; choose another folder with --out")
    try:
        (out / "held-out").mkdir(parents=True)
    except OSError as error:
        raise LocalError(f"{out} can't be made ({error.strerror}); choose another folder with --out") from error


def _charter(identities: Sequence[Identity], protocol: str) -> Charter:
    return charter_for(
        identities,
        protocol,
        group__name="decentra demo",
        protocol__width=16,
        protocol__initial_range=INITIAL_RANGE,
        rounds__ready_deadline=60.0,
        training__steps=LOCAL_STEPS,
    )


def _prepare(options: Options, identities: Sequence[Identity], charter: Charter, ports: Sequence[int]) -> list[Told]:
    """One folder a peer, with keys, a charter that all have signed, and everybody's address."""
    told = []
    for index, (identity, silo) in enumerate(zip(identities, options.silos, strict=True)):
        folder = write_folder(options.out / f"peer-{index}", identity, charter, ports, index)
        (options.out / "held-out" / f"{silo}.txt").write_bytes(load(silo).held_out)
        told.append(Told(f"peer-{index}", str(identity.id), silo, folder.path, _NOT_STARTED))
    return told


def _command(one: Told, index: int, options: Options) -> list[str]:
    """The command line of one peer: ``decentra run`` on the demo's program. Every peer starts from its own model."""
    program = Path(__file__).with_name("program.py")
    words = ["--silo", one.silo, "--held-out", str(options.out / "held-out"), "--rounds", str(options.rounds)]
    words += ["--seed", str(1000 * options.seed + index), "--witness", str(one.witness)]
    words += ["--compare"] * options.compare
    return [sys.executable, "-m", "decentra.cli", "run", str(program), "--state", str(one.folder), "--", *words]


# ── during ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run(options: Options, identities: Sequence[Identity], charter: Charter, *, quiet: bool) -> list[Told]:
    """Start everybody and follow them to their end."""
    with _terminable(), held_ports(len(identities)) as ports:
        told = _prepare(options, identities, charter, ports)
        commands = [_command(one, index, options) for index, one in enumerate(told)]
        with Screen(told, options.rounds, quiet=quiet) as screen, _processes(told, commands):
            _follow(told, screen)
    return told


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does; a second one ends this process at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _processes(told: Sequence[Told], commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Start every peer's process, and leave none behind, however this ends.

    Each has a session of its own, so that a terminal's Ctrl-C comes to this process alone, which then ends them.
    """
    try:
        for one, command in zip(told, commands, strict=True):
            with (one.folder / "stderr.txt").open("w") as errors:
                one.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                )
        yield
    finally:
        _end([one.process for one in told if one.process is not _NOT_STARTED])


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask who still runs to leave; end who doesn't, or everybody at once where this is interrupted again."""
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


def _follow(told: Sequence[Told], screen: Screen) -> None:
    """Read what the processes tell until all have ended."""
    news: SimpleQueue[tuple[Told, str]] = SimpleQueue()
    for one in told:
        Thread(target=_read, args=(one, news), name=f"demo-{one.name}", daemon=True).start()
    running = len(told)
    while running:
        try:
            one, line = news.get(timeout=SILENCE_SECONDS)
        except Empty:
            names = ", ".join(one.name for one in told if one.exit_code is None)
            raise LocalError(
                f"{names} said nothing for {SILENCE_SECONDS:.0f} s; see stderr.txt in their folders"
            ) from None
        if line:
            one.take(_fact(line))
        else:
            with suppress(subprocess.TimeoutExpired):  # else it hangs at its end, and is ended with the others
                one.exit_code = one.process.wait(LEAVE_SECONDS)
            running -= 1
        screen.show()


def _read(one: Told, news: SimpleQueue[tuple[Told, str]]) -> None:
    if one.process.stdout is not None:
        with one.process.stdout as lines:
            for line in lines:
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


def _judge(told: Sequence[Told], options: Options, began: float) -> dict[str, Any]:
    """Put the result together: losses, hashes, and the leak check over everybody who came through."""
    through = [one for one in told if one.done and one.exit_code == 0]
    hashes = {one.progress.get("parameters") for one in through}
    found = _leak([one.witness for one in through])
    equal = len(hashes) == 1 and len(through) == len(told)
    as_expected = found is not None and found.planted == len(through)
    if found is not None:
        as_expected = as_expected and (found.found == 0 if options.protocol == "secagg" else found.found > 0)
    completed = all(one.progress.get("rounds", 0) == options.rounds for one in through)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "peers": [one.record() for one in told],
        "rounds": options.rounds,
        "protocol": options.protocol,
        "seed": options.seed,
        "equal_parameters": equal,
        "leak": None if found is None else asdict(found),
        "lost": [one.name for one in told if one not in through],
        "wall_seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in usage), 1),
        "ok": equal and as_expected and completed,
    }


def _leak(witnesses: Sequence[Path]) -> leak.Leak | None:
    """The leak check; None where there is nothing that it could judge: too few peers, or no update that ever left."""
    if len(witnesses) < 2:
        return None
    try:
        return leak.check(witnesses)
    except LocalError as error:
        print(f"the leak check is not possible: {error}", file=sys.stderr)
        return None


def _forget_witnesses(out: Path) -> None:
    """The captured updates and traffic were for the leak check alone."""
    for folder in out.glob("peer-*/witness"):
        shutil.rmtree(folder, ignore_errors=True)


_NOT_STARTED: Any = object()
